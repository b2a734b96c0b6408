"""Accepts the connections of other members. A Raft connection, one per member, is of frames
(`raft_frames`). One that begins with another preamble is a payload connection (`payload_listener`).

A stranger costs a socket, a handshake and a small buffer, and with the preamble of a payload
connection a thread and 256 KiB, for a limited time. The connections that have not sent their hello,
and those that have, are limited in number.
"""

import asyncio
import logging
import socket
import ssl
from collections.abc import Coroutine
from contextlib import ExitStack

from partition_proto.connection.contexts import RenewedContext, server_context
from partition_proto.connection.renewed import Heard, RenewedPem
from partition_proto.v1 import peer_pb2 as api

from partition_replica.config import TlsFiles
from partition_replica.core.limits import (
    RAFT_FRAME_BYTES_MAX,
    RAFT_HELLO_BYTES_MAX,
    Limits,
)
from partition_replica.errors import ReplicaError
from partition_replica.transport import failures as errors
from partition_replica.transport import payload_frames, sockets
from partition_replica.transport.greetings import Greetings
from partition_replica.transport.listener_parts import Forbidden, ListenerParts, received_hello
from partition_replica.transport.payload_listener import PayloadConnections
from partition_replica.transport.raft_frames import (
    HELLO,
    MESSAGE,
    PREAMBLE,
    REFUSAL,
    BadFrame,
    FrameReader,
    frame,
)
from partition_replica.transport.raft_traffic import CONNECTION
from partition_replica.transport.refusal_log import RefusalLog
from partition_replica.transport.streams import Streams

logger = logging.getLogger(__name__)

METHOD = "/logstore.v1.Peer/Raft"
"""A Raft connection requires the same role as the gRPC stream that it replaces."""

OPEN_AS = "RaftConnection"
"""The connections' name among the open streams."""

ACCEPT_PAUSE_S = 0.5
"""After a connection could not be accepted, for example because the process has too many files."""

SHUTDOWN_S = 1.0
"""The time in which the other side must take a refusal and close."""


PREAMBLE_LOOK_S = 0.1
"""Between two looks at a connection that has sent a part of its preamble."""


