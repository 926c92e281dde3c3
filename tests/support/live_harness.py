"""Run under pw-jack: a transport, a player and a recorder around a live insert.

Arguments: bundle, song (wav), folder for what was heard. Writes ``pass1.wav``, ``pass2.wav`` and
``offline.wav``, and prints what went wrong, if anything did.

A machine that is busy elsewhere misses cycles, and what is played in one is then lost on the way:
JACK calls that an xrun. Both passes are made again from the start where one had any.
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
from plugin_host.cli.live import LiveInsert, wait_until_idle

ATTEMPTS = 8


class Deck:
    """A JACK client that plays a song by transport position."""

    def __init__(self, song):
        self.song = song
        self.played = set()
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
            self.played.add(at)
        for port, samples in zip(self.outs, block, strict=True):
            port.get_array()[:] = samples


class Recorder:
    """Records its inputs by transport position."""

    def __init__(self, length):
        self.client = jack.Client("recorder")
        self.ins = [self.client.inports.register(f"in_{n}") for n in (1, 2)]
        self.heard = np.zeros((2, length), np.float32)
        self.cycles = []
        self.reached = 0
        self.client.set_process_callback(self.process)

    def process(self, _frames):
        state, position = self.client.transport_query_struct()
        at = int(position.frame)
        if state == jack.ROLLING and at < self.heard.shape[1]:
            block = np.stack([port.get_array() for port in self.ins])
            part = block[:, : self.heard.shape[1] - at]
            self.heard[:, at : at + part.shape[1]] = part
            self.cycles.append((at, part.shape[1]))
            self.reached = max(self.reached, at + part.shape[1])

    def missed(self, deck):
        """Say whether a cycle of the pass was lost, in the recorder or before it."""
        expected = 0
        for at, frames in self.cycles:
            if at != expected or at not in deck.played:
                return True
            expected = at + frames
        return False


def play(deck, recorder, xruns):
    """Play the song once; returns what was heard, or None if the machine was too busy."""
    client, length = deck.client, recorder.heard.shape[1]
    recorder.heard[:] = 0
    recorder.cycles.clear()
    deck.played.clear()
    recorder.reached = 0
    client.transport_stop()
    client.transport_locate(0)
    time.sleep(0.3)
    xruns.clear()
    client.transport_start()
    deadline = time.monotonic() + 120
    while recorder.reached < length:
        assert time.monotonic() < deadline, f"the transport stopped at {recorder.reached}"
        time.sleep(0.05)
    client.transport_stop()
    time.sleep(0.3)
    return None if xruns or recorder.missed(deck) else recorder.heard.copy()


def play_twice(engine, song, rate):
    """Play the song dry and again; None if the machine was too busy."""
    effect = Separate("half", separator=engine, segment_s=1.0)
    deck, recorder, insert = Deck(song), Recorder(song.shape[1]), LiveInsert(effect)
    assert insert.rate == rate, f"JACK runs at {insert.rate} Hz"
    clients = [deck.client, recorder.client, insert.client]
    xruns = []
    for client in clients:
        client.set_xrun_callback(xruns.append)
    with insert:
        for client in clients[:2]:
            client.activate()
        for n in (1, 2):
            deck.client.connect(f"deck:out_{n}", f"stembridge:in_{n}")
            recorder.client.connect(f"stembridge:out_{n}", f"recorder:in_{n}")
        time.sleep(0.5)
        second = None
        first = play(deck, recorder, xruns)
        if first is not None:
            assert wait_until_idle(insert, 60), insert.dry_reason
            # JACK works in whole cycles, and one more may come before it stops.
            recorded = insert.take.ready_samples()
            second = play(deck, recorder, xruns)
        for client in clients[:2]:
            client.deactivate()
            client.close()
    if second is None:
        return None
    padded = np.pad(song, ((0, 0), (0, recorded - song.shape[1])))
    return first, second, effect(padded, rate)[:, : song.shape[1]]


def main():
    bundle, song_path, out = map(Path, sys.argv[1:])
    audio, rate = soundfile.read(song_path, dtype="float32", always_2d=True)
    song = np.ascontiguousarray(audio.T)
    with Engine(bundle, threads=1) as engine:
        passes = (play_twice(engine, song, rate) for _ in range(ATTEMPTS))
        whole = next((found for found in passes if found is not None), None)
    assert whole is not None, f"xruns in {ATTEMPTS} attempts: the machine is too busy for audio"
    for name, heard in zip(("pass1", "pass2", "offline"), whole, strict=True):
        soundfile.write(out / f"{name}.wav", heard.T, rate, subtype="FLOAT")
    print("done", flush=True)
    # PipeWire's JACK library may hang in its own clean-up at exit.
    os._exit(0)


main()
