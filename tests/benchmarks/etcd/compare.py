"""Ours and etcd in turns: `make bench-etcd`.

Three replicas of ours and three members of etcd stand on one machine and one disk, with the
durability and the heartbeat interval that each has by default, without TLS on either side. Each row
is driven in rounds: ours, then etcd, then ours again, so that a slow moment of the machine meets
both. A ratio is that of one round; the table shows the median and the range of the rounds.

Keys have the same size on both sides, and so have values. The processor's time, the memory and the
bytes written are those of the servers, from the beginning of a load to its end.

What differs:

- etcd is driven by its own load generator, in one process written in Go, with a connection per
  client (at most 64). Ours is driven by one Python client with one stream of appends to the leader.
  The rows of many processes and of large values drive both by Python clients.
- etcd's clients are spread over its members, which pass writes on to the leader. Our client writes
  to the leader and does linearizable reads there. Stale reads are spread over all on both sides.
- etcd answers a write after it is applied. We answer a key's write when it is committed, and a
  file's after it is applied.

Writes build/bench/summary.json. The result calls itself valid only if the load average was at most
0.5 before each round.
"""

import argparse
import asyncio
import json
import os
import platform
import signal
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import dev.etcd
from tests.benchmarks.etcd.groups import (
    Etcd,
    Group,
    Load,
    drive,
    drive_tool,
    etcd_group,
    our_group,
)
from tests.benchmarks.etcd.usage import Meter

LOAD_MAX = 0.5
CALM_WAIT_S = 180.0
"""How long a round waits for a calm machine."""
FIRST_RATE = 500.0
"""Operations per second with which the search for etcd's rate begins."""
SUMMARY = Path("build/bench/summary.json")
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Row:
    """A load. tasks: per process. tool: etcd is driven by its own generator, in one process."""

    name: str
    load: str
    tasks: int
    processes: int = 1
    size: int = 256
    tool: bool = True


ROWS = (
    *(Row(f"{n} writer{'s' * (n > 1)}, 256 B", "put", n) for n in (1, 8, 64, 256, 1000)),
    Row("64 writers in 64 processes, 256 B", "put", 1, processes=64, tool=False),
    Row("16 writers, 64 KiB", "put", 16, size=64 * 1024, tool=False),
    Row("4 writers, 1 MiB", "put", 4, size=MIB, tool=False),
    *(Row(f"{n} reader{'s' * (n > 1)}, linearizable", "get", n) for n in (1, 64, 1000)),
    Row("64 readers, stale", "get-stale", 64),
)


@dataclass(slots=True)
class Measured:
    """One side of one round."""

    rate: float
    p50_s: float
    p99_s: float
    cpu_ms_per_operation: float
    written_bytes_per_operation: float
    peak_anonymous_mib: float


@dataclass(slots=True)
class Result:
    row: str
    ours: list[Measured] = field(default_factory=list)
    etcd: list[Measured] = field(default_factory=list)

    def ratios(self, value: Callable[[Measured], float]) -> list[float]:
        pairs = zip(self.ours, self.etcd, strict=True)
        return sorted(value(a) / value(b) for a, b in pairs if value(b))


def put_load(group: Group, row: Row, seconds: float, rate: float, meter: Meter) -> Load:
    """rate: operations per second that are expected of etcd, if its load generator drives it."""
    if row.tool and isinstance(group, Etcd):
        return drive_tool(
            group,
            row.load,
            clients=row.tasks,
            size=row.size,
            seconds=seconds,
            rate=rate,
            meter=meter,
        )
    return drive(
        group,
        row.load,
        tasks=row.tasks,
        processes=row.processes,
        size=row.size,
        seconds=seconds,
        meter=meter,
    )


def warm_up(group: Group, row: Row, seconds: float) -> float:
    """Returns the rate. etcd's load generator runs again until it ran for about `seconds`."""
    rate = FIRST_RATE
    while True:
        load = put_load(group, row, seconds, rate, Meter(group.pids))
        rate = load.rate
        if not load.operations:
            raise SystemExit(f"{group.name}: nothing was done in {seconds:g} s of {row.name}")
        if load.operations / load.rate >= seconds / 2:
            return rate


