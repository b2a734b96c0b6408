"""Three members of etcd and three replicas of ours, and the load that is put on them. Both are in
plain text, on loopback, with their data below one directory."""

import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import grpc

from dev.etcd import LOAD, SERVER
from tests.benchmarks.etcd.kv import KEY_BYTES, KEY_SPACE, READ_KEY, READ_VALUE, KeyValue
from tests.benchmarks.etcd.usage import Meter
from tests.support.local_group import LocalGroup, eventually, free_port

READY_S = 30.0
BEGIN_S = 0.2
"""From the last client that is ready to the beginning of the load."""
TOOL_CONNECTIONS_MAX = 64


class Group(Protocol):
    """One side."""

    name: str
    endpoints: list[str]

    @property
    def pids(self) -> list[int]:
        """Of its processes. Raises RuntimeError if one has ended."""
        ...


class Ours:
    name = "ours"

    def __init__(self, group: LocalGroup) -> None:
        self._group = group
        self.endpoints = [replica.address for replica in group.replicas]

    @property
    def pids(self) -> list[int]:
        return _pids([r.process for r in self._group.replicas if r.process is not None], self.name)


class Etcd:
    name = "etcd"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._clients = [free_port() for _ in range(3)]
        self._peers = [free_port() for _ in range(3)]
        self._processes: list[subprocess.Popen[bytes]] = []
        self.endpoints = [f"127.0.0.1:{port}" for port in self._clients]

    @property
    def pids(self) -> list[int]:
        return _pids(self._processes, self.name)

    async def start(self) -> None:
        for number in range(3):
            self._processes.append(self._start(number))
        await eventually(self._serves, "etcd serves", READY_S)
        async with grpc.aio.insecure_channel(self.endpoints[0]) as channel:
            await KeyValue(channel).put(READ_KEY, READ_VALUE)

    def _start(self, number: int) -> "subprocess.Popen[bytes]":
        peers = [f"http://127.0.0.1:{port}" for port in self._peers]
        client = f"http://127.0.0.1:{self._clients[number]}"
        command = [
            str(SERVER),
            f"--name=m{number}",
            f"--data-dir={self._folder / f'etcd-{number}'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peers[number]}",
            f"--initial-advertise-peer-urls={peers[number]}",
            "--initial-cluster=" + ",".join(f"m{n}={peer}" for n, peer in enumerate(peers)),
            "--quota-backend-bytes=8589934592",
            "--log-level=error",
        ]
        with self._log(number).open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log)

    def _log(self, number: int) -> Path:
        return self._folder / f"etcd-{number}.log"

    async def _serves(self) -> bool:
        assert self.pids  # raises if one has ended
        try:
            for endpoint in self.endpoints:
                async with grpc.aio.insecure_channel(endpoint) as channel:
                    await KeyValue(channel).get(b"ready", timeout_s=2.0)
        except grpc.aio.AioRpcError:
            return False
        return True

    def print_logs(self) -> None:
        for number in range(len(self._processes)):
            tail = self._log(number).read_text(errors="replace").splitlines()[-40:]
            print(f"--- etcd-{number}", *tail, sep="\n", file=sys.stderr)

    def stop(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()


def _pids(processes: "list[subprocess.Popen[bytes]]", name: str) -> list[int]:
    for number, process in enumerate(processes):
        if process.poll() is not None:
            raise RuntimeError(f"process {number} of {name} has ended: {process.returncode}")
    return [process.pid for process in processes]


@asynccontextmanager
async def etcd_group(folder: Path) -> AsyncIterator[Etcd]:
    group = Etcd(folder)
    try:
        await group.start()
        yield group
    except BaseException:
        group.print_logs()
        raise
    finally:
        group.stop()


@asynccontextmanager
async def our_group(folder: Path) -> AsyncIterator[Ours]:
    """With the tick that a replica has by default, which is etcd's heartbeat interval, too."""
    async with LocalGroup(folder, arguments=("--tick-ms", "100")) as group:
        await group.bootstrap()
        yield Ours(group)


@dataclass(frozen=True, slots=True)
class Load:
    """What was done. rate: operations per second. Percentiles are over single operations."""

    operations: int
    rate: float
    p50_s: float
    p99_s: float


def drive(
    group: Group,
    load: str,
    *,
    tasks: int,
    processes: int,
    size: int,
    seconds: float,
    meter: Meter,
) -> Load:
    """A load of Python clients. The meter runs while they do, not while they start."""
    command = [sys.executable, "-m", "tests.benchmarks.etcd.drive", group.name, load]
    command += ["--endpoints", ",".join(group.endpoints), "--tasks", str(tasks)]
    command += ["--size", str(size), "--seconds", str(seconds)]
    with _clients(command, tasks, processes) as running:
        for client in running:
            _line(client, group.name)
        with meter:
            begin_at = time.monotonic() + BEGIN_S
            for client in running:
                print(begin_at, file=client.stdin, flush=True)
            latencies = sorted(
                latency for client in running for latency in json.loads(_line(client, group.name))
            )
        for client in running:
            client.wait()
    return Load(
        len(latencies),
        len(latencies) / seconds,
        percentile(latencies, 0.5),
        percentile(latencies, 0.99),
    )


@contextmanager
def _clients(
    command: list[str], tasks: int, processes: int
) -> "Iterator[list[subprocess.Popen[str]]]":
    """Client processes; what still runs afterwards is killed."""
    running: list[subprocess.Popen[str]] = []
    try:
        for number in range(processes):
            first = ["--first-task", str(number * tasks)]
            pipe = subprocess.PIPE
            running.append(subprocess.Popen(command + first, stdin=pipe, stdout=pipe, text=True))
        yield running
    finally:
        for client in running:
            client.kill()
            client.communicate()


def _line(client: "subprocess.Popen[str]", name: str) -> str:
    assert client.stdout is not None
    line = client.stdout.readline()
    if not line:
        raise SystemExit(f"a client of {name} failed; its error is printed above")
    return line


def percentile(latencies: list[float], share: float) -> float:
    """`latencies` is sorted. Returns 0 if it is empty."""
    return latencies[min(int(len(latencies) * share), len(latencies) - 1)] if latencies else 0.0


def drive_tool(
    group: Etcd, load: str, *, clients: int, size: int, seconds: float, rate: float, meter: Meter
) -> Load:
    """A load of etcd's own load generator. It takes a number of operations, not a time: as many as
    `rate` gives in `seconds`, and at least one per client."""
    total = max(int(rate * seconds), clients)
    command = [str(LOAD), f"--endpoints={','.join(group.endpoints)}", "--precise"]
    command += [f"--clients={clients}", f"--conns={min(clients, TOOL_CONNECTIONS_MAX)}"]
    if load == "put":
        command += ["put", f"--val-size={size}", f"--key-size={KEY_BYTES}", f"--total={total}"]
        command += [f"--key-space-size={KEY_SPACE}"]
    else:
        consistency = "s" if load == "get-stale" else "l"
        command += ["range", READ_KEY.decode()]
        command += [f"--consistency={consistency}", f"--total={total}"]
    with meter:
        # Without a time-out it would wait for ever for a member that has ended.
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=60 + 10 * seconds
        )
    if done.returncode:
        raise SystemExit(
            f"etcd's load generator ended with {done.returncode}: {done.stderr[-500:]}"
        )
    found, p50_s, p99_s = parse_tool(done.stdout)
    return Load(total, found, p50_s, p99_s)


def parse_tool(output: str) -> tuple[float, float, float]:
    """Returns (operations per second, p50, p99 in seconds). Raises ValueError if the output is not
    a report of etcd's load generator, or if operations failed."""
    if "Error distribution:" in output:
        raise ValueError(f"operations of etcd's load generator failed: {output[-500:]!r}")
    rate, percentiles = None, {}
    for line in output.splitlines():
        words = line.split()
        if line.strip().startswith("Requests/sec:"):
            rate = float(words[1])
        elif len(words) == 4 and words[0].endswith("%") and words[1] == "in":
            percentiles[words[0]] = float(words[2])
    if rate is None or "50%" not in percentiles or "99%" not in percentiles:
        raise ValueError(f"no report of etcd's load generator: {output[-500:]!r}")
    return rate, percentiles["50%"], percentiles["99%"]
