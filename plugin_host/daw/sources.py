"""The audio files that a session's clips play."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from plugin_host.audio_files import Audio, read_audio
from plugin_host.daw.session import SessionError, Source


def read_sources(sources: Sequence[Source], start: int, samples: int) -> tuple[Audio, int]:
    """Read a stretch of sources, one after the other as channels.

    Returns
    -------
    audio
        Float32 ``(channels, samples)``.
    sample_rate
        Of the sources.

    Raises
    ------
    InputError
        A file cannot be read or is shorter.
    """
    parts, rates = [], set()
    for source in sources:
        audio, info = read_audio(source.path)
        rates.add(info.sample_rate)
        part = audio[:, start : start + samples]
        if part.shape[1] < samples:
            msg = f"{source.path}: the session uses {samples} samples from {start}, it is shorter"
            raise SessionError(msg)
        if source.channel is not None:
            if source.channel >= part.shape[0]:
                msg = f"{source.path}: the session uses channel {source.channel + 1}, it has fewer"
                raise SessionError(msg)
            part = part[source.channel : source.channel + 1]
        parts.append(part)
    if len(rates) != 1:
        msg = f"a clip mixes sources of {sorted(rates)} Hz; bounce it first"
        raise SessionError(msg)
    return np.ascontiguousarray(np.concatenate(parts)), rates.pop()


def probe_source(path: Path, session: Path) -> tuple[int, int, int]:
    """Return sample rate, channels and samples of a file that a session uses.

    Raises
    ------
    SessionError
        It is missing or no audio file.
    """
    try:
        info = soundfile.info(str(path))
    except (soundfile.SoundFileError, RuntimeError, OSError):
        msg = f"{session.name} uses {path}, which is missing or not audio; relink it first"
        raise SessionError(msg) from None
    return info.samplerate, info.channels, info.frames
