"""Raft connections over loopback: who is let in, what a stranger costs, and what is done while
there is none."""

import asyncio
import datetime as dt
import os
import socket
import struct
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from partition_operator.resources.certificates import identity, issue, make_authority
from partition_proto.v1 import peer_pb2 as api
from partition_proto.v1 import peer_pb2_grpc
from partition_replica.core.limits import (
    RAFT_FRAME_BYTES_MAX,
    RAFT_HELLO_BYTES_MAX,
    Limits,
)
from partition_replica.errors import Overloaded, ReplicaError, WrongCluster
from partition_replica.transport import raft_connection
from partition_replica.transport.raft_frames import (
    HEADER,
    HELLO,
    MESSAGE,
    PREAMBLE,
    frame,
    frames_of,
)

from dev.ports import free_port
from tests.support.certificates import MountedCertificates, mount
from tests.support.raft_receivers import (
    OTHER,
    Deaf,
    Receiver,
    Sender,
    context_of,
    dialled,
    greeting,
    hello,
    until,
    unwelcome,
)
from tests.support.raft_receivers import pki as pki  # a fixture

# --- messages ---------------------------------------------------------------------------------


@pytest.mark.parametrize("tls", [False, True])
async def test_messages_arrive_in_order(pki: MountedCertificates, tls: bool) -> None:
    """Small and large ones, alone and together; and the stream that it began with is over."""
    here, there = (pki.folders["replica-0"], pki.folders["replica-1"]) if tls else (None, None)
    limits = replace(Limits(), raft_hello_s=3600.0)
    async with Receiver(limits, here).serving() as receiver:
        receiver.listen()
        async with Sender(receiver.address, limits, there) as sender:
            await sender.connected()
            # It went over gRPC, which the connection may overtake.
            await until(lambda: b"first" in receiver.payloads(), "the first one is there")
            sizes = [0, 1, 60, 300_000, 7, 5_000_000, 100] * 5
            sent = [os.urandom(8) + bytes(size) for size in sizes]
            for place in range(0, len(sent), 3):
                part = sent[place : place + 3]
                sender.send(*part)
                await until(lambda p=part: p[-1] in receiver.payloads(), "it arrives")
            assert receiver.payloads() == [b"first", *sent]
            assert {member for member, _ in receiver.replica.seen} == {OTHER}
            assert receiver.traffic.came["connection"] >= len(sent)
            assert sender.traffic.out["connection"] >= len(sent)
            await until(lambda: not receiver.open["Raft"], "the gRPC stream is over")
            assert receiver.open["RaftConnection"] == 1
            # Moving from one to the other is no disconnection.
            assert receiver.replica.gone == []
        await until(lambda: receiver.replica.gone == [OTHER], "the replica is told of the end")
        assert not receiver.open["RaftConnection"]
        assert sender.dropped == 0


async def test_a_message_above_the_limit_is_dropped_and_the_others_are_not() -> None:
    limits = replace(Limits(), peer_queue_bytes_max=4 * RAFT_FRAME_BYTES_MAX)
    async with Receiver().serving() as receiver:
        receiver.listen()
        async with Sender(receiver.address, limits) as sender:
            await sender.connected()
            sender.send(bytes(RAFT_FRAME_BYTES_MAX + 1), bytes(RAFT_FRAME_BYTES_MAX), b"last")
            await until(lambda: b"last" in receiver.payloads(), "it arrives")
            assert [len(m) for m in receiver.payloads()] == [5, RAFT_FRAME_BYTES_MAX, 4]
            assert sender.dropped == 1


# --- who is let in ----------------------------------------------------------------------------


