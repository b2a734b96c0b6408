"""Three real processes on loopback, with mutual TLS: what users and operators rely on."""

import asyncio
import hashlib
import os
import random

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from partition_client import (
    Client,
    NotFound,
    PayloadSource,
    PreconditionFailed,
    RequestRefused,
    TreeMismatch,
)
from partition_client.channels import open_channel
from partition_client.client import create_directory, link_payload
from partition_client.errors import detail_of
from partition_client.pending_append import PendingAppend
from partition_client.tree import digest_directory, digest_tree, get_tree, put_tree
from partition_proto.v1 import log_store_pb2 as api
from partition_proto.v1 import log_store_pb2_grpc
from partition_proto.v1 import replica_admin_pb2 as admin
from partition_proto.v1 import types_pb2 as types

from dev.ports import free_port
from tests.support.local_group import LocalGroup, LocalReplica, assert_equal, eventually
from tests.support.proposals import proposal, set_key

LARGE = os.urandom(300_000)


async def test_write_read_and_what_each_replica_holds(group: LocalGroup) -> None:
    async with group:
        await group.bootstrap()
        async with group.client() as client:
            await client.set_key(b"k", b"v")
            assert await client.get_key(b"k") == b"v"
            assert await client.get_key(b"none") is None
            await client.append([create_directory(b"d")])
            await client.put_file(b"d/small", PayloadSource.of_bytes(b"small", 0o600))
            await client.put_file(b"d/large", PayloadSource.of_bytes(LARGE))
            await client.put_file(b"d/large", PayloadSource.of_bytes(LARGE[::-1]))
            with pytest.raises(TreeMismatch, match="PARENT_NOT_FOUND"):
                await client.put_file(b"nowhere/f", PayloadSource.of_bytes(b"x"))
            with pytest.raises(NotFound):
                await client.read_file(b"d/none", lambda _: None)
            listed = await client.list_tree(b"d")
            assert [(e.path, e.size, e.mode) for e in listed] == [
                (b"d/large", len(LARGE), 0o644),
                (b"d/small", 5, 0o600),
            ]
            await group.settled()
            for replica in group.replicas:
                got = bytearray()
                await client.read_file(b"d/large", got.extend, stale_from=replica.address)
                assert bytes(got) == LARGE[::-1]
            tail = [e async for e in client.tail()]
            assert [e.lsn for e in tail] == list(range(tail[0].lsn, tail[-1].lsn + 1))
            await client.remove_file(b"d/small")
        await assert_equal(group)


async def test_trees_go_in_and_come_out_equal(group: LocalGroup) -> None:
    source = group.root / "source"
    rng = random.Random(7)
    for number in range(60):
        path = source / f"dir{number % 7}" / f"sub{number % 3}" / f"file{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(
            rng.randbytes(rng.choice([0, 10, 5_000, 64 * 1024, 64 * 1024 + 1, 200_000]))
        )
        path.chmod(rng.choice([0o600, 0o644, 0o755]))
    (source / "a link").symlink_to("dir0")
    async with group:
        await group.bootstrap()
        async with group.client() as client:
            done = await put_tree(client, source, b"some/where")
            assert (done.files, len(done.skipped)) == (60, 1)
            again = await put_tree(client, source, b"some/where")
            assert again.files == 60
            await group.settled()
            wanted = digest_directory(source)
            for replica in group.replicas:
                found = await digest_tree(client, b"some/where", stale_from=replica.address)
                assert found == wanted
            await get_tree(client, b"some/where", group.root / "out")
            assert digest_directory(group.root / "out") == wanted


