"""A copy of the state takes the volume's room. It is given up for want of room, the newest one
first, and the next one only if that does not make enough."""

import asyncio
import os
import threading
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from partition_client.errors import DiskFull
from partition_replica import errors
from partition_replica.runtime.serving import pinned_states
from partition_replica.runtime.transfer.capture import Captured
from partition_replica.storage.state_copy import CopiedFile, FrozenState

from tests.support.served_replica import WITHIN_S, Served, first_key, hold_up, served


def disk_with(here: Served, monkeypatch: pytest.MonkeyPatch, free: Callable[[], int]) -> None:
    total = here.one.volume.space.free_bytes()[1]
    monkeypatch.setattr(here.one.volume.space, "free_bytes", lambda: (free(), total))
    monkeypatch.setattr(pinned_states, "LOOK_EVERY_S", 0.1)


def removal_held_up(monkeypatch: pytest.MonkeyPatch, name: str) -> threading.Event:
    """The copy of this name is removed once the event is set."""
    go, remove = threading.Event(), Captured.remove

    def slowly(captured: Captured) -> None:
        if captured.directory.name == name:
            assert go.wait(60)
        remove(captured)

    monkeypatch.setattr(Captured, "remove", slowly)
    return go


async def test_the_newest_state_is_given_up_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(tmp_path / "data") as here:
        await here.one.set(b"k")
        free = here.one.volume.space.free_bytes()[0]
        async with here.client.state() as old, here.client.state() as new:
            disk_with(here, monkeypatch, lambda: 1000 if len(here.copies) > 1 else free)
            await here.eventually(lambda: len(here.copies) == 1, "a copy is gone")
            await asyncio.sleep(0.5)  # and no other
            assert await first_key(old) == b"k"
            with pytest.raises(DiskFull, match="fell below its reserve"):
                await first_key(new)
            disk_with(here, monkeypatch, lambda: 1000)
            await here.eventually(lambda: not here.copies, "the other copy is gone")
            with pytest.raises(DiskFull, match="fell below its reserve"):
                await first_key(old)
        with pytest.raises(DiskFull, match="reading the whole state takes a copy of it"):
            async with here.client.state():
                pass


async def test_a_copy_that_takes_the_room_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is made, and it writes nothing more then."""
    async with served(tmp_path / "data") as here:
        await here.one.set(b"k", os.urandom(500_000))
        free = here.one.volume.space.free_bytes()[0]
        slow = hold_up(here)
        disk_with(here, monkeypatch, lambda: 1000 if slow.begun.is_set() else free)
        directories: list[Path] = []

        def copy(frozen: FrozenState, directory: Path) -> CopiedFile:
            directories.append(directory)
            try:
                return slow(frozen, directory)
            finally:
                assert (directory / "data.mdb").stat().st_size == 0

        here.one.replica.member.capture._copy = copy  # type: ignore[union-attr]
        opening = asyncio.create_task(here.client.state().__aenter__())
        await asyncio.to_thread(slow.begun.wait)
        await asyncio.sleep(0.5)
        slow.go.set()
        with pytest.raises(DiskFull, match="fell below its reserve"):
            await opening
        assert len(directories) == 1
        assert (here.copies, here.pinned) == ([], 0)


async def test_room_is_looked_for_when_it_is_the_copys_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two readers come at once, and there is room for one copy, with the whole reserve."""
    async with served(tmp_path / "data") as here:
        size = here.one.volume.state.size_bytes()
        reserve = here.one.config.limits.disk_reserve_bytes
        disk_with(here, monkeypatch, lambda: reserve + 2 * size - 1 - size * len(here.copies))
        slow = hold_up(here)
        async with AsyncExitStack() as stack:
            both = [
                asyncio.create_task(stack.enter_async_context(here.client.state()))
                for _ in range(2)
            ]
            await asyncio.to_thread(slow.begun.wait)
            await here.eventually(lambda: here.pinned == 2, "both have come")
            slow.go.set()
            found = await asyncio.gather(*both, return_exceptions=True)
            assert sum(isinstance(one, DiskFull) for one in found) == 1
            assert len(here.copies) == 1


async def test_a_copy_that_is_going_may_make_enough_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its reader has ended it already, so no other reader loses its own."""
    async with served(tmp_path / "data") as here:
        await here.one.set(b"k")
        free, looks = here.one.volume.space.free_bytes()[0], 0

        def free_now() -> int:
            nonlocal looks
            looks += 1
            return 1000 if "pinned-2" in here.copies else free

        go = removal_held_up(monkeypatch, "pinned-2")
        async with here.client.state() as state, AsyncExitStack() as stack:
            stack.callback(go.set)
            async with here.client.state():
                pass
            disk_with(here, monkeypatch, free_now)
            await here.eventually(lambda: looks > 10, "the volume was looked at several times")
            go.set()
            await here.eventually(lambda: here.copies == ["pinned-1"], "its copy is gone")
            seen = looks
            await here.eventually(lambda: looks > seen + 5, "the room was seen")
            assert await first_key(state) == b"k"


async def test_the_next_copy_is_given_up_once_no_more_room_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A removal may take longer than the wait, as long as it makes room."""
    wait_s = 1.0
    monkeypatch.setattr(pinned_states, "ROOM_WAIT_S", wait_s)
    go = removal_held_up(monkeypatch, "pinned-2")
    async with served(tmp_path / "data") as here, AsyncExitStack() as stack:
        free, rising = 0, True

        def free_now() -> int:
            nonlocal free
            free += rising
            return free

        states = here.one.replica._pinned_states
        old = await stack.enter_async_context(states.open(linearizable=True, history=""))
        new = await stack.enter_async_context(states.open(linearizable=True, history=""))
        stack.callback(go.set)
        disk_with(here, monkeypatch, free_now)
        await new.over()
        now = asyncio.get_running_loop().time
        began = now()
        await here.eventually(lambda: now() - began > 3 * wait_s, "the wait is over")
        old.used()
        rising = False
        assert isinstance(await asyncio.wait_for(old.over(), WITHIN_S), errors.DiskFull)
        assert "pinned-2" in here.copies, "its removal goes on"


async def test_the_first_reason_for_an_end_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The replica stops while a copy is being given up for want of room."""
    async with served(tmp_path / "data") as here:
        slow = hold_up(here)
        states = here.one.replica._pinned_states

        async def open_one() -> None:
            async with states.open(linearizable=True, history=""):
                pass

        opening = asyncio.create_task(open_one())
        await asyncio.to_thread(slow.begun.wait)
        disk_with(here, monkeypatch, lambda: 1000)
        await here.eventually(lambda: states._ends, "it is given up")
        closing = asyncio.create_task(states.close())
        await asyncio.wait([closing], timeout=0.1)
        slow.go.set()
        await closing
        with pytest.raises(errors.DiskFull, match="fell below its reserve"):
            await opening
