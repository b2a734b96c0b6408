"""Garbage collection: deletes blobs that neither the state nor the log names."""

from collections.abc import Iterable

from partition_replica.core.ports import PayloadNames
from partition_replica.ids import Digest
from partition_replica.storage.blobs import BlobStore
from partition_replica.storage.generations import StateGenerations


class GarbageCollector:
    """Runs on the applier's thread, if there is one. Copies of the state begin on that thread,
    too."""

    def __init__(self, log: PayloadNames, states: StateGenerations, blobs: BlobStore) -> None:
        self._log = log
        self._states = states
        self._blobs = blobs

    def names_blob(self, digest: Digest) -> bool:
        """Whether the state or a stored entry names it."""
        return self._states.current.names_blob(digest) or self._log.names_blob(digest)

    def collect(self, candidates: Iterable[Digest]) -> int:
        """Deletes the candidates that nothing names, pins or holds; returns their number."""
        candidates = list(candidates)
        if self._blobs.defer(candidates):
            return 0
        unnamed = [digest for digest in candidates if not self._named(digest)]
        if not unnamed:
            return 0
        # The change that dropped the last reference must be durable first: a power failure could
        # undo it.
        self._states.current.sync()
        return self._blobs.collect(unnamed, self.names_blob)

    def collect_at_start(self) -> int:
        """Checks every blob of the volume; returns the number of deleted ones."""
        unnamed = [digest for digest in self._blobs.digests() if not self._named(digest)]
        if unnamed:
            # Raises Damaged for a row with a damaged key, whose blob would look unnamed.
            self._states.current.blobs()
        return self.collect(unnamed)

    def _named(self, digest: Digest) -> bool:
        """As `names_blob`. Also reports the size of a blob that only the log keeps to the log."""
        state = self._states.current
        if state.names_blob(digest):
            return True
        lsn = self._log.last_naming(digest)
        if lsn is not None and lsn <= state.applied.index:
            self._log.weigh(lsn, digest, self._blobs.size(digest) or 0)
        return lsn is not None
