"""A live insert for JACK and PipeWire: dry on the first pass, the kept stem on the next.

No latency is added: what comes in goes out in the same cycle, either as it is or replaced by the
stem that was separated from exactly that audio at that position of the transport.
"""

import threading
import time
from types import TracebackType
from typing import Any, Self

import numpy as np

from bridge.errors import ServerError, StembridgeError
from plugin_host.audio_files import Audio
from plugin_host.live_take import LiveTake
from plugin_host.separate_effect import Separate
from plugin_host.separation_stream import separate_segment

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

    Raises
    ------
    ServerError
        JACK's library is missing, or no JACK or PipeWire runs.

    Attributes
    ----------
    dry_reason : str or None
        Why stretches stay dry, while the sidecar cannot separate them.
    """

    def __init__(self, effect: Separate, *, name: str = "stembridge", channels: int = 2) -> None:
        try:
            import jack
        except (ImportError, OSError) as error:
            msg = (
                f"live use needs JACK ({error}); install its library and "
                "pip install 'stembridge[live]'"
            )
            raise ServerError(msg) from None
        try:
            self._client: Any = jack.Client(name, no_start_server=True)
        except jack.JackError as error:
            msg = f"no JACK server answers ({error}); start JACK, or run under pw-jack"
            raise ServerError(msg) from None
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
        self.dry_reason: str | None = None
        self._client.set_process_callback(self._process)

    @property
    def client(self) -> Any:
        """The JACK client, for connecting its ports."""
        return self._client

    @property
    def idle(self) -> bool:
        """Whether all that was recorded is separated."""
        return not self._busy and not self.take.tasks()

    def __enter__(self) -> Self:
        """Begin to pass audio."""
        self._client.activate()
        self._worker.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
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
                if self._stop.is_set():
                    return
                self._busy = True
                try:
                    lanes = separate_segment(
                        self._effect.separator, self._effect.plan, task.audio, self.rate, task.start
                    )
                except StembridgeError as error:
                    self.dry_reason = str(error)
                    self._stop.wait(_RETRY_S)
                    break
                finally:
                    self._busy = False
                self.dry_reason = None
                self.take.put(task, lanes)


def wait_until_idle(insert: LiveInsert, timeout_s: float) -> bool:
    """Wait until all that was recorded is separated; False if that takes longer."""
    deadline = time.monotonic() + timeout_s
    while not insert.idle:
        if time.monotonic() > deadline:
            return False
        time.sleep(_LOOK_S)
    return True
