"""Scheduled runs: a year of them under a virtual clock, and how fresh a schedule's snapshots are.

The operator is away or ends in the middle of a step, sources are missing, and runs take long."""

import datetime as dt
import random
from dataclasses import replace
from typing import Any

import pytest
from partition_operator.api import names
from partition_operator.api.partition import parse
from partition_operator.api.snapshot import Snapshot, parse_snapshot
from partition_operator.api.times import parse_stamp, stamp
from partition_operator.reconcile.cron import MISSED_COUNT_MAX, Schedule
from partition_operator.reconcile.schedule.due import Circumstances, decide
from partition_operator.reconcile.schedule.policy import (
    FRESH_GRACE,
    ObservedSchedule,
    plan,
    refused,
)

from tests.support.due_times import END, MINUTE, START, UTC
from tests.support.snapshot_objects import NOW, OBJECT_STORE, group, partition, snapshot, stored

# --- decisions --------------------------------------------------------------------------------

HOURLY = Schedule("0 * * * *", "Etc/UTC")
HOUR = dt.timedelta(hours=1)
SHORT = dt.timedelta(minutes=5)


def at(hour: int, minute: int = 0, second: int = 0) -> dt.datetime:
    return dt.datetime(2026, 5, 5, hour, minute, second, tzinfo=UTC)


def test_after_an_outage_only_the_latest_starts_and_the_others_are_missed() -> None:
    late = Circumstances(at(3), at(9, 20))
    found = decide(HOURLY, None, late)
    assert (found.start, found.missed) == (at(9), 5)
    found = decide(HOURLY, SHORT, late)
    assert (found.start, found.missed, found.cursor) == (None, 6, at(9))
    in_time = replace(late, now=at(9, 4))
    assert decide(HOURLY, SHORT, in_time).start == at(9)


def test_a_run_whose_predecessor_runs_is_missed_at_once() -> None:
    found = decide(HOURLY, None, Circumstances(at(3), at(4), predecessor="part-1"))
    assert (found.start, found.missed, found.reason) == (None, 1, "part-1 still runs")
    assert found.cursor == at(4)


def test_without_a_source_the_newest_waits_for_its_deadline() -> None:
    waits = Circumstances(at(3), at(5, 1), blocked="no replica leads")
    found = decide(HOURLY, SHORT, waits)
    assert (found.start, found.missed, found.look_at) == (None, 1, at(5, 5, 1))
    again = decide(HOURLY, SHORT, replace(waits, cursor=found.cursor))
    assert (again.missed, again.look_at) == (0, at(5, 5, 1))
    over = decide(HOURLY, SHORT, replace(waits, cursor=found.cursor, now=at(5, 5, 1)))
    assert (over.missed, over.reason, over.cursor) == (1, "no replica leads", at(5))
    free = decide(HOURLY, SHORT, Circumstances(found.cursor, at(5, 4)))
    assert (free.start, free.missed) == (at(5), 0)


def test_counting_ends_somewhere() -> None:
    minutely = Schedule("* * * * *", "Etc/UTC")
    found = decide(minutely, None, Circumstances(START, END))
    assert found.start == END
    assert found.missed == MISSED_COUNT_MAX - 1


# --- a year -----------------------------------------------------------------------------------


