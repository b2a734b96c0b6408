"""What callers of one replica are told, whatever happens to it: a whole replica in one process."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from partition_proto.v1 import replica_admin_pb2 as admin
from partition_proto.v1 import replica_admin_pb2_grpc
from partition_replica.core.model import LogBatch
from partition_replica.errors import (
    DiskFull,
    InvalidArgument,
    MembershipRefused,
    NoLeader,
    NotBootstrapped,
    Stopping,
    StorageFailed,
    WrongCluster,
)
from partition_replica.ids import LSN
from partition_replica.runtime import disk
from partition_replica.runtime.quorum_recovery import QuorumRecoveries
from partition_replica.transport.admin_service import ReplicaAdminService
from partition_replica.transport.failures import Failures

from tests.support.local_group import eventually
from tests.support.one_replica import CLUSTER, OneReplica, serving
from tests.support.proposals import delete_key, mkdir, remove, set_key

# --- proposals --------------------------------------------------------------------------------


async def test_appends_have_rising_lsns_and_their_own_content(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as one:
        found = [await one.set(b"k%d" % number) for number in range(3)]
        lsns = [int(applied.index) for applied in found]
        assert lsns == sorted(set(lsns))
        assert lsns[0] > 0
        assert one.keys() == [b"k0", b"k1", b"k2"]
        assert one.replica.status().last_index == lsns[-1]


async def test_twenty_concurrent_appends_have_their_own_lsns(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as one:
        proposals = [one.proposal(set_key(b"k%02d" % n, b"%d" % n)) for n in range(20)]
        answers = await asyncio.gather(
            *(
                one.replica.applications.append(found, retry=False, wait_applied=True)
                for found in proposals
            )
        )
        lsns = [int(applied.index) for applied in answers]
        assert len(set(lsns)) == 20
        for found, lsn in zip(proposals, lsns, strict=True):
            (entry,) = one.volume.log.read(LSN(lsn), LSN(lsn + 1), None)
            assert found.SerializeToString() in entry.data


async def test_a_caller_that_goes_away_leaves_nothing_waiting(tmp_path: Path) -> None:
    """By its own time-out, or because it is cancelled; its entry may be there, and a retry of its
    sequence is told where."""
    async with serving(tmp_path / "data") as one:
        member = one.replica.current.running()
        first, second = one.proposal(set_key(b"a", b"1")), one.proposal(set_key(b"b", b"1"))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1e-9):
                await one.replica.applications.append(first, retry=False, wait_applied=True)
        task = asyncio.create_task(
            one.replica.applications.append(second, retry=False, wait_applied=True)
        )
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        async def idle() -> bool:
            return not member.proposals.queued and not member.proposals.waiting

        await eventually(idle, "nothing waits")
        for found in (first, second):
            again = await one.replica.applications.append(found, retry=True, wait_applied=True)
            assert again.index <= one.volume.log.last.index
        assert one.keys() == [b"a", b"b"]


# --- crash points: what the caller hears, what is left ------------------------------------------


def fails(*_: Any, **__: Any) -> Any:
    raise StorageFailed("the test's failure")


def at_propose(one: OneReplica, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(one.replica.current.running().loop._engine, "propose", fails)


def at_insert(one: OneReplica, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(one.volume.log, "commit", fails)


def behind_insert(one: OneReplica, patch: pytest.MonkeyPatch) -> None:
    commit = one.volume.log.commit

    def durable(batch: LogBatch) -> Any:
        commit(batch)
        fails()

    patch.setattr(one.volume.log, "commit", durable)


def at_hard_state(one: OneReplica, patch: pytest.MonkeyPatch) -> None:
    """The one that says that the entry is committed, which comes alone."""
    commit = one.volume.log.commit
    patch.setattr(
        one.volume.log, "commit", lambda batch: commit(batch) if batch.entries else fails()
    )


def at_apply(one: OneReplica, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(one.volume.state, "apply", fails)


def at_advance(one: OneReplica, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(one.replica.current.running().loop._engine, "applied_to", fails)


@pytest.mark.parametrize(
    ("arm", "answered", "survives"),
    [
        (at_propose, False, False),
        (at_insert, False, False),
        (behind_insert, False, True),
        (at_hard_state, True, True),
        (at_apply, True, True),
        (at_advance, True, True),
    ],
)
async def test_a_caller_is_told_of_success_only_for_what_survives(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arm: Callable[[OneReplica, pytest.MonkeyPatch], None],
    answered: bool,
    survives: bool,
) -> None:
    """A is written, B is under way when the process ends, C is written by the next one. Who waits
    for B is told of its commit, or of nothing: the process is gone, and its client can't know."""
    one = OneReplica(tmp_path / "data")
    await one.lead()
    await one.set(b"a")
    with monkeypatch.context() as patch:
        arm(one, patch)
        found = one.proposal(set_key(b"b", b"v"))
        before = one.replica.status().applied
        task = asyncio.create_task(
            one.replica.applications.append(found, retry=False, wait_applied=False)
        )

        async def ended() -> bool:
            return bool(one.failures)

        await eventually(ended, "the process would end")
        done, _ = await asyncio.wait([task], timeout=0)
        assert bool(done) == answered
        if answered:
            assert task.result().index == before + 1
        # As the process that ends leaves it: nobody is told anything more.
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await one.replica.current.running().close()
    one.volume.close()
    async with serving(tmp_path / "data") as again:
        last = await again.set(b"c")
        assert again.keys() == ([b"a", b"b", b"c"] if survives else [b"a", b"c"])
        assert again.lsns() == list(range(2, last.index + 1))


