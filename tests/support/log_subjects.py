"""The fixture by which a test of the log runs on memory and on LMDB."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from partition_replica.core.model import (
    Position,
)
from partition_replica.ids import LSN, Term

from tests.support.logs import SMALL_JOURNAL, Subject

KINDS = ("memory", "lmdb", "journal")


@pytest.fixture(params=KINDS)
def subject(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Subject]:
    found = Subject(
        None if request.param == "memory" else tmp_path / "log",
        journal=SMALL_JOURNAL if request.param == "journal" else None,
    )
    yield found
    found.log.close()


def position(index: int, term: int) -> Position:
    return Position(LSN(index), Term(term))