class World:
    """A Partition with a schedule, and an operator that comes and goes. Statuses are written and
    objects made as the operator does it, or left out where it ends in between."""

    def __init__(self, spec: dict[str, Any], seed: int) -> None:
        self.random = random.Random(seed)
        self.now = START
        self.body = partition(spec | {"destination": OBJECT_STORE}).body
        self.snapshots: dict[str, Snapshot] = {}
        self.made: list[tuple[dt.datetime, dt.datetime]] = []
        self.ends: dict[str, tuple[dt.datetime, str]] = {}
        self.missed = 0
        self.sourceless_until = START
        self.fresh: list[tuple[dt.datetime, bool]] = []

    def view(self) -> ObservedSchedule:
        found = parse(self.body)
        seen = group(found, self.now, leaderless=self.now < self.sourceless_until)
        return ObservedSchedule(seen, tuple(self.snapshots.values()))

    def turn(self, *, crash: float) -> dt.datetime:
        """Looks until there is nothing to do; returns when to look again."""
        for _ in range(20):
            self._progress()
            step = plan(self.view())
            if step.create is not None:
                self._create(step.create)
                if self.random.random() < crash:
                    return self.now
                continue
            if self.random.random() < crash:
                return self.now
            self._write(step.snapshots, step.events)
            fresh = next(c for c in step.conditions if c.type == "SnapshotFresh")
            self.fresh.append((self.now, bool(fresh.status)))
            if step.look_at is None or step.look_at > self.now:
                return step.look_at or END
        raise AssertionError("it never comes to rest")

    def _create(self, body: dict[str, Any]) -> None:
        name = body["metadata"]["name"]
        assert name not in self.snapshots, "made twice"
        due = parse_stamp(body["metadata"]["annotations"][names.ANNOTATION_SCHEDULED_AT])
        assert due is not None
        meta = body["metadata"] | {"uid": name, "creationTimestamp": stamp(self.now)}
        self.snapshots[name] = parse_snapshot(body | {"metadata": meta, "status": {}})
        self.made.append((due, self.now))
        takes = dt.timedelta(seconds=self.random.choice((20, 300, 300, 9000)))
        state = "Failed" if self.random.random() < 0.1 else "Verified"
        self.ends[name] = (self.now + takes, state)

    def _write(self, status: dict[str, Any], events: list[Any]) -> None:
        old = self.body["status"].get("snapshots", {})
        rise = status.get("missed", 0) - old.get("missed", 0)
        told = [e for e in events if e.reason == "SnapshotMissed"]
        assert len(told) == (1 if rise else 0), "one event, where runs are missed"
        self.missed += rise
        self.body = self.body | {"status": self.body["status"] | {"snapshots": status}}

    def _progress(self) -> None:
        for name, (end, state) in list(self.ends.items()):
            if end <= self.now:
                old = self.snapshots[name]
                ended = stored(name, old.created, state=state, scheduled_at=old.scheduled_at)
                self.snapshots[name] = ended
                del self.ends[name]
        if len(self.snapshots) > 12:
            # As retention does.
            for name in sorted(self.snapshots)[:6]:
                if self.snapshots[name].ended:
                    del self.snapshots[name]


@pytest.mark.parametrize(
    ("expression", "zone", "deadline", "period_h", "seed"),
    [
        ("30 2 * * *", "Europe/Berlin", None, 24, 1),
        ("30 2 * * *", "America/New_York", 1800, 24, 2),
        ("30 1,13 * * *", "America/New_York", 3600, 12, 3),
        ("0 */3 * * *", "Europe/Berlin", 600, 3, 4),
        ("15 */4 * * *", "America/New_York", None, 4, 5),
    ],
)
def test_a_year_of_runs(
    expression: str, zone: str, deadline: int | None, period_h: int, seed: int
) -> None:
    print(f"seed {seed}")
    spec: dict[str, Any] = {"schedule": expression, "timeZone": zone}
    if deadline is not None:
        spec["startingDeadlineSeconds"] = deadline
    world, generator = World(spec, seed), random.Random(seed)
    while world.now < END:
        look_at = world.turn(crash=0.05)
        if generator.random() < 0.02:
            away = dt.timedelta(seconds=generator.expovariate(1 / (7200 * period_h)))
            world.now += away
        elif generator.random() < 0.03:
            lasts = dt.timedelta(seconds=generator.expovariate(1 / (3600 * period_h)))
            world.sourceless_until = world.now + lasts
        pause = max(look_at - world.now, dt.timedelta(seconds=1))
        if world.now < world.sourceless_until:
            # Its return is an event in the cluster, which makes the operator look.
            pause = min(pause, world.sourceless_until - world.now + dt.timedelta(seconds=1))
        world.now += pause
    world.turn(crash=0)
    check(world, Schedule(expression, zone), deadline)


def check(world: World, schedule: Schedule, deadline: int | None) -> None:
    since = parse_stamp(world.body["status"]["snapshots"]["since"])
    until = parse_stamp(world.body["status"]["snapshots"]["scheduledUntil"])
    assert since is not None
    assert until is not None
    dues = [due for due, _ in world.made]
    assert len(dues) == len(set(dues)), "two runs of one due time"
    assert dues == sorted(dues)
    every, due = [], schedule.next_after(since)
    while due is not None and due <= until:
        every.append(due)
        due = schedule.next_after(due)
    assert set(dues) <= set(every), "a run that was not due"
    for due, made in world.made:
        following = schedule.next_after(due)
        assert due <= made
        assert following is None or made < following, "a late one beside a newer one"
        assert deadline is None or made <= due + dt.timedelta(seconds=deadline)
    assert len(dues) + world.missed == len(every), "each is started or missed, none is both"
    assert len(dues) > len(every) / 3, "the world is so bad that this tests nothing"
    assert world.missed > 0


