"""How a replica stops: leadership first, the member last, and everything even if one part fails."""

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest
from partition_replica.errors import Fatal, StorageFailed
from partition_replica.threads import all_ended

from tests.support.one_replica import CLUSTER, OneReplica
from tests.support.stand_in_member import StandInMember


@pytest.fixture
def one(tmp_path: Path) -> OneReplica:
    return OneReplica(tmp_path / "data")


def give(one: OneReplica, role: str, monkeypatch: pytest.MonkeyPatch) -> StandInMember:
    """The replica's member from now on, of that role."""
    member = StandInMember(role)
    one.replica.current.member = cast("Any", member)
    monkeypatch.setattr(one.replica.administration, "transfer", member.hand_over)
    return member


@pytest.mark.parametrize("slow", ["inspection", "_pinned_states", "snapshot_jobs"])
async def test_leadership_is_handed_over_before_anything_slow_has_ended(
    one: OneReplica, monkeypatch: pytest.MonkeyPatch, slow: str
) -> None:
    member = give(one, "leader", monkeypatch)
    monkeypatch.setattr(getattr(one.replica, slow), "close", member.handed_over.wait)
    await asyncio.wait_for(one.stop(), 20)
    assert member.closed_as == "follower"


async def test_leadership_that_comes_while_it_stops_is_handed_over(
    one: OneReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A leader that stops, too, may have chosen it."""
    member = give(one, "follower", monkeypatch)

    async def slow() -> None:
        member.becomes("leader")
        await member.handed_over.wait()

    monkeypatch.setattr(one.replica.snapshot_jobs, "close", slow)
    await asyncio.wait_for(one.stop(), 20)
    assert member.closed_as == "follower"


async def test_a_stop_that_is_cancelled_still_ends_the_parts_before_the_member(
    one: OneReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They use the member's threads and the volume."""
    member = give(one, "follower", monkeypatch)
    begun, go = asyncio.Event(), asyncio.Event()

    async def slow() -> None:
        begun.set()
        await go.wait()

    monkeypatch.setattr(one.replica.snapshot_jobs, "close", slow)
    stopping = asyncio.create_task(one.replica.stop())
    await begun.wait()
    stopping.cancel()
    await asyncio.wait([stopping], timeout=0.05)
    assert not member.closed_as
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(stopping, 20)
    assert member.closed_as == "follower"
    one.volume.close()


@pytest.mark.parametrize("command", ["bootstrap", "join"])
async def test_a_command_that_ends_after_the_stop_starts_no_member(
    one: OneReplica, command: str
) -> None:
    """Nothing would close that member before the volume is closed."""
    operator = one.replica.administration
    await one.replica.stop()
    if command == "join":
        await operator.join(CLUSTER)
    else:
        await operator.bootstrap(CLUSTER, standalone=False)
    assert one.volume.log.identity.cluster_id == CLUSTER  # the next start runs its member
    assert one.replica.member is None
    one.volume.close()


async def test_a_part_that_does_not_end_leaves_no_other_running(
    one: OneReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
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
