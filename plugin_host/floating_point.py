"""Plug-ins change how the processor rounds; this keeps the change inside them.

Many set the processor to flush the smallest numbers to zero when they are loaded or run, and leave
it so. For everything else on that thread, the engine included, arithmetic would then depend on
which plug-ins were loaded before.
"""

import contextlib
import ctypes
import sys
from collections.abc import Iterator

# Larger than fenv_t is on any platform.
_STATE_BYTES = 512


@contextlib.contextmanager
def kept_rounding() -> Iterator[None]:
    """Restore this thread's floating-point state after the block (C99 ``fesetenv``)."""
    if sys.platform == "win32":
        yield
        return
    library = ctypes.CDLL(None)
    try:
        get_state, set_state = library.fegetenv, library.fesetenv
    except AttributeError:
        library = ctypes.CDLL("libm.so.6")
        get_state, set_state = library.fegetenv, library.fesetenv
    state = ctypes.create_string_buffer(_STATE_BYTES)
    get_state(state)
    try:
        yield
    finally:
        set_state(state)
