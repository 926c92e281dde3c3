"""Songs, instruments and speech for training: same seed, same audio; tests are kept apart."""

import json
import struct
from itertools import pairwise

import numpy as np
import pytest
import soundfile

from onnx_export.training import demo_material, drumkits, pool, render, sampler, speech, stems
from onnx_export.training import test_set as testing
from onnx_export.training.compose import compose
from onnx_export.training.families import EXTRA_FAMILIES, FAMILIES, MAIN_FAMILIES
from onnx_export.training.noises import NOISES, make_noise
from onnx_export.training.parts import STYLES
from onnx_export.training.render import SOUNDFONTS, Instrument, presets, render_parts
from onnx_export.training.songs import Note, Part
from onnx_export.training.speech import VOICES, speak
from onnx_export.training.synths import render_synth
from onnx_export.training.timbres import SYNTHESISED
from onnx_export.training.treatment import treat
from onnx_export.training.tuning import TUNING_FONT, TUNING_VOICES

RATE = 32000
MUSIC = tuple(name for name in FAMILIES if FAMILIES[name].programs or name == "drums")


def one_note(family, pitch=57, length_s=1.0, start_s=0.0):
    return Part(family, "melody", (Note(start_s, length_s, pitch, 100),))


def strongest_hz(audio, rate):
    spectrum = np.abs(np.fft.rfft(audio * np.hanning(len(audio)), 1 << 18))
    return float(np.argmax(spectrum) * rate / (1 << 18))


def stems_on_disk(folder):
    return {str(p.relative_to(folder)): np.load(p) for p in sorted(folder.glob("*/*/*.npy"))}


class TestFamilies:
    def test_every_main_family_has_enough_phrasings(self):
        for family in FAMILIES.values():
            assert len(family.phrasings) >= 8, family.name
            assert len(family.held_out) >= 2, family.name

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


class TestFluidSynth:
    def test_parts_of_one_file_do_not_run_into_each_other(self):
        parts = [one_note("piano", 57, 1.0, 0.5), one_note("flute", 69, 1.0, 1.5)]
        instruments = [Instrument(0, 0), Instrument(0, 73)]
        together = render_parts("timgm6mb", parts, instruments, 3.0, RATE)
        for part, instrument, audio in zip(parts, instruments, together, strict=True):
            (alone,) = render_parts("timgm6mb", [part], [instrument], 3.0, RATE)
            assert audio.shape == (2, 3 * RATE)
            assert np.abs(audio).max() > 0.01
            assert np.abs(audio[:, : int(part.notes[0].start_s * RATE)]).max() < 1e-4
            difference = np.abs(audio - alone).max() / np.abs(alone).max()
            assert difference < 0.05

    def test_a_part_sounds_at_its_pitch_with_its_detuning(self):
        part = one_note("flute", 69, 2.0)
        for cents in (0.0, 50.0):
            (audio,) = render_parts("timgm6mb", [part], [Instrument(0, 73, cents)], 2.5, RATE)
            heard = strongest_hz(audio.mean(axis=0)[8000:60000], RATE)
            expected = 440 * 2 ** (cents / 1200)
            ratio = heard / expected
            assert abs(1200 * np.log2(ratio / round(ratio))) < 20

    def test_rendering_twice_gives_the_same_bits(self):
        song = compose(np.random.default_rng(1), (6.0, 8.0), families=("drums", "bass", "strings"))
        first = stems.render_song(np.random.default_rng(2), song, RATE, held_out=True)
        second = stems.render_song(np.random.default_rng(2), song, RATE, held_out=True)
        assert [name for name, *_ in first] == [name for name, *_ in second]
        for (*_, one), (*_, two) in zip(first, second, strict=True):
            assert np.array_equal(one, two)

    def test_instruments_exist_in_the_soundfont_and_belong_to_the_family(self):
        for font in ("timgm6mb", "fluidr3"):
            for name in MUSIC:
                for seed in range(10):
                    rng = np.random.default_rng(seed)
                    chosen = stems.choose_instrument(rng, font, one_note(name))
                    assert (chosen.bank, chosen.program) in presets(font)
                    assert name == "drums" or chosen.program in FAMILIES[name].programs

    def test_missing_soundfonts_and_programs_name_their_packages(self, monkeypatch, tmp_path):
        monkeypatch.setattr(render, "_FOLDER", tmp_path)
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(FileNotFoundError, match=r"fluidsynth.*timgm6mb-soundfont"):
            render_parts("timgm6mb", [one_note("piano")], [Instrument(0, 0)], 1.0)
        with pytest.raises(FileNotFoundError, match=r"apt-get install espeak-ng festival") as error:
            pool.synthesise_pool(tmp_path, 1, 0, "valid", 1)
        assert "timgm6mb-soundfont" in str(error.value)
        with pytest.raises(FileNotFoundError, match="fluid-soundfont-gm"):
            pool.synthesise_pool(tmp_path, 1, 0, "train", 1)


