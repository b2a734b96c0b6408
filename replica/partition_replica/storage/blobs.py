"""Blobs: payloads above the inline limit, as immutable files named by their SHA-256.

A blob is stored once, and is durable before anything names it: its content is fsynced, the file is
renamed into place, and the directory is fsynced. It stays while the log or the state names it, or a
pin or a hold (both in memory) keeps it. A starting process deletes blobs that nothing names.
"""

import hashlib
import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from partition_snapshots.files import FileSystem

from partition_replica.core.payloads import MovedContent
from partition_replica.errors import Overloaded, PayloadMismatch
from partition_replica.ids import DIGEST_BYTES, Digest
from partition_replica.storage.failpoints import reach
from partition_replica.storage.files import (
    create_file,
    empty_directory,
    fill_from,
    full_disk_refuses,
    make_directory,
    move_file,
    open_file_system,
    remove_file,
    sync_directory,
    sync_file,
    sync_file_system,
    write_file,
)


class BlobWriter:
    """One upload into a staging file, until `finish` or `abort`. An interrupted upload may resume
    at offset `written`."""

    def __init__(self, store: "BlobStore", digest: Digest, size: int, path: Path) -> None:
        self._store = store
        self._digest = digest
        self._size = size
        self._path = path
        self._hash = hashlib.sha256()
        self._moved: MovedContent | None = None
        self.written = 0
        self.failed = False
        """A write failed. Only `abort` is allowed, also for a caller that did not receive the
        error."""

        with full_disk_refuses("a payload"):
            self._file = create_file(path)

    @property
    def path(self) -> Path:
        """The staging file, until `finish` or `abort`."""
        return self._path

    def write(self, chunk: bytes) -> None:
        """Raises PayloadMismatch for more bytes than announced, DiskFull, StorageFailed. After an
        error, only `abort` is allowed."""
        if self.written + len(chunk) > self._size:
            raise PayloadMismatch(
                f"received more than the announced {self._size} bytes of payload "
                f"{self._digest.hex()}"
            )
        try:
            with full_disk_refuses("a payload"):
                write_file(self._file, chunk, "a staging file")
        except BaseException:
            self.failed = True
            raise
        self._hash.update(chunk)
        self.written += len(chunk)

    def move(self, content: MovedContent, count: int) -> None:
        """Has a connection write the next `count` bytes. An upload is moved whole, or written
        whole. Raises the same errors as `write`, and PeerFailed."""
        if self.written + count > self._size:
            raise ValueError(
                f"{count} bytes more than the {self._size} of the payload are asked for"
            )
        try:
            with full_disk_refuses("a payload"):
                fill_from(self._file, partial(content.move, count=count), "a staging file")
        except BaseException:
            self.failed = True
            raise
        self._moved = content
        self.written += count

    def finish(self) -> None:
        """Makes the blob durable under its name. Raises PayloadMismatch, which keeps nothing, and
        StorageFailed."""
        if not self.complete:
            raise PayloadMismatch(
                f"received {self.written} of the announced {self._size} bytes of payload "
                f"{self._digest.hex()}"
            )
        actual = (self._moved or self._hash).digest()
        if actual != self._digest:
            raise PayloadMismatch(
                f"the content has SHA-256 {actual.hex()}, not the announced {self._digest.hex()}"
            )
        sync_file(self._file.fileno(), "a blob")
        self._file.close()
        self._store.adopt(self._path, self._digest)

    @property
    def complete(self) -> bool:
        """Whether all announced bytes are written. `finish` still has to check them."""
        return self.written == self._size

    @property
    def closed(self) -> bool:
        """Whether `finish` or `abort` has ended the upload."""
        return self._file.closed

    def abort(self) -> None:
        """Discards the upload. Does nothing after `finish`."""
        if not self._file.closed:
            self._file.close()
            remove_file(self._path, "a staging file")


class BlobGroup:
    """Small, complete blobs that become durable together, in two syncs of the file system instead
    of two fsyncs per blob. Ends with `finish` or `abort`. One thread at a time."""

    def __init__(self, store: "BlobStore", root: Path) -> None:
        self._store = store
        # A descriptor of its own: the kernel reports a failed write once per descriptor.
        self._file_system = open_file_system(root)
        self._staged: list[tuple[Path, Digest]] = []

    def add(self, digest: Digest, size: int, content: bytes) -> None:
        """Raises PayloadMismatch if size or digest do not match the content, DiskFull,
        StorageFailed. An error does not affect the blobs that were added before."""
        if len(content) != size:
            raise PayloadMismatch(
                f"received {len(content)} bytes of payload {digest.hex()}, which has {size}"
            )
        actual = hashlib.sha256(content).digest()
        if actual != digest:
            raise PayloadMismatch(
                f"the content has SHA-256 {actual.hex()}, not the announced {digest.hex()}"
            )
        path = self._store.staging_path()
        with full_disk_refuses("a payload"):
            file = create_file(path)
            self._staged.append((path, digest))
            try:
                with file:
                    write_file(file, content, "a staging file")
            except BaseException:
                self._staged.pop()
                remove_file(path, "a staging file")
                raise

    @property
    def digests(self) -> list[Digest]:
        """The digests of the added blobs, also after `finish`."""
        return [digest for _, digest in self._staged]

    def finish(self) -> None:
        """Makes all added blobs durable under their names. Raises StorageFailed."""
        try:
            self._store.adopt_together(self._staged, self._file_system)
        finally:
            self._file_system.close()

    def abort(self) -> None:
        """Discards the added blobs."""
        self._file_system.close()
        for path, _ in self._staged:
            remove_file(path, "a staging file")
        self._staged.clear()