def test_immediate_is_made_once_however_often_the_operator_ends() -> None:
    world = World({"schedule": "0 3 * * *", "immediate": True}, 1)
    world.now = START + dt.timedelta(seconds=42)
    for _ in range(3):
        world.turn(crash=0.9)
        world.now += dt.timedelta(seconds=61)
    world.turn(crash=0)
    ((due, made),) = world.made
    assert START <= due <= made, "at once, from when it was first written down"
    assert "immediateAt" not in world.body["status"]["snapshots"]
    world.now = START + dt.timedelta(days=1, hours=4)
    world.turn(crash=0)
    assert len(world.made) == 2


def test_immediate_has_the_whole_of_a_short_deadline() -> None:
    world = World({"schedule": "0 3 * * *", "immediate": True, "startingDeadlineSeconds": 10}, 1)
    world.now = START + dt.timedelta(seconds=42)
    world.turn(crash=0)
    assert (len(world.made), world.missed) == (1, 0)
    late = World({"schedule": "0 3 * * *", "immediate": True, "startingDeadlineSeconds": 10}, 1)
    late.now, late.sourceless_until = world.now, END
    late.turn(crash=0)
    late.now += dt.timedelta(seconds=10)
    late.turn(crash=0)
    assert late.missed == 0
    late.now += dt.timedelta(seconds=1)
    late.turn(crash=0)
    assert (late.made, late.missed) == ([], 1)


def test_immediate_waits_while_it_is_suspended_and_for_another_schedule() -> None:
    world = World({"schedule": "0 3 * * *", "immediate": True, "suspend": True}, 1)
    world.turn(crash=0)
    world.now += HOUR
    world.turn(crash=0)
    assert world.made == []
    spec = world.body["spec"]["snapshots"]
    world.body["spec"]["snapshots"] = spec | {"suspend": False}
    world.sourceless_until = world.now + HOUR / 2
    world.turn(crash=0)
    assert world.made == [], "nothing can take it"
    spec = spec | {"suspend": False, "schedule": "0 4 * * *"}
    world.body["spec"]["snapshots"] = spec
    world.turn(crash=0)
    world.now += HOUR / 2
    world.turn(crash=0)
    assert len(world.made) == 1
    world.body["spec"]["snapshots"] = spec | {"schedule": "0 5 * * *"}
    world.now += MINUTE
    world.turn(crash=0)
    assert len(world.made) == 1, "once"


@pytest.mark.parametrize("field", ["scheduledUntil", "since"])
def test_what_a_wrong_clock_wrote_does_not_switch_the_schedule_off(field: str) -> None:
    world = World({"schedule": "0 * * * *"}, 1)
    world.turn(crash=0)
    status = dict(world.body["status"]["snapshots"])
    world.body["status"]["snapshots"] = status | {field: "2036-01-01T00:00:00Z"}
    world.turn(crash=0)
    assert world.body["status"]["snapshots"] == status, "seen anew"
    world.now += HOUR
    world.turn(crash=0)
    assert len(world.made) == 1


def test_a_run_that_is_refused_is_said_and_all_else_goes_on() -> None:
    world = World({"schedule": "0 * * * *"}, 1)
    world.turn(crash=0)
    world.now += HOUR
    step = plan(world.view())
    assert step.create is not None
    after = refused(step, "exceeded quota: psnap", world.now, 30)
    assert after.create is None
    valid = next(c for c in after.conditions if c.type == "SnapshotScheduleValid")
    assert (valid.status, valid.reason) == (False, "RunRefused")
    assert "exceeded quota" in valid.message
    assert after.look_at == world.now + dt.timedelta(seconds=30)
    world._write(after.snapshots, after.events)
    assert plan(world.view()).create == step.create, "the run stays due"


