"""Who is let in on a payload connection, and what anybody else costs."""

import asyncio
import datetime as dt
import socket
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from partition_operator.resources.certificates import identity, issue
from partition_proto.connection import pem
from partition_proto.v1 import peer_pb2 as api
from partition_replica.core.limits import RAFT_HELLO_BYTES_MAX, Limits
from partition_replica.transport import payload_frames as frames
from partition_replica.transport.raft_frames import (
    HEADER,
    HELLO,
    PREAMBLE,
    REFUSAL,
    BadFrame,
    frame,
)
from partition_tls import ClientConfig, Connection, ConnectionFailed

from tests.support.certificates import MountedCertificates, mount
from tests.support.payload_receivers import digest_of, pair
from tests.support.payload_receivers import patient as patient  # a fixture
from tests.support.raft_receivers import OWN, PARTITION, files, hello, until
from tests.support.raft_receivers import pki as pki  # a fixture

QUICK = replace(Limits(), raft_hello_s=0.2)


def dial(port: int, first: bytes, folder: Path | None = None) -> Connection:
    """Opens a connection by hand, on a thread."""
    connected = socket.create_connection(("localhost", port))
    connected.sendall(first)
    config = None
    if folder:
        found = pem.read(files(folder))[0]
        config = ClientConfig(found.authority, found.certificate, found.key)
    return Connection.connect(connected.detach(), config, "localhost", 20.0)


def greeted(port: int, content: bytes, folder: Path | None = None) -> Connection:
    """As far as the answer to the hello. Raises Refused, ConnectionFailed."""
    connection = dial(port, frames.PREAMBLE, folder)
    connection.write(frame(HELLO, content))
    frames.answer(connection, HELLO)
    return connection


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (hello(cluster="another").SerializeToString(), "WRONG_CLUSTER"),
        (hello(to=3).SerializeToString(), "WRONG_CLUSTER"),
        (hello(to=0).SerializeToString(), "INVALID_ARGUMENT"),
        (b"\xff\xff", "INVALID_ARGUMENT"),
    ],
)
async def test_hellos_that_are_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    async with pair(tmp_path) as both:
        with pytest.raises(frames.Refused) as refused:
            await asyncio.to_thread(greeted, both.receiver.listener.port, content)
        assert refused.value.reason == reason
        assert both.receiver.traffic.reasons == [reason]
        await until(lambda: not both.receiver.listener._waiting, "it is gone")


async def test_a_client_is_refused(tmp_path: Path, pki: MountedCertificates) -> None:
    party = identity(*PARTITION.split("/"), "client")
    now = dt.datetime.now(dt.UTC)
    folder = tmp_path / "stranger"
    mount(folder, issue(pki.authority, party, [], now, pki.lifetimes), pki.authority.certificate)
    async with pair(tmp_path, pki=pki) as both:
        with pytest.raises(frames.Refused) as refused:
            await asyncio.to_thread(
                greeted, both.receiver.listener.port, hello().SerializeToString(), folder
            )
        assert refused.value.reason == "PERMISSION_DENIED"


@pytest.mark.parametrize("after", [b"", b"GET / HTTP/1.1\r\n\r\n", frame(HELLO, b"")])
async def test_one_without_tls_is_refused(
    tmp_path: Path, pki: MountedCertificates, after: bytes
) -> None:
    async with pair(tmp_path, replace(Limits(), raft_hello_s=1.0), pki) as both:
        with pytest.raises(ConnectionFailed):
            await asyncio.to_thread(
                lambda: dial(both.receiver.listener.port, frames.PREAMBLE + after).read(1000)
            )
        await until(lambda: not both.receiver.listener._waiting, "it is gone")
        await both.push(b"a" * 100_000)


@pytest.mark.parametrize("first", [b"", b"L", frames.PREAMBLE[:-1], frames.PREAMBLE])
async def test_one_that_says_no_more_is_closed_in_time(tmp_path: Path, first: bytes) -> None:
    async with pair(tmp_path, QUICK) as both:
        reasons = both.receiver.traffic.reasons
        reasons.clear()
        with socket.create_connection(("localhost", both.receiver.listener.port)) as silent:
            silent.sendall(first)
            await until(lambda: reasons, "it is refused")
            with suppress(ConnectionResetError):  # what it sent was not read
                assert await asyncio.to_thread(silent.recv, 1) == b""
        await both.push(b"a" * 100_000)


@pytest.mark.parametrize(
    "first", [b"LSPAYL\x00\x02", b"LSPAYX\x00\x01", PREAMBLE[:6] + b"\x00\x09", b"\x16\x03\x01"]
)
async def test_other_beginnings_are_refused(tmp_path: Path, first: bytes) -> None:
    async with pair(tmp_path) as both:
        with socket.create_connection(("localhost", both.receiver.listener.port)) as stranger:
            stranger.sendall(first + bytes(20))
            answer = await asyncio.to_thread(stranger.recv, 1000)
            assert answer == b"" or api.RaftRefusal.FromString(answer[HEADER.size :]).message


