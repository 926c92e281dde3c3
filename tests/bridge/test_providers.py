"""Which provider computes is decided in the open."""

import pytest

from bridge.errors import ProviderError
from bridge.inference import graphs
from bridge.inference.graphs import CPU, CUDA, check_used, choose_providers

TENSORRT = "TensorrtExecutionProvider"


@pytest.fixture
def device(monkeypatch, request):
    """Whether the driver has a device."""
    monkeypatch.setattr(graphs, "has_cuda_device", lambda: request.param)
    return request.param


@pytest.mark.parametrize(
    ("device", "available", "chosen"),
    [
        (True, [TENSORRT, CUDA, CPU], (CUDA, CPU)),
        (False, [TENSORRT, CUDA, CPU], (CPU,)),
        (True, [CPU], (CPU,)),
    ],
    indirect=["device"],
)
@pytest.mark.usefixtures("device")
def test_unasked_the_gpu_is_taken_where_there_is_one(available, chosen):
    assert choose_providers(None, available) == (chosen, True)


@pytest.mark.parametrize("device", [True], indirect=True)
@pytest.mark.usefixtures("device")
def test_what_is_asked_for_is_what_is_used():
    assert choose_providers(["cuda"], [CUDA, CPU]) == ((CUDA,), False)
    assert choose_providers(["CUDA", "cpu"], [CUDA, CPU]) == ((CUDA, CPU), False)
    assert choose_providers([CPU], [CUDA, CPU]) == ((CPU,), False)


@pytest.mark.parametrize("device", [False], indirect=True)
@pytest.mark.usefixtures("device")
@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["cuda"], "no NVIDIA driver"),
        (["cpu", "cuda"], "no NVIDIA driver"),
        (["tensorrt"], "TensorrtExecutionProvider is not in the installed ONNX Runtime"),
        (["gpu"], "the provider gpu is not in"),
        ([], "expected a list such as"),
        ("cuda", "expected a list such as"),
    ],
)
def test_what_cannot_be_used_is_refused(asked, message):
    with pytest.raises(ProviderError, match=message):
        choose_providers(asked, [CUDA, CPU])


def test_a_silent_fall_back_is_found_out():
    check_used([CUDA, CPU], [CUDA, CPU])
    with pytest.raises(ProviderError, match=r"uses CPUExecutionProvider.*stembridge\[cuda\]"):
        check_used([CUDA], [CPU])
