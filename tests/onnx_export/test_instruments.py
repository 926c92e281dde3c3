"""Instruments for training: soundfonts, synthesisers, patches, noises, treatment."""

import struct

import numpy as np
import pytest
import soundfile

from onnx_export.training import stem_pool
from onnx_export.training.sound import render, samples
from onnx_export.training.sound.families import FAMILIES
from onnx_export.training.sound.render import Instrument, presets, render_parts
from onnx_export.training.sound.songs import Note, Part, compose
from onnx_export.training.sound.synths import NOISES, SYNTHESISED, make_noise, render_synth
from onnx_export.training.sound.treatment import treat

pytestmark = pytest.mark.needs(
    *("fluidsynth", "timgm6mb-soundfont", "fluid-soundfont-gm"),
    *("musescore-general-soundfont-small", "espeak-ng", "flite", "festival"),
    *("festvox-kallpc16k", "festvox-us-slt-hts"),
)

RATE = 32000
MUSIC = tuple(name for name in FAMILIES if FAMILIES[name].programs or name == "drums")


def one_note(family, pitch=57, length_s=1.0, start_s=0.0):
    return Part(family, "melody", (Note(start_s, length_s, pitch, 100),))


def strongest_hz(audio, rate):
    spectrum = np.abs(np.fft.rfft(audio * np.hanning(len(audio)), 1 << 18))
    return float(np.argmax(spectrum) * rate / (1 << 18))


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
        first = render.render_song(np.random.default_rng(2), song, RATE, held_out=True)
        second = render.render_song(np.random.default_rng(2), song, RATE, held_out=True)
        assert [name for name, *_ in first] == [name for name, *_ in second]
        for (*_, one), (*_, two) in zip(first, second, strict=True):
            assert np.array_equal(one, two)

    def test_instruments_exist_in_the_soundfont_and_belong_to_the_family(self):
        for font in ("timgm6mb", "fluidr3"):
            for name in MUSIC:
                for seed in range(10):
                    rng = np.random.default_rng(seed)
                    chosen = render.choose_instrument(rng, font, one_note(name))
                    assert (chosen.bank, chosen.program) in presets(font)
                    assert name == "drums" or chosen.program in FAMILIES[name].programs

    def test_missing_soundfonts_and_programs_name_their_packages(self, monkeypatch, tmp_path):
        monkeypatch.setattr(render, "_FOLDER", tmp_path)
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(FileNotFoundError, match=r"fluidsynth.*timgm6mb-soundfont"):
            render_parts("timgm6mb", [one_note("piano")], [Instrument(0, 0)], 1.0)
        with pytest.raises(FileNotFoundError, match=r"apt-get install espeak-ng festival") as error:
            stem_pool.synthesise_pool(tmp_path, 1, 0, "valid", 1)
        assert "timgm6mb-soundfont" in str(error.value)
        with pytest.raises(FileNotFoundError, match="fluid-soundfont-gm"):
            stem_pool.synthesise_pool(tmp_path, 1, 0, "train", 1)


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
        audio = samples.render_made_drums(np.random.default_rng(0), part, 4.0, RATE)[0]
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
        monkeypatch.setattr(samples, "KITS", tmp_path)
        assert samples.list_kits() == ("Tiny Kit",)
        part = Part("drums", "rock", (Note(0.0, 0.1, 36, 120), Note(1.0, 0.1, 38, 120)))
        audio = samples.render_kit(np.random.default_rng(0), part, "Tiny Kit", 2.0, RATE)[0]
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
        monkeypatch.setattr(samples, "PATCHES", tmp_path)
        assert samples.patch_path(72) is None
        audio = samples.render_patch(one_note("flute", 64, 3.0), 73, 4.0, RATE)[0]
        expected = 440 * 2 ** ((64 - 69) / 12)
        assert abs(strongest_hz(audio[RATE : 2 * RATE], RATE) - expected) < 2
        assert audio[int(2.8 * RATE) : int(2.9 * RATE)].std() > 0.2
        assert np.abs(audio[int(3.6 * RATE) :]).max() < 0.01

    def test_another_file_is_refused(self, tmp_path):
        (tmp_path / "x.pat").write_bytes(b"RIFF" + bytes(400))
        with pytest.raises(ValueError, match="expected a GF1 patch"):
            samples.read_patch(tmp_path / "x.pat")


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