@pytest.mark.parametrize(
    "content",
    [
        HEADER.pack(frames.OFFER, RAFT_HELLO_BYTES_MAX + 1),
        frame(frames.WANTED, b""),
        frame(REFUSAL, b""),
        frame(99, b""),
    ],
)
async def test_frames_out_of_place_end_it(tmp_path: Path, content: bytes) -> None:
    async with pair(tmp_path) as both:
        member = await asyncio.to_thread(
            greeted, both.receiver.listener.port, hello().SerializeToString()
        )
        await asyncio.to_thread(member.write, content)
        with pytest.raises(ConnectionFailed):
            await asyncio.to_thread(member.read, 1)
        await until(lambda: not both.receiver.listener._payloads.open_count, "it is gone")


@pytest.mark.parametrize("content", [frame(REFUSAL, b""), frame(frames.OFFER, b"")])
async def test_other_frames_than_a_hello_are_refused(tmp_path: Path, content: bytes) -> None:
    async with pair(tmp_path) as both:
        stranger = await asyncio.to_thread(dial, both.receiver.listener.port, frames.PREAMBLE)
        await asyncio.to_thread(stranger.write, content)
        with pytest.raises(ConnectionFailed):
            await asyncio.to_thread(stranger.read, 1)
        assert both.receiver.traffic.reasons == ["INVALID_ARGUMENT"]


async def test_a_member_that_says_little_at_a_time_is_given_up(tmp_path: Path) -> None:
    """The time for its hello is that for all of it."""
    answered = asyncio.Event()

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            for byte in HEADER.pack(HELLO, 4000) + bytes(4000):
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0.05)
        answered.set()
        writer.close()

    async with pair(tmp_path, QUICK) as both:
        link = both.sender.peers._connected(OWN).payloads
        server = await asyncio.start_server(drip, "localhost", 0)
        async with server:
            link.listens_at(server.sockets[0].getsockname()[1])
            await both.push(b"a" * 100_000)
            await until(lambda: link._failures and not link._opening, "it is given up", 10.0)
            await answered.wait()
        assert both.sender.pushed == {"stream": 1}


@pytest.mark.parametrize(
    "offer",
    [
        api.PayloadOffer(digest=b"short", size=100_000),
        api.PayloadOffer(digest=b"d" * 32, size=64 * 1024**3 + 1),
        api.PayloadOffer(),
    ],
)
async def test_offers_that_are_refused_leave_the_connection(
    tmp_path: Path, offer: api.PayloadOffer
) -> None:
    content = b"c" * 70_000
    async with pair(tmp_path) as both:
        member = await asyncio.to_thread(
            greeted, both.receiver.listener.port, hello().SerializeToString()
        )

        def push() -> None:
            frames.send(member, frames.OFFER, offer)
            with pytest.raises(frames.Refused, match="INVALID_ARGUMENT"):
                frames.answer(member, frames.WANTED)
            found = api.PayloadOffer(digest=digest_of(content), size=len(content))
            frames.send(member, frames.OFFER, found)
            frames.receive(member, frames.WANTED)
            member.write(content)
            frames.receive(member, frames.STORED)

        await asyncio.to_thread(push)
        assert both.replica.content(digest_of(content)) == content
        member.shutdown()


async def test_too_many_are_refused(tmp_path: Path) -> None:
    limits = replace(Limits(), payload_connections_accepted_max=1)
    async with pair(tmp_path, limits) as both:
        port, content = both.receiver.listener.port, hello().SerializeToString()
        first = await asyncio.to_thread(greeted, port, content)
        await until(lambda: both.receiver.listener._payloads.open_count, "it has its place")
        with pytest.raises(frames.Refused, match="OVERLOADED"):
            await asyncio.to_thread(greeted, port, content)
        first.shutdown()
        await until(lambda: not both.receiver.listener._payloads.open_count, "the place is free")
        await both.push(b"a" * 100_000)
        assert both.sender.pushed == {"connection": 1}


def test_an_answer_that_is_none_is_told() -> None:
    """To the side that pushes."""
    with pytest.raises(BadFrame, match="kind 4 came"):
        frames.answer(Answer(frame(frames.OFFER, b"")), frames.WANTED)  # type: ignore[arg-type]
    with pytest.raises(BadFrame, match="at most 4096"):
        frames.receive(Answer(HEADER.pack(frames.WANTED, 5000)), frames.WANTED)  # type: ignore[arg-type]


class Answer:
    def __init__(self, content: bytes) -> None:
        self._content = content

    def read(self, count: int) -> bytes:
        found, self._content = self._content[:count], self._content[count:]
        return found
