"""The room that a volume has."""

import os
from dataclasses import dataclass
from pathlib import Path

from partition_replica.core.limits import Limits, disk_reserve


@dataclass(frozen=True, slots=True)
class Room:
    """needed_bytes: what a piece of work takes at most, with what must stay free beside it."""

    needed_bytes: int
    free_bytes: int

    @property
    def enough(self) -> bool:
        return self.free_bytes >= self.needed_bytes


class VolumeSpace:
    """The file system that a volume lies on."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def free_bytes(self) -> tuple[int, int]:
        """(free for us, total), as of now."""
        usage = os.statvfs(self._root)
        return usage.f_bavail * usage.f_frsize, usage.f_blocks * usage.f_frsize

    def room_for(self, size: int, limits: Limits, *, own_work: bool = False) -> Room:
        """Whether `size` bytes more have room now, beside what stays free (`disk_reserve`)."""
        free, total = self.free_bytes()
        reserved = disk_reserve(limits.disk_reserve_bytes, total, own_work=own_work)
        return Room(size + reserved, free)
