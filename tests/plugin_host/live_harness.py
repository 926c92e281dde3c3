"""Run under pw-jack: a transport, a player and a recorder around a live insert.

Arguments: bundle, song (wav), folder for what was heard. Writes ``pass1.wav``, ``pass2.wav`` and
``offline.wav``, and prints what went wrong, if anything did.
"""

import os
import sys
import time
from pathlib import Path

import jack
import numpy as np
import soundfile

from bridge import Engine
from plugin_host import Separate
from plugin_host.live import LiveInsert, wait_until_idle


class Deck:
    """A JACK client that plays a song by transport position."""

    def __init__(self, song):
        self.song = song
        self.client = jack.Client("deck")
        self.outs = [self.client.outports.register(f"out_{n}") for n in (1, 2)]
        self.client.set_process_callback(self.process)

    def process(self, frames):
        state, position = self.client.transport_query_struct()
        at = int(position.frame)
        block = np.zeros((2, frames), np.float32)
        if state == jack.ROLLING:
            part = self.song[:, at : at + frames]
            block[:, : part.shape[1]] = part
        for port, samples in zip(self.outs, block, strict=True):
            port.get_array()[:] = samples


class Recorder:
    """Records its inputs by transport position."""

    def __init__(self, length):
        self.client = jack.Client("recorder")
        self.ins = [self.client.inports.register(f"in_{n}") for n in (1, 2)]
        self.heard = np.zeros((2, length), np.float32)
        self.reached = 0
        self.client.set_process_callback(self.process)

    def process(self, _frames):
        state, position = self.client.transport_query_struct()
        at = int(position.frame)
        if state == jack.ROLLING and at < self.heard.shape[1]:
            block = np.stack([port.get_array() for port in self.ins])
            part = block[:, : self.heard.shape[1] - at]
            self.heard[:, at : at + part.shape[1]] = part
            self.reached = max(self.reached, at + part.shape[1])


def play(client, recorder, length):
    recorder.heard[:] = 0
    recorder.reached = 0
    client.transport_stop()
    client.transport_locate(0)
    time.sleep(0.3)
    client.transport_start()
    deadline = time.monotonic() + 120
    while recorder.reached < length:
        assert time.monotonic() < deadline, f"the transport stopped at {recorder.reached}"
        time.sleep(0.05)
    client.transport_stop()
    time.sleep(0.3)
    return recorder.heard.copy()


def main():
    bundle, song_path, out = map(Path, sys.argv[1:])
    audio, rate = soundfile.read(song_path, dtype="float32", always_2d=True)
    song = np.ascontiguousarray(audio.T)
    length = song.shape[1]
    with Engine(bundle, threads=1) as engine:
        effect = Separate("half", separator=engine, segment_s=1.0)
        deck, recorder = Deck(song), Recorder(length)
        with LiveInsert(effect) as insert:
            assert insert.rate == rate, f"JACK runs at {insert.rate} Hz"
            for one in (deck, recorder):
                one.client.activate()
            for n in (1, 2):
                deck.client.connect(f"deck:out_{n}", f"stembridge:in_{n}")
                recorder.client.connect(f"stembridge:out_{n}", f"recorder:in_{n}")
            time.sleep(0.5)
            first = play(deck.client, recorder, length)
            assert wait_until_idle(insert, 60), insert.dry_reason
            second = play(deck.client, recorder, length)
            for one in (deck, recorder):
                one.client.deactivate()
                one.client.close()
        # JACK works in whole cycles: the take ends with the last one.
        recorded = insert.take.ready_samples()
        padded = np.pad(song, ((0, 0), (0, recorded - length)))
        offline = effect(padded, rate)[:, :length]
    for name, heard in (("pass1", first), ("pass2", second), ("offline", offline)):
        soundfile.write(out / f"{name}.wav", heard.T, rate, subtype="FLOAT")
    print("done", flush=True)
    # PipeWire's JACK library may hang in its own clean-up at exit.
    os._exit(0)


main()
