"""Watches the volume's free space. Below the reserve, the replica refuses writes before anything
fails, so that deletes and pruning, which need pages, still work."""

import logging
import time

from partition_replica.core.limits import disk_reserve
from partition_replica.storage.space import VolumeSpace

logger = logging.getLogger(__name__)

AGE_MAX_S = 0.1
HYSTERESIS = 1.25
"""Writes are accepted again only above the reserve times this, so that the state doesn't flap."""


class DiskWatch:
    def __init__(self, space: VolumeSpace, reserve_bytes: int) -> None:
        """reserve_bytes: as configured. At most a tenth of a small volume is reserved."""
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
        """Whether fewer bytes than the reserve are free, without the hysteresis of `full`."""
        self.full()
        return self.free_bytes < self.reserve_bytes

    def low(self) -> bool:
        """Whether less than half of the reserve is free: a follower then takes nothing that adds
        data, whatever its leader accepted."""
        self.full()
        return self.free_bytes < self.reserve_bytes // 2

    def full(self) -> bool:
        """Whether the replica has to refuse writes. At most AGE_MAX_S old."""
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
                "%d of the volume's %d bytes are free, the reserve is %d: writes are %s",
                self.free_bytes,
                self.total_bytes,
                reserved,
                "refused" if full else "accepted again",
            )
        self._full = full
        return full
