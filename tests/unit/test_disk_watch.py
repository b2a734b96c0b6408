"""When a volume counts as full: below its reserve, and then until there is more than that again."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
from partition_replica.runtime import disk
from partition_replica.runtime.disk import DiskWatch

MIB = 1024**2
RESERVE, TOTAL = 64 * MIB, 100_000 * MIB


def test_writes_are_taken_again_only_when_there_is_room_to_spare(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Around the reserve each removal would let one write in, which fills the volume again."""
    monkeypatch.setattr(disk, "AGE_MAX_S", 0.0)
    free = [TOTAL]
    watch = DiskWatch(cast("Any", SimpleNamespace(free_bytes=lambda: (free[0], TOTAL))), RESERVE)
    seen = []
    for now in (RESERVE, RESERVE - 1, RESERVE, RESERVE * 1.2, RESERVE - 1, RESERVE * 1.3, RESERVE):
        free[0] = int(now)
        seen.append(watch.full())
        assert watch.free_bytes == free[0]
    assert seen == [False, True, True, True, True, False, False]


def test_a_follower_refuses_below_half_of_the_reserve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "AGE_MAX_S", 0.0)
    free = [TOTAL]
    watch = DiskWatch(cast("Any", SimpleNamespace(free_bytes=lambda: (free[0], TOTAL))), RESERVE)
    seen = []
    for now in (RESERVE, RESERVE - 1, RESERVE // 2, RESERVE // 2 - 1):
        free[0] = now
        seen.append((watch.full(), watch.low()))
    assert seen == [(False, False), (True, False), (True, False), (True, True)]
