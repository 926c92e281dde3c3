"""Bundles of formulas for the tests of the engine; see `tiny_bundle`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bridge.engine import Engine
from tests.support import tiny_bundle


@pytest.fixture(scope="session")
def tiny_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that tests only read."""
    return tiny_bundle.build(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def engine(tiny_directory: Path) -> Iterator[Engine]:
    """An engine on the read-only bundle."""
    with Engine(tiny_directory, threads=1) as engine:
        yield engine


@pytest.fixture
def build_bundle(tmp_path: Path) -> Callable[..., Path]:
    """Build a bundle of one's own, with the options of `tiny_bundle.Tiny`."""

    def build(name: str = "own", **options: object) -> Path:
        return tiny_bundle.build(tmp_path / name, tiny_bundle.Tiny(**options))

    return build
