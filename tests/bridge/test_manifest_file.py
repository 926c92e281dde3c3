"""The manifest is read strictly: what is wrong is named with the path of the field."""

import json

import msgspec
import pytest

from bridge import ModelError
from bridge.bundles.bundle import load_manifest, write_manifest
from bridge.bundles.manifest import FILE_NAME


def edited(directory, change):
    """Change the manifest's JSON in place."""
    path = directory / FILE_NAME
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def put(*path, value):
    def change(document):
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = value

    return change


def drop(*path):
    def change(document):
        for key in path[:-1]:
            document = document[key]
        del document[path[-1]]

    return change


def test_a_manifest_is_written_and_read_unchanged(build_bundle):
    directory = build_bundle()
    manifest = load_manifest(directory)
    other = directory.parent / "copy"
    other.mkdir()
    assert write_manifest(manifest, other) == other / FILE_NAME
    assert load_manifest(other) == manifest
    assert [path.name for path in other.iterdir()] == [FILE_NAME]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("format", value=2), r"format 2, but this version reads format 1; update stembridge"),
        (put("format", value=0), r"format 0.*export the model again"),
        (drop("format"), r"missing required field `format`"),
        (put("colour", value="red"), r"unknown field `colour`"),
        (put("codec", "speed", value=1), r"unknown field `speed` - at `\$.codec`"),
        (drop("sample_rate"), r"missing required field `sample_rate`"),
        (put("sample_rate", value="16k"), r"Expected `int`, got `str` - at `\$.sample_rate`"),
        (put("hop_length", value=0), r"\$.hop_length is 0, expected a number above 0"),
        (put("solver", value="heun"), r"Invalid enum value 'heun' - at `\$.solver`"),
        (put("overlap_s", value=1.0), r"\$.overlap_s is 1.0"),
        (put("max_frames", value=10), r"\$.window_s is 1.0, but \$.max_frames holds 0.04 s"),
        (put("reconstruction", "hop", value=600), r"\$.reconstruction has n_fft 2048 and hop 600"),
        (put("codec", "decoder_context_frames", value=-1), r"\$.codec has a context of -1"),
        (drop("graphs", "velocity"), r"\$.graphs lacks the role 'velocity'"),
        (put("graphs", "velocity", "file", value="v.onnx"), r"'v.onnx', which \$.files does not"),
        (drop("graphs", "velocity", "inputs", 0), r"velocity.inputs lacks 'x'"),
        (
            put("graphs", "velocity", "inputs", 0, "name", value="pitch"),
            r"velocity.inputs (lacks 'x'|has 'pitch')",
        ),
        (put("graphs", "velocity", "outputs", value=[]), r"velocity.outputs lacks 'velocity'"),
        (put("tokenizer", value="words.json"), r"\$.tokenizer is 'words.json'"),
        (put("files", "../x", value={"sha256": "0" * 64, "size_bytes": 1}), r"'../x', expected a"),
        (put("files", "/x", value={"sha256": "0" * 64, "size_bytes": 1}), r"'/x', expected a"),
        (put("files", "x", value={"sha256": "F" * 64, "size_bytes": 1}), r"sha256 is not 64"),
    ],
)
def test_a_manifest_that_is_wrong_is_refused(build_bundle, change, message):
    directory = build_bundle()
    edited(directory, change)
    with pytest.raises(ModelError, match=message):
        load_manifest(directory)


@pytest.mark.parametrize("text", [b"", b"not json", b"[]", b"\xff\xfe", b'{"format": "1"}'])
def test_a_manifest_that_is_not_one_is_refused(tmp_path, text):
    (tmp_path / FILE_NAME).write_bytes(text)
    with pytest.raises(ModelError, match=FILE_NAME):
        load_manifest(tmp_path)


def test_a_directory_without_one_is_refused(tmp_path):
    with pytest.raises(ModelError, match="give the directory of a model bundle"):
        load_manifest(tmp_path)


def test_an_inconsistent_manifest_is_not_written(build_bundle, tmp_path):
    manifest = msgspec.structs.replace(load_manifest(build_bundle()), tokenizer="missing.json")
    with pytest.raises(ModelError, match=r"not written: \$.tokenizer"):
        write_manifest(manifest, tmp_path)
    assert not (tmp_path / FILE_NAME).exists()


def test_the_checksum_covers_what_decides_the_output(build_bundle):
    manifest = load_manifest(build_bundle())
    replace = msgspec.structs.replace
    assert replace(manifest, licence="other", provenance="x", name="y").sha256 == manifest.sha256
    numbers = {
        replace(manifest, input_rms_db=-10.0).sha256,
        replace(manifest, steps=9).sha256,
        replace(
            manifest, files={**manifest.files, "tokenizer.json": manifest.files["velocity.onnx"]}
        ).sha256,
    }
    assert len(numbers | {manifest.sha256}) == 4
