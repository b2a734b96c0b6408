"""What `spec.snapshots` asks of a Partition: runs of its schedule, and how fresh its snapshots are.
Pure. Its part of the Partition's status is `snapshots` and the conditions of SNAPSHOT_CONDITIONS.

A run exists when its PartitionSnapshot does, whose name says when it was due; so a crash between
the decision and the object, or two operators, can't make two. Missed runs are recorded before the
run that follows them is made.
"""

import datetime as dt
from dataclasses import dataclass, field, replace
from typing import Any, cast

from partition_operator.api import names, schema
from partition_operator.api.events import Event
from partition_operator.api.partition import Partition
from partition_operator.api.snapshot import GOOD, Snapshot, SnapshotsSpec
from partition_operator.api.times import parse_stamp, stamp
from partition_operator.errors import InvalidSpec
from partition_operator.reconcile.observed.partition import ObservedPartition
from partition_operator.reconcile.observed.snapshot import age_of
from partition_operator.reconcile.partition.conditions import Condition
from partition_operator.reconcile.schedule import cron as schedules
from partition_operator.reconcile.schedule.cron import MOMENT, Circumstances, Schedule, decide
from partition_operator.reconcile.snapshot import sources

FRESH_GRACE = dt.timedelta(minutes=10)
"""So long a run may take, after its starting deadline, before the newest success counts as old."""
AHEAD_MAX = dt.timedelta(minutes=5)
"""So far two nodes' clocks may differ. What is recorded to be later was written by a clock that was
wrong: believed, it would switch the schedule off until then."""


@dataclass(frozen=True, slots=True)
class ObservedSchedule:
    """group: the Partition, its pods and replicas. snapshots: all that name the Partition. taken:
    names of runs that belong to something else."""

    group: ObservedPartition
    snapshots: tuple[Snapshot, ...]
    taken: frozenset[str] = frozenset()

    @property
    def now(self) -> dt.datetime:
        return self.group.now

    @property
    def partition(self) -> Partition:
        return self.group.partition


@dataclass(frozen=True, slots=True)
class PolicyPlan:
    """create: the run's object, to be made before status is written anew. look_at: when something
    changes by time alone."""

    snapshots: schema.SnapshotsStatus
    conditions: list[Condition]
    events: list[Event] = field(default_factory=list)
    create: dict[str, Any] | None = None
    look_at: dt.datetime | None = None
    spec: SnapshotsSpec | None = None


def plan(view: ObservedSchedule) -> PolicyPlan:
    old = view.partition.snapshot_status
    known = _successes(view, old) | _kept(old, "missed", "lastScheduleTime")
    try:
        spec = view.partition.snapshots()
        if spec is None:
            return PolicyPlan(known, [])
        if not spec.schedule:
            return PolicyPlan(known, [], spec=spec)
        schedule = schedules.parse(spec.schedule, spec.time_zone)
    except InvalidSpec as error:
        reason = type(error).__name__
        return PolicyPlan(
            known | _kept(old, "schedule", "immediateAt"),
            [
                Condition("SnapshotScheduleValid", False, reason, str(error)),
                Condition("SnapshotFresh", None, reason, "no schedule is followed"),
            ],
        )
    return _scheduled(view, spec, schedule, known)


def _scheduled(
    view: ObservedSchedule, spec: SnapshotsSpec, schedule: Schedule, known: schema.SnapshotsStatus
) -> PolicyPlan:
    old, now = view.partition.snapshot_status, view.now
    identity = f"{spec.schedule} {spec.time_zone}"
    valid = Condition("SnapshotScheduleValid", True, "Valid", "the schedule is followed")
    found = known | {"schedule": identity}
    start = now.replace(microsecond=0)
    immediate = _immediate(view, spec, start)
    if spec.suspend:
        suspended = "spec.snapshots.suspend is true: nothing is scheduled"
        # It waits, too: old["immediateAt"] says that it was asked for.
        found["suspended"] = True
        found["immediateAt"] = old.get("immediateAt", immediate) if immediate else ""
        return PolicyPlan(
            _without_empty(found),
            [
                replace(valid, reason="Suspended", message=suspended),
                Condition("SnapshotFresh", None, "Suspended", suspended),
            ],
            spec=spec,
        )
    cursor, since = parse_stamp(old.get("scheduledUntil")), parse_stamp(old.get("since"))
    changed = old.get("schedule") != identity or old.get("suspended")
    if changed or cursor is None or since is None or max(cursor, since) > now + AHEAD_MAX:
        # Nothing was due before the schedule was seen. Recorded before anything is made.
        found |= {"since": stamp(start), "scheduledUntil": stamp(start)}
        found["nextScheduleTime"] = _stamp(schedule.next_after(now))
        found["immediateAt"] = immediate
        fresh = Condition("SnapshotFresh", True, "NothingDue", "no run has been due yet")
        return PolicyPlan(_without_empty(found), [valid, fresh], look_at=now, spec=spec)
    found |= {"since": stamp(since), "nextScheduleTime": _stamp(schedule.next_after(now))}
    step = _next_run(view, spec, schedule, cursor)
    fresh, fresh_until = _fresh(view, spec, schedule, since)
    found |= step.fields
    found["missed"] = int(known.get("missed", 0)) + step.missed
    found = _without_empty(found)
    events = []
    if step.missed:
        runs = "1 run was" if step.missed == 1 else f"{step.missed} runs were"
        if step.missed >= schedules.MISSED_COUNT_MAX:
            runs = f"at least {step.missed} runs were"
        events.append(Event("Warning", "SnapshotMissed", f"{runs} missed: {step.reason}"))
    was = {c["type"]: c for c in view.partition.whole_status.get("conditions") or []}
    return PolicyPlan(
        found,
        [valid, fresh],
        events + _freshness_events(was.get("SnapshotFresh"), fresh),
        step.create,
        min((t for t in (step.look_at, fresh_until) if t is not None), default=None),
        spec,
    )


