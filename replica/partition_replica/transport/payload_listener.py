"""Receives payloads on the connections that other members open for them.

The content goes from the socket into a staging file on the connection's own thread, without
Python's lock. What is received, and whether, is decided on the event loop.
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from google.protobuf.message import DecodeError
from partition_proto.connection.contexts import RenewedContext
from partition_proto.connection.pem import Pem
from partition_proto.connection.renewed import RenewedPem
from partition_proto.v1 import peer_pb2 as api
from partition_tls import BadConfig, Connection, ConnectionFailed, ServerConfig, Sha256

from partition_replica.core.limits import PAYLOAD_BYTES_MAX, Limits
from partition_replica.core.ports import PeerFailed
from partition_replica.errors import Fatal, InvalidArgument, Overloaded, ReplicaError
from partition_replica.transport import failures as errors
from partition_replica.transport import payload_frames as frames
from partition_replica.transport import sockets
from partition_replica.transport.listener_parts import Forbidden, ListenerParts, received_hello
from partition_replica.transport.payload_thread import PayloadThread
from partition_replica.transport.raft_frames import HELLO, REFUSAL, BadFrame
from partition_replica.transport.refusal_log import RefusalLog
from partition_replica.transport.requests import check_request

logger = logging.getLogger(__name__)

T = TypeVar("T")

METHOD = "/logstore.v1.Peer/PushPayload"
"""A payload connection requires the same role as the RPC that it replaces."""

OPEN_AS = "PayloadConnection"
"""The name among the open streams of a payload that is being pushed."""


class PayloadConnections:
    """The payload connections that other members have opened here. On the event loop."""

    def __init__(self, parts: ListenerParts, limits: Limits, files: RenewedPem | None) -> None:
        """files: of TLS; each new connection uses the current ones. None without TLS."""
        self._parts = parts
        self._limits = limits
        self._config = RenewedContext(files.current, server_config) if files else None
        self._open: dict[PayloadThread, asyncio.Task[None]] = {}
        self._log = RefusalLog()

    @property
    def open_count(self) -> int:
        """The connections that are let in."""
        return len(self._open)

    async def greet(self, accepted: socket.socket) -> None:
        """Lets a member in on an accepted socket, whose preamble is taken, and begins to serve it.
        Raises OSError if it is not let in; then the socket is closed. Its time is the caller's."""
        try:
            # Not `raft_silence_s`: the kernel would also end a connection whose reader is slow.
            sockets.tune(accepted, self._limits.stream_stall_s)
            config = None if self._config is None else self._current(self._config)
        except BaseException:
            accepted.close()
            raise
        thread = PayloadThread(accepted, "payloads-in")
        # The caller's time-out is first.
        timeout_s = 2 * self._limits.raft_hello_s
        try:
            await thread.open(lambda descriptor: Connection.accept(descriptor, config, timeout_s))
            await self._let_in(thread)
            task = asyncio.create_task(self._serve(thread))
        except BaseException as error:
            reason = self._why_not(thread, error)
            thread.close()
            if reason:
                self._parts.traffic.refused(reason)
            if isinstance(error, ConnectionFailed | BadFrame | RuntimeError):
                raise OSError(f"a payload connection was not opened: {error}") from error
            raise
        self._open[thread] = task
        task.add_done_callback(partial(self._ended, thread))

    async def close(self) -> None:
        """Ends all connections at once: what a member had not stored here, it pushes again."""
        tasks = list(self._open.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _current(self, config: RenewedContext[ServerConfig]) -> ServerConfig:
        """Raises OSError for files that are not valid here."""
        try:
            return config.current()
        except BadConfig as error:
            if self._log.due(("files", str(error))):
                logger.warning(
                    "no payload connections are accepted, because the TLS files can't be used for "
                    "them: %s. Payloads come over gRPC",
                    error,
                )
            raise OSError(str(error)) from error

    def _why_not(self, thread: PayloadThread, error: BaseException) -> str:
        """Under which reason a connection that was not let in counts; empty if it was counted, or
        has just ended."""
        if isinstance(error, BadFrame):
            return "INVALID_ARGUMENT"
        failed = isinstance(error, ConnectionFailed) and not thread.is_open
        return "TLS" if failed and self._config else ""

    async def _let_in(self, thread: PayloadThread) -> None:
        """Raises OSError for a hello that is refused, ConnectionFailed, BadFrame."""
        connection = thread.connection
        names, content = await thread.run(
            lambda: (connection.peer_names(), frames.receive(connection, HELLO)[1])
        )
        parts = self._parts
        try:
            hello = received_hello(parts, METHOD, content, names)
            check_request(hello)
            if not hello.to_member_id:
                raise InvalidArgument("the hello has no to_member_id: set it to the receiver's ID")
            parts.replica.check_peer(hello.cluster_id, hello.to_member_id)
            if self.open_count >= self._limits.payload_connections_accepted_max:
                raise Overloaded(
                    f"{self.open_count} payload connections are open here, the maximum "
                    "(payload_connections_accepted_max): push over gRPC"
                )
            own = parts.greetings.own()
        except (Forbidden, ReplicaError) as error:
            reason = error.reason if isinstance(error, ReplicaError) else "PERMISSION_DENIED"
            parts.traffic.refused(reason)
            await self._refuse(thread, reason, str(error))
            raise OSError(f"a payload connection was refused: {error}") from error
        await thread.run(lambda: frames.send(connection, HELLO, own))

    async def _serve(self, thread: PayloadThread) -> None:
        """Receives payloads until the connection ends."""
        try:
            # A member that has just come has more to do than one that pushes a stream of payloads.
            first_s = self._limits.raft_hello_s
            while not thread.over:
                await self._receive(thread, first_s)
                first_s = 0.0
        except (ConnectionFailed, BadFrame) as error:
            logger.debug("a payload connection ended: %s", error)

    async def _receive(self, thread: PayloadThread, wait_s: float) -> None:
        """Receives one payload, or refuses it. Waits for an offer for at least wait_s. Raises
        ConnectionFailed, BadFrame."""
        connection, limits = thread.connection, self._limits

        def next_offer() -> bytes:
            connection.set_timeout(max(limits.payload_connection_idle_s * 2, wait_s))
            return frames.receive(connection, frames.OFFER)[1]

        content = await thread.run(next_offer)
        moved = _Moved(thread, limits.stream_stall_s)
        try:
            offer = _decoded(content)
            with self._parts.streams.open(OPEN_AS):
                await self._parts.replica.take_moved(offer.digest, offer.size, moved)
        except PeerFailed as error:
            logger.info("a payload that was pushed here is discarded: %s", error)
            raise ConnectionFailed(str(error)) from error
        except ReplicaError as error:
            self._parts.failures.refused(error)
            if isinstance(error, Fatal):
                raise ConnectionFailed(f"this replica ends: {error}") from error
            await self._refuse(thread, error.reason, errors.text(error))
            if moved.accepted:  # content that nobody wants any more may be on its way
                thread.end()
            return
        await thread.run(lambda: frames.send(connection, frames.STORED))

    async def _refuse(self, thread: PayloadThread, reason: str, message: str) -> None:
        connection = thread.connection
        refusal = api.RaftRefusal(reason=reason, message=message)
        try:
            await thread.run(lambda: frames.send(connection, REFUSAL, refusal))
        except ConnectionFailed as error:
            logger.debug("a refusal did not reach its member: %s", error)

    def _ended(self, thread: PayloadThread, task: "asyncio.Task[None]") -> None:
        del self._open[thread]
        thread.close()
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a payload connection failed", exc_info=error)


def server_config(found: Pem) -> ServerConfig:
    """Raises BadConfig."""
    return ServerConfig(found.authority, found.certificate, found.key)


def _decoded(content: bytes) -> api.PayloadOffer:
    try:
        offer = api.PayloadOffer.FromString(content)
    except DecodeError as error:
        raise InvalidArgument(f"an offer can't be decoded: {error}") from error
    if offer.size > PAYLOAD_BYTES_MAX:
        raise InvalidArgument(
            f"the payload has {offer.size} bytes; at most {PAYLOAD_BYTES_MAX} are allowed"
        )
    return offer


class _Moved:
    """The content of one offer. Implements core.payloads.MovedContent."""

    def __init__(self, thread: PayloadThread, stall_s: float) -> None:
        self._thread = thread
        self._connection = thread.connection
        self._stall_s = stall_s
        self._digest = Sha256()
        self.accepted = False

    async def run(self, body: Callable[[], T]) -> T:
        return await self._thread.run(body)

    def accept(self) -> None:
        self.accepted = True
        try:
            self._connection.set_timeout(self._stall_s)
            frames.send(self._connection, frames.WANTED)
        except ConnectionFailed as error:
            raise PeerFailed(f"the sender of a payload is gone: {error}") from error

    def move(self, descriptor: int, count: int) -> None:
        try:
            self._connection.receive_content(descriptor, count, self._digest)
        except ConnectionFailed as error:
            raise PeerFailed(f"the content of a payload did not come: {error}") from error

    def digest(self) -> bytes:
        return self._digest.digest()
