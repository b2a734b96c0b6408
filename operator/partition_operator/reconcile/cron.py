"""Cron expressions in time zones. Pure: the clock is an argument.

The rules for daylight-saving changes are those of Debian's cron. A job at a fixed time runs once a
day. If its hour is skipped, it runs right after the gap. If its hour is repeated, it runs the first
time only. A job with a wildcard in minute or hour follows elapsed time. It runs in both repeated
hours, and does not run in a skipped hour.
"""

import datetime as dt
import functools
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

CHANGE_STEP = dt.timedelta(days=7)
"""No time zone changes its offset and changes it back within this time."""

FIELDS = 5
ALLOWED = (
    "five fields are allowed, minute hour day-of-month month day-of-week, such as '0 3 * * *' for "
    "every night at three"
)


class Schedule:
    """A five-field cron expression in a time zone."""

    def __init__(self, expression: str, time_zone: str, where: str = "spec.snapshots") -> None:
        """where: the path of the object with the fields `schedule` and `timeZone`, for messages.
        Raises InvalidSchedule or UnknownTimeZone; the message contains what is allowed."""
        fields = len(expression.split())
        if fields != FIELDS:
            hint = "; seconds are not supported" if fields == FIELDS + 1 else ""
            raise InvalidSchedule(
                f"{where}.schedule {expression!r} has {fields} fields{hint}: {ALLOWED}"
            )
        try:
            self._zone = ZoneInfo(time_zone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise UnknownTimeZone(
                f"{where}.timeZone {time_zone!r} is not a time zone: use a name of the IANA "
                "time zone database, such as Etc/UTC or Europe/Berlin"
            ) from None
        self._expression = expression
        minute, hour, *_ = expression.split()
        self._fixed = not minute.startswith("*") and not hour.startswith("*")
        try:
            never = self.next_after(dt.datetime(2024, 1, 1, tzinfo=dt.UTC)) is None
        except (CronSimError, AssertionError, IndexError) as error:
            raise InvalidSchedule(
                f"{where}.schedule {expression!r}: {error or 'not understood'}: {ALLOWED}"
            ) from None
        if never:
            raise InvalidSchedule(f"{where}.schedule {expression!r} is never due: {ALLOWED}")

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
def parse(expression: str, time_zone: str, where: str = "spec.snapshots") -> Schedule:
    """Returns a cached Schedule: it has no state. Raises as Schedule does."""
    return Schedule(expression, time_zone, where)
