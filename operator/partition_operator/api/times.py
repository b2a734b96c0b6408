"""Times as Kubernetes writes them: RFC 3339 in UTC, whole seconds."""

import datetime as dt

_FORMAT = "%Y-%m-%dT%H:%M:%SZ"


def stamp(moment: dt.datetime) -> str:
    return moment.astimezone(dt.UTC).strftime(_FORMAT)


def parse_stamp(text: str | None) -> dt.datetime | None:
    """Returns the time in UTC; None if the text is absent or not a time with an offset."""
    try:
        found = dt.datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return found.astimezone(dt.UTC) if found.tzinfo is not None else None
