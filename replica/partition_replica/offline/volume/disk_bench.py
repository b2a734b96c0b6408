"""`partition-replica bench-disk`: measures what a replica asks of its disk, before one runs there.

A commit of the log appends a few kilobytes and waits for the disk. So the first part writes 4 KiB
blocks one after the other into a file that has its size already, with fdatasync after each, as the
log's journal does. The second part writes one large file and waits for the disk once, as a payload
or a state transfer does. Both are bounded in time and in bytes. A single call that the disk never
answers is not.
"""

import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from partition_replica.errors import InvalidArgument

BLOCK_BYTES = 4096
CHUNK_BYTES = 1024**2
MIB = 1024**2

SECONDS_DEFAULT = 10
SECONDS_MAX = 600
"""Of each part."""
BYTES_DEFAULT = 512 * MIB
BYTES_MIN = 16 * MIB
JOURNAL_BYTES = 4 * MIB
"""The file of the first part; its blocks are written round and round."""
FREE_KEPT = 2
"""At most the free space divided by this is written."""
SAMPLES_MIN = 2
"""Syncs that are measured, however long they take: fewer say nothing."""

GOOD, SLOW, TOO_SLOW = "good", "slow", "too slow"
VERDICTS = (GOOD, SLOW, TOO_SLOW)

FSYNC_P99_GOOD_MS = 10.0
FSYNC_P99_SLOW_MS = 100.0
"""A tenth of the shortest election time-out: above it, a leader that waits for its disk risks its
leadership."""
WRITE_GOOD_MIB_S = 50.0
WRITE_SLOW_MIB_S = 10.0

Progress = Callable[[str, int, int], None]
"""Called with the part, the hundredths that are done, and 100."""


@dataclass(frozen=True, slots=True)
class BenchReport:
    """Times are milliseconds; MiB are 1,048,576 bytes. why: what the verdict is made of."""

    syncs: int
    fsync_p50_ms: float
    fsync_p99_ms: float
    fsync_max_ms: float
    written_bytes: int
    write_mib_s: float
    verdict: str
    why: list[str]


