"""A bundle from anywhere gives stems of what its manifest lists, or an error that says why not."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from bridge import Engine, ModelError, StembridgeError
from bridge.bundles import bundle as bundles
from bridge.bundles.bundle import (
    describe_file,
    external_files,
    find_bundle,
    load_manifest,
    verify_files,
    write_manifest,
)
from bridge.bundles.manifest import FILE_NAME
from bridge.processes import import_folders
from tests.support import tiny_bundle

MIXTURE = np.random.default_rng(0).normal(0, 0.1, (2, 8000)).astype(np.float32)
ANY_FILES = settings(max_examples=60)


def seal(directory):
    """Bring the checksums of the manifest up to what is in the files."""
    manifest = load_manifest(directory)
    files = {name: describe_file(directory / name) for name in manifest.files}
    write_manifest(msgspec.structs.replace(manifest, files=files), directory)


def separate(directory, **options):
    with Engine(directory) as engine:
        return engine.separate(MIXTURE, 16_000, ["half"], **options)


# What is read


@pytest.mark.parametrize("role", ["text_encoder", "codec_encoder", "codec_decoder", "velocity"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none_are_an_error_that_names_the_graph(build_bundle, role, bad):
    directory = build_bundle()
    path = directory / f"{role}.onnx"
    graph = onnx.load(path)
    name = graph.graph.output[0].name
    for node in graph.graph.node:
        node.output[:] = [f"{o}_" if o == name else o for o in node.output]
    graph.graph.initializer.append(numpy_helper.from_array(np.float32(bad), "bad"))
    graph.graph.node.append(helper.make_node("Add", [f"{name}_", "bad"], [name]))
    onnx.save(graph, path)
    seal(directory)
    with pytest.raises(ModelError, match=rf"{role}.*NaN or infinite numbers; probably .* fp32"):
        separate(directory)


def test_a_judge_that_gives_none_is_an_error_too(build_bundle):
    directory = build_bundle(judge=True)
    graph = onnx.load(directory / "judge.onnx")
    for tensor in graph.graph.initializer:
        if tensor.name == "each":
            tensor.CopyFrom(numpy_helper.from_array(np.full((1, 4), np.nan, np.float32), "each"))
    onnx.save(graph, directory / "judge.onnx")
    seal(directory)
    with pytest.raises(ModelError, match="'judge' gives NaN"):
        separate(directory, judge=True)


def test_numbers_that_overflow_between_graphs_are_an_error(build_bundle):
    directory = build_bundle()
    graph = onnx.load(directory / "velocity.onnx")
    for tensor in graph.graph.initializer:
        if tensor.name == "speed":
            tensor.CopyFrom(numpy_helper.from_array(np.float32(3e38), "speed"))
    onnx.save(graph, directory / "velocity.onnx")
    seal(directory)
    with pytest.raises(ModelError, match="infinite"):
        separate(directory, steps=9)


def model_with(**places):
    """A graph with external weights in every place that a graph can have weights in."""

    def outside(name, location):
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[1])
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="offset", value="0")
        tensor.external_data.add(key="location", value=location)
        return tensor

    inner = helper.make_graph([], "inner", [], [], [outside("c", places["subgraph"])])
    branch = helper.make_node("If", ["a"], ["y"])
    branch.attribute.append(helper.make_attribute("then_branch", inner))
    constant = helper.make_node("Constant", [], ["b"], value=outside("b", places["attribute"]))
    graph = helper.make_graph(
        [constant, branch], "outer", [], [], [outside("a", places["initializer"])]
    )
    sparse = graph.sparse_initializer.add()
    sparse.values.CopyFrom(outside("d", places["sparse"]))
    nodes = [helper.make_node("Constant", [], ["e"], value=outside("e", places["function"]))]
    function = helper.make_function("us", "F", [], ["e"], nodes, [])
    return helper.make_model(graph, functions=[function])


WHERE = ("initializer", "attribute", "subgraph", "sparse", "function")
PLACES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)


@given(st.fixed_dictionaries(dict.fromkeys(WHERE, PLACES)))
def test_external_weights_are_found_wherever_a_graph_has_them(places):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.onnx"
        path.write_bytes(model_with(**places).SerializeToString())
        assert external_files(path) == set(places.values())


@given(st.binary(min_size=1, max_size=200))
def test_any_bytes_are_a_graph_or_an_error(data):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.onnx"
        path.write_bytes(data)
        try:
            assert all(isinstance(place, str) for place in external_files(path))
        except ValueError:
            with pytest.raises(ValueError, match="byte"):
                external_files(path)


def split_weights(directory, location):
    (directory / location).parent.mkdir(parents=True, exist_ok=True)
    graph = onnx.load(directory / "text_encoder.onnx")
    onnx.save(
        graph,
        directory / "text_encoder.onnx",
        save_as_external_data=True,
        location=location,
        size_threshold=0,
    )


@pytest.mark.parametrize("location", ["w.bin", ".hidden", "text_encoder.onnx.data", ".git/w"])
def test_weights_that_the_manifest_does_not_list_are_refused(build_bundle, location):
    directory = build_bundle()
    split_weights(directory, location)
    seal(directory)
    with pytest.raises(ModelError, match=r"the manifest .*does not list"):
        Engine(directory)


def test_listed_weights_count_for_the_checksum(build_bundle):
    directory = build_bundle()
    split_weights(directory, "w.bin")
    seal(directory)
    manifest = load_manifest(directory)
    listed = {**manifest.files, "w.bin": describe_file(directory / "w.bin")}
    write_manifest(msgspec.structs.replace(manifest, files=listed), directory)
    before = separate(directory)
    weights = np.fromfile(directory / "w.bin", "<f4")
    (weights * 0.5).astype("<f4").tofile(directory / "w.bin")
    with pytest.raises(ModelError, match=r"w\.bin.*damaged"):
        Engine(directory)
    seal(directory)
    after = separate(directory)
    assert after.report.model_sha256 != before.report.model_sha256
    assert not np.array_equal(after.stems["half"], before.stems["half"])


def test_a_file_that_nothing_vouches_for_is_named(build_bundle):
    directory = build_bundle()
    (directory / ".DS_Store").write_bytes(b"of a file manager")
    (directory / ".git").mkdir()
    (directory / ".git" / "HEAD").write_bytes(b"of a version control")
    verify_files(directory, load_manifest(directory))
    (directory / "more.bin").write_bytes(b"\0")
    with pytest.raises(ModelError, match=r"more\.bin: the manifest .* does not list"):
        Engine(directory)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
@pytest.mark.parametrize("file", ["velocity.onnx", "tokenizer.json", FILE_NAME])
@pytest.mark.parametrize("kind", ["pipe", "device", "sparse", "folder"])
def test_files_without_end_are_not_read(build_bundle, file, kind):
    directory = build_bundle()
    path = directory / file
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        with path.open("wb") as sparse:
            sparse.truncate(200 << 30)
    with pytest.raises(ModelError, match=path.name):
        Engine(directory)


# What is declared

HUGE = st.sampled_from([0, -1, 2**31, 2**40, 2**62, 2**63, 10**9, 1e300, -1e300, 0.5])


def numbers(value, path=()):
    """Paths of all the numbers in a manifest."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from numbers(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from numbers(inner, (*path, index))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    options = tiny_bundle.Tiny(judge=True, message=True, video=True)
    return tiny_bundle.build(tmp_path_factory.mktemp("whole") / "whole", options)


