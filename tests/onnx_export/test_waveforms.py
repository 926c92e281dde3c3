"""Networks of others as bundles: what they answer comes out, what is none is refused."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from bridge import Engine, InputError
from bridge.bundles.bundle import load_manifest
from bridge.request import slug
from onnx_export.checkpoints.waveforms import GRAPH, import_waveform_networks, read_layout
from plugin_host.cli import main

WINDOW, RATE = 7800, 44_100
SHARES = (0.4, 0.3, 0.2, 0.1)


def network(path: Path, *shares: float, batch: int | str = 1, window: int = WINDOW) -> Path:
    """Write a network whose stems are shares of the mixture; a single one has no axis of stems."""
    single = len(shares) == 1
    factors = np.array(shares, np.float32).reshape((1, 1, 1) if single else (1, -1, 1, 1))
    tensors = [numpy_helper.from_array(factors, "factors")]
    nodes = [helper.make_node("Mul", ["x" if single else "each", "factors"], ["y"])]
    if not single:
        tensors.append(numpy_helper.from_array(np.array([1], np.int64), "axes"))
        nodes.insert(0, helper.make_node("Unsqueeze", ["x", "axes"], ["each"]))
    shape = [batch, 2, window] if single else [batch, len(shares), 2, window]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 2, window])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        tensors,
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


def mixture() -> np.ndarray:
    noise = np.random.default_rng(0).standard_normal((2, 3 * WINDOW + 17))
    return (0.1 * noise).astype(np.float32)


def check(directory: Path, shares: dict[str, float]) -> None:
    heard = mixture()
    with Engine(directory, threads=1) as engine:
        found = engine.separate(heard, RATE, list(shares), reconstruct="null").stems
    for name, share in shares.items():
        # Below 20 Hz nothing is heard.
        fitted = np.vdot(found[slug(name)], heard) / np.vdot(heard, heard)
        assert fitted == pytest.approx(share, abs=2e-3), name


@pytest.mark.parametrize("batch", [1, "batch"])
def test_one_network_gives_all_stems(tmp_path: Path, batch: int | str) -> None:
    file = network(tmp_path / "htdemucs.onnx", *SHARES, batch=batch)
    out = import_waveform_networks(tmp_path / "demucs", [file], licence="MIT")
    manifest = load_manifest(out)
    assert manifest.licence == "MIT"
    assert manifest.hop_length * 8 == WINDOW  # 975: windows are whole frames
    assert "htdemucs.onnx (SHA-256 " in manifest.provenance
    check(out, dict(zip(("drums", "bass", "other", "vocals"), SHARES, strict=True)))
    check(out, {"singing voice": 0.1})


def test_each_file_gives_its_stem(tmp_path: Path) -> None:
    bag = [network(tmp_path / f"{n}.onnx", *(SHARES[n] if n == k else 0.9 for k in range(4)))
           for n in range(4)]  # fmt: skip
    check(import_waveform_networks(tmp_path / "bag", bag), {"bass": 0.3, "vocals": 0.1})
    layout = tmp_path / "layout.toml"
    layout.write_text(
        f'sample_rate = {RATE}\n[[stems]]\nname = "Kazoo"\n'
        '[[stems]]\nname = "rest"\nphrases = ["Everything Else"]\n'
    )
    pair = [network(tmp_path / f"s{n}.onnx", share) for n, share in enumerate((0.7, 0.2))]
    out = import_waveform_networks(tmp_path / "pair", pair, read_layout(layout))
    check(out, {"kazoo": 0.7, "everything else": 0.2})


def test_what_is_no_such_network_is_refused(tmp_path: Path) -> None:
    four = network(tmp_path / "four.onnx", *SHARES)
    three = network(tmp_path / "three.onnx", 0.1, 0.2, 0.3)
    text = tmp_path / "text.onnx"
    text.write_text("no network")
    longer = network(tmp_path / "longer.onnx", *SHARES, window=WINDOW + 60)
    open_ended = network(tmp_path / "open.onnx", *SHARES)
    model = onnx.load(open_ended)
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "samples"
    onnx.save(model, open_ended)
    for files, told in (
        ([], "expected the ONNX file"),
        ([text], "not a network in ONNX"),
        ([tmp_path / "none.onnx"], "not a network in ONNX"),
        ([open_ended], "of a fixed length"),
        ([three], "gives 3 stems; Demucs has 4 or 6"),
        ([four, four], "2 files for 4 stems"),
        ([four, four, four, longer], "expected one"),
    ):
        with pytest.raises(InputError, match=told):
            import_waveform_networks(tmp_path / "out", files)
        assert not (tmp_path / "out").exists()
    layout = tmp_path / "layout.toml"
    layout.write_text("sample_rate = 44100\nstem = 3\n")
    with pytest.raises(InputError, match="layout"):
        read_layout(layout)


def test_the_command_installs_what_a_layout_describes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    file = network(tmp_path / "demucs.onnx", *SHARES)
    assert main(["models", "import", "demucs-onnx", str(file), "--licence", "MIT"]) == 0
    assert "use it with --model demucs" in capsys.readouterr().out
    assert load_manifest(tmp_path / "data/stembridge/models/demucs").licence == "MIT"
    assert main(["models", "import", "onnx", str(file)]) == 2
    assert "--layout says" in capsys.readouterr().err


N_FFT, HOP, FRAMES = 240, 64, 40
SAMPLES = (FRAMES - 1) * HOP


def spectrogram_network(
    path: Path, shape: list[int | str], channels: int, seed: int, opset: int, name: str
) -> np.ndarray:
    """Write a network, a seeded matrix over axis 1 and a sigmoid; return the matrix."""
    generator = np.random.default_rng(seed)
    matrix = generator.standard_normal((channels, shape[1], 1, 1)).astype(np.float32)
    nodes = [helper.make_node("Conv", ["x", "matrix"], ["z"]),
             helper.make_node("Sigmoid", ["z"], ["y"])]  # fmt: skip
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [shape[0], channels, *shape[2:]])],
        [numpy_helper.from_array(matrix, "matrix")],
    )
    opsets = [helper.make_opsetid("", opset)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return matrix[:, :, 0, 0]


def write_layout(path: Path, stems: int, *, overlap: float = 0.25, **spectrum: object) -> Path:
    lines = [f"sample_rate = {RATE}", f"overlap = {overlap}", "[spectrum]"]
    lines += [f"{k} = {v if isinstance(v, int | float) else repr(v)}" for k, v in spectrum.items()]
    lines += [f'[[stems]]\nname = "stem {n}"' for n in range(stems)]
    path.write_text("\n".join(lines))
    return path


def transform(wave: np.ndarray, bins: int, window: str = "hann") -> torch.Tensor:
    shape = getattr(torch, f"{window}_window")(N_FFT)
    spectrum = torch.stft(
        torch.from_numpy(wave), N_FFT, HOP, window=shape, center=True, return_complex=True
    )
    return spectrum[:, :bins]


def transform_back(spectrum: torch.Tensor, window: str = "hann") -> np.ndarray:
    shape = getattr(torch, f"{window}_window")(N_FFT)
    missing = N_FFT // 2 + 1 - spectrum.shape[-2]
    full = torch.nn.functional.pad(spectrum, (0, 0, 0, missing))
    return torch.istft(full, N_FFT, HOP, window=shape, center=True, length=SAMPLES).numpy()


def run(bundle: Path, heard: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(bundle / GRAPH, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: heard[None]})[0][0]


def test_networks_on_real_and_imaginary_parts_get_the_transform_around_them(
    tmp_path: Path,
) -> None:
    """As of MDX-Net: one file a stem, fewer bins than there are, another hop than divides n_fft."""
    bins, gain = 100, 1.035
    files = [tmp_path / f"{n}.onnx" for n in range(2)]
    matrices = [
        spectrogram_network(file, ["batch", 4, bins, FRAMES], 4, n, opset=11, name="mdx")
        for n, file in enumerate(files)
    ]
    layout = write_layout(tmp_path / "mdx.toml", 2, n_fft=N_FFT, hop=HOP, gain=gain)
    out = import_waveform_networks(tmp_path / "mdx", files, read_layout(layout))
    manifest = load_manifest(out)
    assert manifest.window_s == SAMPLES / RATE
    assert manifest.reconstruction.band_hz == pytest.approx(bins * RATE / N_FFT)
    heard = mixture()[:, :SAMPLES]
    spectrum = transform(heard, bins)
    x = torch.view_as_real(spectrum).permute(0, 3, 1, 2).reshape(4, bins, FRAMES)
    found = run(out, heard)
    for n, matrix in enumerate(matrices):
        y = torch.sigmoid(torch.einsum("oi,ibf->obf", torch.from_numpy(matrix), x))
        parts = y.reshape(2, 2, bins, FRAMES).permute(0, 2, 3, 1).contiguous()
        expected = gain * transform_back(torch.view_as_complex(parts))
        np.testing.assert_allclose(found[n], expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("output", ["mask", "spectrum"])
@pytest.mark.parametrize("opset", [17, 20])
def test_networks_on_magnitudes_give_masks_or_magnitudes(
    tmp_path: Path, output: str, opset: int
) -> None:
    file, bins = tmp_path / "magnitudes.onnx", N_FFT // 2 + 1
    matrix = spectrogram_network(file, [1, 2, "frames", "bins"], 6, 3, opset, name="open")
    layout = write_layout(
        tmp_path / "open.toml", 3, n_fft=N_FFT, hop=HOP, frames=FRAMES, output=output,
        takes="batch channel frame bin", gives="batch (stem channel) frame bin",
    )  # fmt: skip
    out = import_waveform_networks(tmp_path / "open", [file], read_layout(layout))
    heard = mixture()[:, :SAMPLES]
    spectrum = transform(heard, bins)
    levels = spectrum.abs()
    y = torch.sigmoid(torch.einsum("oi,ibf->obf", torch.from_numpy(matrix), levels))
    y = y.reshape(3, 2, bins, FRAMES)
    stems = y * (spectrum if output == "mask" else torch.exp(1j * spectrum.angle()))
    expected = np.stack([transform_back(stem) for stem in stems])
    np.testing.assert_allclose(run(out, heard), expected, atol=1e-5 * np.abs(expected).max())


def test_masks_may_be_complex(tmp_path: Path) -> None:
    file, bins = tmp_path / "complex.onnx", 90
    shape = [1, 2, bins, FRAMES]
    matrix = spectrogram_network(file, shape, 4, 5, opset=17, name="complex")
    layout = write_layout(
        tmp_path / "complex.toml", 1, n_fft=N_FFT, hop=HOP, output="mask", window="hamming",
        takes="batch channel bin frame", gives="batch (part channel) bin frame",
    )  # fmt: skip
    out = import_waveform_networks(tmp_path / "complex", [file], read_layout(layout))
    heard = mixture()[:, :SAMPLES]
    spectrum = transform(heard, bins, "hamming")
    y = torch.sigmoid(torch.einsum("oi,ibf->obf", torch.from_numpy(matrix), spectrum.abs()))
    expected = transform_back(spectrum * torch.complex(y[:2], y[2:]), "hamming")
    np.testing.assert_allclose(run(out, heard)[0], expected, atol=1e-5 * np.abs(expected).max())


def test_the_engine_separates_with_a_network_on_spectrograms(tmp_path: Path) -> None:
    """A sigmoid of zeros is a half; windows are merged and resampled like any other's."""
    file = tmp_path / "half.onnx"
    spectrogram_network(file, [1, 2, FRAMES, N_FFT // 2 + 1], 2, 0, opset=17, name="half")
    model = onnx.load(file)
    model.graph.initializer[0].CopyFrom(
        numpy_helper.from_array(np.zeros((2, 2, 1, 1), np.float32), "matrix")
    )
    onnx.save(model, file)
    layout = write_layout(
        tmp_path / "half.toml", 1, n_fft=N_FFT, hop=HOP, output="mask",
        takes="batch channel frame bin",
    )  # fmt: skip
    out = import_waveform_networks(tmp_path / "half", [file], read_layout(layout))
    check(out, {"stem 0": 0.5})


def test_layouts_that_fit_no_spectrogram_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "file.onnx"
    spectrogram_network(file, [1, 4, 100, "frames"], 4, 0, opset=17, name="file")
    fine = {"n_fft": N_FFT, "hop": HOP, "frames": FRAMES}
    for changed, told in (
        ({"hop": 300}, "a hop of 1 to n_fft"),
        ({"frames": None}, "say how many in frames"),
        ({"frames": 2}, "don't go with n_fft"),
        ({"n_fft": 120, "hop": 30}, "100 bins"),
        ({"hop": N_FFT}, "don't cover the signal"),
        ({"takes": "batch channel bin"}, "expected each of batch, bin, channel, frame once"),
        ({"takes": "batch channel bin frame"}, "means \\[1, 2, 100, 40\\]"),
        ({"gives": "batch channel bin frame tone"}, "gives is"),
    ):
        spectrum = {k: v for k, v in {**fine, **changed}.items() if v is not None}
        layout = read_layout(write_layout(tmp_path / "layout.toml", 1, **spectrum))
        with pytest.raises(InputError, match=told):
            import_waveform_networks(tmp_path / "out", [file], layout)
        assert not (tmp_path / "out").exists()
