"""The operator's queue: no event is lost, one object is worked on by one worker at a time, and what
fails holds up nothing but itself."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from partition_operator.errors import Deposed, OperatorError
from partition_operator.turns.queue import (
    CHANGES_IN_A_ROW_MAX,
    Key,
    News,
    QueueItem,
    Turn,
    Version,
    WorkQueue,
)

from tests.support.local_group import eventually

LONG_S = 600.0
"""A pause that no test waits for."""


async def nobody(_: int) -> None:
    raise AssertionError("nobody is deposed here")


@asynccontextmanager
async def running(queue: WorkQueue, turn: Turn) -> AsyncIterator[None]:
    queue.serve({"Partition": turn})
    task = asyncio.create_task(queue.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})
        await queue.close()


class Work:
    """A turn that lasts until it is let go. `begun`: names, in order; `most`: turns of one object
    at the same time."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.most = 0
        self.go: dict[str, asyncio.Event] = {}
        self._now: dict[str, int] = {}

    async def turn(self, key: Key, _: QueueItem) -> float | None:
        name = key.name
        self.begun.append(name)
        self._now[name] = self._now.get(name, 0) + 1
        self.most = max(self.most, self._now[name])
        try:
            if name in self.go:
                await self.go[name].wait()
        finally:
            self._now[name] -= 1
        return LONG_S

    async def times(self, name: str, count: int) -> None:
        async def same() -> bool:
            return self.begun.count(name) >= count

        await eventually(same, f"{count} turns of {name}", 10)


async def test_what_changes_during_a_turn_is_looked_at_right_after_it() -> None:
    """Not after the pause that the turn asks for: it did not see the change."""
    queue, work = WorkQueue(2, nobody), Work()
    work.go["a"] = asyncio.Event()
    async with running(queue, work.turn):
        queue.enqueue("Partition", "ns", "a")
        await work.times("a", 1)
        for _ in range(5):
            queue.enqueue("Partition", "ns", "a")
        work.go["a"].set()
        await work.times("a", 2)
    assert work.begun.count("a") == 2  # five events are one look


async def test_what_is_forgotten_and_comes_back_during_its_last_turn_is_looked_at() -> None:
    queue = WorkQueue(1, nobody)
    go, turns = asyncio.Event(), 0

    async def turn(_: Key, __: QueueItem) -> float | None:
        nonlocal turns
        turns += 1
        await go.wait()
        return None  # it does not exist

    async def again() -> bool:
        return turns == 2

    async def begun() -> bool:
        return turns == 1

    async with running(queue, turn):
        queue.enqueue("Partition", "ns", "a")
        await eventually(begun, "the first turn")
        queue.enqueue("Partition", "ns", "a")
        go.set()
        await eventually(again, "the second turn", 10)


async def test_one_object_has_one_turn_at_a_time_and_holds_up_no_other() -> None:
    queue, work = WorkQueue(4, nobody), Work()
    work.go["slow"] = asyncio.Event()
    async with running(queue, work.turn):
        queue.enqueue("Partition", "ns", "slow")
        await work.times("slow", 1)
        for number in range(20):
            queue.enqueue("Partition", "ns", "slow")
            queue.enqueue("Partition", "ns", f"other-{number}")
            await work.times(f"other-{number}", 1)
        assert work.begun.count("slow") == 1
        work.go["slow"].set()
        await work.times("slow", 2)
    assert work.most == 1


async def test_as_many_turns_at_once_as_there_are_workers() -> None:
    queue, work = WorkQueue(3, nobody), Work()
    for number in range(6):
        work.go[f"p{number}"] = asyncio.Event()
    async with running(queue, work.turn):
        for name in work.go:
            queue.enqueue("Partition", "ns", name)
        for name in ("p0", "p1", "p2"):
            await work.times(name, 1)
        assert len(work.begun) == 3
        work.go["p1"].set()
        await work.times("p3", 1)
        assert len(work.begun) == 4
        for event in work.go.values():
            event.set()
        await work.times("p5", 1)