@pytest.mark.slow
@given(st.data())
@settings(ANY_FILES, max_examples=150)
def test_absurd_numbers_are_errors(whole, data):
    raw = json.loads((whole / FILE_NAME).read_text())
    path = data.draw(st.sampled_from(list(numbers(raw))))
    place = raw
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = data.draw(HUGE)
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "m"
        shutil.copytree(whole, directory)
        (directory / FILE_NAME).write_text(json.dumps(raw))
        try:
            result = separate(directory, steps=2)
        except StembridgeError as error:
            assert error.code  # noqa: PT017 -- either is right
        else:
            assert np.isfinite(result.stems["half"]).all()


@given(st.data())
@ANY_FILES
def test_damaged_files_are_errors(whole, data):
    """With right checksums, so that only the content is wrong."""
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "m"
        shutil.copytree(whole, directory)
        file = data.draw(st.sampled_from(sorted(load_manifest(directory).files)))
        content = bytearray((directory / file).read_bytes())
        start = data.draw(st.integers(0, len(content)))
        content[start : start + data.draw(st.integers(0, 20))] = data.draw(st.binary(max_size=20))
        (directory / file).write_bytes(content)
        seal(directory)
        try:
            result = separate(directory, judge=True, steps=1)
        except StembridgeError as error:
            assert error.code  # noqa: PT017 -- either is right
        else:
            assert np.isfinite(result.stems["half"]).all()


