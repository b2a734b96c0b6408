"""When scheduled snapshots are due: against a model that looks at every minute of a year."""

import datetime as dt
import random
from zoneinfo import ZoneInfo

import pytest
from partition_operator.errors import InvalidSpec
from partition_operator.reconcile.cron import (
    MISSED_COUNT_MAX,
    InvalidSchedule,
    Schedule,
    UnknownTimeZone,
)

from tests.support.due_times import END, EXPRESSIONS, MINUTE, START, UTC, ZONES, model


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("case", EXPRESSIONS, ids=lambda case: case[0])
def test_a_year_of_due_times_is_that_of_the_model(
    case: tuple[str, set[int] | None, set[int] | None, set[int] | None], zone: str
) -> None:
    schedule = Schedule(case[0], zone)
    wanted = model(case, ZoneInfo(zone))
    found, due = [], schedule.next_after(START - MINUTE)
    while due is not None and due < END:
        found.append(due)
        due = schedule.next_after(due)
    assert found == wanted
    generator = random.Random(f"{case[0]} {zone}")
    for _ in range(20):
        after, until = sorted(START + MINUTE * generator.randrange(525_600) for _ in range(2))
        between = [moment for moment in wanted if after < moment <= until]
        assert schedule.latest(after, until) == (between[-1] if between else None)
        assert schedule.count(after, until) == min(len(between), MISSED_COUNT_MAX)


def due_on(expression: str, zone: str, day: dt.date) -> list[str]:
    """Local times of a day at which it is due, with the offset that tells twins apart."""
    local = ZoneInfo(zone)
    begin = dt.datetime.combine(day, dt.time(), tzinfo=local).astimezone(UTC)
    end = dt.datetime.combine(day + dt.timedelta(days=1), dt.time(), tzinfo=local).astimezone(UTC)
    schedule = Schedule(expression, zone)
    found, due = [], schedule.next_after(begin - MINUTE)
    while due is not None and due < end:
        found.append(due.astimezone(local).strftime("%H:%M%z"))
        due = schedule.next_after(due)
    return found


@pytest.mark.parametrize(
    ("expression", "zone", "day", "wanted"),
    [
        # The hour from two to three does not exist.
        ("30 2 * * *", "Europe/Berlin", dt.date(2026, 3, 29), ["03:00+0200"]),
        ("30 2 * * *", "America/New_York", dt.date(2026, 3, 8), ["03:00-0400"]),
        ("*/30 2 * * *", "Europe/Berlin", dt.date(2026, 3, 29), []),
        ("0 2,3 * * *", "Europe/Berlin", dt.date(2026, 3, 29), ["03:00+0200"]),
        # The hour comes twice.
        ("30 2 * * *", "Europe/Berlin", dt.date(2026, 10, 25), ["02:30+0200"]),
        ("30 1 * * *", "America/New_York", dt.date(2026, 11, 1), ["01:30-0400"]),
        (
            "*/30 1 * * *",
            "America/New_York",
            dt.date(2026, 11, 1),
            ["01:00-0400", "01:30-0400", "01:00-0500", "01:30-0500"],
        ),
    ],
)
def test_daylight_saving(expression: str, zone: str, day: dt.date, wanted: list[str]) -> None:
    assert due_on(expression, zone, day) == wanted


def test_days_of_change_have_23_and_25_hourly_runs() -> None:
    for zone, short, long in (
        ("Europe/Berlin", dt.date(2026, 3, 29), dt.date(2026, 10, 25)),
        ("America/New_York", dt.date(2026, 3, 8), dt.date(2026, 11, 1)),
    ):
        assert len(due_on("0 * * * *", zone, short)) == 23
        assert len(due_on("0 * * * *", zone, long)) == 25


@pytest.mark.parametrize(
    ("expression", "zone", "error", "why"),
    [
        ("0 0 3 * * *", "Etc/UTC", InvalidSchedule, "has 6 fields; seconds are not supported"),
        ("@daily", "Etc/UTC", InvalidSchedule, "has 1 fields"),
        ("61 * * * *", "Etc/UTC", InvalidSchedule, "Bad minute"),
        ("*/0 * * * *", "Etc/UTC", InvalidSchedule, "Bad minute"),
        ("5-1 * * * *", "Etc/UTC", InvalidSchedule, "Bad minute"),
        ("0 0 30 FEB *", "Etc/UTC", InvalidSchedule, "Bad day-of-month"),
        ("0 0 * * NOON", "Etc/UTC", InvalidSchedule, "Bad day-of-week"),
        ("0 3 * * *", "Mars/Olympus", UnknownTimeZone, "IANA"),
        ("0 3 * * *", "../../etc/passwd", UnknownTimeZone, "IANA"),
        ("0 3 * * *", "", UnknownTimeZone, "IANA"),
    ],
)
def test_what_is_no_schedule_is_refused_with_what_is_allowed(
    expression: str, zone: str, error: type[InvalidSpec], why: str
) -> None:
    with pytest.raises(error, match=why) as caught:
        Schedule(expression, zone)
    allowed = "Europe/Berlin" if error is UnknownTimeZone else "'0 3 * * *'"
    assert allowed in str(caught.value)


def test_names_are_understood() -> None:
    assert due_on("0 9 * JAN-MAR MON", "Etc/UTC", dt.date(2026, 3, 2)) == ["09:00+0000"]
    leap = Schedule("0 0 29 2 *", "Etc/UTC")
    assert leap.latest(START - dt.timedelta(days=3000), START) == dt.datetime(
        2024, 2, 29, tzinfo=UTC
    )
