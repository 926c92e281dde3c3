"""Bundles: every graph against its module, resuming, and never half a bundle."""

import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import onnx_ir as ir
import pytest
import torch

from bridge.bundles import manifest as manifests
from bridge.bundles.bundle import verify_files
from bridge.errors import InputError, ModelError
from bridge.inference import codec as chunked
from onnx_export import (
    Blueprint,
    Provenance,
    checkpoint_blueprint,
    export_bundle,
    load_checkpoint,
    mini_blueprint,
    rebuild_blueprint,
    verify_bundle,
)
from onnx_export.mini import MiniConfig, MiniModel, TextConfig
from onnx_export.trace import trace
from onnx_export.verify import compare


@pytest.fixture(scope="module")
def blueprint(
    small_checkpoint: Path, text_encoder_directory: Path, span_predictor_directory: Path
) -> Blueprint:
    return checkpoint_blueprint(
        small_checkpoint,
        text_encoder=text_encoder_directory,
        span_predictor=span_predictor_directory,
        name="sam-small",
    )


@pytest.fixture(scope="module", params=[False, True], ids=["mono", "stereo"])
def mini(request: pytest.FixtureRequest, text_encoder_directory: Path) -> Blueprint:
    torch.manual_seed(0)
    text = TextConfig(dim=32, n_layers=1, n_heads=2, ffn_dim=48, vocab_size=40)
    config = MiniConfig(
        hop_length=64, latent_channels=32, dim=64, n_heads=2, n_layers=1, text=text,
        stereo=request.param,
    )  # fmt: skip
    model = MiniModel(config)
    with torch.no_grad():  # untrained it puts out nothing, and nothing could be told apart
        model.velocity.transformer.output.weight.normal_(std=0.02)
    tokenizer = text_encoder_directory / "tokenizer.json"
    return mini_blueprint(model, tokenizer, Provenance("mini-test", "none", "random"))


def test_every_graph_agrees_with_the_checkpoint(small_bundle: Path, blueprint: Blueprint) -> None:
    differences = verify_bundle(small_bundle, blueprint)
    assert [d.role for d in differences] == [
        "text_encoder", "codec_encoder", "codec_decoder", "velocity", "span_predictor",
    ]  # fmt: skip
    assert all(d.passed and d.tolerance == 1e-4 for d in differences), differences
    assert all(len(set(d.sizes)) == 4 and d.scale > 0.01 for d in differences)


def test_a_bundle_holds_its_own_weights_under_their_names(
    small_bundle: Path, blueprint: Blueprint
) -> None:
    rebuilt = rebuild_blueprint(small_bundle)
    for ours, theirs in zip(blueprint.graphs, rebuilt.graphs, strict=True):
        expected = ours.module.state_dict()
        found = theirs.module.state_dict()
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[name], found[name]) for name in expected), ours.role


def test_the_manifest_describes_the_model(small_bundle: Path, small_checkpoint: Path) -> None:
    manifest = manifests.load(small_bundle)
    verify_files(small_bundle, manifest)
    assert (manifest.name, manifest.precision) == ("sam-small", "fp32")
    assert (manifest.sample_rate, manifest.hop_length, manifest.latent_channels) == (
        48000,
        1920,
        128,
    )
    assert (manifest.solver, manifest.steps, manifest.max_frames) == ("midpoint", 16, 10000)
    assert manifest.licence == "SAM License"
    assert str(small_checkpoint.parent) not in manifest.provenance
    assert {path.name for path in small_bundle.iterdir()} == {*manifest.files, "manifest.json"}


def test_nothing_of_this_machine_is_written(small_bundle: Path) -> None:
    here = str(Path(__file__).parents[2]).encode()
    for path in small_bundle.iterdir():
        if path.suffix in (".onnx", ".json"):
            assert here not in path.read_bytes(), path.name


def test_a_changed_weight_is_found(
    small_bundle: Path, blueprint: Blueprint, tmp_path: Path
) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(small_bundle, copy)
    path = copy / "velocity.onnx"
    model = ir.load(path)
    weight = model.graph.initializers["transformer.output.weight.transposed"]
    weight.const_value = ir.Tensor(weight.const_value.numpy() * np.float32(1.01), name=weight.name)
    ir.save(model, path)
    with pytest.raises(ModelError, match=r"velocity\.onnx.*damaged"):
        verify_bundle(copy, blueprint)
    manifest = manifests.load(copy)
    files = manifest.files | {"velocity.onnx": manifests.describe_file(path)}
    manifests.write(msgspec.structs.replace(manifest, files=files), copy)
    failed = [d.role for d in verify_bundle(copy, blueprint) if not d.passed]
    assert failed == ["velocity"]


def test_another_model_is_refused(small_bundle: Path, mini: Blueprint) -> None:
    with pytest.raises(ModelError, match="isn't the one of this checkpoint"):
        verify_bundle(small_bundle, mini)


