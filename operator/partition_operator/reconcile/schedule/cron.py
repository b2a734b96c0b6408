"""When a scheduled snapshot is due, and which due times are missed. Pure: the clock is an argument.

The rules for daylight-saving changes are those of Debian's cron. A job at a fixed time runs once a
day. If its hour is skipped, it runs right after the gap. If its hour is repeated, it runs the first
time only. A job with a wildcard in minute or hour follows elapsed time. It runs in both repeated
hours, and does not run in a skipped hour.
"""

import datetime as dt
import functools
from dataclasses import dataclass
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from partition_operator.errors import InvalidSpec


class InvalidSchedule(InvalidSpec):
    """The text is not a valid cron expression, or it is never due."""


class UnknownTimeZone(InvalidSpec):
    pass


MISSED_COUNT_MAX = 1000
"""Missed due times are counted up to this number; more are reported as "at least" this number."""
LOOKBACK = (
    dt.timedelta(minutes=70),
    dt.timedelta(hours=7),
    dt.timedelta(days=2),
    dt.timedelta(days=9),
    dt.timedelta(days=35),
    dt.timedelta(days=370),
    dt.timedelta(days=366 * 9),
)
"""How far back to search for a due time, in steps: 29 February may be eight years away."""

MOMENT = dt.timedelta(seconds=1)
CHANGE_STEP = dt.timedelta(days=7)
"""No time zone changes its offset and changes it back within this time."""

FIELDS = 5
ALLOWED = (
    "five fields are allowed, minute hour day-of-month month day-of-week, such as '0 3 * * *' for "
    "every night at three"
)


class Schedule:
    """A five-field cron expression in a time zone."""

    def __init__(self, expression: str, time_zone: str) -> None:
        """Raises InvalidSchedule or UnknownTimeZone; the message contains what is allowed."""
        fields = len(expression.split())
        if fields != FIELDS:
            hint = "; seconds are not supported" if fields == FIELDS + 1 else ""
            raise InvalidSchedule(
                f"spec.snapshots.schedule {expression!r} has {fields} fields{hint}: {ALLOWED}"
            )
        try:
            self._zone = ZoneInfo(time_zone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise UnknownTimeZone(
                f"spec.snapshots.timeZone {time_zone!r} is not a time zone: use a name of the IANA "
                "time zone database, such as Etc/UTC or Europe/Berlin"
            ) from None
        self._expression = expression
        minute, hour, *_ = expression.split()
        self._fixed = not minute.startswith("*") and not hour.startswith("*")
        try:
            never = self.next_after(dt.datetime(2024, 1, 1, tzinfo=dt.UTC)) is None
        except (CronSimError, AssertionError, IndexError) as error:
            raise InvalidSchedule(
                f"spec.snapshots.schedule {expression!r}: {error or 'not understood'}: {ALLOWED}"
            ) from None
        if never:
            raise InvalidSchedule(f"spec.snapshots.schedule {expression!r} is never due: {ALLOWED}")

    def next_after(self, moment: dt.datetime) -> dt.datetime | None:
        """Returns the first due time after `moment`, in UTC; None if there is none."""
        moment = moment.replace(microsecond=0)
        if not self._fixed:
            return self._next_elapsed(moment)
        for due in CronSim(self._expression, moment.astimezone(self._zone)):
            found = due.astimezone(dt.UTC)
            # In a repeated hour the due time has already passed in the first one.
            if found > moment:
                return found
        return None

    def _next_elapsed(self, moment: dt.datetime) -> dt.datetime | None:
        """Returns the next due time of an expression with a wildcard. cronsim uses wall-clock time
        and skips runs at an offset change of half an hour, so each stretch between two changes is
        searched by itself."""
        while True:
            offset = self._offset(moment)
            wall = (moment + offset).replace(tzinfo=None)
            due = next(CronSim(self._expression, wall), None)
            if due is None:
                return None
            found = due.replace(tzinfo=dt.UTC) - offset
            change = self._next_change(moment, found)
            if change is None:
                return found
            # From here on the offset is another one. A run may be due at the change itself.
            last = change - dt.timedelta(seconds=1)
            wall = (last + self._offset(change)).replace(tzinfo=None)
            due = next(CronSim(self._expression, wall), None)
            if due is not None and due.replace(tzinfo=dt.UTC) - self._offset(change) == change:
                return change
            moment = change

    def _next_change(self, after: dt.datetime, until: dt.datetime) -> dt.datetime | None:
        """Returns the first offset change in (after, until], to the second, or None."""
        offset, low = self._offset(after), after
        while low < until:
            high = min(low + CHANGE_STEP, until)
            if self._offset(high) == offset:
                low = high
                continue
            while high - low > dt.timedelta(seconds=1):
                middle = (low + (high - low) / 2).replace(microsecond=0)
                low, high = (middle, high) if self._offset(middle) == offset else (low, middle)
            return high
        return None

    def _offset(self, moment: dt.datetime) -> dt.timedelta:
        return moment.astimezone(self._zone).utcoffset() or dt.timedelta(0)

    def latest(self, after: dt.datetime, until: dt.datetime) -> dt.datetime | None:
        """Returns the newest due time in (after, until]; None if there is none."""
        for back in LOOKBACK:
            start = max(after, until - back)
            found = None
            due = self.next_after(start)
            while due is not None and due <= until:
                found, due = due, self.next_after(due)
            if found is not None or start == after:
                return found
        return None

    def count(self, after: dt.datetime, until: dt.datetime) -> int:
        """Returns the number of due times in (after, until], at most MISSED_COUNT_MAX."""
        number, due = 0, self.next_after(after)
        while due is not None and due <= until and number < MISSED_COUNT_MAX:
            number, due = number + 1, self.next_after(due)
        return number


@functools.lru_cache(maxsize=1024)
def parse(expression: str, time_zone: str) -> Schedule:
    """Returns a cached Schedule: it has no state. Raises as Schedule does."""
    return Schedule(expression, time_zone)


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
