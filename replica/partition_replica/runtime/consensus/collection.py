"""Collects garbage between the applier's batches, a few blobs at a time."""

import itertools
from collections.abc import Iterable, Sized

from partition_replica.ids import Digest
from partition_replica.runtime.consensus.applier import Applier
from partition_replica.runtime.metrics import Metrics
from partition_replica.storage.garbage import GarbageCollector

COLLECTED_AT_ONCE = 256
"""Blobs checked between two batches of the applier, which takes about ten milliseconds."""


class Collection:
    """Runs the collector on the applier's thread."""

    def __init__(self, garbage: GarbageCollector, applier: Applier, metrics: Metrics) -> None:
        self._garbage = garbage
        self._applier = applier
        self._metrics = metrics

    async def collect(self, digests: Iterable[Digest]) -> None:
        """Unlinks those of `digests` that nothing names, pins or holds."""
        if isinstance(digests, Sized) and not digests:
            return  # most calls; the applier need not wake up
        candidates = iter(digests)
        collect, more = self._garbage.collect, True

        def some() -> tuple[int, bool]:
            found = list(itertools.islice(candidates, COLLECTED_AT_ONCE))
            return (collect(found), True) if found else (0, False)

        while more:
            collected, more = await self._applier.call(some)
            self._metrics.blobs_collected.inc(collected)
