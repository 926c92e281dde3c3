"""What ruff has no rule for."""

import ast
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def blocks(tree):
    """Every list of statements in a module."""
    for node in ast.walk(tree):
        for name in ("body", "orelse", "finalbody"):
            block = getattr(node, name, None)
            if isinstance(block, list):
                yield block


@pytest.mark.parametrize("package", ["bridge", "presets", "onnx_export", "plugin_host"])
def test_an_error_has_its_message_in_the_call(package):
    for path in sorted((ROOT / package).rglob("*.py")):
        for block in blocks(ast.parse(path.read_text("utf-8"))):
            for named, raised in pairwise(block):
                if isinstance(named, ast.Assign) and isinstance(raised, ast.Raise):
                    names = {ast.unparse(target) for target in named.targets}
                    given = getattr(raised.exc, "args", [])
                    same = names & {ast.unparse(argument) for argument in given}
                    assert not same, f"{path}:{named.lineno}: give the message to the call"
