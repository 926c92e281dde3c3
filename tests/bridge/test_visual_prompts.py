"""Videos as prompts: which frame belongs to which latent frame, and what the network sees."""

import contextlib
import os
import signal
from pathlib import Path

import msgspec
import numpy as np
import pytest

from bridge import Client, Engine, InputError, Prompt, Video
from bridge.inference.model import visual_features
from bridge.separation import Separation
from bridge.service.requests import check_limits
from bridge.signal.resampling import without_rumble
from bridge.video import mask_out, resize
from bridge.wire.messages import AudioInfo, Limits, VideoInfo
from tests.support import tiny_bundle
from tests.support.sidecars import sidecar, wait_until

RATE, HOP = tiny_bundle.SAMPLE_RATE, tiny_bundle.HOP
SIDE = tiny_bundle.IMAGE_SIZE
FRAMES = 500


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = tiny_bundle.Tiny(video=True, input_rms_db=None)
    return tiny_bundle.build(tmp_path_factory.mktemp("video") / "tiny", options)


def video(levels: list[int], times_s: list[float]) -> Video:
    frames = np.stack([np.full((SIDE, SIDE, 3), level, np.uint8) for level in levels])
    return Video(frames, np.array(times_s))


def mixture() -> np.ndarray:
    noise = np.random.default_rng(0).standard_normal((1, FRAMES * HOP))
    return (0.1 * noise).astype(np.float32)


def test_what_is_seen_reaches_the_network_at_its_time(bundle: Path) -> None:
    second = FRAMES * HOP / RATE / 2
    seen = video([0, 51], [0.0, 2 * second])  # nearest: the second from the middle on
    with Engine(bundle, threads=1) as engine:
        got = engine.separate(mixture(), RATE, ["half"], reconstruct="raw", video=seen)
    middle = FRAMES // 2 + 1  # exactly between the two, the earlier is shown
    # This network adds the level of the frame to the share of "half".
    heard = without_rumble(mixture(), RATE)
    expected = 0.5 * heard
    expected[:, middle * HOP :] = 0.7 * heard[:, middle * HOP :]
    np.testing.assert_allclose(got.stems["half"], expected, atol=1e-5)


def test_the_vision_encoder_is_loaded_only_for_a_video(bundle: Path) -> None:
    with Engine(bundle, threads=1) as engine:
        engine.separate(mixture(), RATE, ["half"])
        assert "vision_encoder" not in engine.loaded
        engine.separate(mixture(), RATE, ["half"], video=video([9], [0.0]))
        assert "vision_encoder" in engine.loaded


def test_every_stem_is_shown_by_its_own_video(bundle: Path) -> None:
    dark, light = video([0], [0.0]), video([102], [0.0])
    prompts = [Prompt("half", "one"), Prompt("half", "two"), Prompt("half", "three")]
    with Engine(bundle, threads=1) as engine:
        together = engine.separate(
            mixture(), RATE, prompts, reconstruct="raw", video={"one": light, "two": dark}
        )
        for prompt, seen in zip(prompts, (light, dark, None), strict=True):
            alone = engine.separate(mixture(), RATE, [prompt], reconstruct="raw", video=seen)
            np.testing.assert_array_equal(
                together.stems[prompt.stem], alone.stems[prompt.stem], err_msg=prompt.stem
            )
        with pytest.raises(InputError, match="expected one of one, two, three"):
            engine.separate(mixture(), RATE, prompts, video={"four": dark})
    share = [np.vdot(together.stems[name], mixture()) for name in ("one", "two", "three")]
    assert share[0] > 1.5 * share[1]  # the light one is more of the mixture
    assert share[1] == pytest.approx(share[2], rel=1e-3)  # and nothing is as good as dark


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_videos_travel_to_the_sidecar(bundle: Path) -> None:
    rng = np.random.default_rng(1)
    shown = {
        name: Video(rng.integers(0, 255, (400, 100, 110, 3), np.uint8), np.arange(400) / 25)
        for name in ("one", "two")
    }  # 13 MB each: they begin and end in the middle of chunks
    prompts = [Prompt("half", "one"), Prompt("half", "two"), Prompt("half", "blind")]
    with (
        sidecar(start=False) as server,
        Engine(bundle) as engine,
        Client.local(
            bundle, directory=server.directory, cache=server.cache, idle_timeout_s=60
        ) as client,
    ):
        ours = engine.separate(mixture(), RATE, prompts, video=shown, seed=3)

        def check(theirs: Separation) -> None:
            for name, stem in ours.stems.items():
                np.testing.assert_array_equal(theirs.stems[name], stem, err_msg=name)
            np.testing.assert_array_equal(theirs.residual, ours.residual)

        check(client.separate(mixture(), RATE, prompts, video=shown, seed=3))
        handle = client.submit(mixture(), RATE, prompts, video=shown, seed=3)
        check(handle.result())
        assert handle.cached
        # Another picture is another job, whose server dies while it is sent.
        shown["one"].frames[-1, 0, 0, 0] ^= 1
        ours = engine.separate(mixture(), RATE, prompts, video=shown, seed=3)
        handle = client.submit(mixture(), RATE, prompts, video=shown, seed=3)
        incoming = server.cache / "incoming"
        with contextlib.suppress(FileNotFoundError):  # a file renamed while we looked
            wait_until(lambda: any(p.stat().st_size for p in incoming.glob("*")) or handle.progress)
        for pid in server.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        check(handle.result())
        assert not handle.cached
        with pytest.raises(InputError, match="expected one of one, two, blind"):
            client.separate(mixture(), RATE, prompts, video={"other": shown["one"]})


