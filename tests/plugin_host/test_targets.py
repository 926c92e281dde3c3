import collections
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from bridge import InputError
from plugin_host.files.audio_files import AudioInfo, write_audio
from plugin_host.files.stem_files import check_targets, plan_tracks
from plugin_host.render import check_inputs
from presets import Preset, PresetStem

RATE = 44100


def info(path, samples=RATE, subtype="PCM_16"):
    return AudioInfo(path, RATE, 2, samples, "WAV", subtype)


def test_what_can_be_written_is_not_touched_by_the_check(tmp_path):
    check_targets({tmp_path / "new" / "deep" / "a.wav": 1000, tmp_path / "b.wav": 0})
    assert list(tmp_path.iterdir()) == []


def test_a_file_where_a_folder_is_needed_is_told(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(InputError, match="expected a folder, got a file; choose another -o"):
        plan_tracks([info(tmp_path / "a.wav")], tmp_path / "out", "FLOAT")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match="expected a folder"):
        check_targets({tmp_path / "link" / "a.wav": 0})


def test_a_name_that_no_disk_takes_is_told(tmp_path):
    with pytest.raises(InputError, match="too long"):
        check_targets({tmp_path / ("ä" * 126 + ".wav"): 0})


def test_a_folder_without_the_right_to_write_is_told(tmp_path):
    tmp_path.chmod(0o755)
    # Root may write anywhere, so an unprivileged user looks.
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from bridge import InputError\n"
        "from plugin_host.files.stem_files import check_targets\n"
        "os.chdir('/')\n"
        "if os.getuid() == 0: os.setuid(65534)\n"
        "try: check_targets({Path('/etc/new/a.wav'): 0})\n"
        "except InputError as e: print(e)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.startswith("/etc: cannot write there")


def test_too_little_room_is_told_for_all_files_together(tmp_path, monkeypatch):
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, 1_000_000))
    check_targets({tmp_path / "a": 500_000, tmp_path / "b": 500_000})
    with pytest.raises(InputError, match="about 1 MB are needed there and 1 MB are free"):
        check_targets({tmp_path / "a": 600_000, tmp_path / "b": 600_000})
    # Three stems of two channels in float32.
    with pytest.raises(InputError, match="about 1 MB are needed"):
        plan_tracks([info(tmp_path / "a.wav")], tmp_path / "out", "FLOAT", stems=3)

    source = tmp_path / "a.wav"
    write_audio(source, np.zeros((2, RATE), np.float32), RATE)
    preset = Preset(stems=(PresetStem("half"), PresetStem("nothing")))
    files = [(source, tmp_path / "out" / "a.wav")]
    check_inputs(files, preset)
    with pytest.raises(InputError, match="are needed there"):
        check_inputs(files, preset, output="stems")
    # What compresses has no size that is known before.
    check_inputs([(source, tmp_path / "out" / "a.flac")], preset, output="stems")


def test_nothing_is_asked_of_a_folder_beyond_what_exists(tmp_path):
    inside = tmp_path / "a"
    inside.mkdir()
    before = os.stat(inside).st_mtime_ns
    check_targets({inside / "b" / "c.wav": 1})
    assert os.stat(inside).st_mtime_ns == before
