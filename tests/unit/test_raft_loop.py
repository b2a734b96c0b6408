"""When, and in which order, the loop tells its engine things."""

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from partition_replica.core.limits import Limits
from partition_replica.core.model import LogBatch
from partition_replica.engine.port import TransferHeader
from partition_replica.ids import LSN

from tests.support.local_group import eventually
from tests.support.raft_loops import HEADER, RecordingEngine, loop_of


async def test_an_installed_snapshot_counts_as_applied_before_the_next_tick() -> None:
    """The log has nothing below it any more, and a tick may make the engine campaign, for which it
    looks through everything that is committed and not applied."""
    engine = RecordingEngine()
    loop = asyncio.get_running_loop()
    persisted: list[Any] = []

    def log_writer(*_: Any, **hooks: Any) -> Any:
        def write(number: int, batch: LogBatch) -> None:
            assert batch.snapshot is not None
            loop.call_later(0.05, lambda: hooks["persisted"](number, []))

        persisted.append(hooks["persisted"])
        return SimpleNamespace(start=lambda: None, write=write, close=lambda: None)

    installed: list[TransferHeader] = []
    raft_loop = loop_of(engine, log_writer, installed, tick_s=0.01)
    task = asyncio.create_task(raft_loop.run())
    raft_loop.wake()

    async def ticked() -> bool:
        after = engine.told[engine.told.index("persisted 1") :] if installed else []
        return "tick" in after

    await eventually(ticked, "the loop goes on")
    task.cancel()
    first = engine.told.index("persisted 1")
    assert engine.told[first : first + 2] == ["persisted 1", "applied to 369"]
    assert installed == [HEADER]


@pytest.mark.parametrize("told", ["snapshot 2 True", "applied to 7"])
async def test_what_the_engine_is_told_is_acted_on_at_once(told: str) -> None:
    """Not at the next tick, which may be long in coming."""
    engine = RecordingEngine()
    engine._work.clear()
    writer = SimpleNamespace(start=lambda: None, write=None, close=lambda: None)
    raft_loop = loop_of(engine, lambda *_, **__: writer, [], tick_s=3600)
    task = asyncio.create_task(raft_loop.run())
    await asyncio.sleep(0)
    assert engine.asked == 0
    if told.startswith("snapshot"):
        raft_loop.report_snapshot(2, True)
    else:
        raft_loop.applied_to(LSN(7))

    async def asked() -> bool:
        return engine.asked > 0

    await eventually(asked, "the loop asks the engine for work", 20)
    assert engine.told == [told]
    task.cancel()


async def test_reads_that_wait_for_a_leader_are_asked_for_as_soon_as_it_is_known() -> None:
    """Not at the next tick or message."""
    engine = RecordingEngine()
    engine._work.clear()
    writer = SimpleNamespace(start=lambda: None, write=None, close=lambda: None)
    raft_loop = loop_of(engine, lambda *_, **__: writer, [], tick_s=3600)
    task = asyncio.create_task(raft_loop.run())
    reading = asyncio.create_task(raft_loop._reads.get(20.0))
    await asyncio.sleep(0)
    engine.follow(2)
    raft_loop.wake()

    async def asked() -> bool:
        return "read index" in engine.told

    await eventually(asked, "the leader is asked", 20)
    reading.cancel()
    task.cancel()


@pytest.mark.parametrize("role", ["leader", "follower"])
async def test_a_leader_announces_a_commit_that_no_entries_carry(role: str) -> None:
    engine = RecordingEngine()
    writer = SimpleNamespace(start=lambda: None, write=None, close=lambda: None)
    limits = replace(Limits(), commit_delay_s=0.02)
    raft_loop = loop_of(engine, lambda *_, **__: writer, [], tick_s=3600, limits=limits)
    raft_loop.role = role
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(raft_loop.run())
    for index in (7, 8):
        engine.commit(index)
        raft_loop.wake()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    began = loop.time()
    if role == "follower":
        assert raft_loop._announcements._timer is None
    else:

        async def announced() -> bool:
            return "announce" in engine.told

        await eventually(announced, "the others are told", 20)
        assert loop.time() >= began + 0.02 - 0.005, "entries had the time to carry it"
        assert engine.told.count("announce") == 1, "once for both"
    task.cancel()
    raft_loop.close()


async def test_entries_that_carry_a_commit_announce_it() -> None:
    engine = RecordingEngine()
    writer = SimpleNamespace(start=lambda: None, write=None, close=lambda: None)
    limits = replace(Limits(), commit_delay_s=0.01)
    raft_loop = loop_of(engine, lambda *_, **__: writer, [], tick_s=3600, limits=limits)
    raft_loop.role = "leader"
    task = asyncio.create_task(raft_loop.run())
    engine.commit(7)
    raft_loop.wake()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert raft_loop._announcements._timer is not None
    raft_loop._announcements.carried()

    async def over() -> bool:
        return raft_loop._announcements._timer is None

    await eventually(over, "the delay ends", 20)
    assert "announce" not in engine.told
    task.cancel()
    raft_loop.close()
