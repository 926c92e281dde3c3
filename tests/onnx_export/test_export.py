"""Bundles: every graph against its module, resuming, and never half a bundle."""

import resource
import shutil
import weakref
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import onnx_ir as ir
import pytest
import torch

from bridge.bundles.bundle import describe_file, load_manifest, verify_files, write_manifest
from bridge.bundles.manifest import CodecInfo, resolve
from bridge.engine import Engine
from bridge.errors import InputError, ModelError
from bridge.inference import model as chunked
from bridge.inference.graphs import ort
from bridge.request import Settings
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
from onnx_export.checkpoints.checkpoint import open_checkpoint
from onnx_export.checkpoints.weights import ReadTensor
from onnx_export.export import write_graph
from onnx_export.networks.dit import Attention
from onnx_export.networks.mini import MiniConfig, MiniModel, TextConfig
from onnx_export.trace import Precision, trace
from onnx_export.verify import compare

pytestmark = pytest.mark.usefixtures("captured_once")


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


def mini_like(text_encoder_directory: Path, *, stereo: bool) -> Blueprint:
    """A small network like that of the bundled model; a stereo one is told of both channels."""
    torch.manual_seed(0)
    text = TextConfig(dim=32, n_layers=1, n_heads=2, ffn_dim=48, vocab_size=40)
    config = MiniConfig(
        hop_length=64, latent_channels=32, dim=64, n_heads=2, n_layers=1, text=text,
        stereo=stereo, refine_width=4 * stereo,
    )  # fmt: skip
    model = MiniModel(config)
    with torch.no_grad():  # untrained it puts out nothing, and nothing could be told apart
        model.velocity.transformer.output.weight.normal_(std=0.02)
        if model.velocity.refine is not None:
            model.velocity.refine.last.weight.normal_(std=0.05)
    tokenizer = text_encoder_directory / "tokenizer.json"
    return mini_blueprint(model, tokenizer, Provenance("mini-test", "none", "random"))


@pytest.fixture(scope="module")
def mini(text_encoder_directory: Path) -> Blueprint:
    return mini_like(text_encoder_directory, stereo=False)


@pytest.fixture(scope="module")
def stereo_mini(text_encoder_directory: Path) -> Blueprint:
    return mini_like(text_encoder_directory, stereo=True)


@pytest.mark.slow
def test_every_graph_agrees_with_the_checkpoint(small_bundle: Path, blueprint: Blueprint) -> None:
    differences = verify_bundle(small_bundle, blueprint)
    assert [d.role for d in differences] == [
        "text_encoder", "codec_encoder", "codec_decoder", "velocity", "span_predictor",
    ]  # fmt: skip
    assert all(d.passed and d.tolerance == 1e-4 for d in differences), differences
    assert all(len(set(d.sizes)) == 4 and d.scale > 0.01 for d in differences)


@pytest.mark.slow
def test_a_bundle_holds_its_own_weights_under_their_names(
    small_bundle: Path, blueprint: Blueprint
) -> None:
    rebuilt = rebuild_blueprint(small_bundle)
    for ours, theirs in zip(blueprint.graphs, rebuilt.graphs, strict=True):
        expected = dict(ours.state())
        found = theirs.module.state_dict()
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[name], found[name]) for name in expected), ours.role


@pytest.mark.slow
def test_the_manifest_describes_the_model(small_bundle: Path, small_checkpoint: Path) -> None:
    manifest = load_manifest(small_bundle)
    verify_files(small_bundle, manifest)
    assert (manifest.name, manifest.precision) == ("sam-small", "fp32")
    assert (manifest.sample_rate, manifest.hop_length, manifest.latent_channels) == (
        48000,
        1920,
        128,
    )
    assert (manifest.solver, manifest.steps, manifest.max_frames) == ("unipc", 12, 10000)
    assert manifest.qualities["best"].steps == 16
    resolved = resolve(Settings(), manifest)
    assert resolved == resolve(Settings(quality="good"), manifest)
    assert manifest.licence == "SAM License"
    assert str(small_checkpoint.parent) not in manifest.provenance
    assert {path.name for path in small_bundle.iterdir()} == {*manifest.files, "manifest.json"}


@pytest.mark.slow
def test_nothing_of_this_machine_is_written(small_bundle: Path) -> None:
    here = str(Path(__file__).parents[2]).encode()
    for path in small_bundle.iterdir():
        if path.suffix in (".onnx", ".json"):
            assert here not in path.read_bytes(), path.name


@pytest.mark.slow
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
    manifest = load_manifest(copy)
    files = manifest.files | {"velocity.onnx": describe_file(path)}
    write_manifest(msgspec.structs.replace(manifest, files=files), copy)
    failed = [d.role for d in verify_bundle(copy, blueprint) if not d.passed]
    assert failed == ["velocity"]


