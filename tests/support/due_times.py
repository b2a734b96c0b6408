"""Due times of a schedule by a model: the documentation's rules, minute by minute."""

import datetime as dt
import functools
from zoneinfo import ZoneInfo

UTC = dt.UTC
MINUTE = dt.timedelta(minutes=1)
START, END = dt.datetime(2026, 1, 1, tzinfo=UTC), dt.datetime(2027, 1, 1, tzinfo=UTC)
ZONES = ("Europe/Berlin", "America/New_York", "Etc/UTC", "Australia/Lord_Howe")

# (expression, minutes, hours, days of week as cron counts them; None is every one)
EXPRESSIONS: tuple[tuple[str, set[int] | None, set[int] | None, set[int] | None], ...] = (
    ("30 2 * * *", {30}, {2}, None),
    ("0 1,2,3 * * *", {0}, {1, 2, 3}, None),
    ("15 */6 * * *", {15}, {0, 6, 12, 18}, None),
    ("*/20 * * * *", {0, 20, 40}, None, None),
    ("30 * * * *", {30}, None, None),
    ("*/30 2 * * *", {0, 30}, {2}, None),
    ("45 1 * * SUN", {45}, {1}, {0}),
    ("10-20/5 1-2 * * 1-5", {10, 15, 20}, {1, 2}, {1, 2, 3, 4, 5}),
)


@functools.cache
def walls(zone: ZoneInfo) -> list[tuple[int, int, int]]:
    """(minute, hour, day of week) that a clock on the wall shows in every minute of the year."""
    every = (START + MINUTE * n for n in range(int((END - START) / MINUTE)))
    local = (moment.astimezone(zone) for moment in every)
    return [(moment.minute, moment.hour, moment.isoweekday()) for moment in local]


def fixed(expression: str) -> bool:
    """Neither minute nor hour begins with a star."""
    minute, hour, *_ = expression.split()
    return not minute.startswith("*") and not hour.startswith("*")


def model(
    case: tuple[str, set[int] | None, set[int] | None, set[int] | None], zone: ZoneInfo
) -> list[dt.datetime]:
    """Every due time in [START, END), from the rules as the documentation says them."""
    expression, minutes, hours, days = case

    def matches(minute: int, hour: int, day: int) -> bool:
        return (
            (minutes is None or minute in minutes)
            and (hours is None or hour in hours)
            and (days is None or day % 7 in days)
        )

    if not fixed(expression):
        shown = walls(zone)
        return [START + MINUTE * n for n, wall in enumerate(shown) if matches(*wall)]
    found = set()
    wall = (START - dt.timedelta(days=2)).replace(tzinfo=None)
    while wall < (END + dt.timedelta(days=2)).replace(tzinfo=None):
        if matches(wall.minute, wall.hour, wall.isoweekday()):
            local = wall.replace(tzinfo=zone, fold=0)
            # A time that does not exist: the first one after the gap.
            while local.astimezone(UTC).astimezone(zone).replace(tzinfo=None) != local.replace(
                tzinfo=None
            ):
                local += MINUTE
            found.add(local.astimezone(UTC))
        wall += MINUTE
    return sorted(moment for moment in found if START <= moment < END)
