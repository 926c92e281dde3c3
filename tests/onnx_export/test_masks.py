"""Masks by clicks, with a small SAM 2 of random weights and a made clip with a moving object."""

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from transformers import Sam2VideoModel
from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

from bridge import InputError, ModelError
from bridge.video import decode_video, read_video, write_mask_frames
from onnx_export.masks import Box, Click, follow, load_sam_2
from plugin_host.cli import main
from tests.support import sam2
from tests.support.sam2 import SIDE

WIDTH, HEIGHT, FRAMES, RATE = 161, 90, 6, 10


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("sam2")
    sam2.build(directory)
    return directory


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bright square that moves to the right over noise."""
    path = tmp_path_factory.mktemp("clip") / "clip.mkv"
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "bgr0"
        for number in range(FRAMES):
            frame = rng.integers(0, 60, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            frame[30:60, 20 + 15 * number : 50 + 15 * number] = (250, 200, 30)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def of_transformers(directory: Path, clip: Path, frame: int, point: tuple[float, float]):
    """What transformers alone makes of one click: logits by frame."""
    model = Sam2VideoModel.from_pretrained(directory).eval()
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    deviation = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    pictures = []
    for _, pixels in decode_video(clip):
        picture = torch.from_numpy(pixels.transpose(2, 0, 1).astype(np.float32))[None]
        reduced = torch.nn.functional.interpolate(
            picture, (SIDE, SIDE), mode="bilinear", antialias=True
        )[0].round()
        pictures.append((reduced / 255 - mean) / deviation)
    session = Sam2VideoInferenceSession(
        torch.stack(pictures), HEIGHT, WIDTH, dtype=torch.float32, inference_device="cpu",
        inference_state_device="cpu", video_storage_device="cpu",
    )  # fmt: skip
    x, y = point[0] * SIDE / WIDTH, point[1] * SIDE / HEIGHT
    number = session.obj_id_to_idx(7)
    session.add_point_inputs(
        number,
        frame,
        {
            "point_coords": torch.tensor([[[[x, y]]]]),
            "point_labels": torch.tensor([[[1]]], dtype=torch.int32),
        },
    )
    session.obj_with_new_inputs = [7]
    model(session, frame_idx=frame)
    found = {}
    for backwards in (False, True):
        for output in model.propagate_in_video_iterator(session, frame, reverse=backwards):
            found[output.frame_idx] = output.pred_masks[0, 0].numpy()
    return found


def test_an_object_is_followed_both_ways_as_transformers_does(network: Path, clip: Path) -> None:
    seen: list[tuple[int, int]] = []
    followed = follow(
        clip, [Click(65, 45, 0.25)], load_sam_2(network), progress=lambda *n: seen.append(n)
    )
    assert followed.marked == (2,)
    assert (followed.width, followed.height) == (WIDTH, HEIGHT)
    assert seen[-1] == (FRAMES, FRAMES)
    np.testing.assert_allclose(followed.times_s, np.arange(FRAMES) / RATE, atol=2e-3)
    expected = of_transformers(network, clip, 2, (65, 45))
    assert sorted(expected) == list(range(FRAMES))
    for frame, logits in expected.items():
        scale = np.abs(logits).max()
        np.testing.assert_allclose(followed.logits[frame] / scale, logits / scale, atol=1e-5)
    assert (followed.logits > -1024).all()  # which stands for no object
    assert followed.mask(0).shape == (HEIGHT, WIDTH)


@pytest.mark.slow
def test_every_kind_of_mark_counts(network: Path, clip: Path) -> None:
    model = load_sam_2(network)
    click = Click(35, 45)
    alone = follow(clip, [click], model).logits
    for more in (Click(100, 20, on=False), Click(110, 45, 0.5), Box(20, 30, 50, 60)):
        both = follow(clip, [click, more], model)
        assert np.abs(both.logits - alone).max() > 1e-3
        assert both.marked == ((0, 5) if more.time_s else (0,))


def test_marks_that_cannot_be_meant_are_refused(network: Path, clip: Path) -> None:
    model = load_sam_2(network)
    for marks, message in (
        ([Click(1, 1, on=False)], "nothing marks the object"),
        ([Click(WIDTH, 1)], "161,1 to 161,1 is not within its 161 x 90 pixels"),
        ([Click(1, 1, 30.0)], "30 s is not within its 0.5 s"),
        ([Box(1, 1, 5, 5), Box(2, 2, 6, 6)], "two boxes at 0 s"),
    ):
        with pytest.raises(InputError, match=message):
            follow(clip, marks, model)


def test_masks_come_back_from_their_file(tmp_path: Path) -> None:
    masks = np.random.default_rng(1).random((3, 9, 15)) > 0.5
    masks = masks.repeat(5, axis=1).repeat(5, axis=2)
    times_s = np.array([0.0, 0.04, 0.2])
    write_mask_frames(tmp_path / "mask.mp4", iter(masks), times_s)
    found = list(decode_video(tmp_path / "mask.mp4"))
    np.testing.assert_allclose([time_s for time_s, _ in found], times_s, atol=1e-3)
    for mask, (_, picture) in zip(masks, found, strict=True):
        assert np.mean((picture.mean(axis=-1) > 127) == mask) > 0.99


def test_the_command_writes_a_mask_and_a_preview(
    network: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "mask.mp4"
    command = [
        "mask", str(clip), "--click", "35,45", "--click", "65,45@0.2", "--not-click", "150,80@0",
        "--box", "50,60,20,30", "-o", str(out), "--network", str(network),
    ]  # fmt: skip
    assert main(command) == 0
    assert f"--mask {out}" in capsys.readouterr().out
    masked = read_video(clip, out, 16)
    plain = read_video(clip, None, 16)
    assert masked.frames.shape == (FRAMES, 16, 16, 3)
    assert (masked.frames != plain.frames).any()
    picture = (tmp_path / "mask.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert main(command) == 2
    assert "exists; choose another place" in capsys.readouterr().err
    assert main(["mask", str(clip), "--click", "35", "-o", str(tmp_path / "x.mp4")]) == 2
    assert "expected X,Y@SECONDS" in capsys.readouterr().err


def test_another_model_is_refused_and_fetching_only_downloads(
    network: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "sam2").symlink_to(network)
    assert main(["models", "fetch", str(tmp_path / "sam2")]) == 0
    assert "stembridge mask uses it" in capsys.readouterr().out
    other = tmp_path / "sam2-other"
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "sam2"}')
    (other / "model.safetensors").write_bytes(b"")
    assert main(["models", "fetch", str(other)]) == 2
    assert "expected a model of the type 'sam2_video'" in capsys.readouterr().err
    (other / "config.json").write_text((network / "config.json").read_text())
    with pytest.raises(ModelError, match="cannot load SAM 2"):
        load_sam_2(other)