@pytest.mark.slow
def test_another_model_is_refused(small_bundle: Path, mini: Blueprint) -> None:
    with pytest.raises(ModelError, match="isn't the one of this checkpoint"):
        verify_bundle(small_bundle, mini)


@pytest.mark.slow
def test_rounded_weights_are_verified_as_what_they_are(
    stereo_mini: Blueprint, tmp_path: Path
) -> None:
    out = export_bundle(stereo_mini, tmp_path / "mini", precision="fp16-weights")
    differences = verify_bundle(out, rebuild_blueprint(out))
    assert all(d.passed and d.tolerance == 1e-4 for d in differences), differences
    rounded = verify_bundle(out, stereo_mini)
    assert all(d.passed for d in rounded), rounded
    assert max(d.worst for d in rounded) > 10 * max(d.worst for d in differences)


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mini", "stereo_mini"])
def test_a_model_like_the_bundled_one_is_close_in_half_precision(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    blueprint: Blueprint = request.getfixturevalue(name)
    graph = next(graph for graph in blueprint.graphs if graph.role == "velocity")
    path = tmp_path / graph.file
    ir.save(trace(graph, "fp16"), path)
    difference = compare(graph, path, 1.0)
    # Velocities near the end of the flow are large: what is left is divided by what time is left.
    assert 1e-5 < difference.worst < 1e-3 * difference.scale, difference


class Watch:
    """How many tensors that were read of a checkpoint are alive at a time."""

    def __init__(self) -> None:
        self.most = 0
        self._alive: weakref.WeakSet[torch.Tensor] = weakref.WeakSet()

    def over(self, read: ReadTensor) -> ReadTensor:
        def again() -> torch.Tensor:
            value = read().clone()
            self._alive.add(value)
            self.most = max(self.most, len(self._alive))
            return value

        return again


@pytest.fixture(scope="module")
def in_parts(small_checkpoint: Path) -> tuple[Blueprint, Watch]:
    """The checkpoint read tensor by tensor, and what watches that."""
    watch = Watch()
    model, weights = open_checkpoint(small_checkpoint)
    assert all(parameter.is_meta for parameter in model.parameters())
    return checkpoint_codec(model, {n: watch.over(read) for n, read in weights.items()}), watch


@pytest.fixture(scope="module")
def in_one(small_checkpoint: Path) -> Blueprint:
    return checkpoint_codec(load_checkpoint(small_checkpoint))


@pytest.mark.parametrize(
    ("role", "precision"),
    [
        ("codec_encoder", "fp32"),
        ("velocity", "fp32"),
        ("velocity", "fp16"),
        ("velocity", "int8"),
    ],
)
@pytest.mark.slow
def test_weights_are_read_one_by_one_and_come_out_the_same(
    in_one: Blueprint,
    in_parts: tuple[Blueprint, Watch],
    tmp_path: Path,
    role: str,
    precision: Precision,
) -> None:
    parted, watch = in_parts
    watch.most = 0
    files = []
    for name, blueprint in (("whole", in_one), ("parted", parted)):
        graph = next(graph for graph in blueprint.graphs if graph.role == role)
        (tmp_path / name).mkdir()
        (file,) = write_graph(graph, precision, tmp_path / name)
        files.append((tmp_path / name / file).read_bytes())
    assert files[0] == files[1]
    assert 1 <= watch.most <= 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "bound"),
    [("fp32", 1e-5), ("fp16", 2e-2), ("int8", 0.2)],
)
def test_fused_attention_is_one_operator_and_the_same_network(
    blueprint: Blueprint, tmp_path: Path, precision: Precision, bound: float
) -> None:
    graph = next(graph for graph in blueprint.graphs if graph.role == "velocity")
    path = tmp_path / graph.file
    ir.save(trace(graph, precision, "fused"), path)
    model = ir.load(path).graph
    operators = [node for node in model if node.op_type == "MultiHeadAttention"]
    # Two a layer: of frames to each other, and of frames to a text, which has a mask.
    masked = [node for node in operators if len(node.inputs) > 4]
    assert len(operators) == 2 * len(masked) == 2 * graph.module.transformer.config.n_layers
    assert not any(node.op_type == "Softmax" for node in model)
    difference = compare(graph, path, bound)
    assert difference.passed, difference
    # The module itself is what it was: it can be run, and exported as before.
    parts = [part for part in graph.module.modules() if isinstance(part, Attention)]
    assert parts
    assert not any(part.fused for part in parts)


@pytest.mark.slow
def test_a_bundle_with_fused_attention_says_so_and_separates(
    mini: Blueprint, tmp_path: Path
) -> None:
    plain = export_bundle(mini, tmp_path / "mini")
    fused = export_bundle(mini, tmp_path / "fused" / "mini", attention="fused")
    manifests = [load_manifest(directory) for directory in (plain, fused)]
    assert [manifest.attention for manifest in manifests] == ["plain", "fused"]
    assert manifests[0].sha256 != manifests[1].sha256
    for found in verify_bundle(fused, rebuild_blueprint(fused)):
        assert found.worst < 1e-5 * max(1.0, found.scale), found
    noise = np.random.default_rng(0).normal(0, 0.1, (2, 24_000)).astype(np.float32)
    one, other = (
        Engine(directory, providers=["cpu"]).separate(noise, 24_000, ["drums"], reconstruct="raw")
        for directory in (plain, fused)
    )
    np.testing.assert_allclose(one.residual, other.residual, atol=1e-5)


