"""Closed loops against one side: by Python clients in processes of their own, or for etcd by its
own load generator."""

import asyncio
import json
import resource
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from partition_client import Tls

from dev.etcd import LOAD
from tests.benchmarks.etcd.figures import MIB, Measured, ServerUse, percentile
from tests.benchmarks.etcd.groups import Etcd, Group
from tests.benchmarks.etcd.kv import ANSWER_S, CONNECT_S, KEY_BYTES, KEY_SPACE, READ_KEY
from tests.benchmarks.etcd.rows import LoadRow
from tests.benchmarks.etcd.usage import Meter

FIRST_RATE = 500.0
"""Operations per second with which the search for etcd's rate begins."""
OPERATIONS_MIN = 200
"""etcd's own load generator gives no 99th percentile of fewer than 100."""
SEARCHES_MAX = 10
STARTING_MAX = 8
"""Client processes that start at the same time. All 64 at once would be so slow on two cores that
their attempts to connect time out."""
START_S = 2 * CONNECT_S
TOOL_S = 300.0
BEGIN_S = 0.5
"""From the last client that is ready to the beginning of the load."""
TOOL_CONNECTIONS_MAX = 64
REPORT_BYTES_MAX = 256 * MIB
"""Of a client's report, which has each operation's latency."""


class LoadFailed(Exception):
    """A client failed, or gave a report that is none."""


class Loader:
    """How loads are driven. python_only: etcd's own load generator is not used. spread: clients of
    etcd are spread over its members in all rows, not only for stale reads."""

    def __init__(self, *, python_only: bool = False, spread: bool = False) -> None:
        self._python_only = python_only
        self._spread = spread
        self._rates: dict[str, float] = {}
        """Operations per second that are expected of etcd, by row."""

    async def warm_up(self, group: Group, row: LoadRow, seconds: float) -> None:
        """Puts the load on until it ran for about `seconds`. Raises LoadFailed."""
        for _ in range(SEARCHES_MAX):
            done = await self.measure(group, row, seconds)
            if done.operations / done.rate >= seconds / 2:
                return
        raise LoadFailed(f"{group.name}: the rate of {row.name} is not stable")

    async def measure(self, group: Group, row: LoadRow, seconds: float) -> Measured:
        """Raises LoadFailed, and RuntimeError or ProcessLookupError if a server has ended."""
        meter = Meter(group.pids)
        if row.own_tool and isinstance(group, Etcd) and not self._python_only:
            rate = self._rates.get(row.name, FIRST_RATE)
            total = max(int(rate * seconds), row.tasks, OPERATIONS_MIN)
            measured = await self._tool(group, row, total, meter)
            self._rates[row.name] = measured.rate
        else:
            measured = await self._python(group, row, seconds, meter)
        return measured

    def _to_leader(self, row: LoadRow) -> bool:
        return row.load != "get-stale" and not self._spread

    async def _python(self, group: Group, row: LoadRow, seconds: float, meter: Meter) -> Measured:
        """The meter runs while the clients put their load on, not while they start."""
        command = [sys.executable, "-m", "tests.benchmarks.etcd.drive", group.name, row.load]
        command += ["--endpoints", ",".join(group.endpoints), *_tls_flags(group.tls)]
        command += ["--tasks", str(row.tasks), "--size", str(row.size), "--seconds", str(seconds)]
        if group.name == "etcd" and self._to_leader(row):
            command += ["--leader", str(await group.leader())]
        async with _clients(command, row) as running:
            with meter:
                begin_at = time.monotonic() + BEGIN_S
                for client in running:
                    assert client.stdin is not None
                    client.stdin.write(b"%r\n" % begin_at)
                async with asyncio.timeout(BEGIN_S + seconds + 2 * ANSWER_S):
                    reports = await asyncio.gather(*(_line(client) for client in running))
            async with asyncio.timeout(START_S):
                for client in running:  # so that nobody's end is part of the next turn
                    await client.wait()
        return from_reports([json.loads(report) for report in reports], begin_at, meter)

    async def _tool(self, group: Etcd, row: LoadRow, total: int, meter: Meter) -> Measured:
        """etcd's own load generator takes a number of operations, not a time."""
        command = [str(LOAD), f"--endpoints={','.join(group.urls)}", "--precise"]
        command += [f"--clients={row.tasks}", f"--conns={min(row.tasks, TOOL_CONNECTIONS_MAX)}"]
        if self._to_leader(row):
            command += ["--target-leader"]
        if tls := group.tls:
            command += [
                f"--cert={tls.certificate}",
                f"--key={tls.key}",
                f"--cacert={tls.authority}",
            ]
        if row.load == "put":
            command += ["put", f"--val-size={row.size}", f"--key-size={KEY_BYTES}"]
            command += [f"--key-space-size={KEY_SPACE}", f"--total={total}"]
        else:
            consistency = "s" if row.load == "get-stale" else "l"
            command += ["range", READ_KEY.decode()]
            command += [f"--consistency={consistency}", f"--total={total}"]
        before = children_cpu_s()
        with meter:
            code, output, errors = await _run(command, TOOL_S)
        if code:
            raise LoadFailed(f"etcd's load generator ended with {code}: {errors[-300:]}")
        try:
            rate, p50_s, p99_s = parse_tool(output)
        except ValueError as error:
            raise LoadFailed(str(error)) from error
        client_cpu_ms = (children_cpu_s() - before) * 1000 / total
        return Measured(total, rate, p50_s, p99_s, client_cpu_ms, server_use(meter, total))


