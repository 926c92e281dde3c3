"""Speech, pools and test sets: same seed, same audio; timbres of tests are kept apart."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile

from onnx_export.training import held_out as testing
from onnx_export.training import stem_pool
from onnx_export.training.held_out import TUNING_FONT, TUNING_VOICES
from onnx_export.training.sound import speech
from onnx_export.training.sound.families import FAMILIES, MAIN_FAMILIES
from onnx_export.training.sound.render import SOUNDFONTS
from onnx_export.training.sound.speech import VOICES, speak
from onnx_export.training.sound.synths import NOISES

pytestmark = [
    pytest.mark.needs(
        *("fluidsynth", "timgm6mb-soundfont", "fluid-soundfont-gm"),
        *("musescore-general-soundfont-small", "espeak-ng", "flite", "festival"),
        *("festvox-kallpc16k", "festvox-us-slt-hts"),
    ),
    pytest.mark.slow,
]

RATE = 32000


def stems_on_disk(folder):
    return {str(p.relative_to(folder)): np.load(p) for p in sorted(folder.glob("*/*/*.npy"))}


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
                 for split in ("train", "test")}  # fmt: skip
        assert files["test"] == {"TimGM6mb.sf2"}
        assert not files["test"] & files["train"]
        # csound's bank holds samples of the test soundfont.
        assert not any("GMbank" in name for names in files.values() for name in names)

    def test_a_song_depends_on_seed_and_index_only_and_is_not_made_twice(self, tmp_path):
        calls = []
        stem_pool.synthesise_pool(
            tmp_path / "a", 2, 5, "valid", 2, progress=lambda *at: calls.append(at)
        )
        assert calls == [(1, 2), (2, 2)]
        stem_pool.synthesise_song(tmp_path / "b", 1, 5, "valid")
        whole, single = stems_on_disk(tmp_path / "a"), stems_on_disk(tmp_path / "b")
        assert 6 <= len(single) < len(whole)
        for name, audio in single.items():
            assert np.array_equal(whole[name], audio), name
        assert stem_pool.synthesise_pool(tmp_path / "a", 2, 5, "valid", 1) == 0

        sources = {v.source for v in VOICES if v.held_out}
        for name, audio in whole.items():
            split, family, file = name.split("/")
            song, _, source = file.removesuffix(".npy").partition("__")
            assert split == "valid"
            assert family in FAMILIES
            assert audio.dtype == np.int16
            assert np.abs(audio).max() == pytest.approx(0.7 * 32767, abs=1)
            assert 20 * stem_pool.POOL_RATE <= len(audio) <= 40 * stem_pool.POOL_RATE
            if family == "speech":
                assert source.rpartition("-")[0] in sources
            elif family not in NOISES:
                assert source.partition("-")[0] == "timgm6mb"
            lengths = {len(a) for n, a in whole.items() if f"/{song}__" in n}
            assert max(lengths) - min(lengths) <= 1
        # Nothing of the synthesis stays: stems, the mark of a song that is whole, and the rate.
        files = [p for p in tmp_path.rglob("*") if p.is_file() and p.suffix not in ("", ".npy")]
        assert [p.relative_to(tmp_path) for p in files] == [Path("a/pool.json")]

    @pytest.mark.parametrize("bad", [{"split": "test"}, {"songs": -1}, {"workers": 0}])
    def test_bad_arguments_are_refused(self, tmp_path, bad):
        asked = {"out": tmp_path, "songs": 1, "seed": 0, "split": "valid", "workers": 1} | bad
        with pytest.raises(ValueError, match="expected a split of train, valid"):
            stem_pool.synthesise_pool(**asked)


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
        testing.make_demo(tmp_path, 0)
        mixture, rate = soundfile.read(tmp_path / "mixture.flac", dtype="int16")
        names = ("drums", "bass", "speech")
        parts = [soundfile.read(tmp_path / f"{n}.flac", dtype="int16")[0] for n in names]
        assert rate == 44100
        assert 8 * rate < len(mixture) < 12 * rate
        assert np.array_equal(np.sum([part.astype(int) for part in parts], axis=0), mixture)
        assert (tmp_path / "mixture.flac").stat().st_size < 1_000_000