@pytest.mark.slow
def test_in_8_bits_it_is_close_smaller_and_stays_in_8_bits(
    small_bundle: Path, blueprint: Blueprint, tmp_path: Path
) -> None:
    graph = next(graph for graph in blueprint.graphs if graph.role == "velocity")
    path = tmp_path / graph.file
    ir.save(trace(graph, "int8"), path)
    assert path.stat().st_size < 0.5 * (small_bundle / graph.file).stat().st_size
    difference = compare(graph, path, 0.2)
    assert difference.passed, difference
    assert difference.worst > 1e-4  # it really was computed in 8 bits
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "loaded.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    loaded = ir.load(tmp_path / "loaded.onnx").graph
    weights = [name for name in loaded.initializers if name.endswith(".int8")]
    in_8_bits = ("MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul")
    assert len([node for node in loaded if node.op_type in in_8_bits]) == len(weights) > 0


@pytest.mark.slow
def test_a_bundle_in_8_bits_is_verified_as_what_it_is(
    stereo_mini: Blueprint, tmp_path: Path
) -> None:
    out = export_bundle(stereo_mini, tmp_path / "mini", precision="int8")
    found = {d.role: d for d in verify_bundle(out, rebuild_blueprint(out))}
    assert all(d.passed for d in found.values()), found
    assert found["velocity"].tolerance == 0.2
    assert found["velocity"].worst > 10 * found["text_encoder"].worst
    assert all(d.tolerance == 1e-4 for role, d in found.items() if role != "velocity")
    assert all(d.passed for d in verify_bundle(out, stereo_mini))
    # What is further away than is stated is refused.
    path = out / "velocity.onnx"
    model = ir.load(path)
    name = next(n for n in model.graph.initializers if n.endswith("output.weight.transposed"))
    weight = model.graph.initializers[name]
    weight.const_value = ir.Tensor(weight.const_value.numpy() * np.float16(30), name=name)
    ir.save(model, path)
    manifest = load_manifest(out)
    files = manifest.files | {"velocity.onnx": describe_file(path)}
    write_manifest(msgspec.structs.replace(manifest, files=files), out)
    assert [d.role for d in verify_bundle(out, stereo_mini) if not d.passed] == ["velocity"]


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_disk_that_runs_full_leaves_no_bundle(mini: Blueprint, tmp_path: Path) -> None:
    graphs = {graph.role: graph for graph in mini.graphs}
    small_then_large = replace(mini, graphs=(graphs["text_encoder"], graphs["velocity"]))
    lines: list[str] = []
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # No file may grow beyond this, which is how a quota looks to a process.
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(InputError) as raised:
            export_bundle(small_then_large, tmp_path / "mini", progress=lines.append)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "cannot write the bundle (File too large)" in str(raised.value)
    assert "finished graphs are kept" in str(raised.value)
    assert lines == ["text_encoder: exporting", "velocity: exporting"]
    assert not (tmp_path / "mini").exists()
    assert (tmp_path / ".mini.partial" / graphs["text_encoder"].file).exists()


def test_too_little_space_is_told_at_once(
    mini: Blueprint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=1000))
    with pytest.raises(InputError, match=r"needs .* are free; free some space"):
        export_bundle(mini, tmp_path / "mini")


@pytest.mark.slow
def test_the_codec_in_chunks_is_the_codec_in_one(small_checkpoint: Path) -> None:
    """The contexts that the manifest promises are enough, for all but the watermark's memory."""
    model = load_checkpoint(small_checkpoint)
    blueprint = checkpoint_codec(model)
    generator = torch.Generator().manual_seed(0)
    wav = 0.1 * torch.randn(1, 1, 60 * 1920, generator=generator)
    with torch.inference_mode():
        whole = model.encode(wav)
        info = replace_chunks(blueprint.draft.codec, 16)
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


def checkpoint_codec(model, weights=None) -> Blueprint:
    from transformers import T5Config, T5EncoderModel

    from onnx_export import TextEncoder, sam_audio_blueprint

    t5 = TextEncoder(T5EncoderModel(T5Config(vocab_size=8, d_model=16, num_layers=1, num_heads=1)))
    return sam_audio_blueprint(model, t5, Path("tokenizer.json"), Provenance("", "", ""), weights)


def replace_chunks(codec: CodecInfo, chunk_frames: int) -> CodecInfo:
    return msgspec.structs.replace(codec, chunk_frames=chunk_frames)
