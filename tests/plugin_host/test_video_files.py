"""Video files as prompts, read by PyAV and given to the command."""

from pathlib import Path

import av
import numpy as np
import pytest

from bridge.errors import InputError
from plugin_host.cli import main
from plugin_host.video_files import read_video

WIDTH, HEIGHT, RATE = 32, 16, 10


def write_clip(path: Path, frames: list[np.ndarray]) -> Path:
    """Write frames (height, width, 3) without loss."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = frames[0].shape[1], frames[0].shape[0], "bgr0"
        for frame in frames:
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def picture(level: int) -> np.ndarray:
    return np.full((HEIGHT, WIDTH, 3), level, np.uint8)


def left_half() -> np.ndarray:
    mask = picture(0)
    mask[:, : WIDTH // 2] = 255
    return mask


def test_masked_frames_come_with_their_times(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mkv", [picture(50), picture(100), picture(200)])
    mask = write_clip(tmp_path / "mask.mkv", [left_half()] * 3)
    video = read_video(clip, mask, 8)
    assert video.frames.shape == (3, 8, 8, 3)
    np.testing.assert_allclose(video.times_s, [0.0, 0.1, 0.2], atol=2e-3)
    for frame, level in zip(video.frames, (50, 100, 200), strict=True):
        assert frame[:, :2].max() == 0
        np.testing.assert_array_equal(frame[:, 6:], level)


def test_frames_that_are_masked_already_need_no_mask(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mkv", [picture(50)])
    np.testing.assert_array_equal(read_video(clip, None, 8).frames, 50)


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mkv", [picture(50), picture(50)])
    short = write_clip(tmp_path / "short.mkv", [left_half()])
    with pytest.raises(InputError, match="not as many frames"):
        read_video(clip, short, 8)
    with pytest.raises(InputError, match="not as many frames"):
        read_video(short, clip, 8)
    narrow = write_clip(tmp_path / "narrow.mkv", [left_half()[:, :16]] * 2)
    with pytest.raises(InputError, match="its mask 16 x 16"):
        read_video(clip, narrow, 8)
    text = tmp_path / "text.mkv"
    text.write_text("no video")
    with pytest.raises(InputError, match="cannot be read as a video"):
        read_video(text, None, 8)


def test_the_command_checks_its_options_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    track = str(tmp_path / "track.wav")
    command = ["separate", track, "--prompt", "drums"]
    assert main([*command, "--mask", "mask.mkv"]) == 2
    assert "--mask needs the --video" in capsys.readouterr().err
    assert main([*command, track, "--video", "clip.mkv"]) == 2
    assert "belongs to one file" in capsys.readouterr().err
    assert main([*command, "--video", "clip.mkv"]) == 2
    assert "mini has no vision encoder" in capsys.readouterr().err
