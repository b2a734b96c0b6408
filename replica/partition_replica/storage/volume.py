"""A replica's volume: what lies where, and the order in which it is opened.

lock            flock of the process that uses the volume
log/            LMDB: the log, hard state, configuration, identity
state/<n>/      LMDB: generation n of the state; the log names the one in force
blobs/xx/       payloads above the inline limit, by SHA-256
staging/        unfinished uploads and snapshots; emptied at start
snapshots/      stored snapshots, of package partition_snapshots; snapshot-base/: what the last one
                in an object store consists of. Nothing here reads, collects or removes them
"""

import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from partition_replica.core.compaction import Retention
from partition_replica.core.limits import Limits, disk_reserve
from partition_replica.core.payloads import blob_digests
from partition_replica.errors import Damaged
from partition_replica.ids import Digest, MemberID
from partition_replica.storage.blobs import BlobStore
from partition_replica.storage.files import (
    VolumeLock,
    fatal_on_failure,
    make_directory,
    sync_directory,
)
from partition_replica.storage.log import LmdbLog
from partition_replica.storage.state import LmdbState

IMPORT = "import"
"""Below staging/, while a log is imported or a snapshot restored."""

SNAPSHOTS, SNAPSHOT_BASE = "snapshots", "snapshot-base"


@dataclass(frozen=True, slots=True)
class Room:
    """needed_bytes: what a piece of work takes at most, with what must stay free beside it."""

    needed_bytes: int
    free_bytes: int

    @property
    def enough(self) -> bool:
        return self.free_bytes >= self.needed_bytes


class Volume:
    """Everything durable of one replica. The caller holds the lock before opening."""

    def __init__(
        self,
        root: Path,
        lock: VolumeLock,
        *,
        pins_max: int,
        retention: Retention | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Opens or creates it, and collects what no reference names.

        Raises Damaged, StorageFailed.
        """
        self.root = root
        self.staging = root / "staging"
        self._states = root / "state"
        self._lock = lock
        self._check_log_is_there()
        self.blobs = BlobStore(root / "blobs", self.staging, pins_max=pins_max, clock=clock)
        self.log = LmdbLog(
            root / "log",
            MemberID(secrets.randbits(62) + 1),
            blob_digests,
            retention=retention,
        )
        make_directory(self._states)
        self._drop_other_generations()
        self.state = LmdbState(self.state_path(self.log.identity.state_generation))
        # Compaction relies on what is durable, and a killed process may have left more than that.
        # What may go goes later, beside everything else: a start does not wait for it.
        self.log.initialize(self.state.sync().index, prune=False)
        self.blobs_collected = self._collect_at_start()

    def history_of(self, state: LmdbState) -> str:
        """The ID of the history that a state of this volume belongs to: a restore gave the state
        its own, else the cluster's ID counts."""
        return state.history or str(self.log.identity.cluster_id)

    def state_path(self, generation: int) -> Path:
        return self._states / str(generation)

    def names_blob(self, digest: Digest) -> bool:
        return self.state.names_blob(digest) or self.log.names_blob(digest)

    def _named(self, digest: Digest) -> bool:
        """`names_blob`; tells the log what it alone keeps."""
        if self.state.names_blob(digest):
            return True
        lsn = self.log.last_naming(digest)
        if lsn is not None and lsn <= self.state.applied.index:
            self.log.weigh(lsn, digest, self.blobs.size(digest) or 0)
        return lsn is not None

    def collect(self, candidates: Iterable[Digest]) -> int:
        """Unlinks those of the candidates that nothing names, pins or holds. On the applier's
        thread, once that runs: a copy of the state is begun there, too."""
        candidates = list(candidates)
        if self.blobs.defer(candidates):
            return 0
        unnamed = [digest for digest in candidates if not self._named(digest)]
        if not unnamed:
            return 0
        # What dropped the last name must be durable first: a power failure would bring it back.
        self.state.sync()
        return self.blobs.collect(unnamed, self.names_blob)

    def _collect_at_start(self) -> int:
        unnamed = [digest for digest in self.blobs.digests() if not self._named(digest)]
        if unnamed:
            # Reads, and so checks, each row that names a blob: one whose key is damaged would not.
            self.state.blobs()
        return self.collect(unnamed)

    def _check_log_is_there(self) -> None:
        """A state without a log is damage, or an import that was cut off: its log comes last."""
        if (self.root / "log").exists() or not self._states.exists():
            return
        if not any(self._states.iterdir()):
            return
        if not (self.staging / IMPORT).exists():
            raise Damaged(
                "the volume has a state and no log: the log is lost; keep the volume, and let the "
                "operator rebuild this replica from the others"
            )
        # Before the rest of the import goes, which says what this is.
        with fatal_on_failure("removing what is left of an import"):
            for child in self._states.iterdir():
                shutil.rmtree(child)
        sync_directory(self._states)

    def adopt_state(self, staged: Path, generation: int) -> None:
        """Moves a staged state into its place, durably; not yet in force."""
        target = self.state_path(generation)
        with fatal_on_failure("moving a snapshot into place"):
            shutil.rmtree(target, ignore_errors=True)
            os.replace(staged, target)
        sync_directory(self._states)

    def open_adopted_state(self) -> LmdbState:
        """Opens the generation that the log names now; `state` is still the one before."""
        return LmdbState(self.state_path(self.log.identity.state_generation))

    def drop_state(self, old: LmdbState) -> None:
        """Closes and removes the generation before. Nobody may read it any more."""
        old.close()
        self._drop_other_generations()

    def reset_state(self) -> None:
        """Empties the state of a volume that belongs to no cluster: a bootstrap was cut off."""
        path = self.state.path
        self.state.close()
        with fatal_on_failure("removing a state"):
            shutil.rmtree(path)
        self.state = LmdbState(path)

    def free_bytes(self) -> tuple[int, int]:
        """(free for us, total) of the file system."""
        usage = os.statvfs(self.root)
        return usage.f_bavail * usage.f_frsize, usage.f_blocks * usage.f_frsize

    def room_for(self, size: int, limits: Limits, *, own_work: bool = False) -> Room:
        """Whether `size` bytes more have room now, beside what stays free (`disk_reserve`)."""
        free, total = self.free_bytes()
        reserved = disk_reserve(limits.disk_reserve_bytes, total, own_work=own_work)
        return Room(size + reserved, free)

    def close(self) -> None:
        self.state.close()
        self.log.close()
        self._lock.release()

    def _drop_other_generations(self) -> None:
        # A volume that belongs to no cluster has no state: one that is there is left of a
        # bootstrap that was cut off before the log adopted it.
        identity = self.log.identity
        keep = str(identity.state_generation) if identity.cluster_id else ""
        with fatal_on_failure("removing an old state generation"):
            for child in self._states.iterdir():
                if child.name != keep:
                    shutil.rmtree(child)
