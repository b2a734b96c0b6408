"""When, and in which order, the loop tells its engine things."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from partition_replica.core.limits import Limits
from partition_replica.core.model import Configuration, LogBatch, Position
from partition_replica.engine.port import SnapshotHeader, Work
from partition_replica.ids import LSN, Term
from partition_replica.runtime.consensus.raft_loop import Hooks, RaftLoop
from partition_replica.runtime.metrics import Metrics

from tests.support.local_group import eventually

HEADER = SnapshotHeader(Position(LSN(369), Term(3)), Configuration(voters=(1,)), b"manifest")


class RecordingEngine:
    """Gives one snapshot to write, and notes what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.asked = 0
        self._work: list[Work] = [
            Work(1, None, 0, None, [], HEADER, [], [], [], [], must_sync=True, hold_messages=False)
        ]

    def take_work(self) -> Work | None:
        self.asked += 1
        return self._work.pop() if self._work else None

    def persisted(self, number: int) -> None:
        self.told.append(f"persisted {number}")

    def applied_to(self, index: LSN) -> None:
        self.told.append(f"applied to {index}")

    def tick(self) -> None:
        self.told.append("tick")

    def report_snapshot(self, member: int, succeeded: bool) -> None:
        self.told.append(f"snapshot {member} {succeeded}")


def loop_of(
    engine: RecordingEngine,
    log_writer: Callable[..., Any],
    installed: list[SnapshotHeader],
    *,
    tick_s: float,
) -> RaftLoop:
    return RaftLoop(
        cast("Any", None),
        cast("Any", None),
        cast("Any", engine),
        cast("Any", None),
        Limits(),
        Metrics(),
        Hooks(
            role_changed=lambda *_: None,
            send_snapshot=lambda *_: None,
            staged_snapshot=lambda _: 2,
            snapshot_installed=installed.append,
            released=lambda _: None,
        ),
        proposals=cast("Any", None),
        reads=cast("Any", SimpleNamespace(wanted=False)),
        tick_s=tick_s,
        wall_ms=lambda: 0,
        failed=lambda _: None,
        log_writer=cast("Any", log_writer),
    )


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
        return SimpleNamespace(write=write, close=lambda: None)

    installed: list[SnapshotHeader] = []
    raft_loop = loop_of(engine, log_writer, installed, tick_s=0.01)
    raft_loop.applier = cast("Any", SimpleNamespace(pause=lambda: None))
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
    writer = SimpleNamespace(write=None, close=lambda: None)
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
