"""Three members of etcd and three replicas of ours: started, found, killed. Both in plain text, on
loopback, with their data below one directory, with the durability that they have by default."""

import asyncio
import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

import grpc

from dev.etcd import LOAD, SERVER
from tests.benchmarks.etcd.kv import KeyValue
from tests.support.local_group import LocalGroup, eventually, free_port

READY_S = 30.0


class Group(Protocol):
    """One side."""

    name: str
    endpoints: list[str]

    @property
    def pids(self) -> list[int]: ...
    async def kill_leader(self) -> None:
        """SIGKILL to the leader; returns at once."""
        ...

    async def revive(self) -> None:
        """Starts what was killed, and waits until it takes part."""
        ...


class Ours:
    name = "ours"

    def __init__(self, group: LocalGroup) -> None:
        self._group = group
        self.endpoints = [replica.address for replica in group.replicas]

    @property
    def pids(self) -> list[int]:
        return [r.process.pid for r in self._group.replicas if r.process is not None and r.running]

    async def kill_leader(self) -> None:
        (await self._group.leader()).kill()

    async def revive(self) -> None:
        for replica in self._group.replicas:
            if not replica.running:
                await self._group.start(replica)
        await self._group.settled()


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
        return [process.pid for process in self._processes if process.poll() is None]

    async def start(self) -> None:
        self._processes = [self._start(number) for number in range(3)]
        await self._wait_ready()

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
        with (self._folder / f"etcd-{number}.log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log)

    async def _wait_ready(self) -> None:
        await eventually(self._serves, f"etcd serves: {self._folder}/etcd-0.log", READY_S)

    async def _serves(self) -> bool:
        try:
            for endpoint in self.endpoints:
                async with grpc.aio.insecure_channel(endpoint) as channel:
                    await KeyValue(channel).get(b"ready", timeout_s=2.0)
        except grpc.aio.AioRpcError:
            return False
        return True

    async def kill_leader(self) -> None:
        self._processes[await asyncio.to_thread(self._leader)].kill()

    def _leader(self) -> int:
        """By etcd's HTTP gateway, which is a part of every member."""
        for number, endpoint in enumerate(self.endpoints):
            request = urllib.request.Request(
                f"http://{endpoint}/v3/maintenance/status", data=b"{}", method="POST"
            )
            with urllib.request.urlopen(request, timeout=5) as response:
                status = json.load(response)
            if status["leader"] == status["header"]["member_id"]:
                return number
        raise RuntimeError("no member leads")

    async def revive(self) -> None:
        for number, process in enumerate(self._processes):
            if process.poll() is not None:
                self._processes[number] = self._start(number)
        await self._wait_ready()

    def stop(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait()


@asynccontextmanager
async def etcd_group(folder: Path) -> AsyncIterator[Etcd]:
    group = Etcd(folder)
    try:
        await group.start()
        yield group
    finally:
        group.stop()


@asynccontextmanager
async def our_group(folder: Path) -> AsyncIterator[Ours]:
    async with LocalGroup(folder) as group:
        await group.bootstrap()
        yield Ours(group)


def drive(
    group: Group, load: str, *, tasks: int, processes: int, size: int, seconds: float
) -> tuple[float, list[float]]:
    """(operations a second, latencies in seconds, sorted) of Python clients."""
    begin_at = time.time() + 1.0 + 0.15 * processes  # they import first
    command = [sys.executable, "-m", "tests.benchmarks.etcd.drive", group.name, load]
    command += ["--endpoints", ",".join(group.endpoints), "--tasks", str(tasks)]
    command += ["--size", str(size), "--seconds", str(seconds), "--begin-at", str(begin_at)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(processes)]
    outputs = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        raise SystemExit(f"a client of {group.name} failed: its error stands above")
    found = [json.loads(output) for output in outputs]
    latencies = sorted(latency for one in found for latency in one["latencies"])
    return sum(one["count"] for one in found) / seconds, latencies


def drive_tool(
    group: Etcd, load: str, *, clients: int, size: int, seconds: float, rate: float
) -> tuple[float, float, float]:
    """(operations a second, p50, p99 in seconds) of etcd's own load generator. It takes a number of
    operations, not a time: as many as `rate` gives in `seconds`."""
    total = max(int(rate * seconds), clients)
    command = [str(LOAD), f"--endpoints={','.join(group.endpoints)}", "--precise"]
    command += [f"--clients={clients}", f"--conns={min(clients, 64)}"]
    if load == "put":
        command += ["put", f"--val-size={size}", "--key-size=32", f"--total={total}"]
        command += ["--key-space-size=1000000"]
    else:
        consistency = "s" if load == "get-stale" else "l"
        command += ["range", "read/0", f"--consistency={consistency}", f"--total={total}"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return parse_tool(output)


def parse_tool(output: str) -> tuple[float, float, float]:
    """Raises ValueError for what is not a report of etcd's load generator."""
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