def refused(step: PolicyPlan, message: str, now: dt.datetime, pause_s: float) -> PolicyPlan:
    """The plan of a run that could not be made: it says so, and goes on with all else."""
    text = f"the run's PartitionSnapshot was refused, and is tried until it is missed: {message}"
    said = Condition("SnapshotScheduleValid", False, "RunRefused", text)
    found = [said if c.type == said.type else c for c in step.conditions]
    look_at = now + dt.timedelta(seconds=pause_s)
    return replace(step, create=None, conditions=found, look_at=look_at)


def _immediate(view: ObservedSchedule, spec: SnapshotsSpec, start: dt.datetime) -> str:
    """When the immediate run is due where a schedule is seen anew: at the first sight, and where it
    has waited since; "" for none. To the second: its deadline counts from it."""
    old = view.partition.snapshot_status
    if not spec.immediate:
        return ""
    if "schedule" not in old:
        return stamp(start)
    waits = parse_stamp(old.get("immediateAt"))
    made = {s.name for s in view.snapshots}
    if waits is None or names.scheduled_snapshot(view.partition.name, waits) in made:
        return ""
    return stamp(start)


# --- runs -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _RunStep:
    fields: schema.SnapshotsStatus
    create: dict[str, Any] | None = None
    missed: int = 0
    reason: str = ""
    look_at: dt.datetime | None = None


def _next_run(
    view: ObservedSchedule, spec: SnapshotsSpec, schedule: Schedule, cursor: dt.datetime
) -> _RunStep:
    old, now = view.partition.snapshot_status, view.now
    made = [s.scheduled_at for s in view.snapshots if s.scheduled_at is not None]
    newest = max((due for due in made if due <= now), default=None)
    if newest is not None and newest > cursor:
        # Made, and not written down yet.
        cursor = newest
    last = max(
        (
            t
            for t in (parse_stamp(old.get("lastScheduleTime")), newest)
            if t is not None and t <= now + AHEAD_MAX
        ),
        default=None,
    )
    fields: schema.SnapshotsStatus = {"lastScheduleTime": _stamp(last)}
    running = [s.name for s in view.snapshots if s.scheduled_at is not None and not s.ended]
    immediate = parse_stamp(old.get("immediateAt"))
    blocked = sources.why_none(view.group)
    if immediate is not None:
        name = names.scheduled_snapshot(view.partition.name, immediate)
        if name not in {s.name for s in view.snapshots} and name not in view.taken:
            fields |= {"scheduledUntil": stamp(cursor), "immediateAt": stamp(immediate)}
            if spec.deadline is not None and now > immediate + spec.deadline:
                del fields["immediateAt"]
                return _RunStep(fields, None, 1, blocked or "it could not start in time", now)
            body = None if blocked else _body(view.partition, immediate)
            return _RunStep(fields, body, look_at=now + dt.timedelta(seconds=5) if blocked else now)
    circumstances = Circumstances(cursor, now, blocked, running[0] if running else "")
    decision = decide(schedule, spec.deadline, circumstances)
    if decision.start is None:
        fields["scheduledUntil"] = stamp(decision.cursor)
        return _RunStep(fields, None, decision.missed, decision.reason, decision.look_at)
    if names.scheduled_snapshot(view.partition.name, decision.start) in view.taken:
        fields["scheduledUntil"] = stamp(decision.start)
        why = "a PartitionSnapshot of the run's name belongs to something else"
        return _RunStep(fields, None, decision.missed + 1, why, now)
    if decision.missed:
        # The one to start stays due: it is made at the next look, when these are written down.
        fields["scheduledUntil"] = stamp(decision.start - MOMENT)
        return _RunStep(fields, None, decision.missed, decision.reason, now)
    fields["scheduledUntil"] = stamp(cursor)
    return _RunStep(fields, _body(view.partition, decision.start), look_at=now)


