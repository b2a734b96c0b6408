"""How far the comparison is, on standard error: one line that changes on a terminal, else a line
per step."""

import sys
import time


class Progress:
    """steps: rounds of all rows together."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._done = 0
        self._began = time.monotonic()
        self._terminal = sys.stderr.isatty()
        self._last = ""

    def show(self, text: str, detail: str = "") -> None:
        """detail: changes often, and is for terminals only."""
        if self._terminal:
            line = f"[{self._done}/{self._steps}{self._left()}] {text} {detail}".rstrip()
            sys.stderr.write(f"\r\x1b[K{line}")
            sys.stderr.flush()
        elif text != self._last:
            sys.stderr.write(f"[{self._done}/{self._steps}{self._left()}] {text}\n")
        self._last = text

    def step(self) -> None:
        self._done += 1

    def reach(self, steps: int) -> None:
        """So many steps are over, also if some of them failed."""
        self._done = steps

    def clear(self) -> None:
        """Removes the line, so that something else can be printed."""
        if self._terminal:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def _left(self) -> str:
        if not self._done:
            return ""
        passed = time.monotonic() - self._began
        minutes = passed / self._done * (self._steps - self._done) / 60
        return f", about {minutes:.0f} min left"