async def test_a_turn_that_fails_is_tried_again_and_holds_up_no_other() -> None:
    queue, tries = WorkQueue(1, nobody), 0
    seen: list[str] = []

    async def turn(key: Key, _: QueueItem) -> float | None:
        nonlocal tries
        seen.append(key.name)
        if key.name == "bad":
            tries += 1
            if tries < 3:
                raise RuntimeError("a defect") if tries == 1 else OperatorError("refused")
        return LONG_S

    async def done() -> bool:
        return tries == 3 and "good" in seen

    async with running(queue, turn):
        queue.enqueue("Partition", "ns", "bad")
        queue.enqueue("Partition", "ns", "good")
        await eventually(done, "both are done", 20)
    assert queue.failed == 2


async def test_a_token_that_a_replica_finds_too_low_is_raised_before_the_next_try() -> None:
    raised: list[int] = []

    async def raise_above(seen: int) -> None:
        raised.append(seen)

    queue = WorkQueue(1, raise_above)
    tries = 0

    async def turn(_: Key, __: QueueItem) -> float | None:
        nonlocal tries
        tries += 1
        if not raised:
            raise Deposed("replica part-0 obeys another one", 41)
        return LONG_S

    async def done() -> bool:
        return tries == 2

    async with running(queue, turn):
        queue.enqueue("Partition", "ns", "a")
        await eventually(done, "it is tried again", 20)
    assert raised == [41]


