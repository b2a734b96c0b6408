"""A backfill and a full disk: refused before it is durable, and waited for once it is."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from partition_replica.core.limits import Limits
from partition_replica.errors import DiskFull
from partition_replica.ids import LSN
from partition_replica.offline.volume import replication
from partition_replica.runtime import backfill
from partition_replica.runtime.backfill import Backfiller, check_room
from partition_replica.runtime.metrics import Metrics
from partition_replica.storage.space import VolumeSpace
from partition_replica.storage.volume import Volume

from tests.support.proposals import body, opening, proposal, set_key
from tests.support.seed_logs import open_volume
from tests.support.stored import make_volume

COUNT = 100


def plain(data: Path) -> Path:
    found = [body(proposal(1, n, [set_key(b"k", b"v")])) for n in range(1, COUNT)]
    return make_volume(data, replicated=False, found=[opening(), *found])


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Volume]:
    found = open_volume(plain(tmp_path / "data"))
    yield found
    found.close()


class Room:
    """A disk that is as full as a test says; `asked` counts."""

    def __init__(self) -> None:
        self.fullness = iter(())
        self.asked = 0

    def full(self) -> bool:
        self.asked += 1
        return next(self.fullness, False)


def test_what_would_fall_below_the_reserve_is_not_begun(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = volume.log.backfill_bytes()
    assert needed > COUNT * 40
    limits = replace(Limits(), disk_reserve_bytes=10**6)
    monkeypatch.setattr(volume.space, "free_bytes", lambda: (10**6 + needed, 10**9))
    check_room(volume.log, volume.space, limits)
    monkeypatch.setattr(volume.space, "free_bytes", lambda: (10**6 + needed - 1, 10**9))
    with pytest.raises(DiskFull, match=f"needs up to {10**6 + needed} free bytes"):
        check_room(volume.log, volume.space, limits)


def test_metadata_takes_no_more_than_is_said(volume: Volume) -> None:
    volume.log.append(None, [b""] * 30_000)
    before = volume.log.environment.info()["last_pgno"]
    said = volume.log.backfill_bytes()
    progress = volume.log.begin_backfill()
    while not progress.complete:
        progress = volume.log.step_backfill(4096)
    assert (volume.log.environment.info()["last_pgno"] - before) * 4096 <= said


def test_the_command_refuses_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = plain(tmp_path / "data")
    with monkeypatch.context() as patched:
        patched.setattr(VolumeSpace, "free_bytes", lambda _: (10**6, 10**7))
        with pytest.raises(DiskFull):
            replication.enable(data, 100, lambda _: None)
    volume = open_volume(data)
    assert volume.log.backfill is None
    volume.close()
    assert replication.enable(data, 100, lambda _: None).target == COUNT


async def test_steps_wait_for_room(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the one that switches: nothing is written while the disk is full."""
    monkeypatch.setattr(backfill, "FULL_S", 0)
    room = Room()
    written: list[tuple[str, int]] = []

    def fullness() -> Iterator[bool]:
        for step in range(COUNT // 50 + 1):
            for _ in range(3):
                written.append(("full", volume.log.backfill.next))  # type: ignore[union-attr]
                yield True
            written.append(("room", step))
            yield False

    room.fullness = fullness()

    async def call(action: Any) -> Any:
        return action()

    async def reach(_: LSN) -> None: ...

    async def replace(switch: Any) -> None:
        switch()

    loop = SimpleNamespace(call_writer=call, last_proposed=volume.log.last.index)
    member = SimpleNamespace(
        loop=loop, waits=SimpleNamespace(reach=reach), proposals=SimpleNamespace(queued=0)
    )
    await asyncio.wait_for(
        Backfiller(
            volume.log,
            volume.states,
            Limits(backfill_rows=50),
            Metrics(),
            disk=room,  # type: ignore[arg-type]
            member=member,  # type: ignore[arg-type]
            hold=lambda: written.append(("held", 0)),
            replace=replace,
        ).run(),
        60,
    )
    assert written == [
        *[("full", 1)] * 3, ("room", 0),
        *[("full", 51)] * 3, ("room", 1),
        *[("full", 101)] * 3, ("room", 2), ("held", 0),
    ]  # fmt: skip
    assert not volume.log.identity.standalone
