"""The engine's clock, on virtual time: what is fast, for how long, and what it never shortens."""

import asyncio
from collections.abc import Coroutine
from typing import Any, cast

import pytest
from partition_raft import Message, MessageKind
from partition_replica.runtime.consensus.lease import LeaderLease
from partition_replica.runtime.consensus.raft_loop import RaftLoop
from partition_replica.runtime.consensus.ticker import (
    FAST_TICKS_A_TICK,
    Ticker,
    vote_refused_s,
)

from tests.simulation.loop import VirtualLoop, run
from tests.support.raft_loops import RecordingEngine, loop_of

TICK_S = 0.1
ELECTION_TICKS = 10
FAST_S = TICK_S / FAST_TICKS_A_TICK
LEADER, OTHER, TERM = 2, 3, 7


def on_virtual_time(body: Coroutine[Any, Any, None]) -> None:
    run(VirtualLoop(), body)


class Ticks:
    """A ticker without naps, and when it ticked, in seconds from its start."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self.at: list[float] = []
        self.ticker = Ticker(TICK_S, ELECTION_TICKS, self._woken)

    def _woken(self) -> None:
        self.at += [self._loop.time() - self._began] * self.ticker.take()
        self.ticker.nap(1)

    def between(self, first_s: float, last_s: float) -> int:
        return sum(first_s < at <= last_s for at in self.at)


def test_the_fast_clock_ticks_from_now_on_until_an_election_time_out_has_passed() -> None:
    async def body() -> None:
        ticks = Ticks()
        ticks.ticker.start()
        await asyncio.sleep(1.05)
        assert ticks.between(0, 1.05) == 10
        ticks.ticker.hurry()
        await asyncio.sleep(FAST_S * 1.5)
        assert ticks.between(1.05, 1.05 + FAST_S * 1.5), "not after the slow tick under way"
        await asyncio.sleep(4)
        ended = 1.05 + ELECTION_TICKS * TICK_S + FAST_S
        assert not ticks.ticker.fast
        fast = ELECTION_TICKS * FAST_TICKS_A_TICK
        assert fast - 1 <= ticks.between(1.05, ended) <= fast + 1
        assert ticks.between(ended, ended + 1) in (9, 10)

    on_virtual_time(body())


def test_a_calm_clock_ticks_slowly_at_once() -> None:
    async def body() -> None:
        ticks = Ticks()
        ticks.ticker.start()
        ticks.ticker.hurry()
        await asyncio.sleep(FAST_S * 3.5)
        ticks.ticker.calm()
        await asyncio.sleep(TICK_S * 0.9)
        assert len(ticks.at) == 3
        await asyncio.sleep(TICK_S * 0.2)
        assert len(ticks.at) == 4

    on_virtual_time(body())


def test_a_connection_that_comes_and_goes_does_not_stop_the_clock() -> None:
    async def body() -> None:
        ticks = Ticks()
        ticks.ticker.start()
        for _ in range(200):
            ticks.ticker.hurry()
            await asyncio.sleep(FAST_S * 0.3)
            ticks.ticker.calm()
            await asyncio.sleep(FAST_S * 0.2)
        spans = [later - at for at, later in zip(ticks.at, ticks.at[1:], strict=False)]
        assert max(spans) < TICK_S * 1.1
        assert min(spans) > FAST_S * 0.99

    on_virtual_time(body())


def test_a_ticker_that_does_not_run_does_not_tick() -> None:
    async def body() -> None:
        ticks = Ticks()
        ticks.ticker.hurry()
        await asyncio.sleep(1)
        assert ticks.at == []
        ticks.ticker.start()
        await asyncio.sleep(1)
        assert ticks.at
        ticks.ticker.stop()
        ticks.ticker.hurry()
        before = len(ticks.at)
        await asyncio.sleep(1)
        assert len(ticks.at) == before

    on_virtual_time(body())


def test_a_delayed_loop_does_not_catch_up() -> None:
    async def body() -> None:
        ticks = Ticks()
        ticks.ticker.start()
        ticks.ticker.hurry()
        await asyncio.sleep(FAST_S * 2.5)
        before = len(ticks.at)
        cast("VirtualLoop", asyncio.get_running_loop())._now += FAST_S * 50
        await asyncio.sleep(FAST_S * 0.5)
        assert len(ticks.at) == before + 1

    on_virtual_time(body())


# --- naps -------------------------------------------------------------------------------------


class Naps:
    """A ticker whose naps have `nap_ticks`, and what its ends find."""

    def __init__(self, nap_ticks: int) -> None:
        self._nap_ticks = nap_ticks
        self.loop = cast("VirtualLoop", asyncio.get_running_loop())
        self.ends: list[int] = []
        self.ticker = Ticker(TICK_S, ELECTION_TICKS, self._woken)
        self.ticker.start()
        self.ticker.nap(nap_ticks)

    def _woken(self) -> None:
        self.ends.append(self.round())

    def round(self) -> int:
        """A round of the loop: the ticks that it takes."""
        taken = self.ticker.take()
        self.ticker.nap(self._nap_ticks)
        return taken


def test_a_nap_ends_once_with_all_its_ticks() -> None:
    async def body() -> None:
        naps = Naps(4)
        await asyncio.sleep(TICK_S * 12.5)
        assert naps.ends == [4, 4, 4]

    on_virtual_time(body())


def test_a_round_within_a_nap_takes_the_ticks_that_have_passed() -> None:
    """No more, and none twice; and the nap that it begins is counted from the last of them."""

    async def body() -> None:
        naps = Naps(4)
        await asyncio.sleep(TICK_S * 2.9)
        assert (naps.round(), naps.round()) == (2, 0)
        await asyncio.sleep(TICK_S * 0.2)
        assert naps.round() == 1
        await asyncio.sleep(TICK_S * 3.8)
        assert naps.ends == []
        await asyncio.sleep(TICK_S * 0.2)
        assert naps.ends == [4]

    on_virtual_time(body())


def test_rounds_without_end_do_not_wake_or_stop_the_clock() -> None:
    """A nap is prolonged by each round, for example by each heartbeat."""

    async def body() -> None:
        naps = Naps(4)
        taken = 0
        for _ in range(100):
            await asyncio.sleep(TICK_S * 0.7)
            taken += naps.round()
        assert naps.ends == []
        assert taken == 70

    on_virtual_time(body())


def test_a_nap_may_become_shorter() -> None:
    async def body() -> None:
        naps = Naps(10)
        await asyncio.sleep(TICK_S * 1.5)
        naps.ticker.nap(2)
        await asyncio.sleep(TICK_S)
        assert naps.ends == [2]

    on_virtual_time(body())


@pytest.mark.parametrize("stopped_ticks", [5.1, 50, 5000])
def test_a_nap_that_ends_far_too_late_counts_one_tick(stopped_ticks: float) -> None:
    """The process was stopped, and the leader's heartbeats wait in its sockets."""

    async def body() -> None:
        naps = Naps(4)
        naps.loop._now += TICK_S * stopped_ticks
        assert naps.round() == 1
        await asyncio.sleep(TICK_S * 4.1)
        assert naps.ends == [4]

    on_virtual_time(body())


