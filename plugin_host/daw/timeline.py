"""From the timeline of a session to the audio of its clips: cutting clips, moving spans."""

import math
from collections.abc import Sequence
from dataclasses import replace

from bridge.request import Span
from plugin_host.daw.session import Clip, Range, SessionError


def cut_clips(clips: Sequence[Clip], range_s: Range) -> list[Clip]:
    """Return what lies in a part of the timeline, cut to it at the nearest sample of the sources.

    Parameters
    ----------
    clips
        What a track plays.
    range_s
        Start and end in seconds.

    Raises
    ------
    SessionError
        The range cuts a fade, or the beginning off a clip whose envelope counts from there: what
        remains could not be played at the same level.
    """
    cut = (_cut(clip, *range_s) for clip in clips)
    return [clip for clip in cut if clip is not None]


def _cut(clip: Clip, low_s: float, high_s: float) -> Clip | None:
    per_second = clip.speed * clip.sample_rate
    length = round(clip.length_s * per_second)
    front = max(round((low_s - clip.position_s) * per_second), 0)
    end = min(round((high_s - clip.position_s) * per_second), length)
    if front >= end:
        return None
    if front == 0 and end == length:
        return clip
    for at in (low_s, high_s):
        _refuse_in_fade(clip, at)
    if front and clip.envelope:
        msg = f"the clip {clip.name!r} has an envelope; glue or bounce it, or leave out the range"
        raise SessionError(msg)
    position_s = clip.position_s + front / per_second
    # An end that is not cut stays where the session has it, to its last digit.
    end_s = clip.end_s if end == length else clip.position_s + end / per_second
    new = replace(
        clip,
        position_s=position_s,
        length_s=end_s - position_s,
        fade_in_s=0.0 if front else clip.fade_in_s,
        fade_out_s=0.0 if end < length else clip.fade_out_s,
        cut_front=front > 0,
        cut_back=end < length,
    )
    if clip.first is not None:
        return replace(new, first=clip.first + front)
    samples = min(end, clip.samples) - front
    return replace(new, start=clip.start + front, samples=samples) if samples > 0 else None


def _refuse_in_fade(clip: Clip, at_s: float) -> None:
    half_sample = 0.5 / clip.sample_rate
    fades = (
        ("fade-in", clip.position_s, clip.position_s + clip.fade_in_s),
        ("fade-out", clip.end_s - clip.fade_out_s, clip.end_s),
    )
    for what, begin, end in fades:
        if begin + half_sample < at_s < end - half_sample:
            msg = (
                f"the range cuts the {what} of {clip.name!r} at {at_s:g} s; move it out of "
                f"{begin:.6g} to {end:.6g} s"
            )
            raise SessionError(msg)


def spans_in_source(
    spans: Sequence[Span], clips: Sequence[Clip], start: int, duration_s: float
) -> tuple[Span, ...]:
    """Move spans from the timeline into the audio that clips are cut from.

    Parameters
    ----------
    spans
        Seconds of the timeline.
    clips
        Clips of the same sources.
    start, duration_s
        The sample of the sources where the audio begins, and its length.

    Returns
    -------
    Spans in seconds of the audio; one for each clip, and each repetition, that a span touches.
    """
    moved = []
    for span in spans:
        for clip in clips:
            low_s = max(span.start_s, clip.position_s)
            high_s = min(span.end_s, clip.end_s)
            if high_s <= low_s:
                continue
            origin_s = (clip.origin - start) / clip.sample_rate
            begin = origin_s + (low_s - clip.position_s) * clip.speed
            end = origin_s + (high_s - clip.position_s) * clip.speed
            for part in _unrolled(begin, end, duration_s) if clip.loops else [(begin, end)]:
                inside = max(part[0], 0.0), min(part[1], duration_s)
                if inside[0] < inside[1]:
                    moved.append(Span(*inside, span.polarity))
    return tuple(moved)


def _unrolled(begin: float, end: float, duration_s: float) -> list[Range]:
    """Return where a stretch of a loop lies in one turn of it."""
    if end - begin >= duration_s:
        return [(0.0, duration_s)]
    turn = math.floor(begin / duration_s) * duration_s
    begin, end = begin - turn, end - turn
    return [(begin, min(end, duration_s)), (0.0, end - duration_s)]
