"""What processes used: processor seconds, anonymous memory; and what was written to their disk.

The bytes are those of the disk, not of the processes: the kernel counts a whole large folio of the
page cache for a process that changes one page of it, which is up to ten times too much.
"""

import os
import tempfile
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
SAMPLE_S = 0.1
SECTORS_WRITTEN, SECTOR_BYTES = 6, 512
"""Of the block layer's statistics (Documentation/block/stat.rst)."""


@dataclass(frozen=True, slots=True)
class Usage:
    """cpu_s: of all processes together, since they began. The memory is that of the process that
    has the most."""

    cpu_s: float
    anonymous_bytes: int


def usage(pids: Iterable[int]) -> Usage:
    """Raises ProcessLookupError if a process has ended."""
    cpu = anonymous = 0
    for pid in pids:
        proc = Path("/proc") / str(pid)
        try:
            fields = (proc / "stat").read_text().rpartition(")")[2].split()
            anonymous = max(anonymous, _field(proc / "status", "RssAnon") * 1024)
        except (OSError, StopIteration) as error:  # a process that nobody waited for has no memory
            raise ProcessLookupError(f"process {pid} has ended") from error
        cpu += int(fields[11]) + int(fields[12])
    return Usage(cpu / TICKS_PER_SECOND, anonymous)


def disk_written_bytes(folder: Path) -> int | None:
    """Returns what was written to the disk of `folder` since the machine began, after a sync. None
    if there is no such disk, as with tmpfs."""
    os.sync()
    device = folder.stat().st_dev
    file = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat")
    if not file.exists():
        return None
    return int(file.read_text().split()[SECTORS_WRITTEN]) * SECTOR_BYTES


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
        self.written_bytes: int | None = None
        self.peak_anonymous_bytes = 0

    def __enter__(self) -> "Meter":
        self._disk = disk_written_bytes(Path(tempfile.gettempdir()))
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
        self._note(after)
        disk = disk_written_bytes(Path(tempfile.gettempdir()))
        if self._disk is not None and disk is not None:
            self.written_bytes = disk - self._disk

    def _sample(self) -> None:
        with suppress(ProcessLookupError):  # the end of the statement raises it
            while not self._over.wait(SAMPLE_S):
                self._note(usage(self._pids))

    def _note(self, found: Usage) -> None:
        self.peak_anonymous_bytes = max(self.peak_anonymous_bytes, found.anonymous_bytes)
