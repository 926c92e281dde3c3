"""What is said about prompts that a model was not trained on, and about silent stems."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge import Engine, Prompt, Span
from bridge.bundles.bundle import load_manifest
from bridge.bundles.manifest import Sound
from bridge.inference.job import find_sound, is_known, words
from tests.support.sidecars import sidecar

RATE = 16_000
SOUNDS = (
    Sound("drums", ("drums", "drum kit", "the drummer")),
    Sound("singer", ("lead vocals", "singing voice"), 11.0),
    Sound("dog", ("dog barking",), 1.2),
)


def noise(seconds=2.0, seed=0):
    made = 0.1 * np.random.default_rng(seed).normal(size=(2, round(seconds * RATE)))
    return made.astype(np.float32)


@pytest.mark.parametrize(
    "text",
    [
        *("drums", "Drum", "the  DRUMS", "a loud drum kit in the background", "lead vocals"),
        *("a dog that is barking", "vocals, lead", "singing", "someone singing", "rock drums"),
        "",
    ],
)
def test_what_training_used_is_known_however_it_is_said(text):
    assert is_known(text, SOUNDS)


@pytest.mark.parametrize("text", ["helicopter", "a car horn", "cat meowing", "lead guitar", "bus"])
def test_other_words_are_not(text):
    assert not is_known(text, SOUNDS)


@given(
    st.sampled_from([p for sound in SOUNDS for p in sound.phrases]),
    st.text("äbc XYZ,.", max_size=20),
)
def test_a_known_phrase_stays_known_among_other_words(phrase, more):
    assert is_known(f"{more} {phrase} {more}", SOUNDS)
    assert find_sound(f"{phrase} {more}", SOUNDS) is not None


@given(st.text(max_size=40))
def test_any_text_has_words(text):
    assert all(word and word == word.casefold() for word in words(text))


def test_the_longest_phrase_says_which_sound_is_meant():
    sounds = (Sound("bass", ("bass",)), Sound("kick", ("bass drum", "kick")))
    assert find_sound("the bass drum", sounds) == sounds[1]
    assert find_sound("bass", sounds) == sounds[0]
    assert find_sound("flute", sounds) is None


@pytest.fixture
def trained(build_bundle):
    return build_bundle(sounds=(*SOUNDS, Sound("half", ("half",)), Sound("none", ("nothing",))))


def test_a_prompt_that_is_new_to_the_model_gets_a_note(trained):
    with Engine(trained, threads=1) as engine:
        report = engine.separate(noise(), RATE, ["half", Prompt("helicopter", "heli")]).report
    (note,) = report.notes
    assert (note.stem, note.kind) == ("heli", "untrained")
    assert note.text.startswith("own was not trained on 'helicopter'; nearest: ")
    assert note.text.count("'") == 2 + 2 * 3


def test_a_sound_that_is_hardly_separated_gets_a_note(trained):
    with Engine(trained, threads=1) as engine:
        report = engine.separate(noise(), RATE, ["dog barking", "lead vocals"]).report
    (note,) = report.notes
    assert (note.stem, note.kind) == ("dog-barking", "weak")
    assert "'dog': +1.2 dB" in note.text


def test_a_silent_stem_gets_a_note_unless_the_user_said_so_or_nothing_sounds(trained):
    told = Prompt("nothing", spans=[Span(0.0, 2.0, "-")])
    with Engine(trained, threads=1) as engine:
        (note,) = engine.separate(noise(), RATE, ["nothing", "half"]).report.notes
        assert engine.separate(noise(), RATE, [told]).report.notes == ()
        assert engine.separate(0 * noise(), RATE, ["nothing"]).report.notes == ()
    assert (note.stem, note.kind) == ("nothing", "silent")
    assert note.text == "no 'nothing' was heard: silence"


def test_a_short_sound_in_a_long_clip_is_no_silence(trained):
    mixture = noise(60.0)
    once = Prompt("half", spans=[Span(30.0, 30.3)])
    with Engine(trained, threads=1) as engine:
        stem = engine.separate(mixture, RATE, [once], reconstruct="null")
    assert stem.report.notes == ()


def test_models_that_take_any_words_say_nothing_of_them(engine):
    assert engine.separate(noise(), RATE, ["helicopter"]).report.notes == ()


def test_notes_come_through_the_sidecar(trained):
    with Engine(trained) as engine:
        expected = engine.separate(noise(), RATE, ["helicopter"]).report.notes
    with sidecar() as server:
        server.bundle = trained
        found = server.client().separate(noise(), RATE, ["helicopter"]).report.notes
    assert found == expected != ()


def test_the_bundled_model_names_what_it_was_trained_on():
    from bridge.bundles.bundle import find_bundle

    sounds = load_manifest(find_bundle("mini")).sounds
    assert {"drums", "bass", "speech"} <= {sound.name for sound in sounds}
    assert all(phrase == phrase.casefold() for sound in sounds for phrase in sound.phrases)
    assert is_known("drums", sounds)
    assert not is_known("helicopter landing on gravel", sounds[:9])