def from_reports(reports: list[dict[str, Any]], begin_at: float, meter: Meter) -> Measured:
    """Joins the reports of client processes. Operations that ended after the time was over count,
    and so does the time until the last one ended: etcd's own load generator counts like this, and
    otherwise a side with long latencies would lose what was under way. Raises LoadFailed if
    nothing was done."""
    latencies = sorted(latency for report in reports for latency in report["latencies"])
    if not latencies:
        raise LoadFailed("nothing was done")
    count = len(latencies)
    return Measured(
        count,
        count / (max(report["ended_at"] for report in reports) - begin_at),
        percentile(latencies, 0.5),
        percentile(latencies, 0.99),
        sum(report["cpu_s"] for report in reports) * 1000 / count,
        server_use(meter, count),
    )


def server_use(meter: Meter, operations: int) -> ServerUse:
    return ServerUse(
        meter.cpu_s * 1000 / operations,
        None if meter.written_bytes is None else meter.written_bytes / operations,
        meter.peak_anonymous_bytes / MIB,
    )


def parse_tool(output: str) -> tuple[float, float, float]:
    """Returns (operations per second, p50, p99 in seconds). Raises ValueError if the output is not
    a report of etcd's load generator, or if operations failed."""
    if "Error distribution:" in output:
        raise ValueError(f"operations of etcd's load generator failed: {output[-300:]!r}")
    rate, percentiles = None, {}
    for line in output.splitlines():
        words = line.split()
        if line.strip().startswith("Requests/sec:"):
            rate = float(words[1])
        elif len(words) == 4 and words[0].endswith("%") and words[1] == "in":
            percentiles[words[0]] = float(words[2])
    if rate is None or "50%" not in percentiles or "99%" not in percentiles:
        raise ValueError(f"no report of etcd's load generator: {output[-300:]!r}")
    return rate, percentiles["50%"], percentiles["99%"]


def _tls_flags(tls: Tls | None) -> list[str]:
    return ["--tls-dir", str(tls.certificate.parent)] if tls else []


def children_cpu_s() -> float:
    """Processor seconds of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@asynccontextmanager
async def _clients(command: list[str], row: LoadRow) -> AsyncIterator[list[Process]]:
    """Client processes that are connected and wait for their beginning. Those that still run
    afterwards are killed."""
    running: list[Process] = []
    try:
        for first in range(0, row.processes, STARTING_MAX):
            some = range(first, min(first + STARTING_MAX, row.processes))
            for number in some:
                task = ["--first-task", str(number * row.tasks)]
                running.append(await start(*command, *task, stdin=PIPE, stdout=PIPE, stderr=PIPE))
            async with asyncio.timeout(START_S):
                for number in some:
                    await _line(running[number])
        yield running
    finally:
        for client in running:
            await end(client)


async def start(*command: str, **options: Any) -> Process:
    """In a session of its own, so that Ctrl-C reaches the benchmark alone, which then ends it."""
    return await asyncio.create_subprocess_exec(
        *command, start_new_session=True, limit=REPORT_BYTES_MAX, **options
    )


async def end(process: Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()


async def _run(command: list[str], within_s: float) -> tuple[int, str, str]:
    """Returns (exit code, output, errors). Raises LoadFailed after within_s: a load generator waits
    for ever for a server that has ended."""
    process = await start(*command, stdout=PIPE, stderr=PIPE)
    try:
        async with asyncio.timeout(within_s):
            output, errors = await process.communicate()
    except TimeoutError as error:
        raise LoadFailed(f"not over after {within_s:g} s: {' '.join(command)}") from error
    finally:
        await end(process)
    assert process.returncode is not None
    return process.returncode, output.decode(), errors.decode(errors="replace")


async def _line(client: Process) -> bytes:
    """Raises LoadFailed if the client ended without a line."""
    assert client.stdout is not None
    assert client.stderr is not None
    line = await client.stdout.readline()
    if not line:
        errors = await client.stderr.read()
        raise LoadFailed(f"a client ended: {errors.decode(errors='replace')[-300:]}")
    return line