WRONG = {
    "another cluster": (greeting(cluster="other"), "WRONG_CLUSTER"),
    "another member's": (greeting(to=7), "WRONG_CLUSTER"),
    "a volume that was rolled back": (greeting(last_index=0), "WRONG_CLUSTER"),
    "no receiver": (greeting(to=0), "INVALID_ARGUMENT"),
    "no sender": (greeting(0), "INVALID_ARGUMENT"),
    "no hello": (PREAMBLE + b"".join(frames_of([b"message"])), "INVALID_ARGUMENT"),
    "no protobuf": (PREAMBLE + frame(HELLO, b"\xff" * 9), "INVALID_ARGUMENT"),
    "a large hello": (PREAMBLE + HEADER.pack(HELLO, RAFT_HELLO_BYTES_MAX + 1), "INVALID_ARGUMENT"),
    "another protocol": (b"GET / HTTP/1.1\r\n\r\n", "INVALID_ARGUMENT"),
    "another version": (PREAMBLE[:-1] + b"\x02", "INVALID_ARGUMENT"),
    "a large frame": (
        greeting() + HEADER.pack(MESSAGE, RAFT_FRAME_BYTES_MAX + 1),
        "INVALID_ARGUMENT",
    ),
    "a second hello": (greeting() + greeting()[len(PREAMBLE) :], "INVALID_ARGUMENT"),
    "an unknown frame": (greeting() + frame(9, b""), "INVALID_ARGUMENT"),
}


@pytest.mark.parametrize("case", WRONG)
async def test_what_is_wrong_is_refused_by_name(case: str) -> None:
    content, reason = WRONG[case]
    receiver = Receiver()
    port = receiver.listen()
    async with dialled(port) as connection:
        connection.write(content)
        if content.startswith(greeting()):
            answer = await connection.answer()
            assert answer is not None
            assert answer[0] == HELLO
        assert await connection.refusal() == reason
    assert receiver.replica.seen == []
    assert receiver.traffic.reasons == [reason]
    await until(lambda: not receiver.open["RaftConnection"], "its slot is free")
    await receiver.listener.close()


async def test_messages_behind_a_refusal_are_not_read() -> None:
    receiver = Receiver()
    async with dialled(receiver.listen()) as connection:
        connection.write(greeting(cluster="other") + b"".join(frames_of([b"message"] * 1000)))
        assert await connection.refusal() == "WRONG_CLUSTER"
    assert receiver.replica.seen == receiver.replica.greeted == []
    await receiver.listener.close()


@pytest.mark.parametrize(
    ("role", "name"), [("client", "group"), ("operator", "group"), ("replica", "other")]
)
async def test_a_certificate_of_another_party_is_refused(
    pki: MountedCertificates, tmp_path: Path, role: str, name: str
) -> None:
    now = dt.datetime.now(dt.UTC)
    pair = issue(pki.authority, identity("tests", name, role), ["localhost"], now)
    folder = mount(tmp_path / "stranger", pair, pki.authority.certificate)
    receiver = Receiver(folder=pki.folders["replica-0"])
    async with dialled(receiver.listen(), context_of(folder)) as connection:
        connection.write(greeting() + b"".join(frames_of([b"message"])))
        assert await connection.refusal() == "PERMISSION_DENIED"
    assert receiver.traffic.reasons == ["PERMISSION_DENIED"]
    assert receiver.replica.seen == receiver.replica.greeted == []
    await receiver.listener.close()


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("another authority", "its certificate is refused: unable to get local issuer"),
        ("expired", "its certificate is refused: certificate has expired"),
        ("not yet valid", "its certificate is refused: certificate is not yet valid"),
        ("no certificate", "PEER_DID_NOT_RETURN_A_CERTIFICATE"),
        ("no TLS", "the TLS handshake failed"),
    ],
)
async def test_nobody_comes_in_without_a_certificate_of_ours(
    pki: MountedCertificates, tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str, why: str
) -> None:
    context = unwelcome(pki, tmp_path / "stranger", how)
    receiver = Receiver(folder=pki.folders["replica-0"])
    port = receiver.listen()
    for times in (1, 2):
        async with dialled(port, context) as connection:
            connection.write(greeting() + b"".join(frames_of([b"message"])))
            assert await connection.answer() is None
        await until(lambda n=times: receiver.traffic.reasons == ["TLS"] * n, "it is counted")
    told = [r.getMessage() for r in caplog.records if "a Raft connection from" in r.message]
    assert len(told) == 1, told
    assert "127.0.0.1" in told[0]
    assert why in told[0]
    assert receiver.replica.seen == receiver.replica.greeted == []
    await receiver.listener.close()


