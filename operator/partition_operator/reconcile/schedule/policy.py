"""Follows `spec.snapshots`: the runs of the schedule, and the age of the newest snapshot. Pure.

It produces `snapshots` in the Partition's status and the conditions of SNAPSHOT_CONDITIONS.

A run exists if its PartitionSnapshot exists. The object's name contains the due time. So a crash
after the decision, or a second operator, can't create a run twice. Missed runs are recorded before
the next run is created.
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
from partition_operator.reconcile import cron
from partition_operator.reconcile.cron import Schedule
from partition_operator.reconcile.observed.partition import ObservedPartition
from partition_operator.reconcile.observed.snapshot import age_of
from partition_operator.reconcile.partition.conditions import Condition
from partition_operator.reconcile.schedule.due import MOMENT, Circumstances, decide
from partition_operator.reconcile.snapshot import sources

FRESH_GRACE = dt.timedelta(minutes=10)
"""How long a run may take after its starting deadline before the newest success is stale."""
AHEAD_MAX = dt.timedelta(minutes=5)
"""How far the clocks of two nodes may differ. A recorded time further in the future was written by
a wrong clock. It is ignored, because it would stop the schedule until that time."""


@dataclass(frozen=True, slots=True)
class ObservedSchedule:
    """group: the Partition, its pods and replicas. snapshots: all PartitionSnapshots that name the
    Partition. taken: names of runs that other objects already have."""

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
    """create: the run's object, to be created before the next write of status. look_at: when the
    plan may change by time alone."""

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
        schedule = cron.parse(spec.schedule, spec.time_zone)
    except InvalidSpec as error:
        reason = type(error).__name__
        return PolicyPlan(
            known | _kept(old, "schedule", "immediateAt"),
            [
                Condition("SnapshotScheduleValid", False, reason, str(error)),
                Condition("SnapshotFresh", None, reason, "no valid schedule"),
            ],
        )
    return _scheduled(view, spec, schedule, known)


def _scheduled(
    view: ObservedSchedule, spec: SnapshotsSpec, schedule: Schedule, known: schema.SnapshotsStatus
) -> PolicyPlan:
    old, now = view.partition.snapshot_status, view.now
    identity = f"{spec.schedule} {spec.time_zone}"
    valid = Condition("SnapshotScheduleValid", True, "Valid", "the schedule is valid")
    found = known | {"schedule": identity}
    start = now.replace(microsecond=0)
    immediate = _immediate(view, spec, start)
    if suspended := _why_suspended(view, spec):
        # The immediate run waits, too: old["immediateAt"] records the request.
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
        # No run was due before the schedule was first observed. Recorded before a run is created.
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
        if step.missed >= cron.MISSED_COUNT_MAX:
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


def _why_suspended(view: ObservedSchedule, spec: SnapshotsSpec) -> str:
    if spec.suspend:
        return "spec.snapshots.suspend is true: no snapshots are scheduled"
    asked = view.partition.asked
    if asked is not None and asked.hibernated:
        return "spec.hibernated is true: no snapshots are scheduled"
    return ""


def refused(step: PolicyPlan, message: str, now: dt.datetime, pause_s: float) -> PolicyPlan:
    """Returns the plan after the API server refused the run's object. The rest of it stays."""
    text = (
        "the API server refused the run's PartitionSnapshot; the operator retries until the run "
        f"is missed: {message}"
    )
    said = Condition("SnapshotScheduleValid", False, "RunRefused", text)
    found = [said if c.type == said.type else c for c in step.conditions]
    look_at = now + dt.timedelta(seconds=pause_s)
    return replace(step, create=None, conditions=found, look_at=look_at)


def _immediate(view: ObservedSchedule, spec: SnapshotsSpec, start: dt.datetime) -> str:
    """Returns when the immediate run is due if the schedule is new or changed; "" for none. It is
    due when the schedule is first observed, or if it still waits. In whole seconds, because its
    deadline counts from it."""
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
        # The run was created, but status does not record it yet.
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
                why = blocked or "it could not start before its deadline"
                return _RunStep(fields, None, 1, why, now)
            body = None if blocked else _body(view.partition, immediate)
            return _RunStep(fields, body, look_at=now + dt.timedelta(seconds=5) if blocked else now)
    circumstances = Circumstances(cursor, now, blocked, running[0] if running else "")
    decision = decide(schedule, spec.deadline, circumstances)
    if decision.start is None:
        fields["scheduledUntil"] = stamp(decision.cursor)
        return _RunStep(fields, None, decision.missed, decision.reason, decision.look_at)
    if names.scheduled_snapshot(view.partition.name, decision.start) in view.taken:
        fields["scheduledUntil"] = stamp(decision.start)
        why = "another PartitionSnapshot already has the run's name"
        return _RunStep(fields, None, decision.missed + 1, why, now)
    if decision.missed:
        # The run to start stays due. It is created once the missed runs are recorded.
        fields["scheduledUntil"] = stamp(decision.start - MOMENT)
        return _RunStep(fields, None, decision.missed, decision.reason, now)
    fields["scheduledUntil"] = stamp(cursor)
    return _RunStep(fields, _body(view.partition, decision.start), look_at=now)


def _body(partition: Partition, due: dt.datetime) -> dict[str, Any]:
    """Returns a run's object. It has no owner reference, because it outlives the Partition."""
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
    """Returns (SnapshotFresh, when it may change by time alone).

    The newest due time that is older than FRESH_GRACE plus the starting deadline decides. The
    newest good snapshot must have started at that time or later. If the run of that due time is
    still in progress, the due time before it decides.
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
        what = f"the newest success, {name} of {stamp(started)}, is older than the schedule asks"
    last = max((s for s in view.snapshots if s.ended), key=age_of, default=None)
    if last is not None and last.state not in GOOD:
        what += f"; the last snapshot, {last.name}: {last.status.get('message', last.state)}"
    return Condition("SnapshotFresh", False, "Stale", what), changes


def _freshness_events(was: schema.Condition | None, fresh: Condition) -> list[Event]:
    before = was["status"] if was else ""
    if fresh.status is False and before != "False":
        return [Event("Warning", "SnapshotStale", fresh.message)]
    return []


def _newest_good(view: ObservedSchedule) -> Snapshot | None:
    cluster = view.partition.status.get("clusterID", "")
    good = [s for s in view.snapshots if s.state in GOOD and s.cluster_id == cluster and not s.lost]
    # A snapshot with a future time would count as the newest, and as fresh, until that time.
    past = [s for s in good if age_of(s)[0] <= view.now + AHEAD_MAX]
    return max(past, key=age_of, default=None)


def _successes(view: ObservedSchedule, old: schema.SnapshotsStatus) -> schema.SnapshotsStatus:
    """Returns the fields of the newest success. They stay if that snapshot is deleted."""
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