def test_videos_count_against_the_limits_of_a_client() -> None:
    seen = VideoInfo("one", frames=10, height=4, width=5)
    assert seen.size_bytes == 10 * (8 + 3 * 4 * 5)
    plain = AudioInfo("0" * 64, RATE, 1, 100)
    audio = AudioInfo("0" * 64, RATE, 1, 100, (seen, seen))
    assert audio.size_bytes == plain.size_bytes + 2 * seen.size_bytes
    limits = Limits(upload_bytes=plain.size_bytes + seen.size_bytes)
    check_limits(limits, plain, [])
    with pytest.raises(InputError, match=f"{audio.size_bytes} bytes"):
        check_limits(limits, audio, [])
    # What has no video is described as it was before there were any.
    assert b"videos" not in msgspec.msgpack.encode(plain)


def test_what_cannot_be_used_is_refused(bundle: Path, tmp_path: Path) -> None:
    seen = video([9], [0.0])
    with Engine(bundle, threads=1) as engine, pytest.raises(InputError, match="2 prompts"):
        engine.separate(mixture(), RATE, ["half", "nothing"], video=seen)
    blind = tiny_bundle.build(tmp_path / "blind")
    with Engine(blind, threads=1) as engine, pytest.raises(InputError, match="no vision encoder"):
        engine.separate(mixture(), RATE, ["half"], video=seen)
    with pytest.raises(InputError, match="expected uint8"):
        Video(np.zeros((2, 4, 4), np.uint8), np.zeros(2))
    with pytest.raises(InputError, match="2 frames and times"):
        Video(np.zeros((2, 4, 4, 3), np.uint8), np.zeros(3))
    with pytest.raises(InputError, match="not finite and in order"):
        Video(np.zeros((2, 4, 4, 3), np.uint8), np.array([1.0, 0.0]))


def test_the_nearest_frame_is_shown() -> None:
    times = np.array([0.0, 0.1, 0.11, 0.4])
    seen = Video(np.zeros((4, 1, 1, 3), np.uint8), times)
    wanted = np.arange(20) / 25
    expected = np.abs(times[:, np.newaxis] - wanted).argmin(axis=0)
    np.testing.assert_array_equal(seen.shown(20, 25.0), expected)
    single = Video(np.zeros((1, 1, 1, 3), np.uint8), np.array([3.0]))
    np.testing.assert_array_equal(single.shown(5, 25.0), np.zeros(5))


def test_each_frame_is_encoded_once() -> None:
    calls: list[int] = []

    def encoder(pictures: np.ndarray) -> np.ndarray:
        calls.append(len(pictures))
        return pictures.mean(axis=(2, 3))

    seen = video(list(range(0, 200, 10)), list(np.arange(20) / 5))
    features = visual_features(encoder, SIDE, seen, 100, 25.0)
    assert sum(calls) == 20
    expected = np.arange(0, 200, 10)[seen.shown(100, 25.0)] / 255
    np.testing.assert_allclose(features, np.stack([expected] * 3), atol=1e-6)


def test_masked_pixels_are_black() -> None:
    frame = np.full((2, 3, 3), 7, np.uint8)
    mask = np.array([[True, False, False], [False, False, True]])
    masked = mask_out(frame, mask)
    assert masked[mask].max() == 0
    assert masked[~mask].min() == 7
    with pytest.raises(InputError, match="3 x 2 pixels and its mask 2 x 3"):
        mask_out(frame, mask.T)


def test_pictures_are_resized_as_torch_does() -> None:
    torch = pytest.importorskip("torch")
    picture = np.random.default_rng(3).integers(0, 256, (37, 23, 3)).astype(np.uint8)
    for side in (8, 23, 48):
        whole = torch.from_numpy(picture.transpose(2, 0, 1).astype(np.float32) / 255)[None]
        expected = torch.nn.functional.interpolate(
            whole, (side, side), mode="bicubic", antialias=True, align_corners=False
        )
        got = resize(picture, side)
        np.testing.assert_allclose(got, expected[0].clamp(0, 1).numpy(), atol=2e-3)


def test_a_picture_of_the_right_size_stays_as_it_is() -> None:
    picture = np.random.default_rng(4).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    np.testing.assert_allclose(resize(picture, 16), picture.transpose(2, 0, 1) / 255, atol=1e-6)
