"""A blocking connection, and the thread that it has to itself."""

import asyncio
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from partition_tls import Connection

from partition_replica.threads import finish

T = TypeVar("T")


class PayloadThread:
    """One connection of payloads, from a connected socket on. On the event loop."""

    def __init__(self, connected: socket.socket, name: str) -> None:
        """Takes the socket over."""
        self._control = connected
        self._thread = ThreadPoolExecutor(1, name)
        self._connection: Connection | None = None
        self.over = False
        """The connection has ended, or must not be used any more."""

    async def open(self, make: Callable[[int], Connection]) -> None:
        """Makes the connection: `make` gets the socket's descriptor and owns it. Raises
        ConnectionFailed, and the other errors of `make`."""
        # A second descriptor of the same socket ends it while the first one is in use.
        self._connection = await self.run(lambda: make(self._control.dup().detach()))

    @property
    def is_open(self) -> bool:
        """Whether the handshake was made."""
        return self._connection is not None

    @property
    def connection(self) -> Connection:
        """For the bodies of `run`."""
        assert self._connection is not None, "it is open"
        return self._connection

    async def run(self, body: Callable[[], T]) -> T:
        """Runs a blocking body on the thread. A cancelled caller ends the connection and waits for
        the body. Raises the body's errors, and RuntimeError if no thread can start."""
        working = asyncio.get_running_loop().run_in_executor(self._thread, body)
        return await finish(working, give_up=self.end)

    def end(self) -> None:
        """Ends the connection at once, for both sides, and a running body with ConnectionFailed."""
        self.over = True
        try:
            self._control.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # it has ended already

    def close(self) -> None:
        """Ends the connection, and releases its socket and its thread; no body may run."""
        self.end()
        self._connection = None
        self._control.close()
        self._thread.shutdown(wait=False)
