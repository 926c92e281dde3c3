import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bridge.errors import InputError
from plugin_host.effects.effect import Layout


@pytest.mark.parametrize(
    ("shape", "order", "unpacked"),
    [
        ((100,), "flat", (1, 100)),
        ((2, 100), "channels_first", (2, 100)),
        ((100, 2), "samples_first", (2, 100)),
        ((2, 2), "channels_first", (2, 2)),
        ((1, 1), "channels_first", (1, 1)),
        ((0,), "flat", (1, 0)),
    ],
)
def test_the_shorter_axis_is_the_channels(shape, order, unpacked):
    array = np.zeros(shape)
    layout = Layout.of(array)
    assert layout == Layout(order)
    assert layout.unpack(array).shape == unpacked


@given(arrays(np.float32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.just(0.5)))
def test_packing_undoes_unpacking(array):
    layout = Layout.of(array)
    assert np.array_equal(layout.pack(layout.unpack(array)), array)


def test_a_stream_keeps_its_layout_for_short_blocks():
    assert Layout("channels_first").unpack(np.zeros((2, 1))).shape == (2, 1)
    assert Layout("samples_first").unpack(np.zeros((1, 2))).shape == (2, 1)


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.complex64, np.bool_])
def test_only_floats_are_audio(dtype):
    with pytest.raises(InputError, match="expected float32"):
        Layout("flat").unpack(np.zeros(4, dtype))


def test_other_shapes_are_refused():
    with pytest.raises(InputError, match="expected"):
        Layout.of(np.zeros((2, 3, 4)))
    with pytest.raises(InputError, match="layout it began with"):
        Layout("flat").unpack(np.zeros((2, 3)))