def test_rounded_weights_are_verified_as_what_they_are(mini: Blueprint, tmp_path: Path) -> None:
    out = export_bundle(mini, tmp_path / "mini", precision="fp16-weights")
    differences = verify_bundle(out, rebuild_blueprint(out))
    assert all(d.passed and d.tolerance == 1e-4 for d in differences), differences
    rounded = verify_bundle(out, mini)
    assert all(d.passed for d in rounded), rounded
    assert max(d.worst for d in rounded) > 10 * max(d.worst for d in differences)


def test_half_precision_is_close_and_smaller(
    small_bundle: Path, blueprint: Blueprint, tmp_path: Path
) -> None:
    graph = next(graph for graph in blueprint.graphs if graph.role == "velocity")
    path = tmp_path / graph.file
    ir.save(trace(graph, "fp16"), path)
    difference = compare(graph, path, 2e-2)
    assert difference.passed, difference
    assert difference.worst > 1e-5  # it really was computed in half
    assert path.stat().st_size < 0.65 * (small_bundle / graph.file).stat().st_size


def test_an_interrupted_export_is_taken_up_unless_weights_changed(
    mini: Blueprint, tmp_path: Path
) -> None:
    out = tmp_path / "mini"
    lines: list[str] = []

    def export(stop_before: str | None = None) -> None:
        def progress(line: str) -> None:
            lines.append(line)
            if stop_before is not None and line.startswith(stop_before):
                raise KeyboardInterrupt

        lines.clear()
        export_bundle(mini, out, progress=progress)

    with pytest.raises(KeyboardInterrupt):
        export(stop_before="codec_decoder")
    assert not out.exists()
    weight = next(mini.graphs[0].module.parameters())
    with torch.no_grad():
        weight.add_(1)
    with pytest.raises(KeyboardInterrupt):
        export(stop_before="text_encoder: exporting")
    with torch.no_grad():
        weight.sub_(1)
        weight.copy_(weight.round(decimals=4))
    export()
    assert lines == [
        "text_encoder: exporting", "codec_encoder: already exported",
        "codec_decoder: exporting", "velocity: exporting",
    ]  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["mini"]
    differences = verify_bundle(out, mini)
    assert all(d.passed for d in differences), differences


def test_an_existing_directory_is_left_alone(mini: Blueprint, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="exists"):
        export_bundle(mini, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_runs_full_leaves_no_bundle(
    small_checkpoint: Path, text_encoder_directory: Path, tmp_path: Path
) -> None:
    program = """
import resource, signal, sys
from bridge.errors import InputError
from onnx_export import export_checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    export_checkpoint(sys.argv[1], sys.argv[2], text_encoder=sys.argv[3])
except InputError as error:
    print(error)
"""
    out = tmp_path / "bundle"
    done = subprocess.run(
        [sys.executable, "-c", program, small_checkpoint, out, text_encoder_directory],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert "cannot write the bundle (File too large)" in done.stdout
    assert "finished graphs are kept" in done.stdout
    assert not out.exists()


def test_too_little_space_is_told_at_once(
    mini: Blueprint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=1000))
    with pytest.raises(InputError, match=r"needs .* are free; free some space"):
        export_bundle(mini, tmp_path / "mini")


def test_the_codec_in_chunks_is_the_codec_in_one(small_checkpoint: Path) -> None:
    """The contexts that the manifest promises are enough, for all but the watermark's memory."""
    model = load_checkpoint(small_checkpoint)
    blueprint = checkpoint_codec(model)
    generator = torch.Generator().manual_seed(0)
    wav = 0.1 * torch.randn(1, 1, 60 * 1920, generator=generator)
    with torch.inference_mode():
        whole = model.encode(wav)
        info = replace_chunks(blueprint.codec, 16)
        parts = chunked.encode(
            lambda part: model.encode(torch.from_numpy(part)).numpy(),
            wav[0].numpy(), 1920, 128, info,
        )  # fmt: skip
        np.testing.assert_allclose(parts, whole.numpy(), atol=2e-6)
        for decode, bound in (
            (model.decode_unmarked, 2e-6),
            (lambda latents: model.decode(latents, torch.ones(16)), 1e-4),
        ):
            decoded = chunked.decode(
                lambda part, decode=decode: decode(torch.from_numpy(part)).numpy(),
                parts, 1920, info,
            )  # fmt: skip
            np.testing.assert_allclose(decoded, decode(whole)[:, 0].numpy(), atol=bound)


def checkpoint_codec(model) -> Blueprint:
    from transformers import T5Config, T5EncoderModel

    from onnx_export import TextEncoder, sam_audio_blueprint

    t5 = TextEncoder(T5EncoderModel(T5Config(vocab_size=8, d_model=16, num_layers=1, num_heads=1)))
    return sam_audio_blueprint(model, t5, Path("tokenizer.json"), Provenance("", "", ""))


def replace_chunks(codec: manifests.CodecInfo, chunk_frames: int) -> manifests.CodecInfo:
    return msgspec.structs.replace(codec, chunk_frames=chunk_frames)