async def test_a_member_whose_name_is_another_one_is_not_trusted(
    pki: MountedCertificates, tmp_path: Path
) -> None:
    """A certificate of the same authority, whose names do not have the host that is dialled."""
    now = dt.datetime.now(dt.UTC)
    pair = issue(pki.authority, identity("tests", "group", "replica"), ["elsewhere"], now)
    receiver = Receiver(folder=mount(tmp_path / "other", pair, pki.authority.certificate))
    target = raft_connection.Target(
        "localhost", receiver.listen(), context_of(pki.folders["replica-1"])
    )
    with pytest.raises(OSError, match="Hostname mismatch"):
        await raft_connection.open_connection(target, hello(), Limits(), lambda: None)
    await receiver.listener.close()


async def test_new_connections_use_renewed_certificates(
    pki: MountedCertificates, tmp_path: Path
) -> None:
    """Of another authority, too: the one before is not trusted any more. Connections from before
    the change go on."""
    first, second = pki.folders["replica-0"], pki.folders["replica-1"]
    async with Receiver(folder=first).serving() as receiver, AsyncExitStack() as stack:
        port = receiver.listen()
        sender = await stack.enter_async_context(Sender(receiver.address, folder=second))
        await sender.connected()
        old_context = context_of(second)
        async with dialled(port, old_context) as connection:
            before = connection.certificate()
        pki.authority = make_authority(dt.datetime.now(dt.UTC))
        pki.renew()
        sender.send(b"on the old one")
        await until(lambda: b"on the old one" in receiver.payloads(), "it goes on")
        assert sender.unreachable == 0
        async with dialled(port, context_of(second)) as connection:
            assert connection.certificate() != before
            connection.write(greeting(3))
            answer = await connection.answer()
            assert answer is not None
            assert answer[0] == HELLO
        with pytest.raises(OSError, match="certificate verify failed"):
            await dialled(port, old_context).__aenter__()
        # The sender's next connection has the new files as well.
        for one in list(receiver.listener._members.values()):
            one.end()
        await until(lambda: sender.unreachable, "the connection ended")
        await sender.connected()


# --- what a stranger costs --------------------------------------------------------------------


@pytest.mark.parametrize("begin", [b"", PREAMBLE[:3], greeting()[:-1]])
async def test_a_hello_that_does_not_come_is_not_waited_for(begin: bytes) -> None:
    receiver = Receiver(replace(Limits(), raft_hello_s=0.2))
    async with dialled(receiver.listen()) as connection:
        connection.write(begin)
        assert await connection.answer() is None
    assert receiver.traffic.reasons == ["TIMEOUT"]
    await receiver.listener.close()


async def test_a_handshake_that_does_not_come_is_not_waited_for(pki: MountedCertificates) -> None:
    receiver = Receiver(replace(Limits(), raft_hello_s=0.2), pki.folders["replica-0"])
    async with dialled(receiver.listen()) as connection:
        assert await connection.answer() is None
    assert receiver.traffic.reasons == ["TIMEOUT"]
    await receiver.listener.close()


async def test_strangers_are_limited_in_number() -> None:
    limits = replace(Limits(), raft_hellos_max=2, peer_streams_max=1, raft_hello_s=60.0)
    receiver = Receiver(limits)
    port = receiver.listen()
    async with AsyncExitStack() as stack:
        strangers = [await stack.enter_async_context(dialled(port)) for _ in range(2)]
        await until(lambda: receiver.listener._waiting == 2, "both are waited for")
        async with dialled(port) as third:
            assert await third.answer() is None
        assert receiver.traffic.reasons == ["OVERLOADED"]
        # One that is let in makes room for another one, up to the number of streams.
        strangers[0].write(greeting(2))
        assert await strangers[0].answer() is not None
        strangers[1].write(greeting(3))
        assert await strangers[1].refusal() == "OVERLOADED"
        # A member that has the only slot already keeps it: its newer connection replaces the older.
        newer = await stack.enter_async_context(dialled(port))
        newer.write(greeting(2))
        answer = await newer.answer()
        assert answer is not None
        assert answer[0] == HELLO
    await receiver.listener.close()


