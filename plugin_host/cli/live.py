"""``stembridge live``: an insert for JACK and PipeWire; dry at first, then the stem that is kept.

No latency is added: what comes in goes out in the same cycle, either as it is or replaced by the
stem that was separated from exactly that audio at that position of the transport.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Self, cast

import numpy as np
import typer
from numpy.typing import NDArray

from bridge.bundles.bundle import find_bundle, load_manifest
from bridge.bundles.manifest import resolve
from bridge.errors import ServerError, StembridgeError
from bridge.request import make_settings
from plugin_host.cli.arguments import InProcessOption, parse_prompt
from plugin_host.cli.console import note
from plugin_host.effects.segments import Lanes, SeparationPlan, cross_fade, separate_segment
from plugin_host.effects.separate import Separate
from plugin_host.files.audio_files import Audio


@dataclass(frozen=True)
class Task:
    """A segment to separate.

    Attributes
    ----------
    number
        Which segment.
    start
        Its first sample on the timeline.
    audio
        What is to be separated.
    version
        To tell whether the audio has changed in the meantime.
    """

    number: int
    start: int
    audio: Audio
    version: int


class LiveTake:
    """Dry and separated audio of a timeline.

    Parameters
    ----------
    channels
        Of the audio.
    length, overlap
        Samples of a segment, and how far it looks into its neighbours, at most half of it.
    mix
        Makes what is played of the lanes of a stretch.
    """

    def __init__(
        self, channels: int, length: int, overlap: int, mix: Callable[[Lanes], Audio]
    ) -> None:
        self._channels = channels
        self._length = length
        self._overlap = min(overlap, length // 2)
        self._mix = mix
        self._lock = threading.Lock()
        self._dry = np.zeros((channels, 0), np.float32)
        self._known = np.zeros(0, bool)
        self._wet = np.zeros((channels, 0), np.float32)
        self._ready = np.zeros(0, bool)
        self._versions: dict[int, int] = {}
        self._done: dict[int, tuple[int, Lanes]] = {}

    def pass_through(self, position: int, block: Audio) -> Audio:
        """Take a block from the transport and return what to play there.

        Parameters
        ----------
        position
            Of its first sample.
        block
            Float32 ``(channels, samples)``.

        Returns
        -------
        The separated audio where all of the block is known to be what was separated; else the
        block itself, which is then recorded.
        """
        end = position + block.shape[1]
        with self._lock:
            self._grow(end)
            here = slice(position, end)
            if np.array_equal(self._dry[:, here], block) and self._known[here].all():
                return self._wet[:, here].copy() if self._ready[here].all() else block
            changed = ~self._known[here] | np.any(self._dry[:, here] != block, axis=0)
            self._dry[:, here] = block
            self._known[here] = True
            where = np.flatnonzero(changed) + position
            self._invalidate(int(where[0]), int(where[-1]) + 1)
            return block

    def tasks(self, *, rolling_at: int | None = None) -> list[Task]:
        """Return the segments whose audio is known and not separated yet.

        Parameters
        ----------
        rolling_at
            Position of the transport while it rolls: the segments around it are left for later,
            since their audio is just being heard.
        """
        with self._lock:
            found = [self._task(number, rolling_at) for number in sorted(self._versions)]
        return [task for task in found if task is not None]

    def put(self, task: Task, lanes: Lanes) -> None:
        """Take the result of a task; it counts unless the audio has changed in the meantime."""
        with self._lock:
            if self._versions.get(task.number) != task.version:
                return
            self._done[task.number] = (task.start, lanes)
            self._assemble(task.number)
            for number in (task.number - 1, task.number + 1):
                if number in self._done:
                    self._assemble(number)

    def ready_samples(self) -> int:
        """Return how many samples of the timeline are separated."""
        with self._lock:
            return int(self._ready.sum())

    def _region(self, number: int) -> tuple[int, int]:
        start = max(0, number * self._length - self._overlap)
        return start, (number + 1) * self._length + self._overlap

    def _task(self, number: int, rolling_at: int | None) -> Task | None:
        start, end = self._region(number)
        if number in self._done or (rolling_at is not None and start <= rolling_at <= end):
            return None
        begin, stop = _longest_run(self._known[start:end])
        begin, stop = start + begin, start + stop
        if stop <= begin or (number and stop < number * self._length + self._overlap):
            return None  # Nothing known here, or the segment before covers it.
        return Task(number, begin, self._dry[:, begin:stop].copy(), self._versions[number])

    def _invalidate(self, start: int, end: int) -> None:
        first = max(0, (start - self._overlap) // self._length)
        last = (end + self._overlap) // self._length
        for number in range(first, last + 1):
            low, high = self._region(number)
            if low < end and start < high:
                self._versions[number] = self._versions.get(number, 0) + 1
                self._done.pop(number, None)
                self._ready[low:high] = False
        # Neighbours that stay valid still hold the middle of their own stretch.
        for number in (first - 1, last + 1, *range(first, last + 1)):
            if number in self._done:
                self._assemble(number)

    def _assemble(self, number: int) -> None:
        start, lanes = self._done[number]
        end = start + next(iter(lanes.values())).shape[1]
        seam, width = (number + 1) * self._length - self._overlap, 2 * self._overlap
        region_start, region_end = self._region(number)
        # Where both neighbours know the audio they share it, and fade into each other.
        low = start + width if number and start == region_start else start
        high = end if end < region_end else min(end, seam)
        self._play(low, {k: v[:, low - start : high - start] for k, v in lanes.items()})
        following = self._done.get(number + 1)
        if following is not None and following[0] == seam and end == region_end:
            tail = {k: v[:, seam - start : seam - start + width] for k, v in lanes.items()}
            head = {k: v[:, :width] for k, v in following[1].items()}
            self._play(seam, cross_fade(tail, head))

    def _play(self, start: int, lanes: Lanes) -> None:
        audio = self._mix(lanes)
        end = start + audio.shape[1]
        self._wet[:, start:end] = audio
        self._ready[start:end] = True

    def _grow(self, end: int) -> None:
        size = self._known.size
        if end <= size:
            return
        # Room for a while, so that growing is rare.
        more = max(end - size, size // 2, 60 * 48000)
        silence = np.zeros((self._channels, more), np.float32)
        nothing: NDArray[np.bool_] = np.zeros(more, bool)
        self._dry = np.concatenate([self._dry, silence], axis=1)
        self._wet = np.concatenate([self._wet, silence], axis=1)
        self._known = np.concatenate([self._known, nothing])
        self._ready = np.concatenate([self._ready, nothing])


def _longest_run(known: NDArray[np.bool_]) -> tuple[int, int]:
    """Return start and end of the longest run of true values; two zeros if there is none."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], known, [False]]).astype(np.int8)))
    if edges.size == 0:
        return 0, 0
    starts, ends = edges[::2], edges[1::2]
    longest = int(np.argmax(ends - starts))
    return int(starts[longest]), int(ends[longest])


