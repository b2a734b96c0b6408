"""A command on stored snapshots as a replica runs it: a process of its own, with a GIL of its own.

It says on standard output, a JSON object a line, how far it is, {"phase", "done", "total"}; that it
wants the state now, {"need": "capture"}; and last how it ended, {"report"}. On standard input it
gets one line, the captured state; where that ends the replica is gone, and so is this, at once.
"""

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from partition_snapshots.errors import EXIT_UNAVAILABLE

NICENESS = 10
"""Applications come first."""

PROGRESS_S = 0.2
"""The least time between two lines of progress, in seconds."""

LINE_BYTES_MAX = 64 * 1024
"""Of what the replica says."""


@dataclass(frozen=True, slots=True)
class CapturedState:
    """A copy of the replica's state, `directory`/data.mdb, and its group's members as hex."""

    directory: Path
    voters: tuple[str, ...]
    learners: tuple[str, ...]


class Listener(Protocol):
    """Who is told how far a command is."""

    def progress(self, phase: str, done: int, total: int) -> None: ...


class Parent:
    """The replica. Made on the event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        os.nice(NICENESS)
        self._clock = clock
        self._said: tuple[str, int, int] | None = None
        self._said_at = float("-inf")
        self._loop = asyncio.get_running_loop()
        self._answer: asyncio.Future[bytes] = self._loop.create_future()
        threading.Thread(target=self._listen, name="parent", daemon=True).start()

    def progress(self, phase: str, done: int, total: int) -> None:
        now = self._clock()
        same_phase = self._said is not None and self._said[0] == phase
        if same_phase and now - self._said_at < PROGRESS_S:
            return
        self._said, self._said_at = (phase, done, total), now
        _say({"phase": phase, "done": done, "total": total})

    async def capture(self) -> CapturedState:
        """Asks for the state, and waits for it."""
        _say({"need": "capture"})
        found = json.loads(await self._answer)
        return CapturedState(
            Path(found["directory"]), tuple(found["voters"]), tuple(found["learners"])
        )

    def report(self, report: dict[str, Any]) -> None:
        _say({"report": report})

    def _listen(self) -> None:
        # Not by sys.stdin, whose lock a thread that waits would keep when the interpreter ends.
        line = b""
        while chunk := os.read(0, LINE_BYTES_MAX):
            line += chunk
            if line.endswith(b"\n") or len(line) > LINE_BYTES_MAX:
                self._loop.call_soon_threadsafe(self._answer.set_result, line)
                break
        while os.read(0, LINE_BYTES_MAX):
            pass
        os._exit(EXIT_UNAVAILABLE)


def _say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()