def test_no_more_ticks_pass_than_a_nap_has() -> None:
    """Also while no round takes them, as while a follower waits for its disk."""

    async def body() -> None:
        woken: list[None] = []
        ticker = Ticker(TICK_S, ELECTION_TICKS, lambda: woken.append(None))
        ticker.start()
        ticker.nap(3)
        await asyncio.sleep(TICK_S * 20)
        assert len(woken) == 1
        assert ticker.take() == 3

    on_virtual_time(body())


def test_the_fast_clock_shortens_the_rest_of_a_nap() -> None:
    """The ticks before it stay as they are, and at most one fast tick comes at once."""

    async def body() -> None:
        naps = Naps(4)
        await asyncio.sleep(TICK_S * 1.95)
        naps.ticker.hurry()
        assert naps.ticker.take() == 2, "one of the nap, and one at once"
        naps.ticker.nap(2)
        await asyncio.sleep(FAST_S * 2.1)
        assert naps.ends == [2]

    on_virtual_time(body())


def test_the_end_of_the_fast_clock_prolongs_the_rest_of_a_nap() -> None:
    async def body() -> None:
        naps = Naps(4)
        naps.ticker.hurry()
        await asyncio.sleep(FAST_S * 1.5)
        naps.ticker.calm()
        await asyncio.sleep(TICK_S * 2.9)
        assert naps.ends == []
        await asyncio.sleep(TICK_S * 0.2)
        assert naps.ends == [4]

    on_virtual_time(body())


# --- when the loop hurries --------------------------------------------------------------------


def follower() -> RaftLoop:
    """Of LEADER, in TERM; its engine notes ticks."""
    engine = RecordingEngine()
    engine._work.clear()
    engine.term = TERM
    raft_loop = loop_of(engine, lambda *_, **__: cast("Any", _Writer()), [], tick_s=TICK_S)
    raft_loop._role_changed("follower", LEADER)
    return raft_loop


class _Writer:
    def start(self) -> None: ...


def message(kind: MessageKind, sender: int, term: int) -> Message:
    return cast("Message", _Message(kind, sender, term))