async def test_the_leader_dies_and_nothing_acknowledged_is_lost(group: LocalGroup) -> None:
    acknowledged: dict[bytes, bytes] = {}
    async with group:
        await group.bootstrap()
        async with group.client() as client:

            async def write(number: int) -> None:
                for sequence in range(10_000):
                    key, value = b"w%d/%06d" % (number, sequence), os.urandom(20)
                    await client.set_key(key, value)
                    acknowledged[key] = value

            writers = [asyncio.create_task(write(n)) for n in range(8)]
            for _ in range(3):
                leader = await group.leader()
                before = len(acknowledged)

                async def more(wanted: int) -> bool:
                    return len(acknowledged) > wanted

                await eventually(lambda w=before + 50: more(w), "writes go on")
                leader.kill()
                before = len(acknowledged)
                await eventually(lambda w=before + 50: more(w), "writes go on after the death")
                await group.start(leader)
            for writer in writers:
                writer.cancel()
            await asyncio.gather(*writers, return_exceptions=True)
            await group.settled()
            found = {k: v async for k, v in client.list_keys(b"w", b"x")}
            assert {k: found.get(k) for k in acknowledged} == acknowledged
        await assert_equal(group)


async def test_sigterm_hands_leadership_over_and_exits_cleanly(group: LocalGroup) -> None:
    async with group:
        await group.bootstrap()
        async with group.client() as client:
            await client.set_key(b"a", b"1")
            leader = await group.leader()
            assert await asyncio.to_thread(leader.terminate) == 0
            await client.set_key(b"b", b"2")
            new = await group.leader()
            assert new is not leader
        log = leader.log.read_text()
        assert "stopped" in log
        assert "not transferred before" not in log


async def test_a_wiped_replica_is_refused_and_a_new_member_catches_up(group: LocalGroup) -> None:
    async with group:
        await group.bootstrap()
        async with group.client() as client:
            await client.put_file(b"large", PayloadSource.of_bytes(LARGE))
            leader = await group.leader()
            victim = next(r for r in group.replicas if r is not leader)
            status = await group.status(victim)
            assert status is not None
            victim.kill()
            os.rename(victim.data, victim.data.with_suffix(".old"))
            await group.start(victim)
            again = await group.status(victim)
            assert again is not None
            assert (again.role, again.cluster_id) == ("unbootstrapped", "")
            await group.admin(leader).RemoveMember(
                admin.RemoveMemberRequest(lease=group.lease, member_id=status.member_id)
            )
            assert await group.add(victim) != status.member_id
        await assert_equal(group)


async def test_a_removed_member_does_not_disturb(group: LocalGroup) -> None:
    async with group:
        await group.bootstrap()
        leader = await group.leader()
        victim = next(r for r in group.replicas if r is not leader)
        status = await group.status(victim)
        assert status is not None
        request = admin.RemoveMemberRequest(lease=group.lease, member_id=status.member_id)
        first = await group.admin(leader).RemoveMember(request)
        second = await group.admin(leader).RemoveMember(request)
        assert first.lsn > 0
        assert second.lsn == 0
        term = (await group.stub(leader).GetStatus(api.GetStatusRequest())).term
        async with group.client() as client:
            for number in range(30):
                await client.set_key(b"k%d" % number, b"v")
        assert (await group.stub(leader).GetStatus(api.GetStatusRequest())).term == term


async def test_bad_input_is_a_named_error_and_writes_nothing(group: LocalGroup) -> None:
    async with group:
        await group.bootstrap()
        async with group.client() as client:
            await client.set_key(b"k", b"v")
            before = await group.settled()
            for operations, why in (
                ([set_key(b"x" * 65_001, b"")], "INVALID_ARGUMENT.*65001 bytes"),
                ([create_directory(b"../../etc")], "INVALID_ARGUMENT.*'..'"),
                ([types.Operation()], "INVALID_ARGUMENT.*does not know"),
            ):
                with pytest.raises(RequestRefused, match=why):
                    await client.append(operations)
            lying = PayloadSource(hashlib.sha256(b"other").digest(), 5, 0o644, b"12345")
            with pytest.raises(RequestRefused, match="PAYLOAD_MISMATCH"):
                await client.append([link_payload(1, b"f")], [lying])
            large = PayloadSource(hashlib.sha256(b"other").digest(), len(LARGE), 0o644, LARGE)
            with pytest.raises(RequestRefused, match="PAYLOAD_MISMATCH"):
                await client.append([link_payload(1, b"f")], [large])
            absent = types.Precondition(key_absent=b"k")
            with pytest.raises(PreconditionFailed):
                await client.append([set_key(b"k", b"2")], preconditions=[absent])
            assert await client.get_key(b"k") == b"v"
            assert await client.list_tree() == []
            # The refused precondition is an entry of the log; nothing else is.
            assert await group.settled() == before + 1
        kept = [b for r in group.replicas for b in (r.data / "blobs").rglob("*") if b.is_file()]
        assert kept == []


