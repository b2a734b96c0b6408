"""A fenced replica answers nobody, keeps its process, and lets its volume be inspected."""

import asyncio
from pathlib import Path

import grpc
import pytest
from partition_client import ClientError
from partition_common import error_details
from partition_proto.v1 import log_store_pb2 as api
from partition_proto.v1 import replica_admin_pb2 as admin
from partition_proto.v1 import types_pb2 as types

from tests.support.local_group import LocalGroup, LocalReplica, assert_equal, eventually
from tests.support.seed_logs import verify


@pytest.fixture
def group(tmp_path: Path) -> LocalGroup:
    return LocalGroup(tmp_path)


async def set_fenced(
    group: LocalGroup, replica: LocalReplica, *, fenced: bool, transitions: int = 1
) -> None:
    lease = admin.FencingToken(transitions=transitions, holder="tests")
    request = admin.SetFencedRequest(lease=lease, fenced=fenced)
    await group.admin(replica).SetFenced(request, timeout=20)


async def has_role(group: LocalGroup, replica: LocalReplica, *roles: str) -> None:
    async def seen() -> bool:
        status = await group.status(replica)
        return status is not None and status.role in roles

    await eventually(seen, f"{replica.name} is {roles}")


@pytest.mark.parametrize("who", ["leader", "follower"])
async def test_it_answers_nobody_and_comes_back_with_what_it_missed(
    group: LocalGroup, who: str, tmp_path: Path
) -> None:
    async with group:
        await group.bootstrap()
        leader = await group.leader()
        chosen = leader if who == "leader" else next(r for r in group.replicas if r is not leader)
        before = await group.status(chosen)
        assert before is not None
        async with group.client() as client:
            await client.set_key(b"before", b"v")
            follows = asyncio.create_task(tail(group, chosen))
            await set_fenced(group, chosen, fenced=True)
            await has_role(group, chosen, "fenced")
            await set_fenced(group, chosen, fenced=True)
            pid = chosen.process.pid if chosen.process else 0
            status = await group.status(chosen)
            assert status is not None
            assert (status.cluster_id, status.member_id) == (group.cluster, before.member_id)
            assert await follows, "a stream that was open ends"
            assert chosen.http("/livez")[0] == 200
            assert chosen.http("/readyz") == (503, "fenced\n")
            assert chosen.metric("logstore_fenced") == 1
            # The others serve, also a client that knows all.
            await client.set_key(b"meanwhile", b"v")
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await group.stub(chosen).GetKey(api.GetKeyRequest(key=b"before"), timeout=5)
            detail = error_details.find(refused.value.trailing_metadata())
            assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
            assert detail is not None
            assert detail.reason == types.REASON_STOPPING
            with pytest.raises(ClientError):
                async for _ in client.list_keys(stale_from=chosen.address):
                    pass
            # Nobody has the volume open.
            report = verify(chosen.data, tmp_path / "scratch")
            assert report.findings == []
            # A new process stays fenced, too.
            assert chosen.running
            assert chosen.process is not None
            assert chosen.process.pid == pid
            chosen.kill()
            await group.start(chosen)
            await has_role(group, chosen, "fenced")
            await set_fenced(group, chosen, fenced=False)
            await has_role(group, chosen, "follower", "leader")
            assert not (chosen.data / "fence").exists()
            await client.set_key(b"after", b"v")
        await assert_equal(group)


async def tail(group: LocalGroup, replica: LocalReplica) -> bool:
    """Whether a stream of entries ended with an error."""
    try:
        async for _ in group.stub(replica).Read(api.ReadRequest(follow=True)):
            pass
    except grpc.aio.AioRpcError:
        return True
    return False


async def test_a_deposed_operator_neither_fences_nor_ends_a_fence(group: LocalGroup) -> None:
    async with group:
        group.replicas = group.replicas[:1]
        await group.bootstrap()
        (only,) = group.replicas
        await set_fenced(group, only, fenced=True, transitions=5)
        await has_role(group, only, "fenced")
        for fenced in (True, False):
            with pytest.raises(grpc.aio.AioRpcError, match="another operator is the leader"):
                await set_fenced(group, only, fenced=fenced, transitions=4)
        with pytest.raises(grpc.aio.AioRpcError, match="lease is missing"):
            await group.admin(only).SetFenced(admin.SetFencedRequest(), timeout=5)
        await set_fenced(group, only, fenced=False, transitions=5)
        await has_role(group, only, "leader")


async def test_a_volume_that_cannot_be_opened_is_fenced_all_the_same(group: LocalGroup) -> None:
    """A person puts the fence, as into a container that ends again and again."""
    async with group:
        group.replicas = group.replicas[:1]
        await group.bootstrap()
        (only,) = group.replicas
        only.kill()
        (only.data / "log" / "data.mdb").write_bytes(b"no environment" * 1000)
        (only.data / "fence").write_text("by hand")
        await group.start(only)
        await has_role(group, only, "fenced")
        only.kill()
        (only.data / "fence").unlink()
        only.start()
        assert only.wait_exit() != 0
