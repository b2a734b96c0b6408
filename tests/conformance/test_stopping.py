"""How a replica stops: leadership first, the member last, and everything even if one part fails."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from partition_replica.core.model import Configuration
from partition_replica.errors import Fatal, StorageFailed
from partition_replica.ids import MemberID
from partition_replica.storage.threads import all_ended

from tests.support.one_replica import OneReplica


@pytest.mark.parametrize("slow", ["inspection", "_pinned_states", "snapshot_jobs"])
async def test_leadership_is_handed_over_before_anything_slow_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow: str
) -> None:
    one = OneReplica(tmp_path / "data")
    handed_over, closed = asyncio.Event(), asyncio.Event()

    async def hand_over(*_: object) -> None:
        handed_over.set()

    async def close_member() -> None:
        assert handed_over.is_set()
        closed.set()

    monkeypatch.setattr(one.replica.administration, "transfer", hand_over)
    monkeypatch.setattr(getattr(one.replica, slow), "close", handed_over.wait)
    leading: Any = SimpleNamespace(
        loop=SimpleNamespace(role="leader"),
        configuration=Configuration((MemberID(1), MemberID(2))),
        leader_changed=asyncio.Event().wait,
        close=close_member,
    )
    one.replica.current.member = leading
    await asyncio.wait_for(one.stop(), 20)
    assert closed.is_set()


async def test_leadership_that_comes_while_it_stops_is_handed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A leader that stops, too, may have chosen it."""
    one = OneReplica(tmp_path / "data")
    loop, handed_over, changed = SimpleNamespace(role="follower"), asyncio.Event(), asyncio.Event()

    async def slow() -> None:
        loop.role = "leader"
        changed.set()
        await handed_over.wait()

    async def hand_over(*_: object) -> None:
        assert loop.role == "leader"
        loop.role = "follower"
        handed_over.set()

    async def close_member() -> None:
        assert loop.role == "follower"

    monkeypatch.setattr(one.replica.administration, "transfer", hand_over)
    monkeypatch.setattr(one.replica.snapshot_jobs, "close", slow)
    member: Any = SimpleNamespace(
        loop=loop,
        configuration=Configuration((MemberID(1), MemberID(2))),
        leader_changed=changed.wait,
        close=close_member,
    )
    one.replica.current.member = member
    await asyncio.wait_for(one.stop(), 20)
    assert handed_over.is_set()


async def test_a_part_that_does_not_end_leaves_no_other_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = OneReplica(tmp_path / "data")
    await one.lead()
    member = one.replica.current.running()

    failures_at_the_end: list[BaseException] = []

    async def fail() -> None:
        raise OSError("no")

    async def fail_fatally() -> None:
        raise StorageFailed("no")

    async def end() -> None:
        await asyncio.sleep(0)
        failures_at_the_end.extend(one.failures)

    monkeypatch.setattr(one.replica.inspection, "close", fail)
    monkeypatch.setattr(one.replica._pinned_states, "close", fail_fatally)
    monkeypatch.setattr(one.replica.snapshot_jobs, "close", end)
    with pytest.raises(StorageFailed) as raised:
        await one.replica.stop()
    assert all(task.done() for task in member._tasks)
    assert failures_at_the_end == [raised.value], "the process ends before the other parts have"
    one.volume.close()


async def test_all_parts_end_although_one_fails() -> None:
    """A thread of one that is left works on a volume that is closed."""
    failed: list[Fatal] = []
    go, ended = asyncio.Event(), asyncio.Event()
    fatal = StorageFailed("fatal")

    async def end(error: Exception) -> None:
        raise error

    async def slow() -> None:
        await go.wait()
        ended.set()

    works = (end(ValueError("no")), end(fatal), slow())
    ending = asyncio.ensure_future(all_ended(*works, failed=failed.append))
    while not failed:
        await asyncio.sleep(0)
    assert failed == [fatal]
    assert not ending.done()
    go.set()
    with pytest.raises(StorageFailed, match="fatal"):
        await ending
    assert ended.is_set()
