"""core.ports.PeerTransport over the simulated network: what `transport/peers.py` is over gRPC.

Raft messages go over a connection that begins with a hello, as there; payloads and snapshots in
chunks, in calls of their own.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from partition_proto.v1 import peer_pb2 as peer
from partition_replica.core.payloads import ArrivingPayload
from partition_replica.core.ports import PeerFailed
from partition_replica.errors import (
    InvalidArgument,
    NotBootstrapped,
    NotFound,
    PayloadMismatch,
    ReplicaError,
    WrongCluster,
)
from partition_replica.ids import Digest
from partition_replica.runtime.replica import Replica
from partition_replica.storage.volume import Volume
from partition_replica.transport.chunks import file_batches

from tests.simulation.loop import Process
from tests.simulation.network import Network, Unreachable

if TYPE_CHECKING:
    from tests.simulation.node import Node, ReplicaProcess


RECONNECT_S = 0.1
RECONNECT_GREETED_S = 0.01
"""After a connection that worked: the first pause of backoff.PEER_CONNECTION."""

HELLO_TIMEOUT_S = 0.5

BATCH = 2
"""Payloads that come in one message, of those asked for together."""


@dataclass(eq=False)
class _Connection:
    """To one process of one member. `queue`: what waits for the answer to the hello."""

    target: "Node"
    process: "ReplicaProcess"
    greeted: bool = False
    queue: list[bytes] = field(default_factory=list)


class SimulatedPeers:
    """One process's."""

    def __init__(self, node: "Node", process: Process, network: Network, volume: Volume) -> None:
        self._node = node
        self._volume = volume
        self._process = process
        self._network = network
        self.replica: Replica | None = None
        self._addresses: dict[int, str] = {}
        self._learned: dict[int, str] = {}
        self._connections: dict[int, _Connection] = {}
        self._not_before: dict[int, float] = {}
        network.watch(self._something_went, self._reset)

    # --- PeerTransport ------------------------------------------------------------------------

    def set_addresses(self, addresses: dict[int, str]) -> None:
        self._addresses = dict(addresses)
        self._learned = {m: a for m, a in self._learned.items() if not addresses or m in addresses}
        for member in list(self._connections):
            if self._target(member) is None:
                self._disconnect(member)

    def learn_address(self, member: int, address: str) -> None:
        if member not in self._addresses and address:
            self._learned[member] = address

    def send(self, member: int, messages: list[bytes]) -> None:
        if not self._process.alive:
            return
        for message in messages:
            self._node.checks.sent(self._node, message)
        connection = self._connections.get(member) or self._connect(member)
        if connection is None:
            return
        if not connection.greeted:
            connection.queue += messages
            return
        for message in messages:
            self._transmit(connection, message)

    async def push_payload(self, member: int, digest: Digest, file: Path, size: int) -> None:
        async def serve(target: "Node") -> bool:
            replica = _replica(target)
            replica.peer_requests.check_peer(self._cluster, 0)
            return await replica.peer_requests.take_payload(digest, size, self._chunks(file))

        await self._call(member, serve)
        self._node.trace.count("payloads pushed")

    async def push_arriving(
        self, member: int, digest: Digest, size: int, content: ArrivingPayload
    ) -> None:
        sent: asyncio.Queue[bytes] = asyncio.Queue(1)

        async def send() -> None:
            async for chunk in content.chunks():
                await sent.put(chunk)
            await sent.put(b"")

        async def arriving() -> AsyncIterator[bytes]:
            while chunk := await sent.get():
                await asyncio.sleep(self._network.latency())
                yield chunk

        async def serve(target: "Node") -> bool:
            replica = _replica(target)
            replica.peer_requests.check_peer(self._cluster, 0)
            return await replica.peer_requests.take_payload(digest, size, arriving())

        sending = asyncio.ensure_future(send())  # at this side
        try:
            await self._call(member, serve)
        finally:
            sending.cancel()
        self._node.trace.count("payloads passed on")

    async def push_payloads(self, member: int, blobs: Sequence[tuple[Digest, Path, int]]) -> None:
        async def contents() -> AsyncIterator[list[tuple[bytes, bytes]]]:
            for start in range(0, len(blobs), BATCH):
                await self._transfer(member)
                some = blobs[start : start + BATCH]
                try:
                    yield [(digest, file.read_bytes()) for digest, file, _ in some]
                except FileNotFoundError as error:
                    raise PeerFailed(f"{error.filename} is not here any more") from error

        async def serve(target: "Node") -> None:
            replica = _replica(target)
            replica.peer_requests.check_peer(self._cluster, 0)
            await replica.peer_requests.take_payloads(contents())

        await self._call(member, serve)
        self._node.trace.count("payloads pushed together", len(blobs))

    async def fetch_payload(
        self, member: int, digest: Digest, offset: int = 0
    ) -> tuple[int, AsyncIterator[bytes]]:
        async def serve(target: "Node") -> tuple[int, bytes]:
            replica = _replica(target)
            replica.peer_requests.check_peer(self._cluster, 0)
            path, size = replica.peer_requests.payload_file(digest)
            try:
                return size, await asyncio.to_thread(path.read_bytes)
            except FileNotFoundError as error:
                raise NotFound(f"payload {digest.hex()} is not here any more") from error

        size, content = await self._call(member, serve)

        async def chunks() -> AsyncIterator[bytes]:
            for start in range(offset, len(content), self._node.settings.limits.chunk_bytes):
                await self._transfer(member)
                yield content[start : start + self._node.settings.limits.chunk_bytes]

        self._node.trace.count("payloads fetched further" if offset else "payloads fetched")
        return size, chunks()

    async def fetch_payloads(
        self, member: int, digests: Sequence[Digest]
    ) -> AsyncGenerator[list[bytes], None]:
        async def serve(target: "Node") -> list[bytes]:
            replica = _replica(target)
            replica.peer_requests.check_peer(self._cluster, 0)
            batches = file_batches(replica.peer_requests.payload_file, digests)
            return [content async for batch in batches for content in batch]

        contents = await self._call(member, serve)
        for start in range(0, len(contents), BATCH):
            await self._transfer(member)
            yield contents[start : start + BATCH]
        self._node.trace.count("payloads fetched", len(digests))

    async def send_state(
        self, member: int, message: bytes, file: Path, size: int, digest: bytes
    ) -> int:
        header = peer.TransferHeader(
            cluster_id=self._cluster,
            sender=self._node.member,
            receiver=member,
            message=message,
            size=size,
            digest=digest,
        )

        async def ask(target: "Node") -> int:
            return _replica(target).peer_requests.transfer_offset(header)

        async def serve(target: "Node") -> int:
            chunks = self._chunks(file, header.offset)
            return await _replica(target).peer_requests.receive_state(header, chunks)

        with self._node.checks.snapshot_under_way(self._node, file):
            header.offset = await self._call(member, ask)
            if header.offset:
                self._node.trace.count("snapshots sent further")
            fetched: int = await self._call(member, serve)
        self._node.trace.count("snapshots installed")
        return fetched

    # --- connections --------------------------------------------------------------------------

    def _connect(self, member: int) -> _Connection | None:
        target = self._target(member)
        now = self._process.loop.time()
        if target is None or now < self._not_before.get(member, 0.0):
            return None
        if target.process is None:
            self._refused(member)
            return None
        connection = self._connections[member] = _Connection(target, target.process)
        last_index = self._volume.log.last.index
        self._network.deliver(
            self._node.name,
            target.name,
            partial(self._greet, connection, member, last_index),
        )
        self._process.loop.call_exactly_at(
            now + HELLO_TIMEOUT_S, self._check_greeted, connection, member
        )
        return connection

    def _greet(self, connection: _Connection, member: int, last_index: int) -> None:
        """At the other side."""
        target = connection.target
        if not connection.process.alive or target.replica is None:
            return
        try:
            connection.process.run(
                target.replica.peer_requests.check_peer,
                self._cluster,
                member,
                self._node.member,
                last_index,
            )
        except NotBootstrapped:
            return
        except WrongCluster as error:
            if not self._node.retired and not self._node.left_behind:
                # No volume is ever rolled back here.
                self._node.checks.violated(
                    "hello", f"{target.name} refuses {self._node.name}: {error}", error
                )
            return
        connection.process.run(
            target.replica.peer_requests.greet, self._node.member, self._node.address
        )
        connection.process.streams[self._node.member] = connection
        self._network.deliver(
            target.name, self._node.name, partial(self._greeted, connection, member)
        )

    def _greeted(self, connection: _Connection, member: int) -> None:
        if self._connections.get(member) is connection and not connection.greeted:
            connection.greeted = True
            for message in connection.queue:
                self._transmit(connection, message)
            connection.queue.clear()

    def _check_greeted(self, connection: _Connection, member: int) -> None:
        if self._connections.get(member) is connection and not connection.greeted:
            self._disconnect(member)

    def _end(self, connection: _Connection) -> None:
        """At the other side, which hears that the connection ended. It may have a newer one."""
        process, replica = connection.process, connection.target.replica
        if process.streams.get(self._node.member) is connection:
            del process.streams[self._node.member]
            if process.alive and replica is not None:
                self._node.trace.count("streams that ended")
                process.run(replica.peer_requests.disconnected, self._node.member)

    def close(self) -> None:
        """The process ended, and its kernel closes its connections."""
        for connection in self._connections.values():
            self._say_end(connection)

    def _say_end(self, connection: _Connection) -> None:
        self._network.deliver(
            self._node.name, connection.target.name, partial(self._end, connection)
        )

    def _reset(self, source: str, target: str) -> None:
        if source != self._node.name or not self._process.alive:
            return
        for member, connection in list(self._connections.items()):
            if connection.target.name == target:
                self._disconnect(member)

    def _something_went(self, process: Process | None) -> None:
        if process is self._process or not self._process.alive:
            self._network.unwatch(self._something_went, self._reset)
            return
        for member, connection in list(self._connections.items()):
            one, other = self._node.name, connection.target.name
            cut = self._network.is_cut(one, other) or self._network.is_cut(other, one)
            if connection.process is process or cut:
                self._disconnect(member)

    def _disconnect(self, member: int) -> None:
        connection = self._connections.pop(member, None)
        if connection is None or not connection.greeted:
            self._refused(member)
            return
        self._say_end(connection)
        self._refused(member, RECONNECT_GREETED_S)
        loop = self._process.loop
        loop.call_exactly_at(loop.time() + RECONNECT_GREETED_S, self._connect_again, member)

    def _connect_again(self, member: int) -> None:
        if self._process.alive and member not in self._connections:
            self._connect(member)

    def _refused(self, member: int, pause_s: float = RECONNECT_S) -> None:
        self._not_before[member] = self._process.loop.time() + pause_s
        if self._process.alive and self.replica is not None:
            self._process.run(self.replica.peer_requests.unreachable, member)

    def _transmit(self, connection: _Connection, message: bytes) -> None:
        target = connection.target

        def arrive() -> None:
            if connection.process.alive and target.replica is not None:
                connection.process.run(
                    target.replica.peer_requests.receive, message, self._node.member
                )

        self._network.deliver(self._node.name, target.name, arrive)

    # --- calls --------------------------------------------------------------------------------

    @property
    def _cluster(self) -> str:
        return str(self._volume.log.identity.cluster_id)

    def _target(self, member: int) -> "Node | None":
        address = self._addresses.get(member) or self._learned.get(member, "")
        if not address or member == self._node.member:
            return None
        return self._network.nodes.get(address)

    async def _call(self, member: int, serve: "Any") -> Any:
        source = (self._node.name, self._process)
        try:
            return await self._network.call(source, self._target(member), serve)
        except (Unreachable, ReplicaError) as error:
            # Those are answered INVALID_ARGUMENT.
            refused = isinstance(error, InvalidArgument | PayloadMismatch)
            raise PeerFailed(f"member {member:x}: {error!r}", refused=refused) from error

    async def _chunks(self, file: Path, offset: int = 0) -> AsyncIterator[bytes]:
        """Of a file at this side; cut short where it is gone, as by transport/peers.py."""
        try:
            content = file.read_bytes()
        except FileNotFoundError:
            return
        chunk_bytes = self._node.settings.limits.chunk_bytes
        for start in range(offset, len(content), chunk_bytes):
            await asyncio.sleep(self._network.latency())
            yield content[start : start + chunk_bytes]

    async def _transfer(self, member: int) -> None:
        """One chunk's way here."""
        await asyncio.sleep(self._network.latency())
        target = self._target(member)
        lost = target is None or target.process is None
        if lost or self._network.is_cut(target.name, self._node.name):  # type: ignore[union-attr]
            raise PeerFailed(f"the transfer from member {member:x} broke off")


def _replica(target: "Node") -> Replica:
    assert target.replica is not None, "a call reaches a replica that runs"
    return target.replica
