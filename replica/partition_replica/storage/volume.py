"""A replica's volume: its layout, and the order in which it is opened.

lock            flock of the process that uses the volume
fence           while it is there, no replica serves the volume (storage/fence.py)
log/            LMDB: the log, hard state, configuration, identity; and the log's journal
state/<n>/      LMDB: generation n of the state; the log names the current one
blobs/xx/       payloads above the inline limit, by SHA-256
staging/        unfinished uploads, state transfers and copies; emptied at start
snapshots/      stored snapshots, see package partition_snapshots
snapshot-base/  rows of the last snapshot in an object store, the base of the next one

The modules here neither read nor delete the last two.
"""

import secrets
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from partition_replica.core.compaction import LogRetention
from partition_replica.errors import Damaged
from partition_replica.ids import MemberID
from partition_replica.storage.blob_names import blob_digests
from partition_replica.storage.blobs import BlobStore
from partition_replica.storage.files import VolumeLock, fatal_on_failure, sync_directory
from partition_replica.storage.garbage import GarbageCollector
from partition_replica.storage.generations import StateGenerations
from partition_replica.storage.log import LmdbLog
from partition_replica.storage.log.journal import JournalLimits
from partition_replica.storage.space import VolumeSpace
from partition_replica.storage.state import LmdbState

IMPORT = "import"
"""The directory below staging/ of an import or a restore in progress."""

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
        journal: JournalLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Opens or creates the volume, and deletes blobs that nothing names.

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
            journal=journal,
        )
        self.states = StateGenerations(root / STATES, lambda: self.log.identity)
        self.states.open()
        # Synced first: compaction relies on a durable state, and a killed process may have left
        # batches that are not durable. Pruning runs later in the background, to start fast.
        self.log.initialize(self.state.sync().index, prune=False)
        self.garbage = GarbageCollector(self.log, self.states, self.blobs)
        self.blobs_collected = self.garbage.collect_at_start()

    @property
    def state(self) -> LmdbState:
        """The current generation of the state."""
        return self.states.current

    def _check_log_is_there(self) -> None:
        """Raises Damaged for a state without a log, unless an import was interrupted before it
        moved its log into place; then removes that state."""
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
        # Before staging/ is emptied, which shows that this state is left of an import.
        with fatal_on_failure("removing the remains of an import"):
            for child in states.iterdir():
                shutil.rmtree(child)
        sync_directory(states)

    def close(self) -> None:
        self.states.close()
        self.log.close()
        self._lock.release()
