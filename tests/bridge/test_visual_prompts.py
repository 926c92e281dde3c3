"""Videos as prompts: which frame belongs to which latent frame, and what the network sees."""

from pathlib import Path

import numpy as np
import pytest
import tiny_bundle

from bridge import Engine, InputError, Video
from bridge.inference.vision import visual_features
from bridge.signal.pictures import resize
from bridge.video import mask_out

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
    expected = 0.5 * mixture()
    expected[:, middle * HOP :] = 0.7 * mixture()[:, middle * HOP :]
    np.testing.assert_allclose(got.stems["half"], expected, atol=1e-5)


def test_the_vision_encoder_is_loaded_only_for_a_video(bundle: Path) -> None:
    with Engine(bundle, threads=1) as engine:
        engine.separate(mixture(), RATE, ["half"])
        assert "vision_encoder" not in engine.loaded
        engine.separate(mixture(), RATE, ["half"], video=video([9], [0.0]))
        assert "vision_encoder" in engine.loaded


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