async def test_crashes_in_turn_lose_nothing_that_was_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[bytes] = []
    lsns: list[int] = []
    for number, arm in enumerate((at_insert, at_apply, at_propose, behind_insert)):
        one = OneReplica(tmp_path / "data")
        await one.lead()
        lsns.append(int((await one.set(b"a%d" % number)).index))
        kept.append(b"a%d" % number)
        with monkeypatch.context() as patch:
            arm(one, patch)
            found = one.proposal(set_key(b"b%d" % number, b"v"))
            task = asyncio.create_task(
                one.replica.applications.append(found, retry=False, wait_applied=False)
            )

            async def ended(failures: list[BaseException] = one.failures) -> bool:
                return bool(failures)

            await eventually(ended, "the process would end")
            if task.done():
                kept.append(b"b%d" % number)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await one.replica.current.running().close()
        one.volume.close()
    async with serving(tmp_path / "data") as again:
        await again.set(b"c")
        assert set(kept) <= set(again.keys())
        assert lsns == sorted(set(lsns))


# --- life -------------------------------------------------------------------------------------


async def test_one_that_was_never_started_stops(tmp_path: Path) -> None:
    one = OneReplica(tmp_path / "data")
    with pytest.raises(NotBootstrapped):
        one.replica.current.running()
    status = one.replica.status()
    assert (status.role, status.term, status.leader, status.last_index) == (
        "unbootstrapped",
        0,
        (0, ""),
        0,
    )
    assert not one.replica.ready
    await one.stop()


async def test_it_stops_twice_and_then_refuses(tmp_path: Path) -> None:
    one = OneReplica(tmp_path / "data")
    await one.lead()
    await one.replica.stop()
    await one.replica.stop()
    with pytest.raises(Stopping):
        await one.set(b"k")
    one.volume.close()


async def test_one_without_a_quorum_is_not_ready_and_stops(tmp_path: Path) -> None:
    """It has joined a group that nobody answers for: a start does not wait for a leader."""
    one = OneReplica(tmp_path / "data")
    await one.replica.administration.join(CLUSTER)
    assert not one.replica.ready
    with pytest.raises(NoLeader, match="no leader is known"):
        one.replica.current.leading()
    async with asyncio.timeout(30):
        await one.stop()
    assert one.failures == []