def _body(partition: Partition, due: dt.datetime) -> dict[str, Any]:
    """A run's object. Not owned by the Partition: it outlives it."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.SNAPSHOT_KIND,
        "metadata": {
            "name": names.scheduled_snapshot(partition.name, due),
            "namespace": partition.namespace,
            "labels": names.labels(partition.name, "snapshot"),
            "annotations": {names.ANNOTATION_SCHEDULED_AT: stamp(due)},
        },
        "spec": {"partitionRef": {"name": partition.name}},
    }


# --- freshness --------------------------------------------------------------------------------


def _fresh(
    view: ObservedSchedule, spec: SnapshotsSpec, schedule: Schedule, since: dt.datetime
) -> tuple[Condition, dt.datetime | None]:
    """(the condition, when it may change by time alone).

    Judged is the newest due time that is older than the grace: FRESH_GRACE and the starting
    deadline. The newest good snapshot must have been started at it or later. Where the run of that
    due time is still under way, the due time before it is judged.
    """
    grace = FRESH_GRACE + (spec.deadline or dt.timedelta(0))
    now = view.now
    following = schedule.next_after(now - grace)
    changes = None if following is None else following + grace
    judged = schedule.latest(since, now - grace)
    running = [s.scheduled_at for s in view.snapshots if s.scheduled_at and not s.ended]
    if judged is not None and judged in running:
        judged = schedule.latest(since, judged - MOMENT)
    if judged is None:
        return Condition("SnapshotFresh", True, "NothingDue", "no run has been due yet"), changes
    newest = _newest_good(view)
    old = view.partition.snapshot_status
    started = age_of(newest)[0] if newest else parse_stamp(old.get("lastSuccessfulTime"))
    if started is not None and started > now + AHEAD_MAX:
        started = None
    name = newest.name if newest else old.get("lastSnapshot", "")
    if started is not None and started >= judged:
        message = f"the newest success is {name}, started at {stamp(started)}"
        return Condition("SnapshotFresh", True, "Fresh", message), changes
    what = "there is no success yet"
    if started is not None:
        what = f"the newest success, {name} of {stamp(started)}, is older than the schedule says"
    last = max((s for s in view.snapshots if s.ended), key=age_of, default=None)
    if last is not None and last.state not in GOOD:
        what += f"; the last one, {last.name}: {last.status.get('message', last.state)}"
    return Condition("SnapshotFresh", False, "Stale", what), changes


def _freshness_events(was: schema.Condition | None, fresh: Condition) -> list[Event]:
    before = was["status"] if was else ""
    if fresh.status is False and before != "False":
        return [Event("Warning", "SnapshotStale", fresh.message)]
    return []


def _newest_good(view: ObservedSchedule) -> Snapshot | None:
    cluster = view.partition.status.get("clusterID", "")
    good = [s for s in view.snapshots if s.state in GOOD and s.cluster_id == cluster and not s.lost]
    # One from the future would count as the newest, and as fresh, until then.
    past = [s for s in good if age_of(s)[0] <= view.now + AHEAD_MAX]
    return max(past, key=age_of, default=None)


def _successes(view: ObservedSchedule, old: schema.SnapshotsStatus) -> schema.SnapshotsStatus:
    """Of the newest success; what retention or a user removed stays known."""
    newest = _newest_good(view)
    if newest is None:
        return _kept(old, "lastSnapshot", "lastSuccessfulTime", "lastSuccessfulLSN")
    return {
        "lastSnapshot": newest.name,
        "lastSuccessfulTime": stamp(age_of(newest)[0]),
        "lastSuccessfulLSN": str(newest.status.get("lsn", "")),
    }


def _stamp(moment: dt.datetime | None) -> str:
    return "" if moment is None else stamp(moment)


def _kept(old: schema.SnapshotsStatus, *fields: str) -> schema.SnapshotsStatus:
    found = {key: value for key, value in old.items() if key in fields}
    return cast(schema.SnapshotsStatus, found)


def _without_empty(fields: schema.SnapshotsStatus) -> schema.SnapshotsStatus:
    found = {key: value for key, value in fields.items() if value not in ("", None)}
    return cast(schema.SnapshotsStatus, found)