def test_what_was_due_while_it_was_suspended_or_another_schedule_is_not_made_up_for() -> None:
    world = World({"schedule": "0 * * * *"}, 1)
    world.turn(crash=0)
    spec = world.body["spec"]["snapshots"]
    world.body["spec"]["snapshots"] = spec | {"suspend": True}
    world.now += dt.timedelta(hours=5)
    world.turn(crash=0)
    world.body["spec"]["snapshots"] = spec
    world.now += dt.timedelta(minutes=90)
    world.turn(crash=0)
    assert (world.made, world.missed) == ([], 0)
    world.now += HOUR
    world.turn(crash=0)
    assert len(world.made) == 1
    world.body["spec"]["snapshots"] = spec | {"schedule": "*/5 * * * *"}
    world.now += HOUR
    world.turn(crash=0)
    assert (len(world.made), world.missed) == (1, 0)


def test_an_idle_schedule_writes_the_same_until_something_is_due() -> None:
    world = World({"schedule": "0 3 * * *"}, 1)
    world.turn(crash=0)
    before = world.body
    world.now += HOUR
    step = plan(world.view())
    assert step.snapshots == before["status"]["snapshots"]
    assert step.events == []
    assert step.look_at == START + dt.timedelta(hours=3)


def test_a_name_that_something_else_has_is_a_missed_run() -> None:
    world = World({"schedule": "0 * * * *"}, 1)
    world.turn(crash=0)
    world.now += HOUR
    step = plan(world.view())
    assert step.create is not None
    name = step.create["metadata"]["name"]
    assert name == "part-202601010100"
    step = plan(replace(world.view(), taken=frozenset({name})))
    assert step.create is None
    assert "already has the run's name" in step.events[0].message


# --- freshness --------------------------------------------------------------------------------


def fresh(now: dt.datetime, *snapshots: Snapshot, deadline: int | None = None) -> bool | None:
    spec = {"schedule": "0 * * * *", "destination": OBJECT_STORE}
    if deadline is not None:
        spec["startingDeadlineSeconds"] = deadline
    status = {
        "schedule": "0 * * * * Etc/UTC",
        "since": stamp(at(0, 30)),
        "scheduledUntil": stamp(now),
    }
    found = partition(spec, status={"snapshots": status})
    step = plan(ObservedSchedule(group(found, now), snapshots))
    return next(c.status for c in step.conditions if c.type == "SnapshotFresh")


def test_fresh_is_what_the_schedule_promises() -> None:
    assert fresh(at(1, 5)) is True, "the first run has its grace"
    assert fresh(at(1, 0) + FRESH_GRACE) is False, "there is no success at all"
    good = stored("a", at(1, 0, 3), scheduled_at=at(1))
    assert fresh(at(1, 30), good) is True
    assert fresh(at(2, 9), good) is True, "the next one has its grace, too"
    assert fresh(at(2, 10), good) is False
    assert fresh(at(2, 10), good, deadline=600) is True, "and its deadline"
    running = snapshot("b", created=at(2), status={"state": "Running"}, scheduled_at=at(2))
    assert fresh(at(2, 50), good, running) is True, "it is on its way"
    assert fresh(at(3, 10), good, running) is False, "for one period"
    future = stored("f", at(9), scheduled_at=at(2))
    assert fresh(at(2, 30), future) is False, "a clock was wrong"
    damaged = stored("b", at(2, 0, 1), state="VerifyFailed", scheduled_at=at(2))
    assert fresh(at(2, 30), good, damaged) is False


def test_stale_is_an_event_once_and_names_the_failure() -> None:
    status = {
        "schedule": "0 * * * * Etc/UTC",
        "since": stamp(at(0, 30)),
        "scheduledUntil": stamp(at(2)),
    }
    found = partition(
        {"schedule": "0 * * * *", "destination": OBJECT_STORE}, status={"snapshots": status}
    )
    failed = snapshot(
        "b", created=at(2), status={"state": "Failed", "message": "StoreRefused: no bucket"}
    )
    step = plan(ObservedSchedule(group(found, at(2, 30)), (failed,)))
    (event,) = step.events
    assert event.reason == "SnapshotStale"
    assert "StoreRefused: no bucket" in event.message


def test_a_bad_schedule_is_a_condition_and_keeps_what_is_known() -> None:
    found = partition(
        {"schedule": "0 0 3 * * *", "destination": OBJECT_STORE},
        status={"snapshots": {"missed": 4, "lastSnapshot": "x"}},
    )
    step = plan(ObservedSchedule(group(found, NOW), ()))
    valid = next(c for c in step.conditions if c.type == "SnapshotScheduleValid")
    assert (valid.status, valid.reason) == (False, "InvalidSchedule")
    assert step.create is None
    assert step.snapshots == {"missed": 4, "lastSnapshot": "x"}