async def test_a_lost_answer_is_given_again(group: LocalGroup) -> None:
    """The same proposal on another stream takes effect once, and says where."""
    async with group:
        await group.bootstrap()
        stub = group.stub(await group.leader())
        session = (await stub.OpenSession(api.OpenSessionRequest())).session_id

        async def send(sequence: int, value: bytes, *, retry: bool) -> api.AppendResponse:
            call = stub.Append()
            await call.write(
                api.AppendRequest(
                    request_id=1,
                    proposal=proposal(session, sequence, [set_key(b"k", value)]),
                    retry=retry,
                )
            )
            response: api.AppendResponse = await call.read()
            call.cancel()
            return response

        first = await send(1, b"1", retry=False)
        await send(2, b"2", retry=False)
        again = await send(1, b"1", retry=True)
        assert again.lsn == first.lsn
        async with group.client() as client:
            assert await client.get_key(b"k") == b"2"
        unknown = proposal(999_999, 1, [set_key(b"k", b"3")])
        call = stub.Append()
        await call.write(api.AppendRequest(request_id=1, proposal=unknown))
        answer = await call.read()
        assert answer.error.reason == types.REASON_SESSION_EXPIRED
        call.cancel()


async def test_a_closed_session_acknowledges_nothing_more(group: LocalGroup) -> None:
    """A close that overtakes an append must not let it be acknowledged and have no effect."""
    async with group:
        await group.bootstrap()
        stub = group.stub(await group.leader())
        for number in range(20):
            session = (await stub.OpenSession(api.OpenSessionRequest())).session_id
            call = stub.Append()
            closing = asyncio.create_task(_close(stub, session))
            key = b"closed-%d" % number
            found = proposal(session, 1, [set_key(key, b"v")])
            await call.write(api.AppendRequest(request_id=1, proposal=found))
            answer = await call.read()
            await closing
            call.cancel()
            async with group.client() as client:
                there = await client.get_key(key) is not None
            assert there == (not answer.HasField("error"))


async def _close(stub: log_store_pb2_grpc.LogStoreStub, session: int) -> None:
    await stub.CloseSession(api.CloseSessionRequest(session_id=session))


async def test_one_stuck_append_does_not_stop_the_others(group: LocalGroup) -> None:
    async with group:
        await group.bootstrap()
        async with group.client() as client:
            await client.set_key(b"k", b"v")
            stream = client._appends

            async def never(digests: list[bytes]) -> None:
                await asyncio.sleep(3600)

            absent = types.Payload(digest=b"\1" * 32, size=70_000)
            stuck = PendingAppend(
                types.Proposal(payloads=[absent], operations=[link_payload(1, b"f")]),
                False,
                3600,
                never,
            )
            waiting = asyncio.create_task(stream.append(stuck))
            for start in range(0, 3000, 500):
                await asyncio.gather(
                    *(client.set_key(b"s%d" % n, b"v") for n in range(start, start + 500))
                )
            assert not waiting.done()
            waiting.cancel()


async def test_only_known_certificates_get_in(group: LocalGroup) -> None:
    async with group:
        await group.bootstrap()
        assert group.tls is not None
        address = group.replicas[0].address
        for role, stub, call, why in (
            (
                "stranger",
                log_store_pb2_grpc.LogStoreStub,
                "GetStatus",
                "logstore://tests/other/client",
            ),
            ("client", admin_stub, "Bootstrap", "logstore://tests/group/client"),
        ):
            channel = open_channel(address, group.tls[role])
            request = api.GetStatusRequest() if call == "GetStatus" else admin.BootstrapRequest()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await getattr(stub(channel), call)(request, timeout=5)
            assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED
            assert why in str(caught.value.details())
            await channel.close()
        plain = open_channel(address, None)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await log_store_pb2_grpc.LogStoreStub(plain).GetStatus(
                api.GetStatusRequest(), timeout=5
            )
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        await plain.close()


