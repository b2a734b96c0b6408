"""A member that receives Raft messages over loopback, over gRPC and on Raft connections, and those
who connect to it."""

import asyncio
import datetime as dt
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from partition_operator.resources.certificates import Lifetimes, identity, issue, make_authority
from partition_proto.connection import pem, renewed
from partition_proto.connection.contexts import client_context
from partition_proto.v1 import peer_pb2 as api
from partition_proto.v1 import peer_pb2_grpc
from partition_replica.config import TlsFiles
from partition_replica.core.limits import Limits
from partition_replica.errors import WrongCluster
from partition_replica.transport.authorization import Authorizer
from partition_replica.transport.channels import SERVER_OPTIONS, add_port
from partition_replica.transport.failures import Failures
from partition_replica.transport.greetings import Greetings
from partition_replica.transport.listener_parts import ListenerParts
from partition_replica.transport.peer_service import PeerService
from partition_replica.transport.peers import Peers
from partition_replica.transport.raft_frames import HEADER, HELLO, PREAMBLE, frame
from partition_replica.transport.raft_listener import RaftListener
from partition_replica.transport.streams import Streams

from tests.support.certificates import MountedCertificates, mount
from tests.support.local_group import eventually

PARTITION = "tests/group"
CLUSTER = "c"
OWN, OTHER = 1, 2
"""The member that receives, and the one that sends."""


class Replica:
    """Lets in who names its cluster and member, and remembers what it was told."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, bytes]] = []
        self.greeted: list[int] = []
        self.gone: list[int] = []

    def check_peer(self, cluster: str, to: int, sender: int = 0, last_index: int = 0) -> None:
        if (cluster, to) != (CLUSTER, OWN):
            raise WrongCluster(f"this is member {OWN} of {CLUSTER}")
        if last_index == 0:
            raise WrongCluster("its volume was rolled back")

    def greet(self, member: int, address: str) -> None:
        self.greeted.append(member)

    def disconnected(self, member: int) -> None:
        self.gone.append(member)

    def receive(self, message: bytes, sender: int) -> None:
        self.seen.append((sender, message))

    def status(self) -> Any:
        return type("Status", (), {"cluster": CLUSTER, "member": OWN, "incarnation": 1} | LAST)


LAST = {"last_index": 9}


class Traffic:
    """Counts as the metrics do."""

    def __init__(self) -> None:
        self.out: Counter[str] = Counter()
        self.came: Counter[str] = Counter()
        self.members: Counter[str] = Counter()
        self.reasons: list[str] = []

    def sent(self, way: str, messages: int, size: int) -> None:
        self.out[way] += messages

    def received(self, way: str, messages: int, size: int) -> None:
        self.came[way] += messages

    def sending(self, way: str, change: int) -> None:
        self.members[way] += change

    def refused(self, reason: str) -> None:
        self.reasons.append(reason)


class Receiver:
    """`raft_port`: what its hellos name; by default the port of its listener."""

    def __init__(
        self,
        limits: Limits | None = None,
        folder: Path | None = None,
        replica: Replica | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self.folder = folder
        self.replica = replica or Replica()
        self.traffic = Traffic()
        self.open: Counter[str] = Counter()
        self.raft_port: Callable[[], int] = lambda: self.listener.port
        self.grpc_port = 0
        tls = files(folder) if folder else None
        self._tls = tls
        replica: Any = self.replica
        self._authorizer = Authorizer(PARTITION) if folder else None
        self._parts = ListenerParts(
            replica,
            Greetings(replica, lambda: self.raft_port()),
            Streams(self.limits.peer_streams_max, self._opened),
            Failures(lambda _: None, lambda error: pytest.fail(str(error))),
            self._authorizer,
            self.traffic,
        )
        self.listener = RaftListener(self._parts, self.limits, tls)

    def _opened(self, method: str, count: int) -> None:
        self.open[method] = count

    @property
    def address(self) -> str:
        return f"localhost:{self.grpc_port}"

    def listen(self, port: int = 0) -> int:
        self.listener.start(f"localhost:{port}")
        return self.listener.port

    @asynccontextmanager
    async def serving(self, port: int = 0) -> AsyncIterator["Receiver"]:
        """Serves gRPC, and Raft connections once `listen` is called."""
        server = grpc.aio.server(
            interceptors=[self._authorizer] if self._authorizer else [], options=SERVER_OPTIONS
        )
        service = PeerService(
            self._parts.replica,
            self.limits,
            self._parts.failures,
            self._parts.streams,
            greetings=self._parts.greetings,
            traffic=self.traffic,
        )
        peer_pb2_grpc.add_PeerServicer_to_server(service, server)
        self.grpc_port = add_port(server, f"localhost:{port}", self._tls)
        await server.start()
        try:
            yield self
        finally:
            await server.stop(None)
            await self.listener.close()

    def payloads(self) -> list[bytes]:
        return [message for _, message in self.replica.seen]


class Sender:
    """Member OTHER's transport, and what it reports."""

    def __init__(self, address: str, limits: Limits | None = None, folder: Path | None = None):
        self.traffic = Traffic()
        self.unreachable = 0
        self.dropped = 0
        self.refused: list[str] = []
        self.pushed: Counter[str] = Counter()
        self.peers = Peers(
            OTHER,
            limits or Limits(),
            files(folder) if folder else None,
            hello=lambda: hello(to=0),
            unreachable=self._unreachable,
            dropped=self._dropped,
            snapshot_sent=lambda _: None,
            refused=self.refused.append,
            traffic=self.traffic,
            pushed=self._pushed,
        )
        self.peers.set_addresses({OWN: address})

    def _unreachable(self, _: int) -> None:
        self.unreachable += 1

    def _dropped(self, count: int) -> None:
        self.dropped += count

    def _pushed(self, way: str) -> None:
        self.pushed[way] += 1

    async def __aenter__(self) -> "Sender":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.peers.close()

    def send(self, *messages: bytes) -> None:
        self.peers.send(OWN, list(messages))

    async def connected(self) -> None:
        """It has moved to a Raft connection."""
        self.send(b"first")
        await until(lambda: self.traffic.members["connection"] == 1, "a Raft connection is used")


