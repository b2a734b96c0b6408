"""`make bench`: what docs/performance.md quotes, in one run: log store, groups, snapshots.

Timing is noisy; ratios to what was measured beside it, in the same run, are what to compare.
"""

import asyncio
import os
import statistics
import tempfile
import time
from pathlib import Path

from partition_client import PayloadSource

from tests.benchmarks import log_store, snapshots
from tests.support.local_group import LocalGroup

SECONDS = 3.0


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
    sources = [PayloadSource.of_bytes(os.urandom(size)) for _ in range(count)]
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
        log_store.main(folder)
        asyncio.run(groups(folder))
        snapshots.main(folder, snapshots.DEFAULT)


if __name__ == "__main__":
    main()
