"""What processes used: processor seconds, anonymous memory, bytes written."""

import os
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
SAMPLE_S = 0.1


@dataclass(frozen=True, slots=True)
class Usage:
    """cpu_s and written_bytes: of all processes together, since they began. The memory is that of
    the process that has the most."""

    cpu_s: float
    written_bytes: int
    anonymous_bytes: int


def usage(pids: Iterable[int]) -> Usage:
    """Raises ProcessLookupError if a process has ended."""
    cpu = written = anonymous = 0
    for pid in pids:
        proc = Path("/proc") / str(pid)
        try:
            fields = (proc / "stat").read_text().rpartition(")")[2].split()
            written += _field(proc / "io", "write_bytes")
            anonymous = max(anonymous, _field(proc / "status", "RssAnon") * 1024)
        except (OSError, StopIteration) as error:  # a process that nobody waited for has no memory
            raise ProcessLookupError(f"process {pid} has ended") from error
        cpu += int(fields[11]) + int(fields[12])
    return Usage(cpu / TICKS_PER_SECOND, written, anonymous)


def _field(file: Path, name: str) -> int:
    line = next(line for line in file.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1])


class Meter:
    """Usage between the beginning and the end of a with-statement; `peak_anonymous_bytes` is
    sampled."""

    def __init__(self, pids: Iterable[int]) -> None:
        self._pids = list(pids)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self.cpu_s = 0.0
        self.written_bytes = 0
        self.peak_anonymous_bytes = 0

    def __enter__(self) -> "Meter":
        self._before = usage(self._pids)
        self._thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._over.set()
        self._thread.join()
        if kind is not None:
            return
        after = usage(self._pids)
        self.cpu_s = after.cpu_s - self._before.cpu_s
        self.written_bytes = after.written_bytes - self._before.written_bytes
        self._note(after)

    def _sample(self) -> None:
        with suppress(ProcessLookupError):  # the end of the statement raises it
            while not self._over.wait(SAMPLE_S):
                self._note(usage(self._pids))

    def _note(self, found: Usage) -> None:
        self.peak_anonymous_bytes = max(self.peak_anonymous_bytes, found.anonymous_bytes)
