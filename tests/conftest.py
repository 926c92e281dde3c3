"""What every test starts from."""

import functools
import os
import shutil
import signal
import subprocess

import hypothesis
import pytest
from hypothesis import HealthCheck

# The same examples at every run, and no verdict on how fast this machine is. Fixtures that are made
# once for all examples, folders mostly, are meant to be.
hypothesis.settings.register_profile(
    "repeatable",
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
hypothesis.settings.load_profile("repeatable")

# A shell that runs the suite in the background has it ignore Ctrl-C, and every program it starts
# inherits that: those that are interrupted by a test would not notice.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

#: Programs by which a package shows where there is no dpkg; else it is called like its program.
_PROGRAMS = {
    "ardour": "ardour7-lua",
    "dbus": "dbus-run-session",
    "libxml2-utils": "xmllint",
    "pipewire-jack": "pw-jack",
    "xvfb": "Xvfb",
}


@functools.cache
def installed(package: str) -> bool:
    """Whether a Debian package, or the program that it is wanted for, is there."""
    if shutil.which(_PROGRAMS.get(package, package)):
        return True
    if not shutil.which("dpkg-query"):
        return False
    asked = ["dpkg-query", "-W", "-f", "${Status}", package]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    return done.stdout.endswith("ok installed")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test marked ``needs`` where one of its Debian packages is missing; fail in CI."""
    wanted = [name for mark in item.iter_markers("needs") for name in mark.args]
    missing = [name for name in wanted if not installed(name)]
    if missing:
        reason = f"needs {', '.join(missing)}; run tests/install-packages.sh"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
