"""A replica's volume: what lies where, and the order in which it is opened.

lock            flock of the process that uses the volume
log/            LMDB: the log, hard state, configuration, identity
state/<n>/      LMDB: generation n of the state; the log names the one in force
blobs/xx/       payloads above the inline limit, by SHA-256
staging/        unfinished uploads and snapshots; emptied at start
snapshots/      stored snapshots, of package partition_snapshots; snapshot-base/: what the last one
                in an object store consists of. Nothing here reads, collects or removes them
"""

import secrets
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from partition_replica.core.compaction import LogRetention
from partition_replica.core.payloads import blob_digests
from partition_replica.errors import Damaged
from partition_replica.ids import MemberID
from partition_replica.storage.blobs import BlobStore
from partition_replica.storage.files import (
    VolumeLock,
    fatal_on_failure,
    sync_directory,
)
from partition_replica.storage.garbage import GarbageCollector
from partition_replica.storage.generations import StateGenerations
from partition_replica.storage.log import LmdbLog
from partition_replica.storage.space import VolumeSpace
from partition_replica.storage.state import LmdbState

IMPORT = "import"
"""Below staging/, while a log is imported or a snapshot restored."""

STATES = "state"
SNAPSHOTS, SNAPSHOT_BASE = "snapshots", "snapshot-base"


class Volume:
    """Everything durable of one replica. The caller holds the lock before opening."""

    def __init__(
        self,
        root: Path,
        lock: VolumeLock,
        *,
        pins_max: int,
        retention: LogRetention | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Opens or creates it, and collects what no reference names.

        Raises Damaged, StorageFailed.
        """
        self.root = root
        self.staging = root / "staging"
        self.space = VolumeSpace(root)
        self._lock = lock
        self._check_log_is_there()
        self.blobs = BlobStore(root / "blobs", self.staging, pins_max=pins_max, clock=clock)
        self.log = LmdbLog(
            root / "log",
            MemberID(secrets.randbits(62) + 1),
            blob_digests,
            retention=retention,
        )
        self.states = StateGenerations(root / STATES, lambda: self.log.identity)
        self.states.open()
        # Compaction relies on what is durable, and a killed process may have left more than that.
        # What may go goes later, beside everything else: a start does not wait for it.
        self.log.initialize(self.state.sync().index, prune=False)
        self.garbage = GarbageCollector(self.log, self.states, self.blobs)
        self.blobs_collected = self.garbage.collect_at_start()

    @property
    def state(self) -> LmdbState:
        """The one in force."""
        return self.states.current

    def _check_log_is_there(self) -> None:
        """A state without a log is damage, or an interrupted import, whose log comes last."""
        states = self.root / STATES
        if (self.root / "log").exists() or not states.exists():
            return
        if not any(states.iterdir()):
            return
        if not (self.staging / IMPORT).exists():
            raise Damaged(
                "the volume has a state and no log: the log is lost; keep the volume, and let the "
                "operator rebuild this replica from the others"
            )
        # Before the rest of the import goes, which says what this is.
        with fatal_on_failure("removing what is left of an import"):
            for child in states.iterdir():
                shutil.rmtree(child)
        sync_directory(states)

    def close(self) -> None:
        self.states.close()
        self.log.close()
        self._lock.release()
