"""A replica's process ends at each named place, as by a power cut of the process; it starts again,
nothing acknowledged is lost, and the replicas are equal."""

import os

import pytest
from partition_client import ClientError, DeadlineExceeded, OutcomeUnknown, PayloadSource
from partition_replica.storage.failpoints import ENVIRONMENT, EXIT_CODE, REGISTERED

from tests.support import log_script
from tests.support.crash_points import (
    WHILE_A_JOB_RUNS,
    WHILE_BACKFILLING,
    WHILE_CATCHING_UP,
    WHILE_DELETING,
    WHILE_RECOVERING,
    WHILE_RESTORING,
    WHILE_TAKING,
)
from tests.support.local_group import LocalGroup, LocalReplica, assert_equal, eventually
from tests.support.seed_logs import WHILE_IMPORTING, WHILE_WRITING_A_BASE, verify

WHILE_WRITING = {
    "log.commit.before": 20,
    "log.commit.after": 20,
    "log.journal.before": 20,
    "log.journal.after": 20,
    "log.checkpoint.before": 10,
    "log.checkpoint.after": 10,
    "state.apply.before": 20,
    "state.apply.after": 20,
    "blob.adopted": 2,
}
WHILE_COMPACTING = {
    "log.compact.before": 2,
    "log.compact.after": 2,
    "log.prune.before": 2,
    "log.prune.after": 2,
}
SHORT_LOG = ("--limit", "log_trail_entries=5", "--limit", "log_compaction_step_entries=5")
ALONE = {
    # (the time at which it ends, whether the write under way is there afterwards). Past what a
    # start writes: its own empty entry, the session. None: the write was answered, or not begun.
    "propose.before": (8, False),
    "log.commit.before": (8, False),
    "log.journal.before": (8, False),
    "log.journal.after": (8, True),
    "log.checkpoint.before": (3, False),
    "log.checkpoint.after": (3, True),
    "hard_state.before": (1, None),
    "state.apply.before": (8, None),
    "advance.before": (8, True),
}
JOURNAL_OF_THREE = ("--limit", "log_journal_entries_max=3")
"""Each fourth entry is written to the tables, which take over the others."""
WHILE_JOINING = ("transfer.staged", "transfer.installed", "transfer.switched")
WHILE_BOOTSTRAPPING = ("bootstrap.state_started",)


def test_every_failpoint_is_tried() -> None:
    tried = {*WHILE_WRITING, *WHILE_COMPACTING, *ALONE, *WHILE_JOINING, *WHILE_BOOTSTRAPPING}
    tried |= {*WHILE_CATCHING_UP, *log_script.FAILPOINTS}
    tried |= {*WHILE_IMPORTING, *WHILE_WRITING_A_BASE}
    tried |= {failpoint.partition(":")[0] for failpoint in WHILE_BACKFILLING}
    tried |= {
        *WHILE_RECOVERING,
        *WHILE_RESTORING,
        *WHILE_TAKING,
        *WHILE_A_JOB_RUNS,
        *WHILE_DELETING,
    }
    assert tried == REGISTERED


@pytest.mark.parametrize("role", ["leader", "follower"])
@pytest.mark.parametrize("failpoint", [*WHILE_WRITING, *WHILE_COMPACTING])
async def test_while_writing(group: LocalGroup, failpoint: str, role: str) -> None:
    count = (WHILE_WRITING | WHILE_COMPACTING)[failpoint]
    for replica in group.replicas:
        replica.arguments += SHORT_LOG
    async with group:
        await group.bootstrap()
        leader = await group.leader()
        victim = leader if role == "leader" else next(r for r in group.replicas if r is not leader)
        if role == "leader":
            await group.admin(leader).TransferLeadership(group.transfer())
        victim.kill()
        armed = f"{failpoint}:{count}"
        await group.start(victim, **{ENVIRONMENT: armed})
        if role == "leader":
            await group.lead(victim)
        acknowledged: dict[bytes, bytes] = {}
        async with group.client() as client:
            for number in range(4000):
                if not victim.running:
                    break
                key, value = b"k%04d" % number, os.urandom(16)
                await client.set_key(key, value)
                acknowledged[key] = value
                await client.put_file(
                    b"large%d" % number, PayloadSource.of_bytes(os.urandom(70_000))
                )
            assert victim.wait_exit() == EXIT_CODE
            await client.set_key(b"while-down", b"v")
            await group.start(victim)
            await client.set_key(b"after", b"v")
            await group.settled()
            found = {k: v async for k, v in client.list_keys(b"k", b"l")}
            # A write whose answer never came may be there, too.
            assert {k: found.get(k) for k in acknowledged} == acknowledged
        await assert_equal(group)
        await assert_nothing_left_over(group)


