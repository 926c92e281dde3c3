"""Running graphs: stopped in the middle of one, or out of memory, it is said in one error."""

import threading

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bridge.bundles.bundle import load_manifest
from bridge.bundles.manifest import GraphSpec, TensorSpec
from bridge.engine import Engine
from bridge.errors import Cancelled, MemoryBudgetError, ModelError
from bridge.inference.context import Cancellation
from bridge.inference.graphs import Graphs
from bridge.inference.model import Model
from bridge.request import Prompt, Span


def endless_graph(path):
    """A loop that counts to 2**62: it ends by being stopped, or not at all."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_on"], ["still_on"]),
            helper.make_node("Add", ["count", "one"], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("count", TensorProto.FLOAT, [1]),
        ],
        [
            helper.make_tensor_value_info("still_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, [1]),
        ],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["turns", "yes", "start"], ["end"], body=body)],
        "endless",
        [helper.make_tensor_value_info("start", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("end", TensorProto.FLOAT, [1])],
        [
            numpy_helper.from_array(np.array(2**62), "turns"),
            numpy_helper.from_array(np.array(True), "yes"),
            numpy_helper.from_array(np.ones(1, np.float32), "one"),
        ],
    )
    opset = helper.make_opsetid("", 18)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=10), path)


def test_a_running_graph_is_stopped(build_bundle, capfd):
    directory = build_bundle()
    endless_graph(directory / "endless.onnx")
    manifest = load_manifest(directory)
    start, end = TensorSpec("start", "float32", (1,)), TensorSpec("end", "float32", (1,))
    manifest.graphs["endless"] = GraphSpec("endless.onnx", (start,), (end,))
    graphs = Graphs(directory, manifest, threads=1)
    event = threading.Event()
    timer = threading.Timer(0.2, event.set)
    timer.start()
    with Cancellation(event) as cancellation, pytest.raises(Cancelled):
        graphs.run("endless", {"start": np.zeros(1, np.float32)}, cancellation)
    timer.join()
    assert capfd.readouterr().err == ""


def test_memory_that_is_not_there_is_said_so(build_bundle, capfd):
    directory = build_bundle()
    graph = helper.make_graph(
        [helper.make_node("Expand", ["start", "shape"], ["end"])],
        "huge",
        [helper.make_tensor_value_info("start", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("end", TensorProto.FLOAT, ["N"])],
        [numpy_helper.from_array(np.array([2**48]), "shape")],
    )
    opset = helper.make_opsetid("", 18)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=10)
    onnx.save(model, directory / "huge.onnx")
    manifest = load_manifest(directory)
    start, end = TensorSpec("start", "float32", (1,)), TensorSpec("end", "float32", ("N",))
    manifest.graphs["huge"] = GraphSpec("huge.onnx", (start,), (end,))
    graphs = Graphs(directory, manifest, threads=1)
    with Cancellation(None) as never, pytest.raises(MemoryBudgetError, match="shorter window"):
        graphs.run("huge", {"start": np.zeros(1, np.float32)}, never)
    assert capfd.readouterr().err == ""


def test_what_is_already_cancelled_does_not_start():
    event = threading.Event()
    event.set()
    with (
        Cancellation(event) as cancellation,
        pytest.raises(Cancelled),
        cancellation.stopping(lambda: None),
    ):
        pytest.fail("started")


def test_a_failure_of_its_own_is_not_taken_for_a_cancel():
    with (
        Cancellation(threading.Event()) as cancellation,
        pytest.raises(ZeroDivisionError),
        cancellation.stopping(lambda: None),
    ):
        raise ZeroDivisionError


def test_no_event_means_never_cancelled():
    with Cancellation(None) as cancellation:
        cancellation.check()
        with cancellation.stopping(lambda: pytest.fail("stopped")):
            pass


@pytest.mark.parametrize("stereo", [False, True])
@pytest.mark.parametrize("windows", [1, 5])
def test_inputs_that_stay_on_the_device_give_the_same_bits(
    build_bundle, monkeypatch, stereo, windows
):
    """What CUDA does, on the CPU: every input of a batch is bound once, and x and t change."""
    bundle = build_bundle(stereo=stereo, beside_guidance=0.5 if stereo else 1.0)
    moments = np.arange(5 * 16_000) / 16_000
    tones = np.sin(2 * np.pi * np.outer((220, 330), moments))
    mixture = (0.2 * tones + 0.01).astype(np.float32)
    prompts = ["half", Prompt("everything", spans=(Span(1, 2, "-"),))]
    results = []
    for resident in (False, True):
        monkeypatch.setattr(Model, "resident", resident)
        monkeypatch.setattr(Model, "most_windows", windows)
        with Engine(bundle) as engine:
            results.append(engine.separate(mixture, 16_000, prompts, solver="midpoint", steps=2))
    for name, stem in results[0].stems.items():
        np.testing.assert_array_equal(results[1].stems[name], stem)


def test_a_bound_graph_hears_what_changed_and_is_checked_like_others(build_bundle):
    bundle = build_bundle()
    graphs = Graphs(bundle, load_manifest(bundle), threads=1)
    feeds = {"wav": np.ones((1, 1, 640), np.float32)}
    bound = graphs.bind("codec_encoder", feeds)
    with Cancellation(None) as cancellation:
        for level in (1.0, 2.0, 3.0):
            out = bound.run({"wav": np.full((1, 1, 640), level, np.float32)}, cancellation)
            assert (out == level).all()
        assert (feeds["wav"] == 1).all()
        with pytest.raises(ModelError, match="NaN"):
            bound.run({"wav": np.full((1, 1, 640), np.nan, np.float32)}, cancellation)
    event = threading.Event()
    event.set()
    with Cancellation(event) as cancellation, pytest.raises(Cancelled):
        bound.run({}, cancellation)