class RaftListener:
    """Listens from `start` to `close`. On the event loop."""

    def __init__(
        self,
        parts: ListenerParts,
        limits: Limits,
        tls: TlsFiles | None,
        files_heard: Heard = lambda _: None,
    ) -> None:
        """tls: each new connection uses the current files. `files_heard` gets the problem of
        changed files, or None. Raises BadPem."""
        self.parts = parts
        self.limits = limits
        self._context: RenewedContext[ssl.SSLContext] | None = None
        files: RenewedPem | None = None
        if tls is not None:
            files = RenewedPem(tls, files_heard)
            self._context = RenewedContext(files.current, server_context)
            self._context.current()
        self._payloads = PayloadConnections(parts, limits, files)
        self._log = RefusalLog()
        self._sockets: list[socket.socket] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting = 0
        self._open: set[_Connection] = set()
        self._members: dict[int, _Connection] = {}

    @property
    def port(self) -> int:
        """0 unless it listens."""
        return int(self._sockets[0].getsockname()[1]) if self._sockets else 0

    def start(self, listen: str) -> None:
        """Listens at HOST:PORT. Raises OSError, ValueError."""
        self._sockets = sockets.listening(listen)
        for listening in self._sockets:
            listening.setblocking(False)
            self._spawn(self._accept(listening))

    async def close(self) -> None:
        """Ends all connections at once: what a member does not get, Raft sends again."""
        listening, self._sockets = self._sockets, []
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for one in listening:
            one.close()
        await self._payloads.close()
        for connection in list(self._open):
            connection.end()
        await asyncio.gather(*(connection.ended.wait() for connection in list(self._open)))

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, source = await loop.sock_accept(listening)
            except OSError as error:
                logger.warning("a Raft connection could not be accepted: %s", error)
                await asyncio.sleep(ACCEPT_PAUSE_S)
                continue
            if self._waiting >= self.limits.raft_hellos_max:
                self.parts.traffic.refused("OVERLOADED")
                accepted.close()
            else:
                self._waiting += 1
                self._spawn(self._greet(accepted, str(source[0])))
            # An accept that need not wait does not let others run: a flood would stop the replica.
            await asyncio.sleep(0)

    async def _greet(self, accepted: socket.socket, host: str) -> None:
        """Serves a connection from the address `host`, counted in `_waiting`, until its member is
        let in or it ends."""
        connection = _Connection(self)
        try:
            async with asyncio.timeout(self.limits.raft_hello_s):
                if await self._carries_payloads(accepted):
                    await self._payloads.greet(accepted)
                    return
                await self._connect(accepted, connection)
                await connection.greeted.wait()
                if not connection.member:  # it is refused, and counts until it has gone
                    await connection.ended.wait()
        except TimeoutError:
            self.parts.traffic.refused("TIMEOUT")
            connection.end()
        except OSError as error:
            if isinstance(error, ssl.SSLError):
                self.parts.traffic.refused("TLS")
                self._handshake_failed(host, error)
            logger.debug("a Raft connection failed before its hello: %s", error)
        finally:
            self._waiting -= 1

    async def _carries_payloads(self, accepted: socket.socket) -> bool:
        """Waits for the first bytes, and takes the preamble of a payload connection. Raises
        OSError; then the socket is closed."""
        wanted = payload_frames.PREAMBLE
        try:
            while True:
                await sockets.readable(accepted)
                first = accepted.recv(len(wanted), socket.MSG_PEEK)
                if first == wanted:
                    accepted.recv(len(wanted))
                    return True
                if not first or not wanted.startswith(first):
                    return False
                await asyncio.sleep(PREAMBLE_LOOK_S)
        except BaseException:
            accepted.close()
            raise

    def _handshake_failed(self, host: str, error: ssl.SSLError) -> None:
        """Logs the cause, such as a certificate of the other side that has expired."""
        if isinstance(error, ssl.SSLCertVerificationError):
            why = f"its certificate is refused: {error.verify_message}"
        else:
            why = f"the TLS handshake failed: {error.reason or error}"
        if not self._log.due((host, why)):
            return
        logger.warning(
            "a Raft connection from %s: %s; a member needs the current certificate of this "
            "Partition, see docs/operations/certificates.md",
            host,
            why,
        )

    async def _connect(self, accepted: socket.socket, connection: "_Connection") -> None:
        """Returns after the TLS handshake. Raises OSError; then the socket is closed."""
        loop = asyncio.get_running_loop()
        try:
            sockets.tune(accepted, self.limits.raft_silence_s)
            context = None if self._context is None else self._context.current()
        except OSError:
            accepted.close()
            raise
        if context is None:
            await loop.connect_accepted_socket(lambda: connection, accepted)
            return
        await loop.connect_accepted_socket(
            lambda: connection,
            accepted,
            ssl=context,
            ssl_handshake_timeout=2 * self.limits.raft_hello_s,  # the caller's time-out is first
            ssl_shutdown_timeout=SHUTDOWN_S,
        )

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- for its connections ------------------------------------------------------------------

    def opened(self, connection: "_Connection") -> None:
        self._open.add(connection)

    def let_in(self, connection: "_Connection", content: bytes, names: list[str]) -> int:
        """Returns the member that begins this connection with a hello. It replaces the member's
        older one, which may be half dead. names: the URI names of the member's certificate. Raises
        Forbidden, InvalidArgument, WrongCluster, NotBootstrapped, Overloaded."""
        parts = self.parts
        member = parts.greetings.let_in(received_hello(parts, METHOD, content, names))
        older = self._members.get(member)
        if older is not None:
            older.give_up_slot()
        connection.take_slot(parts.streams, parts.greetings, member)
        if older is not None:
            logger.info("a newer Raft connection of member %x replaces the older one", member)
            older.end()
        self._members[member] = connection
        return member

    def closed(self, connection: "_Connection") -> None:
        self._open.discard(connection)

    def over(self, connection: "_Connection", member: int) -> None:
        """Nothing more comes of the member on this connection."""
        if self._members.get(member) is connection:
            del self._members[member]