def measure(group: Group, row: Row, seconds: float, rate: float) -> Measured:
    meter = Meter(group.pids)
    load = put_load(group, row, seconds, rate, meter)
    operations = max(load.operations, 1)
    return Measured(
        load.rate,
        load.p50_s,
        load.p99_s,
        meter.cpu_s * 1000 / operations,
        meter.written_bytes / operations,
        meter.peak_anonymous_bytes / MIB,
    )


class Calm:
    """Whether the machine was idle before each round."""

    def __init__(self, *, wait: bool) -> None:
        self._wait = wait
        self.loads: list[float] = []

    def before_round(self) -> None:
        deadline = time.monotonic() + CALM_WAIT_S
        while self._wait and os.getloadavg()[0] > LOAD_MAX and time.monotonic() < deadline:
            time.sleep(1)
        self.loads.append(os.getloadavg()[0])

    @property
    def valid(self) -> bool:
        return max(self.loads, default=0.0) <= LOAD_MAX


def table(results: list[Result]) -> Iterator[str]:
    """The last three columns are ratios, ours to etcd's."""
    yield "| row | ours | etcd | ratio of rates | of CPU per operation | of p99 |"
    yield "|---|---|---|---|---|---|"
    for result in results:
        cells = [result.row]
        for side in (result.ours, result.etcd):
            cells.append(f"{statistics.median(m.rate for m in side):,.0f} /s")
        cells += [
            _ratio(result.ratios(lambda m: m.rate)),
            _ratio(result.ratios(lambda m: m.cpu_ms_per_operation)),
            _ratio(result.ratios(lambda m: m.p99_s)),
        ]
        yield "| " + " | ".join(cells) + " |"


def _ratio(found: list[float]) -> str:
    if not found:
        return "-"
    return f"{statistics.median(found):.2f} ({found[0]:.2f} to {found[-1]:.2f})"


async def compare(arguments: argparse.Namespace) -> None:
    calm = Calm(wait=not arguments.hurry)
    chosen = [row for row in ROWS if arguments.only in row.name]
    if not chosen:
        raise SystemExit(f"--only {arguments.only}: no row has it; rows: {[r.name for r in ROWS]}")
    results = [Result(row.name) for row in chosen]
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    loop.add_signal_handler(signal.SIGTERM, task.cancel)  # so that no process is left over
    with tempfile.TemporaryDirectory(dir=".") as name:
        folder = Path(name).resolve()
        async with etcd_group(folder) as etcd, our_group(folder) as ours:
            for row, result in zip(chosen, results, strict=True):
                rate = 0.0
                for group in (ours, etcd):
                    rate = await asyncio.to_thread(warm_up, group, row, 1.0)
                for _ in range(arguments.rounds):
                    await asyncio.to_thread(calm.before_round)
                    for group, side in ((ours, result.ours), (etcd, result.etcd)):
                        side.append(
                            await asyncio.to_thread(measure, group, row, arguments.seconds, rate)
                        )
                    rate = result.etcd[-1].rate
                print(list(table([result]))[-1], flush=True)
    summary = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}",
        "python": platform.python_version(),
        "valid": calm.valid,
        "load_before_rounds": calm.loads,
        "rows": [asdict(result) for result in results],
    }
    SUMMARY.parent.mkdir(parents=True, exist_ok=True)
    SUMMARY.write_text(json.dumps(summary, indent=1))
    print(*table(results), sep="\n")
    if not calm.valid:
        print(f"NOT VALID: the load average before a round was up to {max(calm.loads):.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of one side of a round")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--hurry", action="store_true", help="does not wait for a calm machine")
    arguments = parser.parse_args()
    dev.etcd.build()
    try:
        asyncio.run(compare(arguments))
    except asyncio.CancelledError:
        raise SystemExit("ended by SIGTERM; nothing was written") from None


if __name__ == "__main__":
    main()
