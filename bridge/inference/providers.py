"""Which ONNX Runtime execution provider computes: chosen in the open, never swapped in silence."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Collection, Sequence
from typing import Final

from bridge.errors import ProviderError

CPU: Final = "CPUExecutionProvider"
CUDA: Final = "CUDAExecutionProvider"

_SHORT_NAMES: Final = {
    "cpu": CPU,
    "cuda": CUDA,
    "tensorrt": "TensorrtExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "directml": "DmlExecutionProvider",
}


def choose_providers(
    asked: Sequence[str] | None, available: Collection[str]
) -> tuple[tuple[str, ...], bool]:
    """Decide on which providers a session is opened.

    Parameters
    ----------
    asked : sequence of str or None
        ONNX Runtime's names, or ``"cpu"``, ``"cuda"``, ``"tensorrt"``, ``"coreml"``,
        ``"directml"``, best first. None means CUDA where there is a device, else the CPU.
    available : collection of str
        What the installed ONNX Runtime was built with.

    Returns
    -------
    providers : tuple of str
        ONNX Runtime's names, best first.
    may_fall_back : bool
        Whether the CPU may stand in: only where nothing was asked for.

    Raises
    ------
    ProviderError
        If a provider asked for is not in this build, or its driver or device is missing.
    """
    if asked is None:
        return ((CUDA, CPU) if CUDA in available and has_cuda_device() else (CPU,)), True
    if isinstance(asked, str) or not asked:
        raise ProviderError(f"providers is {asked!r}; expected a list such as ['cuda']")
    names = tuple(_SHORT_NAMES.get(name.lower(), name) for name in asked)
    for name in names:
        if name not in available:
            raise ProviderError(
                f"the provider {name} is not in the installed ONNX Runtime, which has "
                f"{', '.join(available)}; install a build that has it, or ask for another"
            )
        if name == CUDA and not has_cuda_device():
            raise ProviderError(
                "the provider CUDAExecutionProvider was asked for, but there is no NVIDIA driver "
                "with a device here; install the driver, or ask for 'cpu'"
            )
    return names, False


def check_used(asked: Sequence[str], used: Sequence[str]) -> None:
    """Compare the providers that a session was opened with to those it really uses.

    Raises
    ------
    ProviderError
        If one that was asked for is missing.
    """
    for name in asked:
        if name not in used:
            raise ProviderError(
                f"the provider {name} was asked for, but ONNX Runtime uses {', '.join(used)}: "
                "its libraries could not be loaded; for CUDA install stembridge[cuda], "
                "or ask for 'cpu'"
            )


def has_cuda_device() -> bool:
    """Ask the NVIDIA driver, where there is one, whether it has a device.

    ONNX Runtime is not asked, because it complains on stderr before it answers.
    """
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    return (
        driver.cuInit(0) == 0
        and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
        and count.value > 0
    )