DEFAULT_SEGMENT_S = 10.0
_OVERLAP_S = 1.0
_LOOK_S = 0.1
_RETRY_S = 2.0


class LiveInsert:
    """A JACK client with inputs and outputs ``in_1``, ``out_1`` and so on.

    Use it as a context manager; it is active inside.

    Parameters
    ----------
    effect
        What to keep; its ``segment_s`` says how long a stretch is separated at once, by default
        10 s.
    name
        Of the client.
    channels
        Number of inputs and of outputs.
    draft_first
        Play drafts of all that was recorded until the stems themselves are there.

    Raises
    ------
    ServerError
        JACK's library is missing, or no JACK or PipeWire runs.

    Attributes
    ----------
    dry_reason : str or None
        Why stretches stay dry, while the sidecar cannot separate them.
    """

    def __init__(
        self,
        effect: Separate,
        *,
        name: str = "stembridge",
        channels: int = 2,
        draft_first: bool = True,
    ) -> None:
        try:
            import jack
        except (ImportError, OSError) as error:
            raise ServerError(
                f"live use needs JACK ({error}); install its library and "
                "pip install 'stembridge[live]'"
            ) from None
        try:
            self._client: Any = jack.Client(name, no_start_server=True)
        except jack.JackError as error:
            raise ServerError(
                f"no JACK server answers ({error}); start JACK, or run under pw-jack"
            ) from None
        self._rolling = jack.ROLLING
        self.rate = int(self._client.samplerate)
        self._inputs = [self._client.inports.register(f"in_{n + 1}") for n in range(channels)]
        self._outputs = [self._client.outports.register(f"out_{n + 1}") for n in range(channels)]
        self._effect = effect
        length = round((effect.segment_s or DEFAULT_SEGMENT_S) * self.rate)
        self.take = LiveTake(channels, length, round(_OVERLAP_S * self.rate), effect.mix)
        self._position: int | None = None
        self._stop = threading.Event()
        self._worker = threading.Thread(target=self._work, name="stembridge-live", daemon=True)
        self._busy = False
        self._draft = draft_of(effect.plan, effect.model) if draft_first else None
        self._drafted: list[Task] = []
        self.dry_reason: str | None = None
        self._client.set_process_callback(self._process)

    @property
    def client(self) -> Any:
        """The JACK client, for connecting its ports."""
        return self._client

    @property
    def idle(self) -> bool:
        """Whether all that was recorded is separated."""
        return not self._busy and not self._drafted and not self.take.tasks()

    def __enter__(self) -> Self:
        """Begin to pass audio."""
        self._client.activate()
        self._worker.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave JACK and end the background work."""
        self._stop.set()
        self._client.deactivate()
        self._client.close()
        self._worker.join()

    def _process(self, frames: int) -> None:
        block: Audio = np.stack([port.get_array() for port in self._inputs])
        state, position = self._client.transport_query_struct()
        if state == self._rolling:
            start = int(position.frame)
            self._position = start + frames
            block = self.take.pass_through(start, block)
        else:
            self._position = None
        for port, samples in zip(self._outputs, block, strict=True):
            port.get_array()[:] = samples

    def _work(self) -> None:
        while not self._stop.wait(_LOOK_S):
            # While the transport rolls the stretch that is being recorded is left alone.
            for task in self.take.tasks(rolling_at=self._position):
                if not self._separate(task, self._draft or self._effect.plan):
                    break
                if self._draft is not None:
                    self._drafted.append(task)
            while self._drafted and self._separate(self._drafted[0], self._effect.plan):
                del self._drafted[0]

    def _separate(self, task: Task, plan: SeparationPlan) -> bool:
        """Separate a stretch and play it from now on; False if that cannot be done now."""
        if self._stop.is_set():
            return False
        self._busy = True
        try:
            lanes = separate_segment(
                self._effect.separator, plan, task.audio, self.rate, task.start
            )
        except StembridgeError as error:
            self.dry_reason = str(error)
            self._stop.wait(_RETRY_S)
            return False
        finally:
            self._busy = False
        self.dry_reason = None
        self.take.put(task, lanes)
        return True


def draft_of(plan: SeparationPlan, model: str) -> SeparationPlan | None:
    """Return a plan for a draft, or None where a draft by this model would be no other."""
    manifest = load_manifest(find_bundle(model))
    settings = make_settings(plan.settings, quality="draft")
    if resolve(settings, manifest) == resolve(plan.settings, manifest):
        return None
    return replace(plan, settings=settings)


def wait_until_idle(insert: LiveInsert, timeout_s: float) -> bool:
    """Wait until all that was recorded is separated; False if that takes longer."""
    deadline = time.monotonic() + timeout_s
    while not insert.idle:
        if time.monotonic() > deadline:
            return False
        time.sleep(_LOOK_S)
    return True


_SHOW_EVERY_S = 1.0


def register(app: typer.Typer) -> None:
    """Add the command to an application."""
    app.command("live", help="Play stems in place, as a JACK or PipeWire insert.")(live)


def live(
    *,
    prompt: Annotated[
        str, typer.Option("--prompt", "-p", metavar="TEXT", help="What to keep, or to take out.")
    ],
    keep: Annotated[
        str, typer.Option(metavar="target|residual|remix", help="What to play.")
    ] = "target",
    gain_db: Annotated[float, typer.Option("--gain-db", help="Level in a remix.")] = 0.0,
    name: Annotated[str, typer.Option(help="Name of the JACK client.")] = "stembridge",
    channels: Annotated[int, typer.Option(min=1, max=64, help="Inputs and outputs.")] = 2,
    segment: Annotated[
        float, typer.Option(metavar="SECONDS", help="Length of the segments that are separated.")
    ] = DEFAULT_SEGMENT_S,
    model: Annotated[str, typer.Option(metavar="NAME_OR_DIR", help="Model.")] = "mini",
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    draft_first: Annotated[
        bool, typer.Option(help="Play a draft until the stem itself is there.")
    ] = True,
    in_process: InProcessOption = False,
) -> None:
    """Pass new audio through dry, and play the stem wherever it is known, until Ctrl-C."""
    effect = Separate(
        parse_prompt(prompt).text,
        cast(Literal["target", "residual", "remix"], keep),
        gain_db=gain_db,
        model=model,
        segment_s=segment,
        seed=seed,
        in_process=in_process,
        revise=True,
    )
    with (
        effect,
        LiveInsert(effect, name=name, channels=channels, draft_first=draft_first) as insert,
    ):
        note(f"{name}: {channels} inputs and outputs at {insert.rate} Hz")
        shown = ""
        while True:
            ready_s = insert.take.ready_samples() / insert.rate
            state = f"{ready_s:.0f} s separated" + ("" if insert.idle else ", working")
            if insert.dry_reason:
                state = f"dry: {insert.dry_reason}"
            if state != shown:
                note(state)
                shown = state
            time.sleep(_SHOW_EVERY_S)
