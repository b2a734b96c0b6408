"""The leader's part of a snapshot between members: while one is made, however long that takes, the
log behind it stays; and what is cut off lets go of everything."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from partition_replica.core.model import LogBatch, LogEntry
from partition_replica.ids import LSN, Term
from partition_replica.runtime.consensus.log_holds import LogHolds
from partition_replica.runtime.metrics import Metrics
from partition_replica.runtime.transfer import state_sender as snapshots
from partition_replica.runtime.transfer.state_sender import StateSender

from tests.support.captures import LIMITS, HeldUp, Subject, capturing
from tests.support.local_group import eventually
from tests.support.proposals import opening, set_key

HELD = "snapshot"


@dataclass
class Sending:
    subject: Subject
    sender: StateSender
    copy: HeldUp

    @property
    def member(self) -> int:
        """One that the configuration names."""
        return int(self.subject.volume.log.identity.member_id)

    def held(self) -> int | None:
        return self.subject.volume.log.positions.get(HELD)

    def write(self, count: int) -> None:
        """Entries of the log, which the snapshot does not have."""
        log = self.subject.volume.log
        first = log.last.index + 1
        log.commit(
            LogBatch([LogEntry(LSN(n), Term(1), 0, b"") for n in range(first, first + count)], None)
        )


def failed(error: BaseException) -> None:
    raise AssertionError("fatal") from error


@pytest.fixture
async def sending(tmp_path: Path) -> AsyncIterator[Sending]:
    subject = Subject(tmp_path)
    await subject.apply(opening())
    copy = HeldUp()
    sender = StateSender(
        subject.volume.log,
        subject.volume.staging,
        capturing(subject, copy),
        None,  # type: ignore[arg-type]  # nothing is sent
        replace(LIMITS, transfer_hold_s=1000.0),
        Metrics(),
        holds=LogHolds(subject.volume.log),
        failed=failed,
    )
    yield Sending(subject, sender, copy)
    copy.go.set()
    await sender.close()
    await subject.close()


async def test_the_log_stays_while_a_slow_copy_runs(sending: Sending) -> None:
    assert sending.sender.source(0, sending.member) is None
    await asyncio.to_thread(sending.copy.begun.wait)
    begun = sending.subject.volume.state.applied.index
    await sending.subject.apply(sending.subject.propose(set_key(b"k", b"v")))
    for _ in range(3):  # housekeeping, meanwhile
        sending.sender.expire()
        assert sending.held() == begun
    sending.copy.go.set()

    async def made() -> Any:
        return sending.sender.source(0, sending.member)

    header = await eventually(made, "it is made")
    assert header.position.index == begun
    sending.sender.expire()
    assert sending.held() == begun


async def test_what_took_long_is_offered_all_the_same(
    sending: Sending, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Much was written while it was made. Another one would take as long."""
    monkeypatch.setattr(snapshots, "TRAIL_ENTRIES_MAX", 3)
    assert sending.sender.source(0, sending.member) is None
    await asyncio.to_thread(sending.copy.begun.wait)
    sending.write(10)
    sending.copy.go.set()
    preparing = sending.sender._preparing
    assert preparing is not None
    await preparing
    assert sending.sender.source(0, sending.member) is not None
    # Once offered, and not begun, it is as old as it is.
    assert sending.sender.source(0, sending.member) is None