@pytest.fixture
def pki(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MountedCertificates:
    """Of two replicas, which look at their files at each connection."""
    monkeypatch.setattr(renewed, "LOOK_S", 0.0)
    return MountedCertificates(tmp_path / "pki", PARTITION, 2, dt.timedelta(hours=1))


async def until(condition: Callable[[], object], what: str, within_s: float = 60.0) -> None:
    async def ask() -> bool:
        return bool(condition())

    await eventually(ask, what, within_s)


def files(folder: Path) -> TlsFiles:
    return TlsFiles(folder / "tls.crt", folder / "tls.key", folder / "ca.crt")


def context_of(folder: Path) -> ssl.SSLContext:
    return client_context(pem.read(files(folder))[0])


def unwelcome(pki: MountedCertificates, folder: Path, how: str) -> ssl.SSLContext | None:
    """Of a caller whose certificate is not one of ours that is valid now."""
    if how == "no TLS":
        return None
    if how == "no certificate":
        context = ssl.create_default_context(cafile=pki.folders["replica-0"] / "ca.crt")
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        return context
    now, minute = dt.datetime.now(dt.UTC), dt.timedelta(minutes=1)
    authority = make_authority(now) if how == "another authority" else pki.authority
    later = {"expired": -30 * minute, "not yet valid": dt.timedelta(days=1)}.get(how, 0 * minute)
    lives = Lifetimes(certificate=2 * minute, renew_before=minute)
    name = identity("tests", "group", "replica")
    pair = issue(authority, name, ["localhost"], now + later, lives)
    return context_of(mount(folder, pair, pki.authority.certificate))


def hello(
    member: int = OTHER, *, to: int = OWN, cluster: str = CLUSTER, last_index: int = 9
) -> api.Hello:
    return api.Hello(
        cluster_id=cluster, member_id=member, to_member_id=to, last_index=last_index, address="h:1"
    )


def greeting(member: int = OTHER, **fields: Any) -> bytes:
    return PREAMBLE + frame(HELLO, hello(member, **fields).SerializeToString())


class Dialled:
    """A Raft connection that a test opens by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def to(cls, port: int, context: ssl.SSLContext | None = None) -> "Dialled":
        name = "localhost" if context else None
        return cls(
            *await asyncio.open_connection("localhost", port, ssl=context, server_hostname=name)
        )

    def certificate(self) -> bytes:
        found: bytes = self._writer.get_extra_info("ssl_object").getpeercert(True)
        return found

    def write(self, content: bytes) -> None:
        self._writer.write(content)

    async def answer(self) -> tuple[int, bytes] | None:
        """The next frame; None if the connection has ended instead."""
        try:
            async with asyncio.timeout(60):
                kind, size = HEADER.unpack(await self._reader.readexactly(HEADER.size))
                return kind, await self._reader.readexactly(size)
        except TimeoutError:
            raise AssertionError("neither a frame came nor the end") from None
        except (asyncio.IncompleteReadError, OSError):
            return None

    async def refusal(self) -> str:
        """The reason of the refusal, behind which the connection has ended."""
        found = await self.answer()
        assert found is not None
        refusal = api.RaftRefusal.FromString(found[1])
        assert await self.answer() is None
        return refusal.reason

    async def close(self) -> None:
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()


@asynccontextmanager
async def dialled(port: int, context: ssl.SSLContext | None = None) -> AsyncIterator[Dialled]:
    found = await Dialled.to(port, context)
    try:
        yield found
    finally:
        await found.close()


class Deaf:
    """Answers the hello of a Raft connection, and reads no further."""

    async def __aenter__(self) -> int:
        listening = socket.create_server(("127.0.0.1", 0))
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._server = await asyncio.start_server(self._accept, sock=listening, limit=4096)
        return int(listening.getsockname()[1])

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    def __init__(self) -> None:
        self._writers: list[asyncio.StreamWriter] = []

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        await reader.readexactly(len(PREAMBLE) + HEADER.size)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(frame(HELLO, hello(1).SerializeToString()))
