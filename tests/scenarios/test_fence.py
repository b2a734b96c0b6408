"""A fenced replica answers nobody, keeps its process, and lets its volume be inspected."""

import asyncio
import os
import sys
from pathlib import Path

import grpc
import pytest
from partition_client import ClientError
from partition_client.sources import INLINE_BYTES_MAX, PayloadSource
from partition_common import error_details
from partition_proto.v1 import log_store_pb2 as api
from partition_proto.v1 import replica_admin_pb2 as admin
from partition_proto.v1 import types_pb2 as types

from tests.support import certificates
from tests.support.local_group import (
    PARTITION,
    LocalGroup,
    LocalReplica,
    assert_equal,
    eventually,
)

LARGE_BYTES = 2 * INLINE_BYTES_MAX
"""Of a file that is uploaded before the append that names it."""


@pytest.fixture
def group(tmp_path: Path) -> LocalGroup:
    return LocalGroup(tmp_path)


async def set_fenced(
    group: LocalGroup, replica: LocalReplica, *, fenced: bool, transitions: int = 1
) -> None:
    lease = admin.FencingToken(transitions=transitions, holder="tests")
    request = admin.SetFencedRequest(lease=lease, fenced=fenced)
    await group.admin(replica).SetFenced(request, timeout=20)


async def verify_beside(replica: LocalReplica) -> None:
    """Runs the command that docs/operations/control.md tells, for a pod with no place outside its
    volume to write to."""
    command = ["verify", "--data", str(replica.data), "--scratch", str(replica.data.parent)]
    done = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "partition_replica", *command, stderr=asyncio.subprocess.PIPE
    )
    _, said = await done.communicate()
    assert done.returncode == 0, said.decode()


async def has_role(group: LocalGroup, replica: LocalReplica, *roles: str) -> None:
    async def seen() -> bool:
        status = await group.status(replica)
        return status is not None and status.role in roles

    await eventually(seen, f"{replica.name} is {roles}")


@pytest.mark.parametrize("who", ["leader", "follower"])
async def test_it_answers_nobody_and_comes_back_with_what_it_missed(
    group: LocalGroup, who: str
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
            async with group.client(deadline_s=2.0) as impatient:
                with pytest.raises(ClientError):
                    async for _ in impatient.list_keys(stale_from=chosen.address):
                        pass
            # Nobody has the volume open.
            await verify_beside(chosen)
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


@pytest.mark.parametrize("secured", [False, True], ids=["plain", "tls"])
async def test_one_process_serves_as_before_once_its_fence_ends(
    tmp_path: Path, secured: bool
) -> None:
    """Twice in the same process, as leader: writes, files and tails before, meanwhile and after."""
    tls, folders = certificates.make(tmp_path / "pki", PARTITION, 3) if secured else (None, None)
    group = LocalGroup(tmp_path, tls=tls, tls_directories=folders)
    async with group, group.client(deadline_s=30.0) as client:
        await group.bootstrap()
        chosen = await group.leader()
        pid = chosen.process.pid if chosen.process else 0
        files: dict[bytes, bytes] = {}

        async def write(name: str) -> int:
            path, content = name.encode(), os.urandom(LARGE_BYTES)
            files[path] = content
            await client.put_file(path, PayloadSource.of_bytes(content))
            return (await client.set_key(path, name.encode())).lsn

        await write("before")
        for turn in ("first", "second"):
            await group.lead(chosen)
            follows = asyncio.create_task(tail(group, chosen))
            await set_fenced(group, chosen, fenced=True)
            await has_role(group, chosen, "fenced")
            assert await follows, "a stream that was open ends"
            assert await refusals(group, chosen) == [types.REASON_STOPPING] * 3
            assert chosen.metric("logstore_fenced") == 1
            assert chosen.metric("logstore_leading") == chosen.metric("logstore_serving") == 0
            gauges = chosen.http("/metrics")[1]
            assert "logstore_committed_lsn" not in gauges, "it would keep its last value"
            assert ("logstore_certificate_expiry_timestamp_seconds" in gauges) is secured
            await write(f"while fenced the {turn} time")
            await set_fenced(group, chosen, fenced=False)
            await has_role(group, chosen, "follower", "leader")
            await group.lead(chosen)
            last = await write(f"after the {turn} time")
            assert await asyncio.wait_for(tails_to(group, chosen, last), 30)
            await group.settled()
            for path, content in files.items():
                read = bytearray()
                await client.read_file(path, read.extend)
                assert bytes(read) == content
        assert chosen.running
        assert chosen.process is not None
        assert chosen.process.pid == pid
        assert chosen.metric("logstore_fenced") == 0

        async def measured() -> bool:
            return chosen.metric("logstore_serving") == 1

        await eventually(measured, "its gauges are set again")
        await assert_equal(group)


async def refusals(group: LocalGroup, replica: LocalReplica) -> list[int]:
    """The reasons with which a call of each kind is refused: unary, and streams of both ways."""
    stub = group.stub(replica)
    streamed = stub.Read(api.ReadRequest())
    both = stub.AppendFrames(iter([api.AppendFrame()]))
    found = []
    for call in (stub.GetKey(api.GetKeyRequest(key=b"k"), timeout=5), streamed.read(), both.read()):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
        detail = error_details.find(refused.value.trailing_metadata())
        assert detail is not None, refused.value
        found.append(detail.reason)
    return found


async def tails_to(group: LocalGroup, replica: LocalReplica, lsn: int) -> bool:
    """Whether a stream of a replica's entries comes to this LSN."""
    async for answer in group.stub(replica).Read(api.ReadRequest(follow=True)):
        if answer.lsn >= lsn:
            return True
    return False


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
