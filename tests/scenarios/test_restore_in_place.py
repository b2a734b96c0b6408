"""A group is restored in place, at its old address, while an application keeps its client: the
client hears that the history changed, and nobody is taken for somebody else."""

import subprocess
import sys
import uuid
from pathlib import Path

import grpc
import pytest
from partition_client import AsyncClient, OutcomeUnknown
from partition_client.errors import detail_of
from partition_proto.v1 import log_store_pb2 as api
from partition_proto.v1 import types_pb2 as types

from tests.support.local_group import LocalGroup, eventually
from tests.support.proposals import proposal, set_key


def _offline(*words: str) -> None:
    command = [sys.executable, "-m", "partition_replica", "snapshot", *words]
    subprocess.run(command, check=True, capture_output=True)


async def _write(client: AsyncClient, name: bytes, count: int) -> None:
    for number in range(count):
        await client.set_key(b"%s/%d" % (name, number), name)


async def test_clients_of_the_old_history_are_told_and_new_ones_lose_nothing(
    tmp_path: Path,
) -> None:
    async with LocalGroup(tmp_path, size=1) as group:
        await group.bootstrap()
        replica, store = group.replicas[0], str(tmp_path / "store")
        async with group.client() as client:
            await client.set_key(b"k", b"before the snapshot")
        replica.terminate()
        where = ["--snapshot", "s", "--directory", store]
        _offline("publish", "--data", str(replica.data), *where)
        await group.start(replica)
        await group.leader()

        old = group.client()
        await _write(old, b"old", 5)
        before = await group.status(replica)
        assert before is not None
        assert before.history_id == before.cluster_id == group.cluster

        replica.kill()
        replica.data = tmp_path / "restored"
        cluster = str(uuid.uuid4())
        _offline("restore", "--data", str(replica.data), "--cluster-id", cluster, *where)
        await group.start(replica)
        await group.leader()
        after = await eventually(lambda: group.status(replica), "the restored replica answers")
        assert after.cluster_id == cluster
        assert after.history_id not in ("", cluster, before.history_id)

        # As many new sessions and entries as the old client has seen: LSNs are used again.
        async with group.client() as new:
            await _write(new, b"new", 3)
            with pytest.raises(OutcomeUnknown) as caught:
                await old.set_key(b"old/6", b"old")
            assert caught.value.history == after.history_id
            assert await old.get_key(b"old/6") is None
            await _write(old, b"old", 9)
            await _write(new, b"new", 9)
            assert [await new.get_key(b"new/%d" % n) for n in range(9)] == [b"new"] * 9
            # The old client's end leaves the new one's session alone.
            await old.close()
            await new.set_key(b"new/9", b"new")

        await _assert_refused_everywhere(group, before.history_id, after.history_id)


async def _assert_refused_everywhere(group: LocalGroup, old: str, new: str) -> None:
    """Each call that goes on from something earlier."""
    stub = group.stub(group.replicas[0])

    async def follow() -> None:
        async for _ in stub.Read(api.ReadRequest(from_lsn=3, follow=True, history_id=old)):
            pytest.fail("an entry of another history")

    for call in (
        stub.OpenSession(api.OpenSessionRequest(history_id=old)),
        stub.CloseSession(api.CloseSessionRequest(session_id=3, history_id=old)),
        stub.RegisterConsumer(api.RegisterConsumerRequest(name="c", lsn=3, history_id=old)),
        stub.AcknowledgeConsumer(api.AcknowledgeConsumerRequest(name="c", lsn=3, history_id=old)),
        stub.RemoveConsumer(api.RemoveConsumerRequest(name="c", history_id=old)),
        follow(),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        detail = detail_of(caught.value)
        assert detail is not None
        assert (detail.reason, detail.history_id) == (types.REASON_WRONG_HISTORY, new)
    stream = stub.Append()
    request = api.AppendRequest(
        request_id=1, proposal=proposal(7, 1, [set_key(b"k", b"v")]), history_id=old
    )
    await stream.write(request)
    answer = await stream.read()
    assert (answer.error.reason, answer.error.history_id) == (types.REASON_WRONG_HISTORY, new)
    stream.cancel()