async def test_a_flood_of_strangers_is_limited_from_the_first_one() -> None:
    receiver = Receiver(replace(Limits(), raft_hellos_max=2, raft_hello_s=60.0))
    port = receiver.listen()
    # The listener does not run meanwhile: it finds all of them at once.
    strangers = [socket.create_connection(("localhost", port)) for _ in range(50)]
    turns = 0
    while receiver.traffic.reasons.count("OVERLOADED") < 48:
        turns += 1
        assert turns < 10_000
        assert receiver.listener._waiting <= 2
        await asyncio.sleep(0)
    assert turns > 40, "others run between two strangers"
    assert receiver.listener._waiting == 2
    for stranger in strangers:
        stranger.close()
    await receiver.listener.close()


async def test_a_newer_connection_of_a_member_replaces_the_older() -> None:
    receiver = Receiver()
    port = receiver.listen()
    async with dialled(port) as older, dialled(port) as newer, dialled(port) as other:
        for connection, member in ((older, 2), (other, 3), (newer, 2)):
            connection.write(greeting(member))
            assert await connection.answer() is not None
        assert await older.answer() is None
        newer.write(b"".join(frames_of([b"newer"])))
        other.write(b"".join(frames_of([b"other"])))
        await until(lambda: len(receiver.replica.seen) == 2, "both arrive")
        assert set(receiver.replica.seen) == {(2, b"newer"), (3, b"other")}
        assert receiver.replica.gone == []
        assert receiver.open["RaftConnection"] == 2
    await until(lambda: sorted(receiver.replica.gone) == [2, 3], "both are gone")
    await receiver.listener.close()


# --- when there is no connection --------------------------------------------------------------


