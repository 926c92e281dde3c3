"""The trial for Ableton Live, with a stand-in for the bridge that Live's SDK is reached through.

The package that speaks to the bridge is the real one; what it asks for is answered from a model of
a set with one audio track.
"""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from ableton_extensions import AudioClip, Extension
from ableton_extensions.framework import Resources, Ui
from ableton_extensions.model import Application

from plugin_host.cli.ableton import make_extension
from plugin_host.effects.separators import open_separator
from tests.support.host_audio import RATE, music


class Bridge:
    """Answers calls as the bridge does, by name; what changes the set is kept in order."""

    def __init__(self, folder, answers, *, cancel_at=None):
        self.folder, self.answers, self.cancel_at = folder, list(answers), cancel_at
        self.made, self.changed, self.told = 0, [], []
        self.inside = False
        self._obj_cache = {}
        self.rendered = folder / "rendered.wav"
        soundfile.write(self.rendered, music(2, RATE).T, RATE, subtype="FLOAT")

    def call(self, method, *arguments, timeout=30.0):
        assert timeout > 0
        name = method.split(".")[1]
        if name in ("rootGetSong", "getObjectCanonicalParent"):
            return {"id": {"$b": "song" if name == "rootGetSong" else "track"}}
        if name == "getObjectIsOfClass":
            handle, kind = arguments
            return kind == {"track": "AudioTrack", "song": "Song"}.get(handle["id"]["$b"])
        if name == "openProgress":
            return {"dialogId": 1}
        if name == "updateProgress":
            self.told.append(arguments[1])
            if arguments[1] == self.cancel_at:
                self.cancel()
            return None
        if name == "renderPreFxAudio":
            assert arguments[1] == {"startTime": 8.0, "endTime": 12.0}
            return str(self.rendered)
        if name == "importIntoProject":
            target = self.folder / "Project" / f"{len(list(self.folder.glob('Project/*')))}.wav"
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(Path(arguments[0]).read_bytes())
            return str(target)
        values = {"clipGetStartTime": 8.0, "clipGetEndTime": 12.0, "clipGetName": "Loop"}
        if name in values:
            return values[name]
        if name in ("songCreateAudioTrack", "trackCreateTakeLane"):
            assert not self.inside
            self.made += 1
            return {"id": {"$b": f"{'track' if 'Audio' in name else 'lane'} {self.made}"}}
        if "Set" in name or "CreateAudioClip" in name:
            assert self.inside
            self.changed.append((name, arguments[0]["id"]["$b"], arguments[1]))
            return {"id": {"$b": "new"}}
        raise AssertionError(method)

    def add_cancel_handler(self, _, cancel):
        self.cancel = cancel

    def remove_cancel_handler(self, _):
        pass

    def begin_txn(self):
        self.inside = True

    def end_txn(self):
        self.inside = False

    abort_txn = end_txn


@pytest.fixture
def run(tmp_path, bundle):
    def choose(*answers, **options):
        bridge = Bridge(tmp_path, answers, **options)
        extension = Extension("stembridge")
        extension._t = bridge
        extension._app = Application(bridge, {"id": {"$b": "root"}})
        extension._ui, extension._resources = Ui(bridge), Resources(bridge)
        # A dialog is HTML for Live to show; what the user would enter comes from here.
        extension._ui._dialog = lambda *_: bridge.answers.pop(0)
        action = make_extension(extension, lambda: open_separator(str(bundle), in_process=True))
        assert extension._menu[0][:2] == ("AudioClip", "Separate with stembridge")
        action(AudioClip(bridge, {"id": {"$b": "clip"}}))
        return bridge

    return choose


def said(value):
    return {"ok": True, "value": value}


@pytest.mark.parametrize("place", ["tracks", "take lanes"])
def test_the_stems_of_a_clip_lie_at_its_place_and_sum_to_it(run, tmp_path, place):
    bridge = run(said("vox=half; nothing"), said(place))
    kind = "track" if place == "tracks" else "lane"
    names = [c[2] for c in bridge.changed if c[0].endswith("SetName")]
    assert names == ["Loop vox", "Loop nothing", "Loop residual"]
    clips = [c for c in bridge.changed if c[0].endswith("CreateAudioClip")]
    assert [c[1] for c in clips] == [f"{kind} {n}" for n in (1, 2, 3)]
    assert {(c[2]["startTime"], c[2]["duration"], c[2]["isWarped"]) for c in clips} == {
        (8.0, 4.0, False)
    }
    muted = [c for c in bridge.changed if "Mute" in c[0]]
    assert len(muted) == (place == "tracks")
    total = sum(soundfile.read(c[2]["filePath"])[0] for c in clips)
    assert np.abs(total - soundfile.read(tmp_path / "rendered.wav")[0]).max() < 1e-5
    assert {"rendering the clip", "solve"} <= set(bridge.told)


def test_giving_up_changes_nothing(run):
    for answers in ([{"ok": False}], [said("half"), {"ok": False}]):
        assert run(*answers).changed == []
    bridge = run(said("half"), said("tracks"), cancel_at="solve")
    assert bridge.changed == []
    assert bridge.made == 0


def test_what_goes_wrong_is_told(run):
    bridge = run(said("a/b=voice"), said("tracks"), {"ok": True})
    assert bridge.answers == []
    assert bridge.changed == []
