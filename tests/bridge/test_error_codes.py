"""Errors travel as a code and a message and arrive as what they were."""

import pytest

from bridge import errors


@pytest.mark.parametrize("kind", errors.StembridgeError.__subclasses__())
def test_an_error_survives_the_wire(kind):
    rebuilt = errors.from_code(kind.code, "what to do")
    assert type(rebuilt) is kind
    assert str(rebuilt) == "what to do"


def test_codes_are_unique():
    kinds = errors.StembridgeError.__subclasses__()
    assert len({kind.code for kind in kinds} | {errors.StembridgeError.code}) == len(kinds) + 1


def test_a_code_from_the_future_is_kept_in_the_message():
    rebuilt = errors.from_code("quota", "ask for less")
    assert type(rebuilt) is errors.StembridgeError
    assert str(rebuilt) == "quota: ask for less"