PIN_KEPT_S = 30.0
"""For this time a pin stays also if there are too many. An append that comes later has to upload
its payload again if nothing names it: the client does so."""

DEFERRED_MAX = 262_144
"""The maximum number of deferred candidates for the garbage collection. If there are more, it
checks all blobs."""


class BlobStore:
    """The blobs of a volume. Thread-safe."""

    def __init__(
        self,
        root: Path,
        staging: Path,
        *,
        pins_max: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._root = root
        self._staging = staging
        self._pins: dict[Digest, tuple[float, float]] = {}
        """(until, since), the least recently pinned first."""
        self._unpinned: list[Digest] = []
        self._holds: dict[Digest, int] = {}
        self._postponed = 0
        self._deferred: dict[Digest, None] = {}  # a set that keeps its order
        self._deferred_too_many = False
        self._deferred_changed = False
        self._pins_max = pins_max
        self._clock = clock
        self._lock = threading.Lock()
        self._serial = 0
        self._directories: set[str] = set()
        # Renamed into place, but not durable yet: `has` does not report these.
        self._arriving: dict[Digest, int] = {}
        make_directory(root)
        empty_directory(staging)

    def path(self, digest: Digest) -> Path:
        return blob_path(self._root, digest)

    def has(self, digest: Digest) -> bool:
        """Whether the blob is stored, durably."""
        with self._lock:
            return self._has(digest)

    def _has(self, digest: Digest) -> bool:
        return digest not in self._arriving and self.path(digest).exists()

    def size(self, digest: Digest) -> int | None:
        try:
            return self.path(digest).stat().st_size
        except FileNotFoundError:
            return None

    def writer(self, digest: Digest, size: int) -> BlobWriter:
        return BlobWriter(self, digest, size, self.staging_path())

    def group(self) -> BlobGroup:
        return BlobGroup(self, self._root)

    def staging_path(self) -> Path:
        """A new path for a staging file."""
        with self._lock:
            self._serial += 1
            return self._staging / f"blob-{self._serial}"

    def adopt(self, staged: Path, digest: Digest) -> None:
        """Renames a durable staging file into place, durably."""
        arriving = self._move(staged, digest)
        # A failure from here on ends the process, so the blob may stay in `_arriving`.
        sync_directory(self.path(digest).parent)
        if arriving:
            self._arrived(digest)

    def adopt_together(
        self, staged: Sequence[tuple[Path, Digest]], file_system: FileSystem
    ) -> None:
        """Makes staging files durable and renames them into place, durably. `file_system` must
        have been opened before they were written."""
        if not staged:
            return
        sync_file_system(file_system, "blobs", [path for path, _ in staged])
        reach("blobs.synced")
        arriving = [digest for path, digest in staged if self._move(path, digest)]
        reach("blobs.named")
        directories = {self.path(digest).parent for _, digest in staged}
        sync_file_system(file_system, "blobs", directories)
        for digest in arriving:
            self._arrived(digest)

    def _move(self, staged: Path, digest: Digest) -> bool:
        """Renames a file into place. Returns True if the blob is new; then it is not reported as
        stored before `_arrived`."""
        target = self.path(digest)
        if target.parent.name not in self._directories:
            make_directory(target.parent)  # another thread may create it at the same time
            self._directories.add(target.parent.name)
        with self._lock:
            new = not self._has(digest)
            move_file(staged, target, "a blob")
            if new:
                self._arriving[digest] = self._arriving.get(digest, 0) + 1
        return new

    def _arrived(self, digest: Digest) -> None:
        with self._lock:
            count = self._arriving.pop(digest) - 1
            if count:
                self._arriving[digest] = count

    # --- pins ---------------------------------------------------------------------------------

    def pin(self, digest: Digest, time_to_live_s: float) -> None:
        """Keeps a blob for time_to_live_s seconds, even if nothing names it. Over the limit, the
        oldest pin goes before its time, unless it is younger than PIN_KEPT_S. Raises Overloaded if
        it is."""
        with self._lock:
            if digest not in self._pins and len(self._pins) >= self._pins_max:
                self._make_room_for_pin()
            self._renew_pin(digest, time_to_live_s)

    def _make_room_for_pin(self) -> None:
        oldest, (_, since) = next(iter(self._pins.items()))
        if since > self._clock() - PIN_KEPT_S:
            raise Overloaded(
                f"{self._pins_max} payloads are pinned, the maximum (pins_max): retry later"
            )
        del self._pins[oldest]
        self._unpinned.append(oldest)

    def _renew_pin(self, digest: Digest, time_to_live_s: float) -> None:
        now = self._clock()
        until = now + time_to_live_s
        if digest in self._pins:
            until = max(until, self._pins.pop(digest)[0])
        self._pins[digest] = (until, now)  # the last one in their order

    def pin_present(self, digest: Digest, time_to_live_s: float) -> bool:
        """Pins a blob if it is stored, durably; returns whether it is. Check and pin are atomic, so
        the garbage collection cannot delete the blob in between."""
        with self._lock:
            if not self._has(digest):
                return False
            self._renew_pin(digest, time_to_live_s)
            return True

    def hold(self, digests: Iterable[Digest]) -> None:
        """Keeps blobs until `release_hold`, also those that are stored later. For copies of the
        state."""
        for some in _batches(digests, HELD_BATCH):
            with self._lock:
                for digest in some:
                    self._holds[digest] = self._holds.get(digest, 0) + 1

    def release_hold(self, digests: Iterable[Digest], *, unneeded: bool = False) -> None:
        """Ends a hold. unneeded: the blobs may never have been named, so they become candidates
        for the garbage collection."""
        for some in _batches(digests, HELD_BATCH):
            with self._lock:
                for digest in some:
                    count = self._holds.pop(digest) - 1
                    if count:
                        self._holds[digest] = count
                    if unneeded:
                        self._defer(digest)
                self._deferred_changed = True

    def held(self, digest: Digest) -> bool:
        return digest in self._holds

    @property
    def held_count(self) -> int:
        return len(self._holds)

    @property
    def pinned(self) -> int:
        return len(self._pins)

    def expired_pins(self) -> list[Digest]:
        """Removes expired pins. Returns their blobs, and those that were unpinned before their
        time: candidates for `collect`."""
        now = self._clock()
        with self._lock:
            expired = [digest for digest, (until, _) in self._pins.items() if until <= now]
            for digest in expired:
                del self._pins[digest]
            expired += self._unpinned
            self._unpinned.clear()
        return expired

    # --- collection ---------------------------------------------------------------------------

    def pause_collection(self) -> None:
        """Suspends deletions until `resume`, because the names in a new copy of the state are not
        known yet. Calls nest."""
        with self._lock:
            self._postponed += 1

    def resume(self) -> None:
        with self._lock:
            self._postponed -= 1
            self._deferred_changed = True

    def defer(self, candidates: Iterable[Digest]) -> bool:
        """If the collection is paused, keeps the candidates for later and returns True."""
        with self._lock:
            if not self._postponed:
                return False
            for digest in candidates:
                self._defer(digest)
            return True

    def _defer(self, digest: Digest) -> None:
        if len(self._deferred) < DEFERRED_MAX:
            self._deferred[digest] = None
        elif digest not in self._deferred:
            self._deferred_too_many = True

    def take_deferred(self) -> Iterable[Digest]:
        """Returns the deferred candidates that are no longer paused or held, for `collect`."""
        with self._lock:
            if self._postponed or not self._deferred_changed:
                return []
            self._deferred_changed = False
            free = [digest for digest in self._deferred if digest not in self._holds]
            for digest in free:
                del self._deferred[digest]
            everything, self._deferred_too_many = self._deferred_too_many, False
        return self.digests() if everything else free

    def collect(self, candidates: Iterable[Digest], named: Callable[[Digest], bool]) -> int:
        """Deletes the candidates that nothing names, pins or holds; returns their number. Held
        candidates are deferred (`take_deferred`). `named` returns whether the log or the state
        names a digest; it is called under the lock."""
        collected = 0
        for digest in candidates:
            with self._lock:
                if digest in self._pins or named(digest):
                    continue
                if self._postponed or digest in self._holds:
                    self._defer(digest)
                    continue
                collected += remove_file(self.path(digest), "a blob")
        return collected

    def digests(self) -> Iterator[Digest]:
        """The digests of all stored blobs. Other file names are skipped."""
        return stored_digests(self._root)


def blob_path(root: Path, digest: Digest) -> Path:
    """The path of a blob below a volume's directory `blobs`."""
    name = digest.hex()
    return root / name[:2] / name


def stored_digests(root: Path) -> Iterator[Digest]:
    """The digests in the names of the files below `root`."""
    for directory in sorted(root.iterdir()):
        if directory.is_dir():
            for file in directory.iterdir():
                try:
                    digest = bytes.fromhex(file.name)
                except ValueError:
                    continue
                if len(digest) == DIGEST_BYTES:
                    yield Digest(digest)


HELD_BATCH = 4096
"""Blobs held per acquisition of the lock, for which other threads wait."""


def _batches(digests: Iterable[Digest], count: int) -> Iterator[list[Digest]]:
    source = iter(digests)
    while some := list(itertools.islice(source, count)):
        yield some
