"""The client for code without an event loop: the asynchronous one on a thread of its own."""

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

from partition_client.channels import Tls
from partition_client.client import Appended, AsyncClient, Source

T = TypeVar("T")


class Client:
    """As AsyncClient; may be shared by threads, whose appends then share one stream."""

    def __init__(self, endpoints: list[str], tls: Tls | None = None, **options: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="partition-client", daemon=True
        )
        self._thread.start()

        async def make() -> AsyncClient:
            return AsyncClient(endpoints, tls, **options)

        self._client = self._run(make())

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._run(self._client.close())
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
        return asyncio.run_coroutine_threadsafe(body, self._loop).result()
