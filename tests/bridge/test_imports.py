"""What importing the package costs."""

import subprocess
import sys

import pytest

import bridge

HEAVY = ["onnxruntime", "pedalboard", "torch", "onnx", "tokenizers", "soxr", "matplotlib"]


def loaded_after(statement):
    code = f"import sys\n{statement}\nprint(*[name for name in {HEAVY} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stderr == ""
    return set(run.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import bridge",
        "from bridge import Prompt, Span, Settings, Separation, Report, InputError",
        "import bridge.bundles.manifest, bridge.bundles.bundle, bridge.request",
        "import bridge.connection.client",
    ],
)
def test_a_client_loads_no_engine(statement):
    assert loaded_after(statement) == set()


def test_the_engine_loads_no_training_framework():
    loaded = loaded_after("from bridge import Engine")
    assert "onnxruntime" in loaded
    assert not loaded & {"torch", "onnx", "pedalboard", "matplotlib"}


def test_every_public_name_is_there():
    assert set(dir(bridge)) == set(bridge.__all__)
    for name in bridge.__all__:
        assert getattr(bridge, name).__name__ == name
    with pytest.raises(AttributeError, match=r"attribute '?Nothing"):
        _ = bridge.Nothing
