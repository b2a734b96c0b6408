"""A group is restored in place, at its old address, while an application keeps its client: the
client hears that the history changed, and nobody is taken for somebody else."""

import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import grpc
import pytest
from partition_client import AsyncClient, HistoryChanged
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
        await group.leader()
        raw = (await group.stub(replica).OpenSession(api.OpenSessionRequest())).session_id
        assert (await _append(group.stub(replica), raw, 1)).lsn
        replica.terminate()  # with the session open: it is in the snapshot
        where = ["--snapshot", "s", "--directory", store]
        _offline("take", "--data", str(replica.data), *where)
        await group.start(replica)
        await group.leader()

        old = group.client()
        await _write(old, b"old", 5)
        tail = old.tail(0, follow=True)
        seen = [await anext(tail) for _ in range(8)][-1].lsn
        kept = await old.history()
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
            with pytest.raises(HistoryChanged) as caught:
                await old.set_key(b"old/6", b"old")
            assert caught.value.history == after.history_id
            assert await old.get_key(b"old/6") is None
            await _write(old, b"old", 9)
            await _write(new, b"new", 9)
            assert [await new.get_key(b"new/%d" % n) for n in range(9)] == [b"new"] * 9
            # Whoever followed the log has to start from the state, with an LSN that is kept, too.
            with pytest.raises(HistoryChanged) as stopped:
                await anext(tail)
            assert stopped.value.history == after.history_id
            with pytest.raises(HistoryChanged):
                await anext(new.tail(seen + 1, history=kept))
            # The old client's end leaves the new one's session alone.
            await old.close()
            await new.set_key(b"new/9", b"new")

        # A client that knows no histories cannot go on in its session, as if nothing was lost.
        answer = await _append(group.stub(replica), raw, 2)
        assert answer.error.reason == types.REASON_SESSION_EXPIRED
        await _assert_refused_everywhere(group, before.history_id, after.history_id)


async def _append(stub: Any, session: int, sequence: int, history: str = "") -> Any:
    """As a client that is not ours sends it."""
    stream = stub.Append()
    found = proposal(session, sequence, [set_key(b"raw", b"%d" % sequence)])
    await stream.write(api.AppendRequest(request_id=1, proposal=found, history_id=history))
    answer = await stream.read()
    stream.cancel()
    return answer


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
    # A whole stream belongs to the history that it named first.
    stream = stub.Append()
    session = (await stub.OpenSession(api.OpenSessionRequest())).session_id
    for number, history in ((1, old), (2, ""), (3, "")):
        found = proposal(session, number, [set_key(b"k", b"v")])
        request = api.AppendRequest(request_id=number, proposal=found, history_id=history)
        await stream.write(request)
    for _ in range(3):
        error = (await stream.read()).error
        assert (error.reason, error.history_id) == (types.REASON_WRONG_HISTORY, new)
    stream.cancel()
