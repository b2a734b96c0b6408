"""The client for code without an event loop: it runs the asynchronous client on a thread.

A signal handler may use a client that its own thread is using. The handler runs between any two
steps of that thread, and a lock can't keep it out. Waits of `threading` and of concurrent futures
hold an internal lock for a moment. A handler that ran in that moment would wait for the lock
forever. So threads wait here only by `SimpleQueue.get` and `time.sleep`, which a handler may
interrupt.
"""

import asyncio
import threading
import time
from collections.abc import Coroutine, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, TypeVar

from partition_proto.v1 import types_pb2 as types

from partition_client.channels import Tls
from partition_client.client import AsyncClient
from partition_client.errors import ClientError, client_closed
from partition_client.pending_append import Appended
from partition_client.sources import PayloadSource

CLOSED_POLL_S = 0.01
"""Seconds between a thread's checks whether another thread has closed the client."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class _Closer:
    """One call of `close`."""

    thread: threading.Thread


class Client:
    """Keys and files of a partition, for code without an event loop. Threads may share a client;
    their appends then share one stream. A signal handler may use it.

    It takes the options of AsyncClient and raises the same errors, but has only the methods below.
    Its reads are linearizable; only AsyncClient has `stale_from`.
    """

    def __init__(self, endpoints: list[str], tls: Tls | None = None, **options: Any) -> None:
        """Raises as AsyncClient does."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="partition-client", daemon=True
        )
        self._thread.start()
        # Reentrant, because a signal handler may need it while its own thread holds it.
        self._lock = threading.RLock()
        self._closers: list[_Closer] = []
        """The first one closes the client."""
        self._stopped = False

        async def make() -> AsyncClient:
            return AsyncClient(endpoints, tls, **options)

        try:
            self._client = self._wait_for(make())
        except BaseException:
            self._stop()
            raise

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the client. Calls of other threads raise ClientError. Waits if another thread is
        closing the client. Does nothing if the client is closed, in a signal handler that
        interrupts `close`, and in a fork of the client's process."""
        if not self._client.owner.here:
            return
        closer = _Closer(threading.current_thread())
        with self._lock:
            # One step, unlike a test and then a set: a signal handler can't run in between.
            self._closers.append(closer)
        first = self._closers[0]
        if first is closer:
            try:
                self._wait_for(self._client.close())
            finally:
                self._stop()
        elif first.thread is not closer.thread:
            while not self._stopped:
                time.sleep(CLOSED_POLL_S)

    def _stop(self) -> None:
        try:
            self._wait_for(_cancel_others())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
        finally:
            self._stopped = True

    def set_key(self, key: bytes, value: bytes) -> Appended:
        return self._run(self._client.set_key(key, value))

    def append_many(
        self, many: Iterable[list[types.Operation]], *, wait_applied: bool = False
    ) -> list[Appended | ClientError]:
        # Here, not on the client's thread: the caller's iterable may use this client.
        found = list(many)
        return self._run(self._client.append_many(found, wait_applied=wait_applied))

    def delete_key(self, key: bytes) -> Appended:
        return self._run(self._client.delete_key(key))

    def get_key(self, key: bytes) -> bytes | None:
        return self._run(self._client.get_key(key))

    def put_file(self, path: bytes, source: PayloadSource, *, replace: bool = True) -> Appended:
        return self._run(self._client.put_file(path, source, replace=replace))

    def read_file(self, path: bytes) -> bytes:
        """Returns a file's whole content. Raises NotFound and TreeMismatch."""
        content = bytearray()
        self._run(self._client.read_file(path, content.extend))
        return bytes(content)

    def list_keys(self, start: bytes = b"", end: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Returns keys of [start, end) with values, in byte order. Reads all of them into memory
        first. Pages may be of different LSNs."""

        async def read() -> list[tuple[bytes, bytes]]:
            return [item async for item in self._client.list_keys(start, end)]

        return iter(self._run(read()))

    def _run(self, body: Coroutine[Any, Any, T]) -> T:
        try:
            self._client.owner.check()
            # A call that is submitted after `_stop` would wait forever, so the lock covers the
            # check and the submission.
            with self._lock:
                if self._closers:
                    raise client_closed()
                done: SimpleQueue[asyncio.Task[T]] = SimpleQueue()
                with suppress(RuntimeError):  # the loop is closed
                    self._submit(body, done)
                # A signal handler may have closed the client since: its thread has the lock.
                if self._stopped and done.empty():
                    raise client_closed()
        except ClientError:
            body.close()  # it was never started
            raise
        try:
            return done.get().result()
        except asyncio.CancelledError as error:
            raise ClientError("the client was closed while the call was in progress") from error

    def _submit(self, body: Coroutine[Any, Any, T], done: "SimpleQueue[asyncio.Task[T]]") -> None:
        """Starts a task on the loop, which puts it into the queue when it is done. Raises
        RuntimeError once the loop is closed."""

        def start() -> None:
            self._loop.create_task(body).add_done_callback(done.put)

        self._loop.call_soon_threadsafe(start)

    def _wait_for(self, body: Coroutine[Any, Any, T]) -> T:
        """Runs `body` on the loop, even if the client is closed."""
        done: SimpleQueue[asyncio.Task[T]] = SimpleQueue()
        self._submit(body, done)
        return done.get().result()


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
