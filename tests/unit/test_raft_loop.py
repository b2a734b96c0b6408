"""When, and in which order, the loop tells its engine things."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
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


async def test_a_member_is_disconnected_until_its_next_message() -> None:
    writer = SimpleNamespace(start=lambda: None, write=None, close=lambda: None)
    raft_loop = loop_of(RecordingEngine(), lambda *_, **__: writer, [], tick_s=3600)
    for member in (2, 3):
        raft_loop.peer_disconnected(member)
    message: Any = SimpleNamespace(sender=2)
    raft_loop.receive(message, 1)
    assert raft_loop._disconnected == {3}


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