async def test_messages_go_over_grpc_until_the_port_opens(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A firewall costs speed, not availability."""
    port = free_port()
    async with Receiver().serving() as receiver:
        receiver.raft_port = lambda: port
        async with Sender(receiver.address) as sender:
            sent = [b"%d" % number for number in range(20)]
            for message in sent:
                sender.send(message)
                await until(lambda m=message: m in receiver.payloads(), "it arrives")
            await until(lambda: "no Raft connection to member 1" in caplog.text, "it is said")
            assert sender.traffic.members == {"stream": 1}
            receiver.listen(port)
            await sender.connected()
            assert sender.traffic.members == {"stream": 0, "connection": 1}
            assert sender.unreachable == 0
            assert receiver.replica.gone == []
        assert receiver.payloads() == [*sent, b"first"]
    assert caplog.text.count("no Raft connection to member 1") == 1


@pytest.mark.parametrize(
    ("error", "counted"),
    [(Overloaded("not now"), []), (WrongCluster("another one's"), ["WRONG_CLUSTER"])],
    ids=["passing", "lasting"],
)
async def test_a_refused_connection_is_said_once_and_grpc_is_used(
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    error: ReplicaError,
    counted: list[str],
) -> None:
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr("partition_common.backoff.RAFT_CONNECTION.after", lambda _: 0.0)
    async with Receiver().serving() as receiver, Receiver().serving() as elsewhere:
        port = elsewhere.listen()
        receiver.raft_port = lambda: port
        elsewhere.replica.check_peer = receiver.replica.check_peer  # type: ignore[method-assign]
        elsewhere.replica.greet = refuse  # type: ignore[method-assign]
        async with Sender(receiver.address) as sender:
            sender.send(b"message")
            await until(lambda: len(elsewhere.traffic.reasons) >= 3, "it is tried again")
            assert receiver.payloads() == [b"message"]
            assert sender.refused == counted
    assert caplog.text.count("no Raft connection to member 1") == 1


async def test_an_earlier_version_is_sent_its_messages_over_grpc() -> None:
    """Its hello names no port."""
    async with Receiver().serving() as receiver:
        assert receiver.listener.port == 0
        async with Sender(receiver.address) as sender:
            sender.send(b"message")
            await until(lambda: receiver.payloads() == [b"message"], "it arrives")
            assert sender.traffic.members == {"stream": 1}
            assert receiver.traffic.came == {"stream": 1}
        await until(lambda: receiver.replica.gone == [OTHER], "the replica is told of the end")


async def test_an_earlier_version_sends_its_messages_over_grpc() -> None:
    """It ignores the port."""
    async with Receiver().serving() as receiver:
        receiver.listen()
        async with grpc.aio.insecure_channel(receiver.address) as channel:
            call = peer_pb2_grpc.PeerStub(channel).Raft()
            await call.write(api.RaftBatch(hello=hello()))
            assert (await call.read()).hello.raft_port == receiver.listener.port
            await call.write(api.RaftBatch(messages=[b"message"]))
            await until(lambda: receiver.payloads() == [b"message"], "it arrives")
            call.cancel()
        await until(lambda: receiver.replica.gone == [OTHER], "the replica is told of the end")


@pytest.mark.parametrize("tls", [False, True])
async def test_a_receiver_that_comes_back_is_reached_again(
    pki: MountedCertificates, tls: bool
) -> None:
    """At another port for Raft connections: the hello says which."""
    here, there = (pki.folders["replica-0"], pki.folders["replica-1"]) if tls else (None, None)
    async with AsyncExitStack() as stack:
        async with Receiver(folder=here).serving() as receiver:
            first = receiver.listen()
            sender = await stack.enter_async_context(Sender(receiver.address, folder=there))
            await sender.connected()
            port = receiver.grpc_port
        await until(lambda: sender.unreachable, "the engine is told")
        assert sender.traffic.members["connection"] == 0
        async with Receiver(folder=here).serving(port) as receiver:
            second = receiver.listen()
            assert second != first
            await sender.connected()
            sender.send(b"again")
            await until(lambda: b"again" in receiver.payloads(), "it arrives")


async def test_a_receiver_that_does_not_read_costs_a_bounded_queue() -> None:
    """Messages above it are dropped and counted. In the end the connection is given up, as if the
    receiver were dead."""
    limits = replace(
        Limits(),
        peer_queue_bytes_max=1_000_000,
        peer_batch_bytes_max=100_000,
        raft_silence_s=4.0,
    )
    async with Receiver().serving() as receiver, Deaf() as port:
        receiver.raft_port = lambda: port
        async with Sender(receiver.address, limits) as sender:
            await sender.connected()
            link = sender.peers._connected(1)
            connection = link._connection
            assert connection is not None
            transport = connection._transport
            assert transport is not None
            message = bytes(10_000)
            most = 0
            for _ in range(2000):
                sender.send(message)
                most = max(most, link._queued_bytes + transport.get_write_buffer_size())
                await asyncio.sleep(0)
            assert sender.dropped > 100
            unsent = raft_connection.UNSENT_BYTES_HIGH + limits.peer_batch_bytes_max
            assert most <= limits.peer_queue_bytes_max + unsent + 20 * HEADER.size
            await until(lambda: sender.unreachable, "the connection is given up")


async def test_both_sides_notice_a_silent_one() -> None:
    """Its kernel answers neither data nor probes: as soon as gRPC's keepalive would notice."""
    async with Receiver().serving() as receiver:
        receiver.listen()
        async with Sender(receiver.address) as sender:
            await sender.connected()
            ours = sender.peers._connected(1)._connection
            (theirs,) = receiver.listener._members.values()
            for one in (ours, theirs):
                assert one is not None
                assert one._transport is not None
                found = one._transport.get_extra_info("socket")

                def option(name: int, of: Any = found) -> int:
                    return int(of.getsockopt(socket.IPPROTO_TCP, name))

                assert found.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                probes_s = option(socket.TCP_KEEPCNT) * option(socket.TCP_KEEPINTVL)
                assert option(socket.TCP_KEEPIDLE) + probes_s == 8
                assert option(socket.TCP_USER_TIMEOUT) == 8000
                assert option(socket.TCP_NODELAY)


async def test_a_reset_connection_is_opened_again() -> None:
    """And a half that a dead sender left behind does not stay."""
    async with Receiver().serving() as receiver:
        port = receiver.listen()
        connection = socket.create_connection(("localhost", port))
        connection.sendall(greeting())
        await until(lambda: receiver.open["RaftConnection"] == 1, "it is let in")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
        await until(lambda: receiver.replica.gone == [OTHER], "the replica is told of the end")
        assert receiver.open["RaftConnection"] == 0
