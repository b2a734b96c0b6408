"""Files of 64 MiB, one after the other: put into the tree of our group, and beside it copied three
times by `cp` on the same disk. The copies are made one after the other. Each is synced, and so is
its directory. Reading the source is part of both, and so is our digest of it."""

import asyncio
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from partition_client import AsyncClient, PayloadSource

from tests.benchmarks.etcd.figures import MIB, Measured, percentile
from tests.benchmarks.etcd.groups import MEMBERS, Group
from tests.benchmarks.etcd.kv import ANSWER_S
from tests.benchmarks.etcd.loads import server_use
from tests.benchmarks.etcd.usage import Meter

FILE_BYTES = 64 * MIB
FILES_PER_ROUND = 4


@dataclass(slots=True)
class Clock:
    """How long each operation took, in seconds, and the processor's seconds of this process."""

    latencies: list[float]
    cpu_s: float = 0.0

    @contextmanager
    def operation(self) -> Iterator[None]:
        began, used = time.monotonic(), time.process_time()
        yield
        self.latencies.append(time.monotonic() - began)
        self.cpu_s += time.process_time() - used


async def put_files(group: Group, folder: Path, count: int) -> Measured:
    """Durable on a quorum when it ends, and applied by the leader."""
    clock, meter = Clock([]), Meter(group.pids)
    async with AsyncClient(group.endpoints, group.tls, deadline_s=ANSWER_S) as client:
        await client.set_key(b"ready", b"")  # connects, and opens a session
        with meter:
            for _ in range(count):
                with _source(folder) as source:
                    with clock.operation():
                        payload = await asyncio.to_thread(PayloadSource.of_file, source)
                        await client.put_file(os.urandom(16).hex().encode(), payload)
    client_cpu_ms = clock.cpu_s * 1000 / count
    return _measured(clock, client_cpu_ms, meter)


def copy_files(folder: Path, count: int) -> Measured:
    """Durable three times when it ends."""
    clock = Clock([])
    targets = [folder / f"copies-{number}" for number in range(MEMBERS)]
    for target in targets:
        target.mkdir(exist_ok=True)
    for _ in range(count):
        with _source(folder) as source:
            with clock.operation():
                for target in targets:
                    _copy(source, target / "copy")
            for target in targets:
                (target / "copy").unlink()
    return _measured(clock, None, None)


def _copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "--reflink=never", source, target], check=True)
    for path in (target, target.parent):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def _source(folder: Path) -> Iterator[Path]:
    """A file with new content, because equal files are stored once. It is on the disk already, so
    that nobody else's sync writes it, and in the page cache."""
    path = folder / "source"
    with path.open("wb") as file:
        for _ in range(FILE_BYTES // MIB):
            file.write(os.urandom(MIB))
        file.flush()
        os.fsync(file.fileno())
    yield path
    path.unlink()


def _measured(clock: Clock, client_cpu_ms: float | None, meter: Meter | None) -> Measured:
    latencies = sorted(clock.latencies)
    count = len(latencies)
    return Measured(
        count,
        count / sum(latencies),
        percentile(latencies, 0.5),
        percentile(latencies, 0.99),
        client_cpu_ms,
        server_use(meter, count) if meter else None,
    )
