"""Durations as users write them: "720h", "30d", "1h30m"."""

import datetime as dt
import re

from partition_operator.api import schema

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
PATTERN = schema.RULES["Retention"]["maxAge"].pattern


def parse_duration(text: object) -> dt.timedelta | None:
    """Returns the duration; None if the text is not one. Units: s, m, h, d (a day is 24 hours)."""
    if not isinstance(text, str) or not re.fullmatch(PATTERN, text):
        return None
    parts = re.findall(r"([0-9]+)([smhd])", text)
    return dt.timedelta(seconds=sum(int(number) * _SECONDS[unit] for number, unit in parts))
