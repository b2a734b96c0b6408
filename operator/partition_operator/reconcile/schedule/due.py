"""Which run of a schedule starts, and which due times are missed. Pure."""

import datetime as dt
from dataclasses import dataclass

from partition_operator.reconcile.cron import Schedule

MOMENT = dt.timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Circumstances:
    """cursor: due times up to it have been handled. blocked: why no run can start now; "" if one
    can. predecessor: the scheduled snapshot that still runs; "" for none."""

    cursor: dt.datetime
    now: dt.datetime
    blocked: str = ""
    predecessor: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """start: the due time whose run starts now. missed: the number of missed due times, for
    `reason`. cursor: its new value. look_at: when the decision may change by time alone."""

    start: dt.datetime | None
    missed: int
    reason: str
    cursor: dt.datetime
    look_at: dt.datetime | None


def decide(
    schedule: Schedule, deadline: dt.timedelta | None, circumstances: Circumstances
) -> Decision:
    """Decides which run starts.

    Only the newest due run may start, and only before its deadline. Older runs are missed, and so
    is a run whose predecessor still runs. While no run can start, the newest waits until its
    deadline. Without a deadline it waits until it can start or the next run is due.
    """
    cursor, now = circumstances.cursor, circumstances.now
    following = schedule.next_after(now)
    due = schedule.latest(cursor, now)
    if due is None:
        return Decision(None, 0, "", cursor, following)
    older = schedule.count(cursor, due) - 1
    expires = None if deadline is None else due + deadline
    if expires is not None and now > expires:
        why = circumstances.blocked or "it could not start before its deadline"
        return Decision(None, older + 1, why, due, following)
    if circumstances.predecessor:
        why = f"{circumstances.predecessor} still runs"
        return Decision(None, older + 1, why, due, following)
    if circumstances.blocked:
        over = None if expires is None else expires + MOMENT
        waits = min((t for t in (over, following) if t is not None), default=None)
        if older and deadline is not None:
            # The newest waits until its own deadline; the older ones are missed now.
            kept = due - MOMENT
            return Decision(None, older, circumstances.blocked, kept, waits)
        return Decision(None, 0, "", cursor, waits)
    why = "no run could start when they were due" if older else ""
    return Decision(due, older, why, due, following)
