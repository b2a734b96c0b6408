"""A standalone log's way from proposal to commit: engine, writer, who waits."""

import asyncio

import partition_raft as raft
import pytest
from partition_replica.core.limits import Limits
from partition_replica.core.model import Applied, LogBatch, LogEntry
from partition_replica.core.payloads import blob_digests
from partition_replica.engine.standalone import StandaloneEngine
from partition_replica.errors import NotLeader
from partition_replica.ids import LSN, ClusterID, Digest, MemberID, Term
from partition_replica.runtime.consensus.log_writer import LogWriter
from partition_replica.runtime.consensus.proposals import AwaitedProposal, Proposals
from partition_replica.runtime.metrics import Metrics
from partition_replica.storage.memory_log import MemoryLog

from tests.support.proposals import pending as pending_proposal


class HeldWriter(LogWriter):
    """Takes what is queued when it is told to."""

    def start(self) -> None: ...

    def work(self) -> None:
        self._step()


async def test_what_is_committed_together_is_handed_on_once() -> None:
    log = MemoryLog(MemberID(7), blob_digests)
    log.bootstrap_standalone(ClusterID("c"))
    engine = StandaloneEngine(MemberID(7), log, LSN(0), uncommitted_bytes_max=1000)
    numbers: list[int] = []

    def persisted(number: int, released: list[Digest]) -> None:
        numbers.append(number)

    writer = HeldWriter(
        log,  # type: ignore[arg-type]
        asyncio.get_running_loop(),
        Metrics(),
        persisted=persisted,
        failed=lambda error: pytest.fail(str(error)),
    )
    committed: list[LogEntry] = []
    for turn in range(5):
        for number in range(3):
            engine.propose([b"%d %d" % (turn, number), b"x" * 100])
            work = engine.take_ready()
            assert work is not None
            assert not work.committed
            writer.write(work.number, LogBatch(entries=work.entries))
        writer.work()
        await asyncio.sleep(0)
        engine.persisted(numbers[-1])
        found = engine.take_ready()
        assert found is not None
        committed += found.committed
    assert len(numbers) == 5
    assert committed == log.read(LSN(1), LSN(31), None)
    # Nothing of it counts any more, and nothing counts for less.
    engine.propose([b"x" * 900])
    with pytest.raises(raft.ProposalDropped):
        engine.propose([b"x" * 200])


def waiting(term: int, *, wait_applied: bool) -> tuple[Proposals, AwaitedProposal]:
    """A proposal at LSN 5 of a term; 0: of a standalone log."""
    proposals = Proposals(Limits(), leader=lambda: (2, "two:1"))
    pending = pending_proposal(wait_applied=wait_applied)
    proposals.proposed(LSN(5), Term(term), [pending])
    return proposals, pending


@pytest.mark.parametrize("wait_applied", [False, True])
async def test_a_backfill_gives_an_entry_a_term_while_somebody_waits(wait_applied: bool) -> None:
    """It is read from the log with that term where the applier's queue was full."""
    proposals, pending = waiting(0, wait_applied=wait_applied)
    proposals.committed(LogEntry(LSN(5), Term(3), 0, b""))
    proposals.applied(Applied(LSN(5), Term(3), "proposal"))
    assert (await pending.future).index == 5


@pytest.mark.parametrize("wait_applied", [False, True])
async def test_another_leaders_entry_is_not_ours(wait_applied: bool) -> None:
    proposals, pending = waiting(2, wait_applied=wait_applied)
    if wait_applied:
        proposals.applied(Applied(LSN(5), Term(3), "proposal"))
    else:
        proposals.committed(LogEntry(LSN(5), Term(3), 0, b""))
    with pytest.raises(NotLeader):
        await pending.future
