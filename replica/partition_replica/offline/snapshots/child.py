"""The protocol between a replica and its child process, which has a GIL of its own.

The child writes one JSON object per line to standard output: its progress,
{"phase", "done", "total"}; a request for the state, {"need": "capture"}; and, as the last line, its
result, {"report"}. It reads one line from standard input, the captured state. If standard input is
closed, the replica has exited, and the child exits at once.
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
"""Lower than the application's priority."""

PROGRESS_S = 0.2
"""The minimum time between two lines of progress of one phase, in seconds."""

LINE_BYTES_MAX = 64 * 1024
"""The maximum length of the line on standard input."""


@dataclass(frozen=True, slots=True)
class CapturedState:
    """A copy of the replica's state, `directory`/data.mdb, and its group's members as hex."""

    directory: Path
    voters: tuple[str, ...]
    learners: tuple[str, ...]


class Listener(Protocol):
    """Receives the progress of a command."""

    def progress(self, phase: str, done: int, total: int) -> None: ...


class Parent:
    """The replica that started this process. Must be created on the event loop."""

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
        """Requests the state and waits for it."""
        _say({"need": "capture"})
        found = json.loads(await self._answer)
        return CapturedState(
            Path(found["directory"]), tuple(found["voters"]), tuple(found["learners"])
        )

    def report(self, report: dict[str, Any]) -> None:
        _say({"report": report})

    def _listen(self) -> None:
        # Not through sys.stdin: a waiting thread would keep its lock when the interpreter exits.
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
