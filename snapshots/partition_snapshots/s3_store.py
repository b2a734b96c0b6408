"""A store in a bucket of an S3-compatible object store, through obstore.

Each object is sent with a SHA-256 that the server checks, so bodies need no signature. A file is
hashed while it is read. Its last part is sent only if the hash is right, so a damaged file never
becomes an object. This module retries calls with backoff, within the limits.
"""

import asyncio
import builtins
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import S3Store as Client

from partition_snapshots.destination import S3Destination
from partition_snapshots.errors import (
    InvalidDestination,
    SnapshotDamaged,
    SnapshotError,
    SnapshotNotFound,
)
from partition_snapshots.limits import SnapshotLimits
from partition_snapshots.parallel import ByteBudget
from partition_snapshots.s3_errors import code_of, translated
from partition_snapshots.s3_files import FileReader, UploadProgress
from partition_snapshots.s3_uploads import abort_uploads
from partition_snapshots.store import OBJECTS, ObjectInfo, Told, always, check_name, untold

T = TypeVar("T")

PARTS_MAX = 10_000
"""The most parts of one multipart upload. Larger files get larger parts."""

LIST_PAGE = 1000

INNER_RETRIES = 1
"""obstore's own retries of a single request; the backoff is in this module. Parts of a multipart
upload are an exception: obstore retries them within the limits, because a retry in this module
sends the whole file again."""


