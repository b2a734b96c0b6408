"""The free space of a volume."""

import os
from dataclasses import dataclass
from pathlib import Path

from partition_replica.core.limits import Limits, disk_reserve


@dataclass(frozen=True, slots=True)
class Room:
    """needed_bytes: the maximum that some work writes, plus the reserve that must stay free;
    free_bytes: the free bytes of the volume."""

    needed_bytes: int
    free_bytes: int

    @property
    def enough(self) -> bool:
        return self.free_bytes >= self.needed_bytes


class VolumeSpace:
    """The file system of a volume."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def free_bytes(self) -> tuple[int, int]:
        """Returns the current (free, total) bytes; free ones are those that this process may
        use."""
        usage = os.statvfs(self._root)
        return usage.f_bavail * usage.f_frsize, usage.f_blocks * usage.f_frsize

    def room_for(self, size: int, limits: Limits, *, own_work: bool = False) -> Room:
        """Compares `size` plus the reserve (see `disk_reserve`) with the free bytes."""
        free, total = self.free_bytes()
        reserved = disk_reserve(limits.disk_reserve_bytes, total, own_work=own_work)
        return Room(size + reserved, free)
