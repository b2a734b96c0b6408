"""Which places of the operator a test can arm."""

import pytest
from partition_operator.failpoints import parse_armed


def test_several_are_armed() -> None:
    assert parse_armed("") == frozenset()
    assert parse_armed("Join, AddLearner") == {"Join", "AddLearner"}


def test_one_that_is_never_reached_is_refused() -> None:
    """A test that armed it would wait for ever, or prove nothing."""
    with pytest.raises(ValueError, match="unknown failpoint Joined; allowed: Add"):
        parse_armed("Join,Joined")
