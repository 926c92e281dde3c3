"""Running graphs: stopped in the middle of one, or out of memory, it is said in one error."""

import threading

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bridge.bundles.manifest import GraphSpec, TensorSpec, load
from bridge.errors import Cancelled, MemoryBudgetError
from bridge.inference.cancellation import Cancellation
from bridge.inference.graphs import Graphs


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
    manifest = load(directory)
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
    manifest = load(directory)
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