class _Message:
    def __init__(self, kind: int, sender: int, term: int) -> None:
        self.kind, self.sender, self.term = kind, sender, term


def fast_clocks(raft_loop: RaftLoop) -> float:
    return float(raft_loop._metrics.fast_clocks._value.get())


def test_only_the_leader_s_connection_counts() -> None:
    async def body() -> None:
        raft_loop = follower()
        raft_loop.peer_disconnected(OTHER)
        assert not raft_loop._ticker.fast
        raft_loop.peer_disconnected(LEADER)
        assert raft_loop._ticker.fast
        assert fast_clocks(raft_loop) == 1

    on_virtual_time(body())


def test_lease_reads_exclude_the_fast_clock() -> None:
    """A leader's lease ends by the followers' normal clocks."""

    async def body() -> None:
        raft_loop = follower()
        raft_loop._reads.lease = LeaderLease(10, 0.1, lambda: (0.0, 0.0))
        raft_loop.peer_disconnected(LEADER)
        assert not raft_loop._ticker.fast

    on_virtual_time(body())


@pytest.mark.parametrize("role", ["leader", "candidate", "precandidate"])
def test_only_a_follower_hurries(role: str) -> None:
    async def body() -> None:
        raft_loop = follower()
        raft_loop.role = role
        raft_loop.peer_disconnected(LEADER)
        assert not raft_loop._ticker.fast

    on_virtual_time(body())


REPLY = 4
"""eraftpb's MsgAppendResponse, which any member sends to a leader."""


@pytest.mark.parametrize(
    ("kind", "sender", "term", "fast"),
    [
        (MessageKind.HEARTBEAT, LEADER, TERM, False),
        (MessageKind.APPEND, OTHER, TERM + 1, False),
        (MessageKind.APPEND, LEADER, TERM, True),
        (MessageKind.SNAPSHOT, OTHER, TERM + 1, False),
        (MessageKind.HEARTBEAT, OTHER, TERM - 1, True),
        (REPLY, OTHER, TERM + 1, True),
    ],
)
def test_the_word_of_a_leader_of_this_term_or_a_later_one_ends_it(
    kind: MessageKind, sender: int, term: int, *, fast: bool
) -> None:
    async def body() -> None:
        raft_loop = follower()
        raft_loop.peer_disconnected(LEADER)
        raft_loop.receive(message(kind, sender, term), 1)
        assert raft_loop._ticker.fast is fast

    on_virtual_time(body())


def test_what_came_before_the_end_of_the_stream_does_not_end_it() -> None:
    """It may still wait for the engine while the disk works."""

    async def body() -> None:
        raft_loop = follower()
        raft_loop.receive(message(MessageKind.HEARTBEAT, LEADER, TERM), 1)
        raft_loop.peer_disconnected(LEADER)
        assert raft_loop._ticker.fast

    on_virtual_time(body())


def test_a_new_connection_of_that_leader_ends_it() -> None:
    async def body() -> None:
        raft_loop = follower()
        raft_loop.peer_disconnected(LEADER)
        raft_loop.peer_connected(OTHER)
        assert raft_loop._ticker.fast
        raft_loop.peer_connected(LEADER)
        assert not raft_loop._ticker.fast

    on_virtual_time(body())


def test_an_election_tried_or_won() -> None:
    async def body() -> None:
        raft_loop = follower()
        raft_loop.peer_disconnected(LEADER)
        raft_loop._role_changed("precandidate", 0)
        raft_loop._role_changed("candidate", 0)
        assert raft_loop._ticker.fast
        raft_loop._admission.lead = lambda *_: None  # type: ignore[method-assign]
        raft_loop._role_changed("leader", 1)
        assert not raft_loop._ticker.fast
        assert raft_loop._metrics.elections_started._value.get() == 1

    on_virtual_time(body())


def test_the_bound_of_a_lease_is_less_than_a_fast_election_time_out() -> None:
    """A vote needs ELECTION_TICKS ticks since the leader was heard; the first may come at once."""
    bound_s = vote_refused_s(TICK_S, ELECTION_TICKS)
    assert bound_s == pytest.approx(0.09)

    async def body() -> None:
        for phase in range(10):
            ticks = Ticks()
            ticks.ticker.start()
            await asyncio.sleep(TICK_S * (1 + phase / 10))
            heard = asyncio.get_running_loop().time()
            before = len(ticks.at)
            ticks.ticker.hurry()
            while len(ticks.at) < before + ELECTION_TICKS:
                await asyncio.sleep(FAST_S / 10)
            assert asyncio.get_running_loop().time() - heard >= bound_s
            ticks.ticker.stop()

    on_virtual_time(body())
