"""Waits until the cluster is as a command asked for."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from partition_kubectl.errors import TimedOut, Unreachable
from partition_kubectl.output import Line, span

POLL_S = 1.0


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a command waits. limit_s: seconds, above 0."""

    limit_s: float
    poll_s: float = POLL_S
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def until(
        self,
        look: Callable[[], Any],
        done: Callable[[Any], bool],
        told: Callable[[Any], str],
        part: Callable[[Any], float] | None = None,
    ) -> Any:
        """Returns what `look` sees once `done` says so. told: what it waits for, for the user.
        part: how much is done, from 0 to 1, for a bar. Raises TimedOut, and what these raise."""
        deadline = self.clock() + self.limit_s
        line = Line()
        try:
            while True:
                try:
                    seen = look()
                except Unreachable as error:
                    # A rolling API server must not end a wait of minutes.
                    if self.clock() >= deadline:
                        raise
                    line.show(str(error))
                    self.sleep(self.poll_s)
                    continue
                if done(seen):
                    return seen
                text = told(seen)
                if self.clock() >= deadline:
                    raise TimedOut(
                        f"gave up after {span(self.limit_s)}, still {text}; it may happen later. "
                        "--timeout waits longer"
                    )
                if part is None:
                    line.show(text)
                else:
                    line.bar(text, part(seen))
                self.sleep(self.poll_s)
        finally:
            line.end()
