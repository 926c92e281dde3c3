"""Whatever a library raises, it ends as one of our errors that names the file or the plug-in."""

import builtins
import inspect
import os
from pathlib import Path

import numpy as np
import pedalboard
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge import Engine, InputError, MemoryBudgetError, ModelError, StembridgeError
from bridge.errors import foreign_errors, reason_of
from bridge.inference.graphs import ort
from bridge.video import read_video
from plugin_host import Chain
from plugin_host.effects.presets import load_plugin
from plugin_host.files.audio_files import probe, read_audio, write_audio
from plugin_host.files.containers import OpenSound
from plugin_host.files.stem_files import comment_of
from presets import Effect, PresetError
from tests.support.host_audio import RATE, music

KINDS = [
    kind
    for kind in vars(builtins).values()
    if inspect.isclass(kind)
    and issubclass(kind, Exception)
    and not issubclass(kind, Warning | UnicodeError | ExceptionGroup)
]


@st.composite
def exceptions(draw):
    """Return an exception of any kind, also of kinds that no library documents."""
    kind = draw(st.sampled_from([*KINDS, UnicodeDecodeError, None]))
    text = draw(st.text(max_size=400))
    if kind is UnicodeDecodeError:
        return kind("utf-8", b"\xff", 0, 1, text)
    if kind is None:
        kind = type(
            draw(st.sampled_from(["Fail", "RuntimeException", "avError"])), (Exception,), {}
        )
    return kind(*draw(st.sampled_from([(), (text,), *([(5, text)] if kind is OSError else [])])))


anything = settings(max_examples=60)


def raising(error):
    def fail(*_args, **_options):
        raise error

    return fail


def is_told(kind, name, call):
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert name in message
    assert "\n" not in message
    assert len(message) < 1000


@pytest.fixture
def song(tmp_path):
    path = tmp_path / "song.wav"
    write_audio(path, music(0.5), RATE)
    return path


@anything
@given(error=exceptions())
def test_of_soundfile_when_a_file_is_opened(song, error):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OpenSound, "__init__", raising(error))
        is_told(InputError, song.name, lambda: probe(song))
        assert comment_of(song) == ""


@anything
@given(error=exceptions())
def test_of_soundfile_when_samples_are_decoded(song, error):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OpenSound, "read", raising(error))
        is_told(InputError, song.name, lambda: read_audio(song))


@anything
@given(error=exceptions())
def test_of_soundfile_in_the_middle_of_a_file(song, error):
    read, calls = OpenSound.read, []

    def fail_later(self, *args, **options):
        calls.append(1)
        if len(calls) > 1:
            raise error
        return read(self, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OpenSound, "read", fail_later)
        audio, info = read_audio(song)
    assert 0 < audio.shape[1] < music(0.5).shape[1]
    assert "breaks off" in info.notes[0]


@anything
@given(error=exceptions())
def test_of_soundfile_when_samples_are_encoded(tmp_path, error):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(soundfile.SoundFile, "write", raising(error))
        is_told(
            InputError, "new.flac", lambda: write_audio(tmp_path / "new.flac", music(0.1), RATE)
        )


@anything
@given(error=exceptions())
def test_of_a_video_codec(tmp_path, error):
    av = pytest.importorskip("av")
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(av, "open", raising(error))
        is_told(InputError, "a.mp4", lambda: read_video(tmp_path / "a.mp4", None, 8))


@anything
@given(error=exceptions())
def test_of_a_plug_in_that_is_loaded(tmp_path, error):
    path = tmp_path / "a.vst3"
    path.write_bytes(b"")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pedalboard, "load_plugin", raising(error))
        is_told(PresetError, path.name, lambda: load_plugin(Effect(str(path))))


@anything
@given(error=exceptions())
def test_of_a_plug_in_that_runs(error):
    chain = Chain([pedalboard.Gain(-6)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pedalboard.Pedalboard, "process", raising(error), raising=False)
        is_told(InputError, "Gain", lambda: chain.process(music(0.1), RATE))


@pytest.mark.slow
@anything
@given(error=exceptions())
def test_of_onnx_runtime(bundle, error):
    class Session:
        def __init__(self, *_args, **_options):
            pass

        def get_providers(self):
            return ["CPUExecutionProvider"]

        run = staticmethod(raising(error))

    with Engine(bundle, threads=1) as engine, pytest.MonkeyPatch.context() as patch:
        patch.setattr(ort, "InferenceSession", raising(error))
        is_told(
            (ModelError, MemoryBudgetError),
            ".onnx",
            lambda: engine.separate(music(0.2), RATE, ["half"]),
        )
        patch.setattr(ort, "InferenceSession", Session)
        with pytest.raises(StembridgeError):
            engine.separate(music(0.2), RATE, ["half"])


@given(error=exceptions())
def test_a_reason_is_one_short_line_of_printable_text(error):
    reason = reason_of(error)
    assert reason
    assert reason.isprintable()
    assert len(reason) <= 303


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_interrupts_and_our_own_errors_pass_as_they_are(interrupt):
    with pytest.raises(interrupt), foreign_errors("what"):
        raise interrupt
    own = ModelError("ours")
    with pytest.raises(ModelError) as caught, foreign_errors("what"):
        raise own
    assert caught.value is own


@pytest.mark.parametrize(
    "name", [b"caf\xe9.wav", b"\xff\xfe.flac", "ä ö.ogg".encode(), b"a\nb.aiff"]
)
def test_a_name_is_a_row_of_bytes(tmp_path, name):
    path = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name)))
    kind = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG", ".aiff": "AIFF"}[path.suffix]
    subtype = "VORBIS" if kind == "OGG" else "PCM_16"
    write_audio(path, music(0.5), RATE, file_format=kind, subtype=subtype, comment="c")
    audio, info = read_audio(path)
    assert audio.shape == music(0.5).shape
    assert info.path == path
    assert comment_of(path) == "c"
    assert np.isfinite(audio).all()