async def test_the_status_is_the_engines(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as one:
        before = one.replica.status()
        assert (before.role, before.leader[1], before.committed) == (
            "leader",
            "here:1",
            one.volume.log.last.index,
        )
        engine = one.replica.current.running().loop.status()
        assert (before.term, before.committed) == (engine.term, engine.commit)
        last = before.last_index
        writes = [asyncio.create_task(one.set(b"k%d" % n)) for n in range(5)]
        while not all(write.done() for write in writes):
            found = one.replica.status()
            assert (found.role, found.term) == ("leader", before.term)
            assert found.last_index >= last
            assert found.applied <= found.last_index
            last = found.last_index
            await asyncio.sleep(0)
        assert one.replica.status().last_index == before.last_index + 5


async def test_everybody_who_waits_hears_of_a_leader(tmp_path: Path) -> None:
    one = OneReplica(tmp_path / "data")
    await one.replica.administration.join(CLUSTER)
    member = one.replica.current.running()
    waiting = [asyncio.create_task(member.leader_changed()) for _ in range(3)]
    await asyncio.sleep(0)
    member._role_changed("follower", 5)  # never blocks, whoever listens
    member._role_changed("follower", 6)
    await asyncio.wait_for(asyncio.gather(*waiting), 10)
    later = asyncio.create_task(member.leader_changed())
    await asyncio.sleep(0)
    assert not later.done()
    asked = member.leader_changed()
    member._role_changed("follower", 7)  # before the task that waits for it has begun
    await asyncio.wait_for(asyncio.gather(later, asked), 10)
    await one.stop()


# --- members, clusters ------------------------------------------------------------------------


async def test_members_are_refused_by_name_or_done_already(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as one:
        operator = one.replica.administration
        for member_id, address, why in (
            (0, "there:1", "the ID of a member, 1 or above"),
            (5, "", "address"),
        ):
            with pytest.raises(InvalidArgument, match=why):
                await operator.add_learner(member_id, address)
        assert await operator.remove_member(5) == 0
        own = one.volume.log.identity.member_id
        with pytest.raises(MembershipRefused, match="does not remove itself"):
            await operator.remove_member(own)
        with pytest.raises(MembershipRefused, match="not a voter"):
            await operator.transfer_leadership(5)
        assert [member.member for member in one.replica.status().members] == [own]


async def test_what_an_operator_leaves_out_is_named(tmp_path: Path) -> None:
    """Over the wire, before anything is done."""
    one = OneReplica(tmp_path / "data")
    service = ReplicaAdminService(
        one.replica.administration,
        one.replica.snapshot_jobs,
        QuorumRecoveries(one.volume, one.replica.current, lambda: None),
        Failures(lambda _: None, lambda _: None),
    )
    server = grpc.aio.server()
    replica_admin_pb2_grpc.add_ReplicaAdminServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
    stub = replica_admin_pb2_grpc.ReplicaAdminStub(channel)
    lease = admin.FencingToken(transitions=1, holder="tests")
    for call, request, code, why in (
        (stub.Join, admin.JoinRequest(), "INVALID_ARGUMENT", "fencing token"),
        (
            stub.Join,
            admin.JoinRequest(lease=lease),
            "INVALID_ARGUMENT",
            "cluster_id '' is not a UUID",
        ),
        (
            stub.Bootstrap,
            admin.BootstrapRequest(lease=lease, cluster_id="x"),
            "INVALID_ARGUMENT",
            "'x' is not",
        ),
        (
            stub.AddLearner,
            admin.AddLearnerRequest(lease=lease, member_id=1, address="there:1"),
            "FAILED_PRECONDITION",
            "belongs to no cluster",
        ),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(request, timeout=30)
        assert refused.value.code().name == code
        assert why in str(refused.value.details())
    await channel.close()
    await server.stop(None)
    assert one.volume.log.identity.cluster_id == ""
    await one.stop()


async def test_of_concurrent_members_with_one_id_one_is_added(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as one:
        operator = one.replica.administration
        found = await asyncio.gather(
            *(operator.add_learner(5, f"there:{n}") for n in range(1, 4)), return_exceptions=True
        )
        added = [lsn for lsn in found if isinstance(lsn, int) and lsn]
        refused = [error for error in found if isinstance(error, BaseException)]
        assert len(added) == 1
        assert all(isinstance(error, MembershipRefused) for error in refused)
        assert len(added) + len(refused) == 3
        rows = {m.member: (m.address, m.voter) for m in one.replica.status().members}
        assert rows[5] == ("there:1", False)
        assert await operator.add_learner(5, "elsewhere:1") == 0
        last = await operator.remove_member(5)
        assert last > added[0]
        assert [m.member for m in one.replica.status().members] == [
            one.volume.log.identity.member_id
        ]


async def test_another_cluster_and_another_member_are_refused(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as one:
        own = one.volume.log.identity.member_id
        one.replica.peer_requests.check_peer(CLUSTER, own)
        for cluster, member in (("another", own), ("", own), (CLUSTER, own + 1)):
            with pytest.raises(WrongCluster):
                one.replica.peer_requests.check_peer(cluster, member)
        with pytest.raises(WrongCluster):
            await one.replica.administration.join("another")
        assert await one.replica.administration.join(CLUSTER) == own
    unbootstrapped = OneReplica(tmp_path / "other")
    with pytest.raises(NotBootstrapped):
        unbootstrapped.replica.peer_requests.check_peer(CLUSTER, 0)
    found = await asyncio.gather(
        *(unbootstrapped.replica.administration.join(f"c{n}") for n in range(5)),
        return_exceptions=True,
    )
    assert sum(isinstance(error, WrongCluster) for error in found) == 4
    await unbootstrapped.stop()


# --- a full volume ------------------------------------------------------------------------------


async def test_a_full_volume_takes_removals_from_anybody_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a client that comes now, too: whoever filled it may be gone."""
    monkeypatch.setattr(disk, "AGE_MAX_S", 0.0)
    async with serving(tmp_path / "data") as one:
        await one.set(b"old")
        await one.append(mkdir(b"directory"))
        free, total = one.volume.space.free_bytes()
        monkeypatch.setattr(one.volume.space, "free_bytes", lambda: (1000, total))

        one.session, _ = await one.replica.applications.open_session(0)
        one._sequence = 0
        for refused in (
            [set_key(b"new", b"v")],
            [mkdir(b"another")],
            [delete_key(b"old"), set_key(b"new", b"v")],
        ):
            with pytest.raises(DiskFull, match="1000 bytes free"):
                await one.append(*refused)
        with pytest.raises(DiskFull):
            await one.replica.applications.upload(b"d" * 32, 100_000, no_chunks())
        assert one.keys() == [b"old"]
        await one.append(delete_key(b"old"), remove(b"directory"))
        assert one.keys() == []
        await one.replica.applications.close_session(one.session)

        monkeypatch.setattr(one.volume.space, "free_bytes", lambda: (free, total))
        await one.serve()
        await one.set(b"new")
        assert one.keys() == [b"new"]


async def no_chunks() -> AsyncIterator[bytes]:
    return
    yield
