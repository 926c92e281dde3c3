"""Bundles are found by name or path, and a damaged file is named before anything runs."""

import os

import pytest

from bridge import Engine, ModelError, ProviderError
from bridge.bundles import bundle as bundles
from bridge.bundles.bundle import describe_file, load_manifest, write_manifest


@pytest.mark.parametrize("file", ["velocity.onnx", "codec_decoder.onnx", "tokenizer.json"])
def test_a_changed_file_is_named(build_bundle, file):
    directory = build_bundle()
    Engine(directory).close()
    path = directory / file
    contents = bytearray(path.read_bytes())
    contents[len(contents) // 2] ^= 1
    path.write_bytes(contents)
    with pytest.raises(
        ModelError, match=rf"{file}: sha256 .* the file is damaged; fetch or export"
    ):
        Engine(directory)


def test_a_truncated_file_is_named(build_bundle):
    directory = build_bundle()
    path = directory / "velocity.onnx"
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(ModelError, match=r"velocity.onnx: \d+ bytes, but the manifest says"):
        Engine(directory)


def test_a_missing_file_is_named(build_bundle):
    directory = build_bundle()
    (directory / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"tokenizer.json: cannot be read \(No such file"):
        Engine(directory)


@pytest.mark.parametrize(
    ("file", "message"), [("velocity.onnx", "not an ONNX graph"), ("tokenizer.json", "tokenizer")]
)
def test_a_file_that_is_not_what_it_should_be_is_named(build_bundle, file, message):
    """With a right checksum, that is: the exporter's mistake rather than the disk's."""
    import numpy as np

    directory = build_bundle()
    (directory / file).write_bytes(b"something else")
    manifest = load_manifest(directory)
    manifest.files[file] = describe_file(directory / file)
    write_manifest(manifest, directory)
    tone = np.sin(np.arange(1600, dtype=np.float32))[np.newaxis]
    with pytest.raises(ModelError, match=f"{file}: .*{message}"), Engine(directory) as engine:
        engine.separate(tone, 16_000, ["half"])


def test_files_are_hashed_once_until_they_change(build_bundle, monkeypatch):
    directory = build_bundle()
    hashed = []

    def describe(path):
        hashed.append(path.name)
        return describe_file(path)

    monkeypatch.setattr(bundles, "describe_file", describe)
    manifest = load_manifest(directory)
    bundles.verify_files(directory, manifest)
    assert sorted(hashed) == sorted(manifest.files)
    bundles.verify_files(directory, manifest)
    assert len(hashed) == len(manifest.files)
    os.utime(directory / "tokenizer.json", ns=(1, 1))
    bundles.verify_files(directory, manifest)
    assert hashed[len(manifest.files) :] == ["tokenizer.json"]


def test_a_name_is_looked_up_where_users_keep_their_models(build_bundle, monkeypatch):
    directory = build_bundle("violin")
    monkeypatch.setattr(bundles, "bundle_directories", lambda: (directory.parent,))
    assert bundles.list_bundles() == {"violin": directory}
    assert bundles.find_bundle("violin") == directory
    assert bundles.find_bundle(directory) == directory
    with pytest.raises(ModelError, match=r"unknown model 'cello'.*installed models \(violin\)"):
        bundles.find_bundle("cello")


@pytest.mark.parametrize("model", ["../models", "", ".", "no/such/place"])
def test_a_path_without_a_manifest_is_no_model(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="unknown model"):
        bundles.find_bundle(model)


def test_a_provider_this_build_lacks_is_refused(tiny_directory):
    with pytest.raises(ProviderError, match="CoreMLExecutionProvider is not in the installed"):
        Engine(tiny_directory, providers=["coreml"])


def test_short_names_of_providers_are_understood(tiny_directory):
    with Engine(tiny_directory, providers=["cpu"]) as engine:
        assert engine.provider == "CPUExecutionProvider"
