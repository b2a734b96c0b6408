"""The way of our Raft messages to one other member.

The link greets the member over gRPC. If the member accepts Raft connections, the link opens one and
moves to it, because a message costs far less there. Until then, and if a firewall closes the port,
the messages go over the gRPC stream.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import grpc
from partition_common import backoff
from partition_proto.connection import handshake
from partition_proto.connection.channel import FromFiles, Insecure
from partition_proto.connection.contexts import RenewedContext, client_context
from partition_proto.v1 import peer_pb2 as api
from partition_proto.v1 import peer_pb2_grpc

from partition_replica.core.limits import RAFT_FRAME_BYTES_MAX, Limits
from partition_replica.transport.channels import peer_channel
from partition_replica.transport.payload_link import PayloadLink
from partition_replica.transport.raft_connection import (
    RaftConnection,
    RaftLost,
    RaftRefused,
    Target,
    open_connection,
)
from partition_replica.transport.raft_traffic import CONNECTION, STREAM, RaftTraffic

logger = logging.getLogger(__name__)

TLS_TRIED_AT = 3
"""Consecutive failures after which a handshake is tried to find out whether TLS is the reason. It
is tried again at each multiple."""

SETTLED_S = 30.0
"""The life of a Raft connection after which its end is no failure. If shorter ones follow each
other, their pauses grow, and the messages go over gRPC meanwhile."""

PASSING = frozenset({"OVERLOADED", "NOT_BOOTSTRAPPED"})
"""Reasons of a refusal that a retry may fix."""

LOGGED_AT = (0, 10)
"""Numbers of earlier consecutive failures at which a failure is logged."""


class Security:
    """The current credentials of all links, for gRPC and for Raft connections."""

    def __init__(self, credentials: FromFiles | Insecure) -> None:
        self.credentials = credentials
        self._contexts = (
            RenewedContext(credentials.versioned_pem, client_context)
            if isinstance(credentials, FromFiles)
            else None
        )

    def target(self, address: str, port: int) -> Target:
        """The Raft connections of the replica whose gRPC address is `address`."""
        host, _ = handshake.split(address)
        return Target(host, port, self._contexts.current() if self._contexts else None)


@dataclass(frozen=True, slots=True)
class LinkHooks:
    """hello: returns our hello for a member. unreachable: called with a member to which the way of
    the messages broke. refused: called with the reason of a failure that no retry fixes."""

    hello: Callable[[int], api.Hello]
    unreachable: Callable[[int], None]
    refused: Callable[[str], None]
    traffic: RaftTraffic


class RaftLink:
    """One other member. On the event loop."""

    def __init__(
        self, member: int, address: str, limits: Limits, security: Security, hooks: LinkHooks
    ) -> None:
        self.member = member
        self.address = address
        self._limits = limits
        self._security = security
        self._hooks = hooks
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._wake = asyncio.Event()
        self._greeted = False
        self._refusal = ""
        self._connection: RaftConnection | None = None
        self._connection_problem = ""
        self._connection_failures = 0
        """Consecutive Raft connections that were not opened, or did not settle."""
        self._trial: asyncio.Task[None] | None = None
        self.payloads = PayloadLink(member, address, limits, security.credentials, hooks.hello)
        self._channel = peer_channel(address, security.credentials)
        self.stub = peer_pb2_grpc.PeerStub(self._channel)
        self._task = asyncio.create_task(self._run())

    def send(self, messages: list[bytes]) -> int:
        """Queues messages, and writes them at once to a Raft connection that has room; returns how
        many were dropped."""
        dropped = 0
        for message in messages:
            size = len(message)
            full = self._queued_bytes + size > self._limits.peer_queue_bytes_max
            if full or size > RAFT_FRAME_BYTES_MAX:
                dropped += 1
                continue
            self._queue.append(message)
            self._queued_bytes += size
        if self._connection is None:
            self._wake.set()
        else:
            self._write()
        return dropped

    async def close(self) -> None:
        tasks = [task for task in (self._task, self._trial) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.payloads.close()
        await self._channel.close()

    async def _run(self) -> None:
        failures = 0
        while True:
            self._greeted = False
            try:
                await self._reach()
            except (
                grpc.aio.AioRpcError,
                asyncio.InvalidStateError,
                RaftLost,
                RaftRefused,
            ) as error:
                # InvalidStateError: a write to a call that has ended already.
                if failures in LOGGED_AT:
                    logger.info(
                        "the messages to member %x at %s were interrupted: %s",
                        self.member,
                        self.address,
                        error,
                    )
                self._look_for_refusal(error, failures + 1)
            except Exception:  # an ended task would never send anything to this member again
                logger.exception("the way to member %x at %s failed", self.member, self.address)
            failures = 1 if self._greeted else failures + 1
            if self._greeted:
                self._refusal = ""
            self._hooks.unreachable(self.member)
            self._queue.clear()
            self._queued_bytes = 0
            await asyncio.sleep(backoff.PEER_CONNECTION.after(failures))

    # --- refusals -----------------------------------------------------------------------------

    def _look_for_refusal(self, error: Exception, failures: int) -> None:
        """Reports a failure that no retry fixes: a certificate that one side refuses."""
        if self._greeted or not isinstance(error, grpc.aio.AioRpcError):
            return
        if error.code() is grpc.StatusCode.PERMISSION_DENIED:
            self._refused(error.code().name, str(error.details()))
        elif failures % TLS_TRIED_AT == 0 and (self._trial is None or self._trial.done()):
            self._trial = asyncio.create_task(self._try_handshake())

    async def _try_handshake(self) -> None:
        credentials = self._security.credentials
        pem = credentials.pem() if isinstance(credentials, FromFiles) else None
        found = await asyncio.to_thread(handshake.refusal, self.address, pem)
        if found is not None and not self._greeted:
            self._refused(found.reason, found.message)

    def _refused(self, reason: str, message: str) -> None:
        """Reports each reason once until the member is reached."""
        if self._refusal != reason:
            self._refusal = reason
            logger.warning("member %x can't be reached: %s: %s", self.member, reason, message)
            self._hooks.refused(reason)

    # --- the gRPC stream ----------------------------------------------------------------------

    async def _reach(self) -> None:
        """Sends messages until their way breaks. Raises AioRpcError, InvalidStateError, RaftLost,
        RaftRefused."""
        call = self.stub.Raft()
        opening: asyncio.Task[None] | None = None
        try:
            await call.write(api.RaftBatch(hello=self._hooks.hello(self.member)))
            reply = await call.read()
            if reply is grpc.aio.EOF:
                return
            self._greeted = True
            found = reply.hello
            self.payloads.listens_at(found.raft_port if found.payload_connections else 0)
            if reply.hello.raft_port:
                opening = asyncio.create_task(self._open(reply.hello.raft_port))
            await self._send_over(call)
        finally:
            if opening is not None:
                opening.cancel()
                await asyncio.gather(opening, return_exceptions=True)
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            call.cancel()

    async def _send_over(self, call: Any) -> None:
        """Sends messages over the gRPC stream until it ends, or until there is a Raft connection,
        and then over that one."""
        ended = asyncio.ensure_future(call.read())
        ended.add_done_callback(_retrieve)
        try:
            self._hooks.traffic.sending(STREAM, 1)
            try:
                await self._write_to(call, ended)
            finally:
                self._hooks.traffic.sending(STREAM, -1)
            if self._connection is not None:
                await self._move(self._connection, call, ended)
            elif ended.done():
                ended.result()  # raises the reason, if there is one
        finally:
            ended.cancel()

    async def _write_to(self, call: Any, ended: "asyncio.Future[Any]") -> None:
        """Returns when the stream has ended, or when a Raft connection is open."""
        while not ended.done() and self._connection is None:
            wake = asyncio.ensure_future(self._wake.wait())
            try:
                await asyncio.wait({wake, ended}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                wake.cancel()
            self._wake.clear()
            while self._queue and self._connection is None:
                messages, size = self._take()
                await call.write(api.RaftBatch(messages=messages))
                self._hooks.traffic.sent(STREAM, len(messages), size)

    # --- the Raft connection ------------------------------------------------------------------

    async def _open(self, port: int) -> None:
        """Opens a Raft connection, however many tries it takes."""
        while self._connection is None:
            if self._connection_failures:
                await asyncio.sleep(backoff.RAFT_CONNECTION.after(self._connection_failures))
            try:
                target = self._security.target(self.address, port)
                hello = self._hooks.hello(self.member)
                self._connection = await open_connection(target, hello, self._limits, self._write)
            except Exception as error:  # also of an address or port that is none
                self._not_connected(port, error)
                self._connection_failures += 1
        self._wake.set()

    def _not_connected(self, port: int, error: Exception) -> None:
        """Reports each reason once until a connection is open."""
        reason = error.reason if isinstance(error, RaftRefused) else type(error).__name__
        if self._connection_problem != reason:
            self._connection_problem = reason
            logger.warning(
                "no Raft connection to member %x at port %d of %s: %s. Its messages go over gRPC, "
                "which costs more; the connection is tried again",
                self.member,
                port,
                self.address,
                str(error) or reason,
            )
            if isinstance(error, RaftRefused) and reason not in PASSING:
                self._hooks.refused(reason)

    async def _move(
        self, connection: RaftConnection, call: Any, ended: "asyncio.Future[Any]"
    ) -> None:
        """Ends the gRPC stream, and waits until the Raft connection is lost. Raises RaftLost,
        RaftRefused."""
        self._hooks.traffic.sending(CONNECTION, 1)
        now = asyncio.get_running_loop().time
        began = now()
        lost = asyncio.ensure_future(connection.lost())
        try:
            self._write()
            with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await call.done_writing()
            # What was written to the stream arrives before it ends.
            await asyncio.wait(
                {lost, ended},
                timeout=self._limits.raft_hello_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if not ended.done():
                call.cancel()
            raise await lost
        finally:
            lost.cancel()
            self._hooks.traffic.sending(CONNECTION, -1)
            self._connection_failures += 1
            if now() - began >= SETTLED_S:
                self._connection_failures, self._connection_problem = 0, ""

    def _write(self) -> None:
        """Writes queued messages while the connection has room."""
        connection = self._connection
        while connection is not None and self._queue and connection.writable:
            messages, size = self._take()
            connection.write(messages)
            self._hooks.traffic.sent(CONNECTION, len(messages), size)

    def _take(self) -> tuple[list[bytes], int]:
        """Takes messages of one write out of the queue. Returns them, and their bytes."""
        taken: list[bytes] = []
        size = 0
        while self._queue:
            next_size = len(self._queue[0])
            if taken and size + next_size > self._limits.peer_batch_bytes_max:
                break
            taken.append(self._queue.popleft())
            size += next_size
        self._queued_bytes -= size
        return taken, size


def _retrieve(ended: "asyncio.Future[Any]") -> None:
    """Marks a future's error as known: another one may be reported instead."""
    if not ended.cancelled():
        ended.exception()
