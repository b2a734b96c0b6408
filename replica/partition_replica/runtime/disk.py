"""Watches the volume's free space: below the reserve, writes are refused before anything fails,
so that deletes and pruning, which need pages, still work."""

import logging
import time

from partition_replica.core.limits import disk_reserve
from partition_replica.storage.space import VolumeSpace

logger = logging.getLogger(__name__)

AGE_MAX_S = 0.1
HYSTERESIS = 1.25
"""Writes are taken again only above reserve times this, so that they don't flap."""


class DiskWatch:
    def __init__(self, space: VolumeSpace, reserve_bytes: int) -> None:
        """reserve_bytes: as configured; of a small volume at most a tenth is reserved."""
        self._space = space
        self._reserve_bytes = reserve_bytes
        self._full = False
        self._read_at = float("-inf")
        self.free_bytes = 0
        self.total_bytes = 0

    @property
    def reserve_bytes(self) -> int:
        """Free bytes below which writes are refused."""
        return disk_reserve(self._reserve_bytes, self.total_bytes)

    def below_reserve(self) -> bool:
        """Whether less than the reserve is free now, whatever was refused before."""
        self.full()
        return self.free_bytes < self.reserve_bytes

    def full(self) -> bool:
        """Whether writes are to be refused. At most AGE_MAX_S old."""
        now = time.monotonic()
        if now - self._read_at < AGE_MAX_S:
            return self._full
        self._read_at = now
        self.free_bytes, self.total_bytes = self._space.free_bytes()
        reserved = self.reserve_bytes
        limit = reserved * (HYSTERESIS if self._full else 1.0)
        full = self.free_bytes < limit
        if full != self._full:
            logger.warning(
                "the volume has %d bytes free of %d, the reserve is %d: writes are %s",
                self.free_bytes,
                self.total_bytes,
                reserved,
                "refused" if full else "taken again",
            )
        self._full = full
        return full