@given(st.one_of(st.binary(max_size=300), st.integers(1, 200_000).map(lambda n: b"[" * n)))
@ANY_FILES
def test_any_bytes_as_a_manifest_are_an_error(tmp_path, content):
    (tmp_path / FILE_NAME).write_bytes(content)
    with pytest.raises(ModelError, match=FILE_NAME):
        load_manifest(tmp_path)


# Where it is found


def test_an_operator_of_ones_own_is_not_run(build_bundle):
    directory = build_bundle()
    path = directory / load_manifest(directory).graphs["velocity"].file
    graph = onnx.load(path)
    result = graph.graph.output[0].name
    for node in graph.graph.node:
        node.output[:] = ["before" if name == result else name for name in node.output]
    graph.graph.node.append(helper.make_node("Run", ["before"], [result], domain="of.strangers"))
    graph.opset_import.append(helper.make_opsetid("of.strangers", 1))
    onnx.save(graph, path)
    seal(directory)
    with pytest.raises(ModelError, match=r"of\.strangers"):
        separate(directory)


@pytest.mark.parametrize("name", sorted(bundles.list_bundles()))
def test_an_installed_model_is_not_replaced_by_a_folder(build_bundle, name, monkeypatch):
    directory = build_bundle(name)
    monkeypatch.chdir(directory.parent)
    assert find_bundle(name) == bundles.list_bundles()[name]
    for path in (f"./{name}", f"{name}/", Path(name), str(directory)):
        assert find_bundle(path) == directory


def test_the_home_of_nobody_is_a_name_like_any_other():
    with pytest.raises(ModelError, match="unknown model '~nobody-of-that-name/x'"):
        find_bundle("~nobody-of-that-name/x")


def test_a_folder_is_no_name(build_bundle, monkeypatch):
    directory = build_bundle("violin")
    monkeypatch.chdir(directory.parent)
    with pytest.raises(ModelError, match=r"unknown model 'violin'.*write \./violin"):
        find_bundle("violin")
    monkeypatch.chdir(directory)
    assert find_bundle(".") == directory


# What is told to others: nothing

HERE = """
import sys, numpy as np
from bridge import Engine
with Engine(sys.argv[1]) as engine:
    engine.separate(np.full((1, 8000), 0.1, np.float32), 16_000, ["half"])
"""
IN_A_SIDECAR = """
import sys, numpy as np
from bridge import Client
with Client.local(sys.argv[1], idle_timeout_s=3) as client:
    client.separate(np.full((1, 8000), 0.1, np.float32), 16_000, ["half"])
"""
FROM_FILE_TO_FILES = """
import sys, numpy as np, soundfile
from plugin_host.cli import main
soundfile.write("song.wav", np.full(8000, 0.1), 16_000)
sys.exit(main(["separate", "song.wav", "-p", "half", "--in-process", "--model", sys.argv[1]]))
"""


@pytest.mark.slow
@pytest.mark.needs("strace")
@pytest.mark.parametrize("script", [HERE, IN_A_SIDECAR, FROM_FILE_TO_FILES])
def test_nothing_is_sent_and_nobody_looked_up(whole, tmp_path, script):
    log = tmp_path / "calls"
    homes = {"HOME": "home", "XDG_CACHE_HOME": "cache", "XDG_DATA_HOME": "data"}
    environment = {**os.environ, **{key: str(tmp_path / name) for key, name in homes.items()}}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    environment["PYTHONPATH"] = os.pathsep.join(import_folders())
    words = ["strace", "-f", "-qq", "-e", "trace=%network", "-o", str(log)]
    command = [*words, sys.executable, "-c", script, str(whole)]
    with tempfile.TemporaryDirectory(prefix="stembridge-test-") as runtime:
        environment["STEMBRIDGE_RUNTIME_DIR"] = str(Path(runtime) / "run")
        subprocess.run(command, check=True, env=environment, cwd=tmp_path)
    families = ("AF_UNIX", "AF_NETLINK", "AF_LOCAL")
    calls = [line for line in log.read_text().splitlines() if "socket(" in line]
    assert [line for line in calls if not any(family in line for family in families)] == []
    left = [path for path in tmp_path.rglob("*") if "onnxruntime" in path.name.lower()]
    assert left == []