def bench(
    directory: Path,
    seconds: int = SECONDS_DEFAULT,
    most_bytes: int = BYTES_DEFAULT,
    progress: Progress = lambda *_: None,
    clock: Callable[[], float] = time.perf_counter,
) -> BenchReport:
    """Measures in a folder of its own below `directory`, and removes it.

    seconds: of each of both parts, at most. most_bytes: of the large file. Raises InvalidArgument
    if the directory is missing or has too little free space, and OSError if the disk fails.
    """
    if not directory.is_dir():
        raise InvalidArgument(f"--data {directory}: not a directory; give a directory of the disk")
    if most_bytes < BYTES_MIN:
        raise InvalidArgument(
            f"--mib {most_bytes // MIB}: at least {BYTES_MIN // MIB} MiB must be written"
        )
    free = shutil.disk_usage(directory).free
    room = min(most_bytes, free // FREE_KEPT)
    if room < BYTES_MIN:
        raise InvalidArgument(
            f"--data {directory}: {free // MIB} MiB are free, and half of them would be written; "
            f"at least {FREE_KEPT * BYTES_MIN // MIB} MiB must be free"
        )
    with tempfile.TemporaryDirectory(prefix="bench-disk-", dir=directory) as folder:
        latencies = _sync_often(Path(folder), seconds, progress, clock)
        written, took = _write_much(Path(folder), seconds, room, progress, clock)
    return report(latencies, written, took)


def _sync_often(
    folder: Path, seconds: int, progress: Progress, clock: Callable[[], float]
) -> list[float]:
    """Returns the seconds of each write with its fdatasync."""
    block = os.urandom(BLOCK_BYTES)
    latencies: list[float] = []
    file = os.open(folder / "journal", os.O_CREAT | os.O_WRONLY, 0o600)
    try:
        os.write(file, bytes(JOURNAL_BYTES))
        os.fsync(file)
        begun, told = clock(), -1
        while (passed := clock() - begun) < seconds or len(latencies) < SAMPLES_MIN:
            before = clock()
            offset = len(latencies) * BLOCK_BYTES % JOURNAL_BYTES
            os.pwrite(file, block, offset)
            os.fdatasync(file)
            latencies.append(clock() - before)
            told = _tell(progress, "fsync", passed / seconds, told)
        progress("fsync", 100, 100)
    finally:
        os.close(file)
    return latencies


def _write_much(
    folder: Path, seconds: int, most_bytes: int, progress: Progress, clock: Callable[[], float]
) -> tuple[int, float]:
    """Returns (bytes written, seconds until they were on the disk). The bytes are random: a disk
    that compresses gains nothing."""
    chunk = os.urandom(CHUNK_BYTES)
    written, told = 0, -1
    file = os.open(folder / "large", os.O_CREAT | os.O_WRONLY, 0o600)
    try:
        begun = clock()
        while written + CHUNK_BYTES <= most_bytes and clock() - begun < seconds:
            written += os.write(file, chunk)
            if written % BYTES_MIN < CHUNK_BYTES:
                # Otherwise the kernel's cache takes everything, and the last sync takes long.
                os.fdatasync(file)
            done = max(written / most_bytes, (clock() - begun) / seconds)
            told = _tell(progress, "write", done, told)
        os.fsync(file)
        took = clock() - begun
        progress("write", 100, 100)
    finally:
        os.close(file)
    return written, took


def _tell(progress: Progress, part: str, done: float, told: int) -> int:
    """Reports each hundredth once; returns what was reported last."""
    hundredths = min(99, int(done * 100))
    if hundredths != told:
        progress(part, hundredths, 100)
    return hundredths


def report(latencies: list[float], written: int, took: float) -> BenchReport:
    """Pure. latencies: seconds, at least SAMPLES_MIN. took: seconds, above 0."""
    cuts = statistics.quantiles(latencies, n=100, method="inclusive")
    p50, p99 = cuts[49] * 1000, cuts[98] * 1000
    rate = written / MIB / took
    sync = _grade(p99, FSYNC_P99_GOOD_MS, FSYNC_P99_SLOW_MS)
    write = _grade(-rate, -WRITE_GOOD_MIB_S, -WRITE_SLOW_MIB_S)
    why = [
        f"fsync p99 of {p99:.2f} ms is {sync}: up to {FSYNC_P99_GOOD_MS:g} ms is good, above "
        f"{FSYNC_P99_SLOW_MS:g} ms too slow",
        f"{rate:.0f} MiB/s is {write}: {WRITE_GOOD_MIB_S:g} MiB/s and more is good, below "
        f"{WRITE_SLOW_MIB_S:g} MiB/s too slow",
    ]
    return BenchReport(
        syncs=len(latencies),
        fsync_p50_ms=round(p50, 3),
        fsync_p99_ms=round(p99, 3),
        fsync_max_ms=round(max(latencies) * 1000, 3),
        written_bytes=written,
        write_mib_s=round(rate, 1),
        verdict=max(sync, write, key=VERDICTS.index),
        why=why,
    )


def _grade(value: float, good: float, slow: float) -> str:
    """Lower values are better."""
    if value <= good:
        return GOOD
    return SLOW if value <= slow else TOO_SLOW


def text(found: BenchReport) -> str:
    return "\n".join(
        [
            f"fsync of 4 KiB   p50 {found.fsync_p50_ms:.2f} ms, p99 {found.fsync_p99_ms:.2f} ms, "
            f"longest {found.fsync_max_ms:.2f} ms, {found.syncs} times",
            f"large file       {found.write_mib_s:.0f} MiB/s, {found.written_bytes // MIB} MiB",
            f"verdict          {found.verdict}",
            *(f"  {line}" for line in found.why),
        ]
    )


def as_json(found: BenchReport) -> str:
    return json.dumps(asdict(found))
