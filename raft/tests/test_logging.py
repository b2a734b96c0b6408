"""What the engine logs reaches Python's logger, at levels that mean the same."""

import logging

import partition_raft as raft
import pytest

from raft.tests.group import Group


def test_the_engines_words_have_pythons_levels(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        group = Group()
        group.elect(1)
    found = {record.levelno for record in caplog.records}
    assert found <= {logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL}
    leading = [r for r in caplog.records if "became leader" in r.getMessage()]
    assert leading
    assert {record.levelno for record in leading} == {logging.INFO}


def test_what_is_fatal_to_the_engine_ends_the_node_with_its_words() -> None:
    group = Group(1)
    node = group.elect(1).node
    with pytest.raises(raft.FatalEngineError, match="(?s)panicked"):
        node.advance_apply_to(999)
    with pytest.raises(raft.FatalEngineError, match="stopped before"):
        node.tick()