class _Connection(asyncio.Protocol):
    """One Raft connection that a member, or a stranger, opened."""

    def __init__(self, listener: RaftListener) -> None:
        self._listener = listener
        self._parts = listener.parts
        self._reader = FrameReader(RAFT_HELLO_BYTES_MAX, PREAMBLE)
        self._transport: asyncio.Transport | None = None
        self._over = False
        self._last_moment: asyncio.TimerHandle | None = None
        self._member = 0
        self._slot = ExitStack()
        self._presence = ExitStack()
        self.greeted = asyncio.Event()
        """Set once the member is let in, or the connection has ended."""
        self.ended = asyncio.Event()

    def take_slot(self, streams: Streams, greetings: Greetings, member: int) -> None:
        """Counts the connection while it is open. Raises Overloaded."""
        self._slot.enter_context(streams.open(OPEN_AS))
        self._presence.enter_context(greetings.present(member))

    def give_up_slot(self) -> None:
        self._slot.close()

    def end(self) -> None:
        """Ends the connection at once; what it has received is passed on already."""
        self._finish()
        if self._transport is not None:
            self._transport.abort()

    def _finish(self) -> None:
        self._over = True
        self._slot.close()
        self._presence.close()
        self._listener.over(self, self._member)
        self.greeted.set()

    # --- asyncio calls ------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._listener.opened(self)

    def data_received(self, data: bytes) -> None:
        if self._over:
            return
        count = size = 0
        try:
            for kind, content in self._reader.received(data):
                if not self._member:
                    self._let_in(kind, content)
                elif kind == MESSAGE:
                    self._parts.replica.receive(content, self._member)
                    count += 1
                    size += len(content)
                else:
                    raise BadFrame(f"a frame of kind {kind} came where a message is expected")
        except BadFrame as error:
            self._refuse("INVALID_ARGUMENT", str(error))
        except Forbidden as error:
            self._refuse("PERMISSION_DENIED", str(error))
        except ReplicaError as error:
            self._parts.failures.refused(error)
            self._refuse(error.reason, errors.text(error))
        if count:
            self._parts.traffic.received(CONNECTION, count, size)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._last_moment is not None:
            self._last_moment.cancel()
        self._finish()
        self._listener.closed(self)
        self.ended.set()

    @property
    def member(self) -> int:
        """The member that was let in; 0 for none."""
        return self._member

    # --- its course ---------------------------------------------------------------------------

    def _let_in(self, kind: int, content: bytes) -> None:
        if kind != HELLO:
            raise BadFrame(f"the first frame has kind {kind}; a hello is expected")
        assert self._transport is not None, "bytes come after the connection is made"
        self._member = self._listener.let_in(self, content, self._names())
        self._reader.content_bytes_max = RAFT_FRAME_BYTES_MAX
        self._transport.write(frame(HELLO, self._parts.greetings.own().SerializeToString()))
        self.greeted.set()

    def _names(self) -> list[str]:
        """The URI names of the other side's certificate; none without TLS."""
        assert self._transport is not None
        certificate = self._transport.get_extra_info("peercert") or {}
        return [name for kind, name in certificate.get("subjectAltName", ()) if kind == "URI"]

    def _refuse(self, reason: str, message: str) -> None:
        """Sends the reason, and ends the connection."""
        assert self._transport is not None
        self._parts.traffic.refused(reason)
        refusal = api.RaftRefusal(reason=reason, message=message)
        self._transport.write(frame(REFUSAL, refusal.SerializeToString()))
        self._transport.close()
        # For a stranger that does not take the refusal.
        loop = asyncio.get_running_loop()
        self._last_moment = loop.call_later(SHUTDOWN_S, self._transport.abort)
        self._finish()
