"""What the machine is, how fast its disk syncs, and whether it is idle."""

import asyncio
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from dev.etcd import LOAD, SERVER, versions
from tests.benchmarks.etcd.figures import BUSY_MAX, LOAD_MAX
from tests.benchmarks.etcd.progress import Progress

CALM_WAIT_S = 300.0
"""How long a round waits for an idle machine. The load average of 64 running processes needs about
that long to sink."""
TURN_WAIT_S = 30.0
"""How long a turn waits for idle processors."""
POLL_S = 1.0
FREE_BYTES_MIN = 24 * 1024**3
SYNCS = 200


def check_space(folder: Path) -> None:
    """Raises SystemExit."""
    found = os.statvfs(folder)
    free = found.f_bavail * found.f_frsize
    if free < FREE_BYTES_MIN:
        raise SystemExit(
            f"{folder}: {free / 1024**3:.1f} GiB are free; "
            f"{FREE_BYTES_MIN / 1024**3:.0f} are needed"
        )


def describe(folder: Path, *, tls: bool) -> dict[str, str]:
    return {
        "processor": f"{os.cpu_count()} cores, {_field('/proc/cpuinfo', 'model name')}",
        "memory": _field("/proc/meminfo", "MemTotal"),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "file system": _said("stat", "-f", "-c", "%T", str(folder)),
        "python": platform.python_version(),
        "project": _said("git", "describe", "--always", "--dirty", "--abbrev=12"),
        "etcd": versions()[SERVER],
        "etcd's load generator": versions()[LOAD],
        "tls": "mutual, on both sides" if tls else "on neither side",
    }


def _field(file: str, name: str) -> str:
    """Returns "unknown" if the file has no such field."""
    for line in Path(file).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return "unknown"


def _said(*command: str) -> str:
    """Returns a program's output, or "unknown" if it fails."""
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def sync_ms(folder: Path) -> float:
    """The median time of appending 4 KiB with fdatasync, in milliseconds."""
    path, block, took = folder / "yardstick", os.urandom(4096), []
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        for _ in range(SYNCS):
            began = time.perf_counter()
            os.write(descriptor, block)
            os.fdatasync(descriptor)
            took.append(time.perf_counter() - began)
    finally:
        os.close(descriptor)
        path.unlink()
    return statistics.median(took) * 1000


def load_average() -> float:
    """Of the last minute."""
    return os.getloadavg()[0]


def processor_times() -> tuple[int, int]:
    """Returns the (idle, total) time of all processors since the machine began, in clock ticks. A
    wait for the disk is not idle, and neither is time that the host took."""
    times = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return times[3], sum(times)


class Calm:
    """Waits for an idle machine: before a round up to CALM_WAIT_S seconds, before a turn up to
    TURN_WAIT_S. hurry: does not wait."""

    def __init__(
        self,
        progress: Progress,
        *,
        hurry: bool = False,
        load: Callable[[], float] = load_average,
        times: Callable[[], tuple[int, int]] = processor_times,
    ) -> None:
        self._progress = progress
        self._hurry = hurry
        self._load = load
        self._times = times

    async def before_round(self) -> float:
        """Returns the load average: above LOAD_MAX if the wait was in vain."""
        deadline = time.monotonic() + (0.0 if self._hurry else CALM_WAIT_S)
        while (found := self._load()) > LOAD_MAX and (left := deadline - time.monotonic()) > 0:
            self._progress.show(
                f"waiting until the load average is at most {LOAD_MAX}",
                f"(now {found:.2f}; {left:.0f} s more)",
            )
            await asyncio.sleep(POLL_S)
        return found

    async def before_turn(self) -> float:
        """Returns the busy share of the processors, from 0 to 1, in the last second of the wait:
        above BUSY_MAX if the wait was in vain."""
        deadline = time.monotonic() + (0.0 if self._hurry else TURN_WAIT_S)
        while True:
            idle_before, all_before = self._times()
            await asyncio.sleep(POLL_S)
            idle, total = self._times()
            busy = 1 - (idle - idle_before) / max(total - all_before, 1)
            if busy <= BUSY_MAX or time.monotonic() >= deadline:
                return busy
