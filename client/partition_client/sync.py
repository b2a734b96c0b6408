"""The client for code without an event loop: the asynchronous one on a thread of its own."""

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from concurrent.futures import CancelledError
from typing import Any, TypeVar

from partition_client.channels import Tls
from partition_client.client import Appended, AsyncClient, Source
from partition_client.errors import ClientError
from partition_client.processes import Owner

T = TypeVar("T")


class Client:
    """As AsyncClient; may be shared by threads, whose appends then share one stream."""

    def __init__(self, endpoints: list[str], tls: Tls | None = None, **options: Any) -> None:
        """Raises as AsyncClient does."""
        self._owner = Owner()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="partition-client", daemon=True
        )
        self._thread.start()

        async def make() -> AsyncClient:
            return AsyncClient(endpoints, tls, **options)

        try:
            self._client = self._run(make())
        except BaseException:
            self._stop()
            raise

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Calls of other threads end with ClientError. Does nothing the second time, and nothing in
        a process that was forked from the client's."""
        if self._owner.here and not self._loop.is_closed():
            self._run(self._client.close())
            self._stop()

    def _stop(self) -> None:
        asyncio.run_coroutine_threadsafe(_cancel_others(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def set_key(self, key: bytes, value: bytes) -> Appended:
        return self._run(self._client.set_key(key, value))

    def delete_key(self, key: bytes) -> Appended:
        return self._run(self._client.delete_key(key))

    def get_key(self, key: bytes) -> bytes | None:
        return self._run(self._client.get_key(key))

    def put_file(self, path: bytes, source: Source, *, replace: bool = True) -> Appended:
        return self._run(self._client.put_file(path, source, replace=replace))

    def read_file(self, path: bytes) -> bytes:
        """A file's whole content, in memory."""
        content = bytearray()
        self._run(self._client.read_file(path, content.extend))
        return bytes(content)

    def list_keys(self, start: bytes = b"", end: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        async def read() -> list[tuple[bytes, bytes]]:
            return [item async for item in self._client.list_keys(start, end)]

        return iter(self._run(read()))

    def _run(self, body: Coroutine[Any, Any, T]) -> T:
        try:
            self._owner.check()
            if self._loop.is_closed():
                raise ClientError("the client is closed")
        except ClientError:
            body.close()  # it was never begun
            raise
        try:
            return asyncio.run_coroutine_threadsafe(body, self._loop).result()
        except CancelledError as error:
            raise ClientError("the client was closed while the call was under way") from error


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
