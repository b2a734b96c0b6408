"""Ours and etcd in turns: `make bench-etcd`.

Three replicas of ours and three members of etcd stand on one machine and one disk, with the
durability that each has by default, without TLS on either side. Each row is driven in rounds: ours,
then etcd, then ours again, so that a slow moment of the machine meets both. A ratio is that of one
round; the table shows the median and the range of the rounds.

etcd is driven by its own load generator, in one process. The row of many processes drives both by
Python clients, so that the client's language is not what is compared.

Writes build/bench/summary.json. The result calls itself valid only if the load average was at most
0.5 before each round.
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import dev.etcd
from tests.benchmarks.etcd.groups import Etcd, Group, drive, drive_tool, etcd_group, our_group
from tests.benchmarks.etcd.usage import Meter

LOAD_MAX = 0.5
CALM_WAIT_S = 180.0
"""How long a round waits for a calm machine."""
SUMMARY = Path("build/bench/summary.json")
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Row:
    """A load. tool: etcd is driven by its own generator."""

    name: str
    load: str
    tasks: int
    processes: int = 1
    size: int = 256
    tool: bool = True


ROWS = (
    *(Row(f"{n} writers, 256 B", "put", n) for n in (1, 8, 64, 256, 1000)),
    Row("64 writers in 64 processes, 256 B", "put", 1, processes=64, tool=False),
    Row("16 writers, 64 KiB", "put", 16, size=64 * 1024, tool=False),
    Row("4 writers, 1 MiB", "put", 4, size=MIB, tool=False),
    *(Row(f"{n} readers, linearizable", "get", n) for n in (1, 64, 1000)),
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


def percentile(latencies: list[float], share: float) -> float:
    return latencies[min(int(len(latencies) * share), len(latencies) - 1)] if latencies else 0.0


def measure(group: Group, row: Row, seconds: float, rates: dict[str, float]) -> Measured:
    with Meter(group.pids) as meter:
        if row.tool and isinstance(group, Etcd):
            rate, p50, p99 = drive_tool(
                group,
                row.load,
                clients=row.tasks,
                size=row.size,
                seconds=seconds,
                rate=rates.get(row.name, 500.0),
            )
            rates[row.name] = rate
            operations = max(rate * seconds, 1)
        else:
            rate, latencies = drive(
                group,
                row.load,
                tasks=row.tasks,
                processes=row.processes,
                size=row.size,
                seconds=seconds,
            )
            p50, p99 = percentile(latencies, 0.5), percentile(latencies, 0.99)
            operations = max(rate * seconds, 1)
    return Measured(
        rate,
        p50,
        p99,
        meter.cpu_s * 1000 / operations,
        meter.written_bytes / operations,
        meter.peak_anonymous_bytes / MIB,
    )


async def failover_s(group: Group, writer: Callable[[], "asyncio.Future[None]"]) -> float:
    """Seconds from SIGKILL of the leader to the next acknowledged write."""
    await writer()
    await group.kill_leader()
    began = time.monotonic()
    await writer()
    took = time.monotonic() - began
    await group.revive()
    return took


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
    yield "| row | ours | etcd | ours / etcd | CPU per operation | p99 |"
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
    results, rates = [Result(row.name) for row in chosen], dict[str, float]()
    with tempfile.TemporaryDirectory(dir=".") as name:
        folder = Path(name).resolve()
        async with etcd_group(folder) as etcd, our_group(folder) as ours:
            for row, result in zip(chosen, results, strict=True):
                await asyncio.to_thread(measure, etcd, row, 1.0, rates)  # finds the rate
                for _ in range(arguments.rounds):
                    calm.before_round()
                    for group, side in ((ours, result.ours), (etcd, result.etcd)):
                        side.append(
                            await asyncio.to_thread(measure, group, row, arguments.seconds, rates)
                        )
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
    asyncio.run(compare(arguments))


if __name__ == "__main__":
    main()
