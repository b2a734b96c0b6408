"""A connection that breaks where a test wants it to."""

import asyncio
import socket
import struct
from collections.abc import Callable
from contextlib import suppress


class ResettingProxy:
    """Passes TCP connections on to a port of this machine. Armed, it resets all of them once so
    many bytes have gone one way; `resets` counts how often it did."""

    def __init__(self, port: int, target: int) -> None:
        self._port = port
        self._target = target
        self._connections: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._wanted: dict[str, int] = {}
        self._times = 0
        self._left: dict[str, int] = {}
        self._then: Callable[[], None] = lambda: None
        self.resets = 0

    async def __aenter__(self) -> "ResettingProxy":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def arm(
        self,
        *,
        to_target: int = 0,
        from_target: int = 0,
        times: int = 1,
        then: Callable[[], None] = lambda: None,
    ) -> None:
        """Resets behind so many more bytes, 0 for never; then behind as many more, `times` in
        all: what goes on at once would be through before a test could arm it again. `then`: at
        each reset, before anything can be sent again."""
        self._then = then
        wanted = {"to": to_target, "from": from_target}
        self._wanted = {way: count for way, count in wanted.items() if count}
        self._times = times
        self._left = dict(self._wanted)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        try:
            far = await asyncio.open_connection("127.0.0.1", self._target)
        except (OSError, asyncio.CancelledError):
            writer.close()
            return
        both = {writer, far[1]}
        self._writers |= both
        ways = [self._pass("to", reader, far[1]), self._pass("from", far[0], writer)]
        try:
            with suppress(OSError, asyncio.CancelledError):
                await asyncio.gather(*ways)
        finally:
            self._writers -= both
            for end in both:
                end.close()

    async def _pass(
        self, way: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while data := await reader.read(65_536):
            if way in self._left:
                data, left = data[: self._left[way]], self._left[way] - len(data)
                self._left[way] = left
            writer.write(data)
            await writer.drain()
            if way in self._left and self._left[way] <= 0:
                self._times -= 1
                self._left = dict(self._wanted) if self._times > 0 else {}
                self._reset()
        writer.write_eof()

    def _reset(self) -> None:
        self.resets += 1
        for writer in list(self._writers):
            found = writer.get_extra_info("socket")
            # Closed with this it sends RST, as a machine does that lost the connection.
            found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        self._then()
