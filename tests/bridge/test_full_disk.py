"""A disk without room, in earnest: a file system of a few megabytes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from bridge.errors import ServerError
from tests.support.sidecars import RATE, Sidecar, noise, sidecar, wait_until

SIZE_BYTES = 16 << 20


@pytest.fixture
def server() -> Iterator[Sidecar]:
    """A server whose store is on a small disk of its own."""
    if sys.platform != "linux":
        pytest.skip("only Linux makes a file system in memory")
    with sidecar(start=False) as small:
        small.cache.mkdir()
        options = f"size={SIZE_BYTES},mode=0700"
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "stembridge", str(small.cache)],
            capture_output=True,
            text=True,
            check=False,
        )
        if mounted.returncode:
            pytest.skip(f"mounting a file system takes more rights: {mounted.stderr.strip()}")
        try:
            small.start()
            yield small
            small.stop()
        finally:
            subprocess.run(["umount", "--lazy", str(small.cache)], check=True)


# A minute fits as a mixture of 7.7 MB, but not its stems as well; three minutes fit not at all.
@pytest.mark.slow
@pytest.mark.parametrize("seconds", [60, 180])
def test_a_full_disk_is_told_and_the_server_lives(server: Sidecar, seconds: int) -> None:
    with server.client() as client:
        client.separate(noise(1, seed=1), RATE, ["half"])
        with pytest.raises(ServerError, match=r"disk is full.*No space left"):
            client.separate(noise(seconds, seed=2), RATE, ["half"])
        wait_until(lambda: not list((server.cache / "incoming").iterdir()))
        client.separate(noise(1, seed=3), RATE, ["half"])
        assert client.submit(noise(1, seed=1), RATE, ["half"]).result()
        # Room is made, and what failed is done.
        for path in (server.cache / "objects").glob("*/*"):
            path.unlink()
        client.separate(noise(10, seed=4), RATE, ["half"])
    wait_until(lambda: server.status().sessions == 0)