class TestOwnInstruments:
    @pytest.mark.parametrize("family", SYNTHESISED)
    def test_notes_have_their_pitch_and_end(self, family):
        for seed in range(4):
            rng = np.random.default_rng(seed)
            audio = render_synth(rng, one_note(family, 57, 1.0), 4.0, RATE)[0]
            assert np.isfinite(audio).all()
            loud = audio[2000:30000]
            heard = strongest_hz(loud, RATE)
            # Mallets ring at partials that are not harmonic; the others at multiples of 110 Hz.
            if family != "mallets":
                ratio = heard / 110
                assert abs(1200 * np.log2(ratio / max(1, round(ratio)))) < 35, heard
            assert np.abs(audio[-2000:]).max() < 0.02 * np.abs(audio).max()

    def test_seeds_give_different_timbres_and_the_same_seed_the_same(self):
        part = one_note("organ")
        first, again, other = (
            render_synth(np.random.default_rng(s), part, 1.5, RATE) for s in (1, 1, 2)
        )
        assert np.array_equal(first, again)
        assert not np.allclose(first, other)

    def test_an_unknown_family_is_refused(self):
        with pytest.raises(ValueError, match="expected one of bass"):
            render_synth(np.random.default_rng(0), one_note("speech"), 1.0, RATE)

    def test_made_drums_sound_when_they_are_hit(self):
        notes = tuple(Note(0.5 + 0.5 * k, 0.1, key, 100) for k, key in enumerate((36, 38, 42, 49)))
        part = Part("drums", "rock", notes)
        audio = drumkits.render_made_drums(np.random.default_rng(0), part, 4.0, RATE)[0]
        assert not audio[: RATE // 2 - 10].any()
        for note in notes:
            start = round(note.start_s * RATE)
            assert np.abs(audio[start : start + 1000]).max() > 0.1

    def test_a_kit_of_hydrogen_plays_its_samples(self, monkeypatch, tmp_path):
        folder = tmp_path / "Tiny Kit"
        folder.mkdir()
        time = np.arange(8000) / RATE
        for name, hertz in {"kick": 60, "snare": 900}.items():
            wave = np.sin(2 * np.pi * hertz * time) * np.exp(-time / 0.05)
            soundfile.write(folder / f"{name}.wav", wave, RATE)
        instruments = "".join(
            f"<instrument><name>{name.title()}</name><layer><filename>{name}.wav</filename></layer>"
            "</instrument>"
            for name in ("kick", "snare")
        )
        text = f"<drumkit_info><instrumentList>{instruments}</instrumentList></drumkit_info>"
        (folder / "drumkit.xml").write_text(text)
        monkeypatch.setattr(drumkits, "KITS", tmp_path)
        assert drumkits.list_kits() == ("Tiny Kit",)
        part = Part("drums", "rock", (Note(0.0, 0.1, 36, 120), Note(1.0, 0.1, 38, 120)))
        audio = drumkits.render_kit(np.random.default_rng(0), part, "Tiny Kit", 2.0, RATE)[0]
        assert strongest_hz(audio[:RATE], RATE) < 100
        assert strongest_hz(audio[RATE:], RATE) > 600


class TestPatches:
    def write_patch(self, path, hertz=220.0, rate=22050):
        wave = (20000 * np.sin(2 * np.pi * hertz * np.arange(rate) / rate)).astype("<i2")
        period = rate / hertz
        loop = (round(10 * period) * 2, round(200 * period) * 2)
        head = struct.pack("<7sBIIIHIIIhB", b"tone", 0, wave.nbytes, *loop, rate,
                           8000, 12000000, round(hertz * 1000), 0, 7)  # fmt: skip
        head += bytes([63, 63, 63, 63, 63, 63, 246, 246, 246, 0, 0, 0]) + bytes(6)
        head += bytes([1 | 4 | 32 | 64]) + bytes(96 - len(head) - 19)
        sample = head.ljust(96, b"\0") + wave.tobytes()
        start = bytearray(129 + 63 + 47)
        start[:12] = b"GF1PATCH110\0"
        start[129 + 63 + 6] = 1
        path.write_bytes(bytes(start) + sample)

    def test_a_patch_plays_in_tune_and_holds_while_the_key_is_down(self, monkeypatch, tmp_path):
        (tmp_path / "Tone_000").mkdir()
        self.write_patch(tmp_path / "Tone_000" / "073_Tone.pat")
        monkeypatch.setattr(sampler, "PATCHES", tmp_path)
        assert sampler.patch_path(72) is None
        audio = sampler.render_patch(one_note("flute", 64, 3.0), 73, 4.0, RATE)[0]
        expected = 440 * 2 ** ((64 - 69) / 12)
        assert abs(strongest_hz(audio[RATE : 2 * RATE], RATE) - expected) < 2
        assert audio[int(2.8 * RATE) : int(2.9 * RATE)].std() > 0.2
        assert np.abs(audio[int(3.6 * RATE) :]).max() < 0.01

    def test_another_file_is_refused(self, tmp_path):
        (tmp_path / "x.pat").write_bytes(b"RIFF" + bytes(400))
        with pytest.raises(ValueError, match="expected a GF1 patch"):
            sampler.read_patch(tmp_path / "x.pat")


class TestNoisesAndTreatment:
    @pytest.mark.parametrize("family", NOISES)
    def test_noises_are_finite_seeded_and_stop_now_and_then(self, family):
        first = make_noise(np.random.default_rng(5), family, 20.0, RATE)
        assert np.array_equal(first, make_noise(np.random.default_rng(5), family, 20.0, RATE))
        assert np.isfinite(first).all()
        assert np.abs(first).max() == pytest.approx(0.5, abs=1e-3)
        frames = np.abs(first).reshape(-1, RATE // 10).max(axis=1)
        assert (frames < 1e-3).any()

    def test_an_unknown_noise_is_refused(self):
        with pytest.raises(ValueError, match="expected one of noise"):
            make_noise(np.random.default_rng(0), "drums", 1.0, RATE)

    @pytest.mark.parametrize("seed", range(6))
    def test_treatment_keeps_shape_and_level_and_leaves_silence(self, seed):
        audio = np.random.default_rng(0).standard_normal((2, RATE)).astype(np.float32)
        treated = treat(np.random.default_rng(seed), audio, RATE, "guitar", share=1.0)
        assert treated.shape == audio.shape
        assert np.isfinite(treated).all()
        assert np.abs(treated).max() == pytest.approx(0.5, abs=1e-3)
        silence = np.zeros((1, RATE), np.float32)
        assert not treat(np.random.default_rng(seed), silence, RATE, "guitar", share=1.0).any()


class TestSpeech:
    def test_held_out_speakers_are_not_in_training(self):
        def speakers(*, held_out):
            # slt and kal speak through two engines each; variants of espeak-ng are speakers.
            names = {v.name.rpartition("+")[2] for v in VOICES if v.held_out == held_out}
            return {"slt" if "slt" in n else "kal" if n.startswith("kal") else n for n in names}

        assert {"slt", "kal"} <= speakers(held_out=True)
        assert not speakers(held_out=True) & speakers(held_out=False)

    @pytest.mark.parametrize("engine", ["espeak-ng", "flite"])
    def test_speed_and_pitch_are_heard(self, engine):
        voice = next(v for v in VOICES if v.engine == engine)
        slow, rate = speak(voice, "one two three four", speed=0.8)
        fast, _ = speak(voice, "one two three four", speed=1.3)
        assert len(fast) < 0.85 * len(slow)
        assert rate >= 16000
        assert np.abs(slow).max() > 0.05

    def test_a_talk_has_pauses_and_fills_the_time(self):
        audio, source = speech.talk(np.random.default_rng(0), 10.0, RATE, held_out=True)
        assert audio.shape == (10 * RATE,)
        assert source in {v.source for v in VOICES if v.held_out}
        frames = np.abs(audio).reshape(-1, RATE // 10).max(axis=1)
        assert 0.4 < (frames > 0.01).mean() < 1.0


class TestPool:
    def test_soundfonts_of_training_and_tests_are_disjoint(self):
        files = {split: {f.file for f in SOUNDFONTS.values() if f.split == split}
                 for split in ("train", "drums", "test")}  # fmt: skip
        assert files["test"] == {"TimGM6mb.sf2"}
        assert not files["test"] & (files["train"] | files["drums"])
        # csound's bank holds samples of the test soundfont.
        assert not any("GMbank" in name for names in files.values() for name in names)

    def test_a_song_depends_on_seed_and_index_only_and_is_not_made_twice(self, tmp_path):
        calls = []
        pool.synthesise_pool(
            tmp_path / "a", 2, 5, "valid", 2, progress=lambda *at: calls.append(at)
        )
        assert calls == [(1, 2), (2, 2)]
        pool.synthesise_song(tmp_path / "b", 1, 5, "valid")
        whole, single = stems_on_disk(tmp_path / "a"), stems_on_disk(tmp_path / "b")
        assert 6 <= len(single) < len(whole)
        for name, audio in single.items():
            assert np.array_equal(whole[name], audio), name
        assert pool.synthesise_pool(tmp_path / "a", 2, 5, "valid", 1) == 0

        sources = {v.source for v in VOICES if v.held_out}
        for name, audio in whole.items():
            split, family, file = name.split("/")
            song, _, source = file.removesuffix(".npy").partition("__")
            assert split == "valid"
            assert family in FAMILIES
            assert audio.dtype == np.int16
            assert np.abs(audio).max() == pytest.approx(0.7 * 32767, abs=1)
            assert 20 * 16000 <= len(audio) <= 40 * 16000
            if family == "speech":
                assert source.rpartition("-")[0] in sources
            elif family not in NOISES:
                assert source == "timgm6mb"
            lengths = {len(a) for n, a in whole.items() if f"/{song}__" in n}
            assert max(lengths) - min(lengths) <= 1
        assert not [p for p in tmp_path.rglob("*") if p.is_file() and p.suffix not in ("", ".npy")]

    @pytest.mark.parametrize("bad", [{"split": "test"}, {"songs": -1}, {"workers": 0}])
    def test_bad_arguments_are_refused(self, tmp_path, bad):
        asked = {"out": tmp_path, "songs": 1, "seed": 0, "split": "valid", "workers": 1} | bad
        with pytest.raises(ValueError, match="expected a split of train, valid"):
            pool.synthesise_pool(**asked)


class TestTestSet:
    def test_stems_sum_to_the_mixture_and_sound_often_enough(self, tmp_path):
        testing.make_test_set(tmp_path, 4, seed=2, seconds=3.0)
        index = json.loads((tmp_path / "index.json").read_text())
        assert [len(entry["stems"]) for entry in index["mixtures"]] == [2, 3, 4, 2]
        late = []
        for entry in index["mixtures"]:
            folder = tmp_path / entry["id"]
            mixture, rate = soundfile.read(folder / "mixture.wav", dtype="int16")
            assert mixture.shape == (3 * 44100, 2)
            assert rate == 44100
            total = np.zeros(mixture.shape, np.int32)
            for family, facts in entry["stems"].items():
                stem, _ = soundfile.read(folder / f"{family}.wav", dtype="int16")
                total += stem
                assert np.abs(stem.astype(int)).max() < 32767
                assert facts["activity"] >= 0.3
                left, right = stem.astype(float).std(axis=0)
                angle = (facts["pan"] + 1) * np.pi / 4
                assert 20 * np.log10(right / left) == pytest.approx(
                    20 * np.log10(np.tan(angle)), abs=0.2
                )
                voices = {v.source for v in VOICES if v.held_out}
                assert facts["source"] in (voices if family == "speech" else {"timgm6mb"})
            assert np.array_equal(total, mixture)
            late.append(min(facts["activity"] for facts in entry["stems"].values()))
        assert late[0] < 0.5
        assert late[3] < 0.5

    def test_the_tuning_set_shares_no_timbre_with_the_test_set_or_training(self, tmp_path):
        testing.make_test_set(tmp_path, 3, seed=2, seconds=3.0, split="tune")
        index = json.loads((tmp_path / "index.json").read_text())
        sources = {f["source"] for entry in index["mixtures"] for f in entry["stems"].values()}
        assert sources <= {TUNING_FONT, "made"} | {v.source for v in TUNING_VOICES}
        assert "timgm6mb" not in sources
        heard = {v.name.partition("+")[2] for v in VOICES}
        assert not heard & {v.name.partition("+")[2] for v in TUNING_VOICES}
        assert SOUNDFONTS[TUNING_FONT].split == "tune"

    def test_an_unknown_split_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match="expected a split of test, tune"):
            testing.make_test_set(tmp_path, 1, seed=0, split="train")

    def test_families_come_equally_often(self):
        dealt = testing._deal(np.random.default_rng(7), 64)
        counts = [sum(name in mixture for mixture in dealt) for name in MAIN_FAMILIES]
        assert max(counts) - min(counts) <= 1
        assert all(len(set(mixture)) == len(mixture) for mixture in dealt)

    def test_panning_keeps_power(self):
        audio = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
        levels = [testing.pan(audio, place) for place in (-1.0, -0.3, 0.0, 0.8, 1.0)]
        for placed in levels:
            assert np.sum(placed**2) == pytest.approx(np.sum(audio**2), rel=1e-5)
        balance = [float(np.sum(p[1] ** 2)) for p in levels]
        assert all(a < b for a, b in pairwise(balance))

    def test_the_demo_sums_and_is_small(self, tmp_path):
        demo_material.make_demo(tmp_path, 0)
        mixture, rate = soundfile.read(tmp_path / "mixture.flac", dtype="int16")
        names = ("drums", "bass", "speech")
        parts = [soundfile.read(tmp_path / f"{n}.flac", dtype="int16")[0] for n in names]
        assert rate == 44100
        assert 8 * rate < len(mixture) < 12 * rate
        assert np.array_equal(np.sum([part.astype(int) for part in parts], axis=0), mixture)
        assert (tmp_path / "mixture.flac").stat().st_size < 1_000_000
