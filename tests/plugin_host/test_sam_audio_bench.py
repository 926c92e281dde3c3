"""SAM Audio-Bench as its users have it: rows, clips of their own, and a judge instead of stems."""

import base64
import io
import json
from pathlib import Path

import av
import numpy as np
import pytest

from bridge import Prompt, Span
from bridge.errors import InputError
from onnx_export.evaluation.cases import SETTINGS, TARGET, find_bench
from plugin_host.cli import main
from tests.support import tiny_bundle

RATE, FPS, SIZE = 48_000, 10, 32


def write_clip(path: Path, seconds: float) -> Path:
    """Write a clip that gets brighter, with a tone that gets louder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = round(seconds * RATE)
    tone = np.sin(np.arange(samples) * 2 * np.pi * 440 / RATE) * np.linspace(0, 0.5, samples)
    with av.open(str(path), "w") as container:
        pictures = container.add_stream("mpeg4", rate=FPS)
        pictures.width = pictures.height = SIZE
        pictures.pix_fmt, pictures.bit_rate = "yuv420p", 4_000_000
        sound = container.add_stream("aac", rate=RATE, layout="stereo")
        for number in range(round(seconds * FPS)):
            level = np.full((SIZE, SIZE, 3), 20 * number % 240, np.uint8)
            container.mux(pictures.encode(av.VideoFrame.from_ndarray(level, format="rgb24")))
        container.mux(pictures.encode())
        stereo = np.stack([tone, tone]).astype(np.float32)
        for first in range(0, samples - 1023, 1024):
            part = np.ascontiguousarray(stereo[:, first : first + 1024])
            frame = av.AudioFrame.from_ndarray(part, format="fltp", layout="stereo")
            frame.sample_rate, frame.pts = RATE, first
            container.mux(sound.encode(frame))
        container.mux(sound.encode())
    return path


def masks(frames: int) -> bytes:
    """Masks that are zero, which is where the thing is, on the left."""
    kept = np.ones((frames, 8, 8), np.uint8)
    kept[:, :, :4] = 0
    data = io.BytesIO()
    np.savez_compressed(data, video_masklet=kept)
    return data.getvalue()


def rows() -> list[dict[str, object]]:
    common = {"source_dataset": "clips", "mask_bytes": None, "spans": [], "not": "read"}
    return [
        {**common, "video_id": "whole", "start_offset": 0.5, "end_offset": 1.5,
         "description": "half", "paper_eval_sets": ["others-50:text-only", "others-50:text+span"],
         "spans": [[0.2, 0.4]]},
        {**common, "video_id": "cut", "start_offset": 3.0, "end_offset": 4.0,
         "description": "half", "paper_eval_sets": ["others-onscreen-50:visual-only"],
         "mask_bytes": masks(11)},
        {**common, "video_id": "gone", "start_offset": 0.0, "end_offset": 1.0,
         "description": "half", "paper_eval_sets": ["others-50:text-only"]},
    ]  # fmt: skip


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    root = tmp_path / "bench"
    write_clip(root / "clips" / "whole.mp4", 2.0)
    write_clip(root / "clips" / "cut_3000_4000.mp4", 1.0)
    lines = []
    for row in rows():
        mask = row["mask_bytes"]
        text = None if mask is None else base64.b64encode(mask).decode()
        lines.append(json.dumps({**row, "mask_bytes": text}))
    (root / "test.jsonl").write_text("\n".join(lines))
    return root


def test_prompts_of_all_three_kinds_come_with_their_clips(bench: Path) -> None:
    (plain,) = find_bench(bench, "sfx")
    mixture, truths, rate = plain.read()
    assert (mixture.shape, truths, rate) == ((1, RATE), {}, RATE)
    level = [np.abs(part).max() for part in np.split(mixture[0], 2)]
    assert 0.2 < level[0] < 0.29  # the second quarter of the clip, and the third
    assert 0.3 < level[1] < 0.42
    assert plain.prompt(TARGET, None) == Prompt("half", TARGET)
    assert plain.video(8) is None
    (spanned,) = find_bench(bench, "sfx-span")
    assert spanned.prompt(TARGET, None).spans == (Span(0.2, 0.4),)
    assert spanned.prompt(TARGET, None, spans=False).spans == ()
    (shown,) = find_bench(bench, "sfx-visual")
    seen = shown.video(8)
    assert seen.frames.shape == (10, 8, 8, 3)
    np.testing.assert_allclose(seen.times_s, np.arange(10) / FPS, atol=1e-3)
    assert seen.frames[:, :, :3].max() == 0  # masked out
    np.testing.assert_allclose(seen.frames[:, 4, 6, 0], 20 * np.arange(10), atol=12)


def test_rows_come_from_parquet_as_from_lines(bench: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    before = {name: find_bench(bench, name) for name in ("sfx", "sfx-span", "sfx-visual")}
    (bench / "test.jsonl").unlink()
    (bench / "data").mkdir()
    parquet.write_table(arrow.Table.from_pylist(rows()), bench / "data" / "test-0.parquet")
    assert {name: find_bench(bench, name) for name in before} == before


def test_the_command_scores_with_the_judge(
    bench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = tiny_bundle.Tiny(judge=True, clap=True, video=True)
    bundle = tiny_bundle.build(tmp_path / "tiny", options)
    command = ["eval", f"sam-audio-bench:{bench}", "--model", str(bundle), "--json"]
    judged = {}
    for setting in ("sfx", "sfx-visual"):
        assert main([*command, "--judge", "--setting", setting]) == 0
        (score,) = json.loads(capsys.readouterr().out)["scores"]
        assert score["stem"] == TARGET
        assert score["estimate"]["si_sdr_db"] is None
        judged[setting] = score["judged"]["overall"]
        assert np.isfinite(judged[setting])
        assert 0 < score["similarity"] < 1
    assert main([*command[:-1], "--judge", "--table", "markdown"]) == 0
    assert "| judge | CLAP |" in capsys.readouterr().out
    assert main(command) == 2
    assert "--judge scores without them" in capsys.readouterr().err


def test_what_is_not_there_is_told(bench: Path) -> None:
    assert len(SETTINGS) == 13
    with pytest.raises(InputError, match="expected one of instr-wild,"):
        find_bench(bench, "everything")
    with pytest.raises(InputError, match="0 rows of music and none of their clips"):
        find_bench(bench, "music")
    row = {**rows()[0], "source_dataset": "../elsewhere"}
    (bench / "test.jsonl").write_text(json.dumps(row))
    with pytest.raises(InputError, match="outside of"):
        find_bench(bench, "sfx")
    (bench / "test.jsonl").write_text('{"video_id": 3}')
    with pytest.raises(InputError, match="not rows of SAM Audio-Bench"):
        find_bench(bench, "sfx")
