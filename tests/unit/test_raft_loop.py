"""When, and in which order, the loop tells its engine things."""

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from partition_replica.core.limits import Limits
from partition_replica.core.model import HardState, LogBatch
from partition_replica.engine.port import Message, MessageKind, TransferHeader
from partition_replica.ids import LSN, MemberID, Term
from partition_replica.runtime.consensus.raft_loop import RaftLoop, _InFlight

from tests.simulation.loop import VirtualLoop, run
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


class Answer:
    """An answer to a heartbeat."""

    def __init__(self, sender: int) -> None:
        self.sender = sender
        self.kind = MessageKind.HEARTBEAT_RESPONSE
        self.term = 1


class Listening(RecordingEngine):
    """Takes answers for signs of life, or not, and notes the steps."""

    def __init__(self, *, only_life: bool) -> None:
        super().__init__()
        self._work.clear()
        self._only_life = only_life
        self.quiet_ticks = 2

    def ticks_to_act(self) -> int:
        return self.quiet_ticks

    def only_a_sign_of_life(self, message: Message) -> bool:
        return self._only_life

    def step(self, message: Message) -> None:
        self.told.append(f"step {message.sender}")


def napping(engine: Listening, role: str, tick_s: float) -> RaftLoop:
    writer = SimpleNamespace(start=lambda: None, write=None, close=lambda: None)
    raft_loop = loop_of(engine, lambda *_, **__: writer, [], tick_s=tick_s)
    raft_loop.role, raft_loop._roster.leader = role, 1
    return raft_loop


@pytest.mark.parametrize("only_life", [True, False])
async def test_a_sign_of_life_wakes_nobody(only_life: bool) -> None:
    engine = Listening(only_life=only_life)
    raft_loop = napping(engine, "leader", 3600)
    task = asyncio.create_task(raft_loop.run())
    await asyncio.sleep(0)
    for sender in (2, 3, 2):
        raft_loop.receive(cast("Message", Answer(sender)), 50)
    for _ in range(5):
        await asyncio.sleep(0)
    assert engine.told == ([] if only_life else ["step 2", "step 3", "step 2"])
    assert raft_loop.heard_from(2, 60.0), "it is known that the member lives"
    raft_loop.wake()
    for _ in range(5):
        await asyncio.sleep(0)
    if only_life:
        assert engine.told == ["step 2", "step 3"], "each member's last one"
    task.cancel()


def test_signs_of_life_come_before_the_tick_that_asks_for_them() -> None:
    """The check of the quorum: an answer that came before it counts."""

    async def body() -> None:
        engine = Listening(only_life=True)
        raft_loop = napping(engine, "leader", 0.1)
        task = asyncio.create_task(raft_loop.run())
        raft_loop.wake()
        await asyncio.sleep(0.15)
        raft_loop.receive(cast("Message", Answer(2)), 50)
        await asyncio.sleep(0.1)
        assert engine.told == ["step 2", "tick", "tick"]
        task.cancel()

    run(VirtualLoop(), body())


@pytest.mark.parametrize(
    ("role", "quiet_ticks", "rounds"),
    [("leader", 2, 5), ("leader", 10, 1), ("follower", 13, 2), ("follower", 2, 5)],
)
def test_the_loop_sleeps_until_its_engine_acts(role: str, quiet_ticks: int, rounds: int) -> None:
    """A follower no longer than NAP_TICKS_MAX."""

    async def body() -> None:
        engine = Listening(only_life=True)
        engine.quiet_ticks = quiet_ticks
        raft_loop = napping(engine, role, 0.1)
        task = asyncio.create_task(raft_loop.run())
        raft_loop.wake()
        await asyncio.sleep(0.01)
        engine.asked = 0
        await asyncio.sleep(1.0)
        assert engine.asked == rounds
        assert len(engine.told) == (10 if role == "leader" or quiet_ticks == 2 else 8)
        task.cancel()

    run(VirtualLoop(), body())


@pytest.mark.parametrize("why", ["no leader", "a read", "an unsaved commit index", "the disk"])
def test_the_loop_looks_at_each_tick_while_something_waits(why: str) -> None:
    async def body() -> None:
        engine = Listening(only_life=True)
        engine.quiet_ticks = 10
        raft_loop = napping(engine, "leader", 0.1)
        if why == "no leader":
            raft_loop.role, raft_loop._roster.leader = "follower", 0
        elif why == "a read":
            raft_loop._reads._under_way[b"context"] = []
        elif why == "the disk":
            raft_loop._in_flight.append(_InFlight(1, on_disk=True, messages=[]))
        else:
            state = HardState(Term(1), MemberID(0), LSN(7))
            raft_loop._unsaved_commit.note(state, float("inf"))
        task = asyncio.create_task(raft_loop.run())
        raft_loop.wake()
        await asyncio.sleep(1.01)
        assert engine.told == ["tick"] * 10
        task.cancel()

    run(VirtualLoop(), body())
