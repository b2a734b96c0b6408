"""Opens a stopped replica's volume read-only, under its lock."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from partition_replica.core.payloads import blob_digests
from partition_replica.errors import InvalidArgument
from partition_replica.ids import Digest, MemberID
from partition_replica.storage.blobs import blob_path, stored_digests
from partition_replica.storage.log import LmdbLog
from partition_replica.storage.state import LmdbState


@dataclass(frozen=True, slots=True)
class StoppedVolume:
    """An open volume: log and state are read-only, `root` is the volume's directory."""

    root: Path
    log: LmdbLog
    state: LmdbState

    def blob_path(self, digest: Digest) -> Path:
        return blob_path(self.root / "blobs", digest)

    def blob_size(self, digest: Digest) -> int | None:
        """The size of a blob in bytes, or None if it is not stored."""
        try:
            return self.blob_path(digest).stat().st_size
        except FileNotFoundError:
            return None

    def blobs(self) -> Iterator[Digest]:
        return stored_digests(self.root / "blobs")


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Holds the volume's lock. Raises InvalidArgument if there is no volume, or if a replica uses
    it."""
    try:
        descriptor = os.open(root / "lock", os.O_RDWR | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InvalidArgument(
            f"{root} is not a replica's volume (it has no file `lock`): give the directory that "
            "the replica runs with (--data)"
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InvalidArgument(
                f"a running replica uses the volume {root}: stop the replica first, or ask it "
                "(--address HOST:PORT)"
            ) from error
        yield
    finally:
        os.close(descriptor)


@contextmanager
def open_stopped(root: Path) -> Iterator[StoppedVolume]:
    """Opens the volume `root`. Raises InvalidArgument, Damaged, StorageFailed."""
    with locked(root):
        if not (root / "log").exists():
            raise InvalidArgument(f"the volume {root} is new: it has no log yet")
        log = LmdbLog(root / "log", MemberID(0), blob_digests, read_only=True)
        try:
            generation = root / "state" / str(log.identity.state_generation)
            if not log.identity.cluster_id or not generation.exists():
                raise InvalidArgument(
                    f"the volume {root} is empty: its replica has not been bootstrapped or joined "
                    "to a group"
                )
            state = LmdbState(generation, read_only=True)
            try:
                yield StoppedVolume(root, log, state)
            finally:
                state.close()
        finally:
            log.close()