@pytest.mark.parametrize("failpoint", ALONE)
async def test_one_replica_alone(group: LocalGroup, failpoint: str) -> None:
    """Write A, end in the middle of B, reopen, write C: the log is whole, the state is the log's, A
    and C are there, and B exactly where its entry was durable."""
    async with group:
        only = group.replicas[0]
        only.arguments += JOURNAL_OF_THREE
        group.replicas = [only]
        await group.bootstrap()
        async with group.client() as client:
            await client.set_key(b"a", b"v")
        only.kill()
        hit, survived = ALONE[failpoint]
        await group.start(only, **{ENVIRONMENT: f"{failpoint}:{hit}"})
        acknowledged: list[bytes] = []
        cut_off = b""
        async with group.client(deadline_s=3.0) as client:
            for number in range(500):
                cut_off = b"b%04d" % number
                try:
                    await client.set_key(cut_off, b"v")
                except ClientError as error:
                    # The truth: it may be there. A refusal would say that it is not.
                    assert isinstance(error, OutcomeUnknown | DeadlineExceeded), error
                    break
                acknowledged.append(cut_off)
        assert only.wait_exit() == EXIT_CODE
        await group.start(only)
        async with group.client() as client:
            await client.set_key(b"c", b"v")
            found = [key async for key, _ in client.list_keys()]
            entries = [entry async for entry in client.tail()]
        assert found[0] == b"a"
        assert found[-1] == b"c"
        assert set(acknowledged) <= set(found)
        if survived is not None:
            assert (cut_off in found) == survived
        assert [e.lsn for e in entries] == list(range(entries[0].lsn, entries[-1].lsn + 1))
        set_keys = [
            operation.set_key.key
            for entry in entries
            for operation in entry.body.proposal.operations
        ]
        assert sorted(set_keys) == found
        only.kill()
        report = verify(only.data, group.root / "scratch")
        assert (report.findings, report.unchecked) == ([], [])


@pytest.mark.parametrize("failpoint", WHILE_JOINING)
async def test_while_a_snapshot_is_installed(group: LocalGroup, failpoint: str) -> None:
    async with group:
        group.replicas, newcomer = group.replicas[:2], group.replicas[2]
        await group.bootstrap()
        async with group.client() as client:
            for number in range(5):
                await client.put_file(b"f%d" % number, PayloadSource.of_bytes(os.urandom(80_000)))
                await client.set_key(b"k%d" % number, b"v")
        group.replicas.append(newcomer)
        await group.start(newcomer, **{ENVIRONMENT: failpoint})
        adding = await group.begin_adding(newcomer)
        assert newcomer.wait_exit() == EXIT_CODE
        await group.start(newcomer)
        await group.finish_adding(adding)
        await assert_equal(group)
        await assert_nothing_left_over(group)


@pytest.mark.parametrize("failpoint", WHILE_BOOTSTRAPPING)
async def test_while_bootstrapping(group: LocalGroup, failpoint: str) -> None:
    async with group:
        first = group.replicas[0]
        await group.start(first, **{ENVIRONMENT: failpoint})
        with pytest.raises(Exception, match=r"UNAVAILABLE|CANCELLED"):
            await group.admin(first).Bootstrap(group.bootstrap_request())
        assert first.wait_exit() == EXIT_CODE
        await group.start(first)
        status = await group.status(first)
        assert status is not None
        assert status.role == "unbootstrapped"
        await group.bootstrap_started()
        async with group.client() as client:
            await client.set_key(b"k", b"v")
        await assert_equal(group)


async def assert_nothing_left_over(group: LocalGroup) -> None:
    """A replica that runs on lets go of content whose sender died. A start collects: nothing is
    staged, and there is one generation of the state."""

    async def nothing_staged() -> bool:
        return not any(staged_blobs(replica) for replica in group.replicas)

    await eventually(nothing_staged, "content whose sender died is let go")
    for replica in group.replicas:
        replica.kill()
        (replica.data / "staging" / "blob-left").write_bytes(b"of a process that was killed")
        await group.start(replica)
        assert staged_blobs(replica) == []
        assert len(list((replica.data / "state").iterdir())) == 1


def staged_blobs(replica: LocalReplica) -> list[str]:
    staged = [path.name for path in (replica.data / "staging").iterdir()]
    return [name for name in staged if name.startswith("blob-")]
