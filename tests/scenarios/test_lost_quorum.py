"""Two of three volumes are lost for good: the third one becomes the first of a new group."""

import asyncio
import shutil
import subprocess
import sys
import uuid
from pathlib import Path

import grpc
import pytest
from partition_client.errors import detail_of
from partition_common.loss_token import loss_token
from partition_proto.v1 import replica_admin_pb2 as admin
from partition_proto.v1 import types_pb2 as types
from partition_replica.assembly import EXIT_RECOVERING
from partition_replica.offline.volume import recovery

from tests.support.local_group import (
    LocalGroup,
    LocalReplica,
    assert_equal,
    eventually,
)
from tests.support.writing import Writers, keys


def command(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "partition_replica", "recover-quorum", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def written(group: LocalGroup) -> dict[bytes, bytes]:
    """Writes, ends all replicas at once, and returns what was acknowledged."""
    await group.bootstrap()
    async with group.client() as client:
        writers = Writers(client, 4)
        await writers.past(100)
        await writers.stop()
    await group.settled()
    for replica in group.replicas:
        replica.kill()
    return writers.acknowledged


async def rebuild(group: LocalGroup, cluster: str, lost: list[LocalReplica]) -> None:
    """Adds new volumes in the place of lost ones."""
    group.cluster = cluster
    for replica in lost:
        await group.start(replica)
        await group.add(replica)


async def test_a_group_is_recovered_from_one_volume(group: LocalGroup, tmp_path: Path) -> None:
    async with group:
        acknowledged = await written(group)
        survivor, *lost = group.replicas
        kept = [replica.data.rename(tmp_path / f"old-{replica.name}") for replica in lost]
        data = ("--data", str(survivor.data))
        refused = command(*data)
        assert refused.returncode == 1
        assert "are lost" in refused.stdout
        token = recovery.survey(survivor.data).token
        assert f"--accept-loss {token}" in refused.stderr
        wrong = command(*data, "--accept-loss", "0" * 16)
        assert (wrong.returncode, wrong.stdout) == (1, "")
        assert "does not accept the loss" in wrong.stderr
        cluster = str(uuid.uuid4())
        done = command(*data, "--accept-loss", token, "--cluster-id", cluster)
        assert done.returncode == 0, done.stderr
        await group.start(survivor)
        await rebuild(group, cluster, lost)
        async with group.client() as client:
            assert await keys(client) == acknowledged
            await client.set_key(b"after", b"1")
        await assert_equal(group)
        status = await group.status(survivor)
        assert status is not None
        assert (status.cluster_id, status.history_id) == (cluster, cluster)
        await assert_kept_out(group, lost[1], kept[1])


async def assert_kept_out(group: LocalGroup, replica: LocalReplica, old: Path) -> None:
    """The lost volume comes back in the place of its successor, with its former address."""
    replica.kill()
    new = replica.data.rename(replica.data.with_name("new"))
    shutil.copytree(old, replica.data)
    replica.start()
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await eventually(lambda: group.status(replica), "the old member answers")
        await group.admin(replica).Join(
            admin.JoinRequest(lease=group.lease, cluster_id=group.cluster)
        )
    detail = detail_of(refused.value)
    assert detail is not None
    assert detail.reason == types.REASON_WRONG_CLUSTER

    async def told() -> bool:
        return "this volume belongs to cluster" in replica.log.read_text()

    await eventually(told, "the others refuse it in clear text")
    before = await group.status(replica)
    assert before is not None
    assert before.role in ("follower", "precandidate", "candidate")
    async with group.client() as client:
        await client.set_key(b"after", b"2")  # the others are a quorum
    after = await group.status(replica)
    assert after is not None
    assert (after.applied, after.last_index) == (before.applied, before.last_index)
    replica.kill()
    shutil.rmtree(replica.data)
    new.rename(replica.data)
    await group.start(replica)
    await assert_equal(group)


async def test_a_running_survivor_takes_the_order(group: LocalGroup) -> None:
    """It refuses while it has a leader, and for a token of another state."""
    async with group:
        await group.bootstrap()
        async with group.client() as client:
            await client.set_key(b"k", b"v")
        survivor = group.replicas[0]
        cluster, status = str(uuid.uuid4()), await group.status(survivor)
        assert status is not None
        order = admin.RecoverQuorumRequest(
            lease=group.lease, member_id=status.member_id, cluster_id=cluster
        )
        assert "the quorum is not lost" in await refusal(group, survivor, order)
        lost = group.replicas[1:]
        for replica in lost:
            replica.kill()
            shutil.rmtree(replica.data)

        async def leaderless() -> bool:
            return "does not accept the loss" in await refusal(group, survivor, order)

        await eventually(leaderless, "it has no leader any more")
        other = admin.RecoverQuorumRequest()
        other.CopyFrom(order)
        other.member_id += 1
        assert "another volume has its address" in await refusal(group, survivor, other)
        order.accept_loss = await token(group, survivor)
        answer = await group.admin(survivor).RecoverQuorum(order, timeout=10)
        assert not answer.recovered
        assert await asyncio.to_thread(survivor.wait_exit) == EXIT_RECOVERING
        assert survivor.log.read_text().splitlines()[-1].startswith("RECOVERING: ")
        await group.start(survivor)
        assert (await group.admin(survivor).RecoverQuorum(order, timeout=10)).recovered
        await rebuild(group, cluster, lost)
        async with group.client() as client:
            assert await client.get_key(b"k") == b"v"
        await assert_equal(group)


async def refusal(
    group: LocalGroup, replica: LocalReplica, order: admin.RecoverQuorumRequest
) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await group.admin(replica).RecoverQuorum(order, timeout=10)
    detail = detail_of(refused.value)
    assert detail is not None
    assert detail.reason == types.REASON_RECOVERY_REFUSED
    return detail.message


async def token(group: LocalGroup, replica: LocalReplica) -> str:
    found = await group.status(replica)
    assert found is not None
    return loss_token(
        found.cluster_id, found.member_id, found.term, found.last_term, found.last_index
    )