class Times:
    """A TurnObserver. seen: what it learned, in order."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, float, bool | None]] = []

    def began(self, kind: str, waited_s: float) -> None:
        self.seen.append((kind, waited_s, None))

    def ended(self, kind: str, seconds: float, *, failed: bool) -> None:
        self.seen.append((kind, seconds, failed))


async def test_each_turn_is_observed_and_a_failed_one_as_failed() -> None:
    times, work = Times(), Work()
    queue = WorkQueue(1, nobody, times)
    work.go["slow"] = asyncio.Event()

    async def turn(key: Key, item: QueueItem) -> float | None:
        if key.name == "broken" and item.failures == 0:
            raise OperatorError("once")
        return await work.turn(key, item)

    async with running(queue, turn):
        queue.enqueue("Partition", "ns", "slow")
        await work.times("slow", 1)
        assert queue.running == 1
        queue.enqueue("Partition", "ns", "waits")

        async def old() -> bool:
            return queue.age_s > 0.01

        await eventually(old, "the age of the turn that waits grows")
        work.go["slow"].set()
        await work.times("waits", 1)
        queue.enqueue("Partition", "ns", "broken")
        await work.times("broken", 1)

        async def none() -> bool:
            return queue.running == 0 and queue.age_s == 0

        await eventually(none, "nothing is due any more")
    assert [failed for _, _, failed in times.seen if failed is not None].count(True) == 1
    assert all(seconds >= 0 for _, seconds, _ in times.seen)
    assert len(times.seen) == 8, "four turns that began and ended"


# --- order ------------------------------------------------------------------------------------


def listed(number: int) -> News:
    return News(Version(f"u{number}", "1"), listed=True)


async def begun_after_a_change(queue: WorkQueue) -> list[str]:
    """While one worker is busy, all are listed, and then one of them changes. Returns the order in
    which their turns begin."""
    work = Work()
    work.go["first"] = asyncio.Event()
    async with running(queue, work.turn):
        queue.enqueue("Partition", "ns", "first")
        await work.times("first", 1)
        for number in range(4):
            queue.enqueue("Partition", "ns", f"p{number}", listed(number))
        queue.enqueue("Partition", "ns", "p2", News(Version("u2", "2")))
        work.go["first"].set()
        await work.times("p3", 1)
    return work.begun[1:]


async def test_a_change_goes_ahead_of_what_is_only_listed() -> None:
    """A restarted operator looks at everything; what changes meanwhile does not wait for that."""
    queue = WorkQueue(1, nobody)
    assert await begun_after_a_change(queue) == ["p2", "p0", "p1", "p3"]


async def test_however_much_changes_what_is_due_gets_its_share() -> None:
    queue, work = WorkQueue(1, nobody), Work()
    work.go["first"] = asyncio.Event()
    async with running(queue, work.turn):
        queue.enqueue("Partition", "ns", "first")
        await work.times("first", 1)
        for number in range(2):
            queue.enqueue("Partition", "ns", f"listed-{number}", listed(number))
        for number in range(3 * CHANGES_IN_A_ROW_MAX):
            queue.enqueue("Partition", "ns", f"changed-{number}")
        work.go["first"].set()
        await work.times(f"changed-{3 * CHANGES_IN_A_ROW_MAX - 1}", 1)
    order = [name.partition("-")[0] for name in work.begun]
    assert order.index("listed") == CHANGES_IN_A_ROW_MAX, "after 'first', itself a change"
    assert order.count("listed") == 2
    assert order[CHANGES_IN_A_ROW_MAX + 1 :].index("listed") == CHANGES_IN_A_ROW_MAX


# --- what a turn has seen already -------------------------------------------------------------


class Observing:
    """Turns that observe one version of one object, and last until they are let go. turns: how many
    have ended."""

    def __init__(self) -> None:
        self.version = Version("u", "1")
        self.turns = 0
        self.begun = asyncio.Event()
        self.go = asyncio.Event()
        self.error: OperatorError | None = None

    async def turn(self, _: Key, item: QueueItem) -> float | None:
        self.begun.set()
        await self.go.wait()
        self.turns += 1
        item.known = frozenset({self.version})
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        return LONG_S

    async def until(self, count: int) -> None:
        async def same() -> bool:
            return self.turns == count

        await eventually(same, f"{count} turns", 10)


async def rested(queue: WorkQueue) -> None:
    async def idle() -> bool:
        return queue.running == 0 and queue.age_s == 0

    await eventually(idle, "nothing is due any more", 10)


async def test_an_event_about_what_the_turn_has_observed_causes_no_other_turn() -> None:
    """Such as the echo of what the turn has written itself."""
    queue, work = WorkQueue(1, nobody), Observing()
    async with running(queue, work.turn):
        queue.enqueue("Partition", "ns", "a", listed(0))
        await work.begun.wait()
        queue.enqueue("Partition", "ns", "a", News(work.version))  # before it is observed
        work.go.set()
        await work.until(1)
        await rested(queue)
        queue.enqueue("Partition", "ns", "a", News(work.version))
        queue.enqueue("Partition", "ns", "a", News(work.version, listed=True))
        await rested(queue)
        assert work.turns == 1
        queue.enqueue("Partition", "ns", "a", News(Version("u", "2")))
        await work.until(2)
        queue.enqueue("Partition", "ns", "a", News(None))  # it was deleted
        await work.until(3)


async def test_an_event_about_something_newer_during_a_turn_causes_another_one() -> None:
    queue, work = WorkQueue(1, nobody), Observing()
    async with running(queue, work.turn):
        queue.enqueue("Partition", "ns", "a")
        await work.begun.wait()
        queue.enqueue("Partition", "ns", "a", News(Version("u", "2")))
        work.go.set()
        await work.until(2)
        await rested(queue)
    assert work.turns == 2


async def test_a_turn_that_failed_has_observed_nothing() -> None:
    queue, work = WorkQueue(1, nobody), Observing()
    work.go.set()
    work.error = OperatorError("the API server does not answer")
    async with running(queue, work.turn):
        queue.enqueue("Partition", "ns", "a")
        await work.until(1)
        queue.enqueue("Partition", "ns", "a", News(work.version))
        await work.until(2)
