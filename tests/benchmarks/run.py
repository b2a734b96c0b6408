"""`make bench`: what docs/performance.md quotes, in one run, beside the machine's own yardstick.

Timing is noisy; the ratios to the yardstick, measured in the same run, are what to compare.
"""

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from partition_client.client import Source
from partition_replica.core.model import LogBatch, LogEntry
from partition_replica.core.payloads import blob_digests
from partition_replica.ids import LSN, MemberID, Term
from partition_replica.storage.log import LmdbLog

from tests.support.local_group import LocalGroup
from tests.support.proposals import body, proposal, set_key

SECONDS = 3.0


def rate(step: Callable[[], int]) -> float:
    """Units a second over SECONDS; `step` says how many it did."""
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < SECONDS:
        done += step()
    return done / (time.perf_counter() - began)


def yardstick(folder: Path) -> float:
    """4 KiB appends with fdatasync, a second."""
    descriptor = os.open(folder / "yardstick", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def step() -> int:
        os.write(descriptor, b"x" * 4096)
        os.fdatasync(descriptor)
        return 1

    found = rate(step)
    os.close(descriptor)
    return found


def log_appends(folder: Path, batch: int) -> float:
    """Durable 256-byte entries a second into the log alone."""
    log = LmdbLog(folder / f"log-{batch}", MemberID(1), blob_digests)
    data = body(proposal(1, 1, [set_key(b"key", b"v" * 230)])).SerializeToString()

    def step() -> int:
        first = log.last.index + 1
        entries = [LogEntry(LSN(first + n), Term(1), 0, data) for n in range(batch)]
        log.commit(LogBatch(entries))
        return batch

    found = rate(step)
    log.close()
    return found


async def group_appends(client: object, writers: int) -> tuple[float, float]:
    """(acknowledged 256-byte appends a second, median latency in ms) through a group."""
    latencies: list[float] = []
    until = time.perf_counter() + SECONDS

    async def write(number: int) -> None:
        sequence = 0
        while time.perf_counter() < until:
            sequence += 1
            began = time.perf_counter()
            await client.set_key(b"b%d/%d" % (number, sequence), b"v" * 256)  # type: ignore[attr-defined]
            latencies.append(time.perf_counter() - began)

    await asyncio.gather(*(write(n) for n in range(writers)))
    return len(latencies) / SECONDS, statistics.median(latencies) * 1000


async def group_files(client: object, size: int, count: int) -> float:
    """MB a second of files through a group, one after the other."""
    sources = [Source.of_bytes(os.urandom(size)) for _ in range(count)]
    began = time.perf_counter()
    for number, source in enumerate(sources):
        await client.put_file(b"f%d-%d" % (size, number), source)  # type: ignore[attr-defined]
    return size * count / 1e6 / (time.perf_counter() - began)


async def groups(folder: Path) -> None:
    for size in (1, 3):
        root = folder / f"group-{size}"
        root.mkdir()
        async with LocalGroup(root, size=size) as group:
            await group.bootstrap()
            async with group.client() as client:
                for writers in (1, 8, 64, 256):
                    found, latency = await group_appends(client, writers)
                    print(
                        f"{size} replicas, {writers:>3} writers   {found:>9.0f} appends/s   "
                        f"median {latency:.1f} ms"
                    )
                for bytes_, count in ((1_000_000, 20), (16_000_000, 5)):
                    found = await group_files(client, bytes_, count)
                    print(f"{size} replicas, files of {bytes_ / 1e6:.0f} MB {found:>6.0f} MB/s")


def main() -> None:
    with tempfile.TemporaryDirectory(dir=".") as name:
        folder = Path(name)
        base = yardstick(folder)
        print(f"yardstick: 4 KiB + fdatasync  {base:>9.0f} /s")
        for batch in (1, 16, 256):
            found = log_appends(folder, batch)
            print(
                f"log, batches of {batch:<3}        {found:>9.0f} entries/s ({found / base:.2f} x)"
            )
        asyncio.run(groups(folder))


if __name__ == "__main__":
    main()
