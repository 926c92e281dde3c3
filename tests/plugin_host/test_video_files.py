"""Video files as prompts, read by PyAV and given to the command."""

import socket
import struct
import threading
import zlib
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from bridge.errors import InputError
from bridge.video import read_video
from plugin_host.cli import main
from tests.support import tiny_bundle
from tests.support.host_audio import music

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
    clip = str(write_clip(tmp_path / "clip.mkv", [picture(50)]))
    command = ["separate", track, "--prompt", "drums"]

    def refused(*options: str) -> str:
        assert main([*command, *options]) == 2
        return capsys.readouterr().err

    assert "--mask needs the --video" in refused("--mask", clip)
    assert "belongs to one file" in refused(track, "--video", clip)
    assert "mini has no vision encoder" in refused("--video", clip)
    assert "no.mkv: cannot be read" in refused("--video", str(tmp_path / "no.mkv"))
    assert "expected NAME@CLIP with one of drums, bass" in refused("-p", "bass", "--video", clip)
    twice = ["-p", "bass", "--video", f"bass@{clip}", "--video", f"bass@{clip}"]
    assert "there are two of 'bass'" in refused(*twice)
    assert "a preview has no video" in refused("--video", clip, "--preview")


def test_each_stem_has_its_clip_and_a_preset_keeps_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(folder, str(tmp_path / folder))
    bundle = tiny_bundle.build(tmp_path / "tiny", tiny_bundle.Tiny(video=True, input_rms_db=None))
    track = tmp_path / "track.wav"
    soundfile.write(track, music(0.5).T, 44100, subtype="FLOAT")
    light = write_clip(tmp_path / "light.mkv", [picture(200)] * 5)
    mask = write_clip(tmp_path / "mask.mkv", [left_half()] * 5)
    command = [
        "separate", str(track), "-p", "one=half", "-p", "two=half", "--model", str(bundle),
        "--in-process", "--reconstruct", "raw",
    ]  # fmt: skip
    shown = ["--video", f"one@{light}", "--video", f"two@{light}", "--mask", f"two@{mask}"]

    def stems(folder: str) -> list[np.ndarray]:
        return [soundfile.read(tmp_path / folder / "track" / f"{name}.wav")[0]
                for name in ("one", "two")]  # fmt: skip

    assert main([*command, *shown, "-o", str(tmp_path / "a"), "--save-preset", "seen"]) == 0
    one, two = stems("a")
    assert np.square(one).sum() > 1.05 * np.square(two).sum()  # half of it is masked out
    again = ["separate", str(track), "--preset", "seen", "--in-process"]
    assert main([*again, "-o", str(tmp_path / "b")]) == 0
    np.testing.assert_array_equal(stems("b"), [one, two])
    assert main(["render", str(track), "--chain", "seen", "-o", str(tmp_path / "c")]) == 2
    assert "prompts[0].video: a chain takes no video" in capsys.readouterr().err
    write_clip(mask, [left_half()[:, ::-1]] * 5)
    assert main([*again, "-o", str(tmp_path / "d")]) == 2
    assert "another video or mask of 'two'" in capsys.readouterr().err
    mask.unlink()
    assert main([*again, "-o", str(tmp_path / "d")]) == 2
    assert "mask.mkv: cannot be read" in capsys.readouterr().err


def test_a_frame_of_more_pixels_than_a_video_has_is_not_decoded(tmp_path: Path) -> None:
    side = 6000

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    size = struct.pack(">2I5B", side, side, 8, 0, 0, 0, 0)
    parts = ((b"IHDR", size), (b"IDAT", zlib.compress(bytes(side * (side + 1)), 9)), (b"IEND", b""))
    path = tmp_path / "small.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))
    assert path.stat().st_size < 100_000
    with pytest.raises(InputError, match=r"small\.png: .*at most 7680 x 4320 pixels"):
        read_video(path, None, 32)


PLAYLISTS = {
    "m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{address}\n#EXT-X-ENDLIST\n",
    "ffconcat": "ffconcat version 1.0\nfile {address}\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n",
}


@pytest.mark.parametrize("kind", PLAYLISTS)
def test_a_playlist_reaches_nobody(tmp_path: Path, kind: str) -> None:
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def listen() -> None:
            while True:
                try:
                    connection, peer = listener.accept()
                except OSError:
                    return
                asked.append(peer)
                connection.close()

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/clip.ts"
        path = tmp_path / f"clip.{kind}"
        path.write_text(PLAYLISTS[kind].format(address=address))
        with pytest.raises(InputError, match=f"clip.{kind}: cannot be read as a video"):
            read_video(path, None, 32)
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert asked == []