class S3Store:
    """See the module. Nothing is sent before the first call."""

    def __init__(self, destination: S3Destination, limits: SnapshotLimits) -> None:
        self.description = str(destination)
        self._destination = destination
        self._limits = limits
        self._root = f"{destination.prefix}/" if destination.prefix else ""
        inner_s = timedelta(seconds=limits.connect_timeout_s)
        self._client = _client(
            destination, limits, {"max_retries": INNER_RETRIES, "retry_timeout": inner_s}
        )
        self._parts_client = _client(
            destination,
            limits,
            {
                "max_retries": limits.retries,
                "retry_timeout": timedelta(seconds=limits.retry_timeout_s),
                "backoff": {
                    "init_backoff": timedelta(seconds=limits.backoff_first_s),
                    "max_backoff": timedelta(seconds=limits.backoff_max_s),
                    "base": 2,
                },
            },
        )
        self._budget = ByteBudget(limits.inflight_bytes_max)

    def _key(self, name: str) -> str:
        return self._root + check_name(name)

    async def _tried(
        self,
        what: str,
        attempt: Callable[[], Awaitable[T]],
        progress: "UploadProgress | None" = None,
    ) -> T:
        """Runs one operation, and retries it after retriable errors. The time limit counts from the
        last progress, because a large file may fail late."""
        started = time.monotonic()
        wait = self._limits.backoff_first_s
        for number in range(self._limits.retries + 1):
            try:
                return await attempt()
            except (BaseError, FileNotFoundError) as error:
                failure = translated(error, what, self.description)
                if progress is not None and progress.last > started:
                    started, wait = progress.last, self._limits.backoff_first_s
                over = time.monotonic() + wait - started > self._limits.retry_timeout_s
                if not failure.retriable or over or number == self._limits.retries:
                    raise failure from None  # obstore's text contains the answer's body
            await asyncio.sleep(wait)
            wait = min(wait * 2, self._limits.backoff_max_s)
        raise AssertionError("the loop above returns or raises")

    # --- writing -------------------------------------------------------------------------------

    async def put_bytes(self, name: str, data: bytes, *, create: bool = False) -> bool:
        key = self._key(name)

        async def attempt() -> bool:
            await self._put(key, data, create)
            return True

        try:
            return await self._tried(f"putting {name}", attempt)
        except _Exists:
            return False

    async def _put(self, key: str, data: bytes, create: bool) -> None:
        if create:
            try:
                await obstore.put_async(self._client, key, data, mode="create", use_multipart=False)
                return
            except AlreadyExistsError:
                raise _Exists from None
            except BaseError as error:
                if code_of(error) not in ("NotImplemented", "501"):
                    raise
            # The store has no conditional puts, so check first whether the object exists.
            try:
                await obstore.head_async(self._client, key)
            except FileNotFoundError:
                pass
            else:
                raise _Exists
        await obstore.put_async(self._client, key, data, use_multipart=False)

    async def put_file(
        self, name: str, path: Path, size: int, sent: Told = untold, check: bool = False
    ) -> int:
        """As in Store. The content is always read and checked, so `check` has no effect."""
        key = self._key(name)
        part = max(self._limits.part_bytes, -(-size // PARTS_MAX))
        whole = size <= part
        need = size if whole else part * (self._limits.parts_max + 1)

        progress = UploadProgress(sent)

        async def attempt() -> None:
            progress.begin()
            reader = FileReader(path, size, name.rpartition("/")[2], part, progress.done)
            if whole:
                data = await reader.all()
                await obstore.put_async(self._client, key, data, use_multipart=False)
            else:
                await self._multipart(key, reader, part)

        async with self._budget.take(need):
            await self._tried(f"putting {name}", attempt, progress)
        sent(size - progress.bytes)
        return size

    async def _multipart(self, key: str, reader: "FileReader", part: int) -> None:
        """Sends a file by multipart upload. If it is cancelled, the reader raises an error, so that
        obstore aborts the upload. A dropped upload would stay in the bucket."""
        upload = asyncio.ensure_future(
            obstore.put_async(
                self._parts_client,
                key,
                reader.parts(),
                chunk_size=part,
                max_concurrency=self._limits.parts_max,
            )
        )
        try:
            await asyncio.shield(upload)
        except asyncio.CancelledError:
            reader.stop()
            await asyncio.wait([upload], timeout=self._limits.connect_timeout_s)
            if not upload.done():
                upload.cancel()
            elif not upload.cancelled():
                upload.exception()
            raise

    async def flush(self) -> None:
        """Does nothing: objects are durable when their put returns."""

    # --- reading -------------------------------------------------------------------------------

    async def get(self, name: str, size_max: int | None = None) -> bytes:
        key = self._key(name)
        most = self._limits.object_get_bytes_max if size_max is None else size_max

        async def attempt() -> bytes:
            found = await obstore.get_async(self._client, key)
            if found.meta["size"] > most:
                raise SnapshotDamaged(f"{self.description}: {name} has more than {most} bytes")
            return bytes(await found.bytes_async())

        return await self._tried(f"getting {name}", attempt)

    async def get_many(self, wanted: Sequence[tuple[str, int]]) -> Sequence[bytes | SnapshotError]:
        found: builtins.list[bytes | SnapshotError] = []
        for name, most in wanted:
            try:
                found.append(await self.get(name, most))
            except (SnapshotNotFound, SnapshotDamaged) as error:
                found.append(error)
        return found

    async def stream(self, name: str, size: int) -> AsyncGenerator[bytes, None]:
        part = self._limits.part_bytes
        first, actual = await self._range(name, 0, part)
        if actual != size:
            raise SnapshotDamaged(
                f"{self.description}: {name} has {actual} bytes instead of {size}"
            )
        position = len(first)
        coming: asyncio.Future[tuple[bytes, int]] | None = None
        try:
            while True:
                coming = None
                if position < size:
                    coming = asyncio.ensure_future(self._range(name, position, part))
                yield first
                if coming is None:
                    return
                first, _ = await coming
                position += len(first)
        finally:
            if coming is not None and not coming.done():
                coming.cancel()

    async def _range(self, name: str, start: int, length: int) -> tuple[bytes, int]:
        """Returns (bytes of the range, the object's size)."""
        key = self._key(name)

        async def attempt() -> tuple[bytes, int]:
            try:
                found = await obstore.get_async(
                    self._client, key, options={"range": (start, start + length)}
                )
            except BaseError as error:
                if code_of(error) in ("InvalidRange", "416"):
                    return b"", 0  # empty, or shorter than before
                raise
            data = bytes(await found.bytes_async())
            return data, found.meta["size"]

        data, size = await self._tried(f"getting {name}", attempt)
        if start and not data:
            raise SnapshotDamaged(f"{self.description}: {name} became shorter while it was read")
        return data, size

    async def list(self, prefix: str) -> AsyncGenerator[ObjectInfo, None]:
        last: str | None = None
        started, wait = time.monotonic(), self._limits.backoff_first_s
        while True:
            # After an error, list again from the last name on: S3 lists in order.
            pages = obstore.list(
                self._client, self._root + prefix, offset=last, chunk_size=LIST_PAGE
            )
            try:
                async for page in pages:
                    for found in page:
                        last = found["path"]
                        name = last[len(self._root) :]
                        try:
                            check_name(name)
                        except InvalidDestination:
                            continue
                        yield ObjectInfo(name, found["size"], found["last_modified"])
                    started, wait = time.monotonic(), self._limits.backoff_first_s
                return
            except BaseError as error:
                failure = translated(error, f"listing {prefix}", self.description)
                over = time.monotonic() + wait - started > self._limits.retry_timeout_s
                if not failure.retriable or over:
                    raise failure from None
            await asyncio.sleep(wait)
            wait = min(wait * 2, self._limits.backoff_max_s)

    async def head(self, name: str) -> ObjectInfo | None:
        key = self._key(name)

        async def attempt() -> ObjectInfo:
            found = await obstore.head_async(self._client, key)
            return ObjectInfo(name, found["size"], found["last_modified"])

        try:
            return await self._tried(f"reading the metadata of {name}", attempt)
        except SnapshotNotFound:
            return None

    # --- deleting ------------------------------------------------------------------------------

    async def delete(self, names: Iterable[str], may: Callable[[], None] = always) -> None:
        keys = [self._key(name) for name in names]
        for start in range(0, len(keys), self._limits.delete_batch):
            batch = keys[start : start + self._limits.delete_batch]

            async def attempt(batch: list[str] = batch) -> None:
                may()
                await obstore.delete_async(self._client, batch)

            try:
                await self._tried("deleting objects", attempt)
            except SnapshotNotFound:
                continue  # some stores report this; a later collection deletes the batch's rest

    async def sweep(self) -> int:
        prefix = self._root + OBJECTS
        return await asyncio.to_thread(abort_uploads, self._destination, prefix, self._limits)

    async def close(self) -> None:
        """Does nothing: obstore closes its connections with the last reference."""


class _Exists(Exception):
    """The object that is to be created exists."""


def _client(destination: S3Destination, limits: SnapshotLimits, retry: dict[str, Any]) -> Client:
    """Returns obstore's client. Raises InvalidDestination; its message contains no secret."""
    config: dict[str, Any] = {
        "access_key_id": destination.access_key_id,
        "secret_access_key": destination.secret_access_key,
        "region": destination.region,
        "virtual_hosted_style_request": destination.virtual_hosted_style,
        "checksum_algorithm": "SHA256",
        "unsigned_payload": True,
    }
    if destination.session_token:
        config["session_token"] = destination.session_token
    if destination.endpoint:
        url = urlsplit(destination.endpoint)
        host = (
            f"{destination.bucket}.{url.netloc}" if destination.virtual_hosted_style else url.netloc
        )
        config["endpoint"] = urlunsplit((url.scheme, host, url.path.rstrip("/"), "", ""))
    options: dict[str, Any] = {
        "allow_http": destination.allow_http,
        "connect_timeout": timedelta(seconds=limits.connect_timeout_s),
        "timeout": timedelta(seconds=limits.request_timeout_s),
    }
    if destination.ca_certificate:
        options["root_certificate"] = destination.ca_certificate
    try:
        return Client(
            destination.bucket,
            config=config,  # type: ignore[arg-type]  # a dictionary of just those keys
            client_options=options,  # type: ignore[arg-type]
            retry_config=retry,  # type: ignore[arg-type]
        )
    except (BaseError, ValueError):
        raise InvalidDestination(
            f"{destination}: its endpoint, region or CA certificate is invalid; correct it"
        ) from None