def admin_stub(channel: grpc.aio.Channel) -> object:
    from partition_proto.v1 import replica_admin_pb2_grpc

    return replica_admin_pb2_grpc.ReplicaAdminStub(channel)


async def test_bootstrap_is_idempotent_and_a_volume_keeps_its_cluster(group: LocalGroup) -> None:
    async with group:
        await group.bootstrap()
        first = group.replicas[0]
        request = admin.BootstrapRequest(lease=group.lease, cluster_id=group.cluster)
        again = await group.admin(first).Bootstrap(request)
        status = await group.status(first)
        assert status is not None
        assert again.member_id == status.member_id
        other = admin.BootstrapRequest(
            lease=group.lease, cluster_id="00000000-0000-4000-8000-000000000000"
        )
        for method in ("Bootstrap", "Join"):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await getattr(group.admin(first), method)(other)
            detail = detail_of(caught.value)
            assert detail is not None
            assert detail.reason == types.REASON_WRONG_CLUSTER
        newer = admin.FencingToken(transitions=5, holder="new")
        await group.admin(first).Join(admin.JoinRequest(lease=newer, cluster_id=group.cluster))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await group.admin(first).Bootstrap(request)
        detail = detail_of(caught.value)
        assert detail is not None
        assert detail.reason == types.REASON_DEPOSED


async def test_a_second_process_on_a_volume_waits(group: LocalGroup) -> None:
    async with group:
        first = group.replicas[0]
        await group.start(first)
        second = LocalReplica(
            "second", first.data, free_port(), free_port(), first.arguments, group.root / "2.log"
        )
        group.replicas.append(second)
        second.start()

        async def waits() -> bool:
            return second.http("/readyz") == (503, "waiting\n")

        await eventually(waits, "the second process waits")
        assert second.http("/livez")[0] == 200
        first.kill()
        await eventually(lambda: group.status(second), "the second one takes over")
        group.replicas.remove(first)


async def test_probes_and_metrics(group: LocalGroup) -> None:
    async with group:
        replica = group.replicas[0]
        await group.start(replica)
        assert replica.http("/livez") == (200, "ok\n")
        assert replica.http("/readyz")[0] == 503
        await group.bootstrap_started()

        async def ready() -> bool:
            return all(r.http("/readyz") == (200, "ok\n") for r in group.replicas)

        await eventually(ready, "all are ready")
        async with group.client() as client:
            await client.set_key(b"k", b"v")

        async def counted() -> bool:
            leader = await group.leader()
            _, text = leader.http("/metrics")
            return "logstore_leading 1.0" in text and "logstore_log_commit_seconds_count" in text

        await eventually(counted, "metrics say who leads")


async def test_health_and_reflection(group: LocalGroup) -> None:
    async with group:
        await group.bootstrap()
        assert group.tls is not None
        channel = open_channel(group.replicas[0].address, group.tls["client"])
        stub = health_pb2_grpc.HealthStub(channel)

        async def serving() -> bool:
            answer = await stub.Check(
                health_pb2.HealthCheckRequest(service="logstore.v1.LogStore"), timeout=5
            )
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

        await eventually(serving, "the health service says SERVING")
        call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo()
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        answer = await call.read()
        names = {service.name for service in answer.list_services_response.service}
        assert {"logstore.v1.LogStore", "logstore.v1.ReplicaAdmin", "logstore.v1.Peer"} <= names
        call.cancel()
        await channel.close()


async def test_the_synchronous_client(group: LocalGroup) -> None:
    async with group:
        await group.bootstrap()
        assert group.tls is not None
        tls = group.tls["client"]

        def use() -> None:
            with Client([r.address for r in group.replicas], tls) as client:
                client.set_key(b"k", b"v")
                assert client.get_key(b"k") == b"v"
                client.put_file(b"f", PayloadSource.of_bytes(LARGE))
                assert client.read_file(b"f") == LARGE
                client.delete_key(b"k")
                assert list(client.list_keys()) == []

        await asyncio.to_thread(use)
