"""Families and songs for training: phrasings apart, parts in range, one song a seed."""

import numpy as np
import pytest

from onnx_export.training.sound.families import (
    EXTRA_FAMILIES,
    FAMILIES,
    MAIN_FAMILIES,
    ancestors,
    instrument_family,
    related,
)
from onnx_export.training.sound.songs import STYLES, compose
from onnx_export.training.sound.synths import NOISES

MUSIC = tuple(name for name in FAMILIES if FAMILIES[name].programs or name == "drums")


class TestFamilies:
    def test_every_family_that_songs_are_written_for_has_enough_phrasings(self):
        for family in FAMILIES.values():
            if family.programs or family.name in (*MAIN_FAMILIES, *NOISES, "vocals"):
                assert len(family.phrasings) >= 8, family.name
                assert len(family.held_out) >= 2, family.name

    def test_every_other_family_has_more_than_its_name(self):
        for family in FAMILIES.values():
            assert len(family.phrasings) >= 3, family.name

    def test_families_lie_within_ones_that_exist_and_never_within_themselves(self):
        for name, family in FAMILIES.items():
            assert {*family.within, *family.unclear} <= set(FAMILIES), name
            assert not any(name in ancestors(wider) for wider in family.within), name

    def test_what_may_belong_together_is_related_both_ways(self):
        for one, other, expected in (
            ("kick-drum", "drums", True),
            ("kick-drum", "snare-drum", False),
            ("distorted-guitar", "guitar", True),
            ("choir", "male-singer", True),  # a choir may be asked for as vocals
            ("speech", "lead-vocals", False),
            ("music", "violin", True),
            ("rain", "noise", True),
            ("rain", "dog-barking", False),
            ("my-theremin", "music", True),  # nobody knows
            ("my-theremin", "drums", False),
        ):
            assert related(one, other) is related(other, one) is expected, (one, other)

    def test_the_narrow_family_of_a_program_is_a_kind_of_its_family(self):
        for family in FAMILIES.values():
            for program in family.programs:
                assert family.name in ancestors(instrument_family(family.name, program))

    def test_phrasings_are_lower_case_and_held_out_ones_are_not_trained_on(self):
        trained = [phrase for family in FAMILIES.values() for phrase in family.phrasings]
        held_out = [phrase for family in FAMILIES.values() for phrase in family.held_out]
        assert len(set(trained)) == len(trained)
        assert not set(trained) & set(held_out)
        assert all(phrase == phrase.lower().strip() and phrase for phrase in trained + held_out)

    def test_the_name_of_a_main_family_is_its_first_phrasing(self):
        for name in MAIN_FAMILIES:
            assert FAMILIES[name].phrasings[0] == name

    def test_main_and_extra_families_are_all_there_is(self):
        assert set(MAIN_FAMILIES) | set(EXTRA_FAMILIES) == set(FAMILIES)
        assert not set(MAIN_FAMILIES) & set(EXTRA_FAMILIES)

    def test_no_program_belongs_to_two_families(self):
        programs = [p for family in FAMILIES.values() for p in family.programs]
        assert len(set(programs)) == len(programs)


class TestSongs:
    def test_same_seed_same_song(self):
        assert compose(np.random.default_rng(3)) == compose(np.random.default_rng(3))
        assert compose(np.random.default_rng(3)) != compose(np.random.default_rng(4))

    def test_every_family_gets_to_play(self):
        played = {
            part.family for seed in range(40) for part in compose(np.random.default_rng(seed)).parts
        }
        assert played == set(MUSIC) == {"drums", *STYLES}

    @pytest.mark.parametrize("seed", range(8))
    def test_notes_are_playable_and_inside_the_song(self, seed):
        song = compose(np.random.default_rng(seed))
        assert 20 <= song.seconds <= 40
        for part in song.parts:
            starts = [note.start_s for note in part.notes]
            assert starts == sorted(starts)
            assert starts[0] >= 0
            assert starts[-1] < song.seconds
            for note in part.notes:
                assert 0 <= note.pitch <= 127
                assert 1 <= note.velocity <= 127
                assert note.length_s > 0

    def test_parts_rest_now_and_then_but_play_more_often(self):
        shares = []
        for seed in range(30):
            song = compose(np.random.default_rng(seed))
            for part in song.parts:
                sounding = np.zeros(int(song.seconds * 10) + 1, bool)
                for note in part.notes:
                    end_s = note.start_s + max(note.length_s, 0.3)
                    sounding[int(note.start_s * 10) : int(end_s * 10) + 1] = True
                shares.append(sounding.mean())
        assert 0.6 < np.mean(shares) < 0.95
        assert min(shares) < 0.6

    def test_asked_for_families_play_and_no_others(self):
        song = compose(np.random.default_rng(0), (14.0, 18.0), families=("bass", "flute"))
        assert [part.family for part in song.parts] == ["bass", "flute"]
