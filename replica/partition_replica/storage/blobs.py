"""Payloads above the inline limit: immutable files named by their SHA-256.

A blob is here once, durable before anything names it: content fsynced, renamed into place,
directory fsynced. It stays while the log or the state names it, a pin (a lease in memory) or a
hold keeps it; a process that starts collects what nothing names.
"""

import hashlib
import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from partition_snapshots.files import FileSystem

from partition_replica.errors import Overloaded, PayloadMismatch
from partition_replica.ids import DIGEST_BYTES, Digest
from partition_replica.storage.failpoints import reach
from partition_replica.storage.files import (
    create_file,
    empty_directory,
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
    """One upload into a staging file. Ends by `finish` or `abort`; unnamed until then. One that
    broke off may go on at `written`."""

    def __init__(self, store: "BlobStore", digest: Digest, size: int, path: Path) -> None:
        self._store = store
        self._digest = digest
        self._size = size
        self._path = path
        self._hash = hashlib.sha256()
        self.written = 0
        self.failed = False
        """A write failed: it is good for `abort` only, whoever heard of that."""

        self._file = create_file(path)

    def write(self, chunk: bytes) -> None:
        """Raises PayloadMismatch for more bytes than announced, DiskFull, StorageFailed; then it
        is good for `abort` only."""
        if self.written + len(chunk) > self._size:
            raise PayloadMismatch(
                f"more than the announced {self._size} bytes came for {self._digest.hex()}"
            )
        try:
            with full_disk_refuses("a payload"):
                write_file(self._file, chunk, "a staging file")
        except BaseException:
            self.failed = True
            raise
        self._hash.update(chunk)
        self.written += len(chunk)

    def finish(self) -> None:
        """Makes the blob durable under its name. Raises PayloadMismatch; nothing is kept then."""
        if self.written != self._size:
            raise PayloadMismatch(
                f"{self.written} of the announced {self._size} bytes came for {self._digest.hex()}"
            )
        actual = self._hash.digest()
        if actual != self._digest:
            raise PayloadMismatch(
                f"the content has SHA-256 {actual.hex()}, not the announced {self._digest.hex()}"
            )
        sync_file(self._file.fileno(), "a blob")
        self._file.close()
        self._store.adopt(self._path, self._digest)

    @property
    def closed(self) -> bool:
        """It ended."""
        return self._file.closed

    def abort(self) -> None:
        """Forgets it. Does nothing after finish."""
        if not self._file.closed:
            self._file.close()
            remove_file(self._path, "a staging file")


class BlobGroup:
    """Small blobs that arrive whole and become durable together, in two syncs of the file system
    where each alone needs two of its own. Ends by `finish` or `abort`; unnamed until then. One
    thread at a time."""

    def __init__(self, store: "BlobStore", root: Path) -> None:
        self._store = store
        # Its own: the system tells each descriptor of a failed write once.
        self._file_system = open_file_system(root)
        self._staged: list[tuple[Path, Digest]] = []

    def add(self, digest: Digest, size: int, content: bytes) -> None:
        """Raises PayloadMismatch for what is not the content, DiskFull, StorageFailed; then those
        that were added before are what they were."""
        if len(content) != size:
            raise PayloadMismatch(f"{len(content)} bytes came for {digest.hex()}, which has {size}")
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
        """What was added, or made durable."""
        return [digest for _, digest in self._staged]

    def finish(self) -> None:
        """Makes all that were added durable under their names. Raises StorageFailed."""
        try:
            self._store.adopt_together(self._staged, self._file_system)
        finally:
            self._file_system.close()

    def abort(self) -> None:
        """Forgets what was added."""
        self._file_system.close()
        for path, _ in self._staged:
            remove_file(path, "a staging file")
        self._staged.clear()


DEFERRED_MAX = 262_144
"""Candidates of the collection kept for later; where there are more, all blobs are looked at."""


class BlobStore:
    """The blobs of a volume. Safe for use from several threads.

    `named` tells whether the log or the state names a digest; it is asked under the digest's lock.
    """

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
        self._pins: dict[Digest, float] = {}
        self._holds: dict[Digest, int] = {}
        self._postponed = 0
        self._deferred: dict[Digest, None] = {}  # in order, which a set has not
        self._deferred_too_many = False
        self._deferred_changed = False
        self._pins_max = pins_max
        self._clock = clock
        self._lock = threading.Lock()
        self._serial = 0
        self._directories: set[str] = set()
        # Renamed, and the rename not durable yet: not here for whoever asks.
        self._arriving: dict[Digest, int] = {}
        make_directory(root)
        empty_directory(staging)

    def path(self, digest: Digest) -> Path:
        return blob_path(self._root, digest)

    def has(self, digest: Digest) -> bool:
        """Whether it is here, durably."""
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
        """Where the next file is staged."""
        with self._lock:
            self._serial += 1
            return self._staging / f"blob-{self._serial}"

    def adopt(self, staged: Path, digest: Digest) -> None:
        """Renames a durable staging file into place, durably."""
        arriving = self._move(staged, digest)
        # A failure from here on is fatal, and so may leave it arriving.
        sync_directory(self.path(digest).parent)
        if arriving:
            self._arrived(digest)

    def adopt_together(
        self, staged: Sequence[tuple[Path, Digest]], file_system: FileSystem
    ) -> None:
        """Renames staging files into place, durably, none of them before its content is durable.
        `file_system` was opened before they were written."""
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
        """Renames into place; whether it is arriving since, and not here before `_arrived`."""
        target = self.path(digest)
        if target.parent.name not in self._directories:
            make_directory(target.parent)  # another thread may make it, too
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

    def pin(self, digest: Digest, lease_s: float) -> None:
        """Keeps a blob for lease_s seconds, whoever names it. Raises Overloaded over the limit."""
        with self._lock:
            if digest not in self._pins and len(self._pins) >= self._pins_max:
                raise Overloaded(f"{self._pins_max} payloads are pinned; retry later")
            self._pins[digest] = max(self._pins.get(digest, 0.0), self._clock() + lease_s)

    def pin_present(self, digest: Digest, lease_s: float) -> bool:
        """Pins a blob where it is here, durably, in one step with looking: nobody collects it
        meanwhile."""
        with self._lock:
            if not self._has(digest):
                return False
            self._pins[digest] = max(self._pins.get(digest, 0.0), self._clock() + lease_s)
            return True

    def hold(self, digests: Iterable[Digest]) -> None:
        """Keeps blobs, here or to come, until `release_hold`: for a snapshot under way."""
        for some in _batches(digests, HELD_BATCH):
            with self._lock:
                for digest in some:
                    self._holds[digest] = self._holds.get(digest, 0) + 1

    def release_hold(self, digests: Iterable[Digest], *, unneeded: bool = False) -> None:
        """unneeded: nobody may ever have named them: they are candidates for the collection."""
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
        """Forgets the leases that ran out; their blobs are candidates for `collect`."""
        now = self._clock()
        with self._lock:
            expired = [digest for digest, until in self._pins.items() if until <= now]
            for digest in expired:
                del self._pins[digest]
        return expired

    # --- collection ---------------------------------------------------------------------------

    def pause_collection(self) -> None:
        """Collects nothing until `resume`: what a copy of the state names is not known yet. May be
        called several times."""
        with self._lock:
            self._postponed += 1

    def resume(self) -> None:
        with self._lock:
            self._postponed -= 1
            self._deferred_changed = True

    def defer(self, candidates: Iterable[Digest]) -> bool:
        """Keeps candidates for later where the collection is postponed; else returns False."""
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
        """Candidates that were postponed or held and are so no more: to be collected now."""
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
        """Unlinks the candidates that nothing names, pins or holds; returns how many. What is held
        is kept in mind until it is not (`take_deferred`)."""
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
        """Everything that is here; names that are no digests are passed over."""
        return stored_digests(self._root)


def blob_path(root: Path, digest: Digest) -> Path:
    """Where a blob lies below a volume's directory `blobs`."""
    name = digest.hex()
    return root / name[:2] / name


def stored_digests(root: Path) -> Iterator[Digest]:
    """The digests that files below `root` are named by."""
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
"""Held in one go: others wait for the lock meanwhile."""


def _batches(digests: Iterable[Digest], count: int) -> Iterator[list[Digest]]:
    source = iter(digests)
    while some := list(itertools.islice(source, count)):
        yield some
