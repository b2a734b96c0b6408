"""What the plugin prints: tables, YAML, ages and the line of progress at a terminal."""

import datetime as dt
import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, TextIO

PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_./-]*")
"""Text that YAML reads as text without quotes, but for the words below."""
RESERVED = frozenset({"true", "false", "yes", "no", "on", "off", "null", "y", "n"})
GAP = 3
EMPTY = "-"
BAR_WIDTH = 24
CODE_MAX_SHORT = 0xFFFF
UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
STEP = 1024


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Returns rows in columns, as kubectl prints them. None and "" are shown as "-"."""
    text = [list(headings), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[n]) for row in text) for n in range(len(headings))]
    lines = (
        "".join(cell.ljust(width + GAP) for cell, width in zip(row, widths, strict=True))
        for row in text
    )
    return "\n".join(line.rstrip() for line in lines)


def _cell(value: object) -> str:
    return EMPTY if value is None or value == "" else str(value)


def indented(text: str, by: str = "  ") -> str:
    return "\n".join(by + line if line else line for line in text.splitlines())


def moment(stamp: str) -> dt.datetime | None:
    """Parses an RFC 3339 time of the API server; None if it is not one."""
    try:
        found = dt.datetime.fromisoformat(stamp)
    except ValueError:
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=dt.UTC)


def age(stamp: str, now: dt.datetime) -> str:
    """Returns how long ago a time was, in kubectl's short form such as 5m or 3d; "" if there is no
    time."""
    then = moment(stamp)
    return "" if then is None else span((now - then).total_seconds())


def span(seconds: float) -> str:
    """Returns a duration in its largest unit, cut off."""
    left = max(0, int(seconds))
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if left >= size * (2 if unit != "m" else 1):
            return f"{left // size}{unit}"
    return f"{left}s"


def size(count: object) -> str:
    """Returns a number of bytes with its unit; "" if it is no number."""
    if not isinstance(count, int):
        return ""
    value, unit = float(count), 0
    while value >= STEP and unit < len(UNITS) - 1:
        value, unit = value / STEP, unit + 1
    return f"{count} B" if unit == 0 else f"{value:.1f} {UNITS[unit]}"


def rendered(value: Any, form: str) -> str:
    """Returns a value as "json" or "yaml"."""
    return json.dumps(value, indent=2) if form == "json" else yaml(value).rstrip("\n")


def yaml(value: Any) -> str:
    """Returns JSON values as YAML in block style. Text that YAML could read otherwise is quoted."""
    if isinstance(value, dict) and value:
        return "".join(_entry(f"{_scalar(str(key))}:", item) for key, item in value.items())
    if isinstance(value, list) and value:
        return "".join(_item(item) for item in value)
    return _scalar(value) + "\n"


def _entry(key: str, value: Any) -> str:
    if isinstance(value, dict) and value:
        return f"{key}\n{indented(yaml(value))}\n"
    if isinstance(value, list) and value:
        return f"{key}\n{yaml(value)}"
    return f"{key} {_scalar(value)}\n"


def _item(value: Any) -> str:
    block = indented(yaml(value)) + "\n"
    return "- " + block[2:]


def _scalar(value: Any) -> str:
    if isinstance(value, str) and PLAIN.fullmatch(value) and value.lower() not in RESERVED:
        return value
    text = json.dumps(value, ensure_ascii=False)
    return "".join(c if c.isprintable() else _escaped(ord(c)) for c in text)


def _escaped(code: int) -> str:
    return f"\\u{code:04x}" if code <= CODE_MAX_SHORT else f"\\U{code:08x}"


# --- messages ---------------------------------------------------------------------------------


def put(text: object) -> None:
    """Prints on standard output."""
    sys.stdout.write(f"{text}\n")


def say(message: object) -> None:
    """Prints one line on standard error."""
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()


class Line:
    """One line on standard error that is written again and again, if that is a terminal. Elsewhere
    each new text is a line of its own."""

    def __init__(
        self, out: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._out = out or sys.stderr
        self._terminal = self._out.isatty()
        self._clock = clock
        self._begun = clock()
        self._said = ""

    def show(self, text: str) -> None:
        if self._terminal:
            waited = span(self._clock() - self._begun)
            self._out.write(f"\r\x1b[K{text} ({waited})")
        elif text != self._said:
            self._out.write(f"{text}\n")
        self._said = text
        self._out.flush()

    def bar(self, text: str, done: float) -> None:
        """done: from 0 to 1. Elsewhere than at a terminal, only the text is shown."""
        if not self._terminal:
            self.show(text)
            return
        full = int(min(1.0, max(0.0, done)) * BAR_WIDTH)
        marks = "#" * full + "." * (BAR_WIDTH - full)
        self.show(f"[{marks}] {text}")

    def end(self) -> None:
        if self._terminal and self._said:
            self._out.write("\r\x1b[K")
            self._out.flush()
        self._said = ""
