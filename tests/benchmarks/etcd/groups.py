"""Three replicas of ours and three members of etcd, as processes on loopback, with their data below
one directory. Both have the settings that they have by default, and the same certificates."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import grpc
from partition_client import AsyncClient, Tls

from dev.etcd import SERVER
from dev.ports import free_port
from tests.benchmarks.etcd.kv import READ_KEY, READ_VALUE, open_member
from tests.support import certificates
from tests.support.local_group import PARTITION, LocalGroup, eventually

READY_S = 60.0
MEMBERS = 3
SETTINGS = ("PARTITION_", "ETCD_", "GOGC", "GOMAXPROCS", "GODEBUG", "GOMEMLIMIT")
"""Beginnings of the names of variables that would change a server's settings."""


def use_default_settings() -> None:
    """Removes variables that change a server's settings from the environment, for both sides."""
    for name in [name for name in os.environ if name.startswith(SETTINGS)]:
        del os.environ[name]


@dataclass(frozen=True, slots=True)
class Security:
    """The operator's and a client's certificates, and a directory for each server."""

    tls: dict[str, Tls]
    folders: dict[str, Path]

    @classmethod
    def make(cls, root: Path) -> "Security":
        """Certificates as the operator issues them: ECDSA on P-256, checked on both sides."""
        return cls(*certificates.make(root, PARTITION, MEMBERS))


class Group(Protocol):
    """One side."""

    name: str
    endpoints: list[str]
    tls: Tls | None
    """A client's."""

    @property
    def pids(self) -> list[int]:
        """Of its servers. Raises RuntimeError if one has ended."""
        ...

    async def leader(self) -> int:
        """Waits for a leader; returns its number."""
        ...

    def kill(self, number: int) -> None:
        """Sends SIGKILL, and doesn't wait."""
        ...

    async def restart(self, number: int) -> None:
        """Waits for the end of a killed server, starts it again, and waits until all servers have
        the same."""
        ...


class Ours:
    """`name` is "before" for replicas of an older checkout."""

    def __init__(self, name: str, group: LocalGroup) -> None:
        self.name = name
        self._group = group
        self.endpoints = [replica.address for replica in group.replicas]
        self.tls = group.tls["client"] if group.tls else None

    @property
    def pids(self) -> list[int]:
        return _pids([r.process for r in self._group.replicas if r.process is not None], self.name)

    async def leader(self) -> int:
        return self._group.replicas.index(await self._group.leader())

    async def disconnect(self) -> None:
        """Closes the connections of the benchmark itself."""
        await self._group.disconnect()

    def kill(self, number: int) -> None:
        process = self._group.replicas[number].process
        assert process is not None
        process.kill()

    async def restart(self, number: int) -> None:
        replica = self._group.replicas[number]
        await asyncio.to_thread(replica.wait_exit)
        await self._group.start(replica)
        await self._group.settled()


class Etcd:
    name = "etcd"

    def __init__(self, folder: Path, security: Security | None) -> None:
        self._folder = folder
        self._security = security
        self.tls = security.tls["client"] if security else None
        self._scheme = "https" if security else "http"
        self._clients = [free_port() for _ in range(MEMBERS)]
        self._peers = [free_port() for _ in range(MEMBERS)]
        self._processes: list[subprocess.Popen[bytes]] = []
        self.endpoints = [f"localhost:{port}" for port in self._clients]

    @property
    def urls(self) -> list[str]:
        return [f"{self._scheme}://{endpoint}" for endpoint in self.endpoints]

    @property
    def pids(self) -> list[int]:
        return _pids(self._processes, self.name)

    async def start(self) -> None:
        for number in range(MEMBERS):
            self._processes.append(self._start(number))
        await eventually(self._serves, "etcd serves", READY_S)
        async with open_member(self.endpoints[0], self.tls) as member:
            await member.connect()

    def _start(self, number: int) -> "subprocess.Popen[bytes]":
        scheme = self._scheme
        peers = [f"{scheme}://localhost:{port}" for port in self._peers]
        command = [
            str(SERVER),
            f"--name=m{number}",
            f"--data-dir={self._folder / f'etcd-{number}'}",
            f"--listen-client-urls={scheme}://127.0.0.1:{self._clients[number]}",
            f"--advertise-client-urls={self.urls[number]}",
            f"--listen-peer-urls={scheme}://127.0.0.1:{self._peers[number]}",
            f"--initial-advertise-peer-urls={peers[number]}",
            "--initial-cluster=" + ",".join(f"m{n}={peer}" for n, peer in enumerate(peers)),
            "--quota-backend-bytes=8589934592",  # the largest that etcd recommends
            "--log-level=error",
            *self._tls_flags(number),
        ]
        with self._log(number).open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log)

    def _tls_flags(self, number: int) -> list[str]:
        if self._security is None:
            return []
        folder = self._security.folders[f"replica-{number}"]
        flags = ["--client-cert-auth", "--peer-client-cert-auth"]
        for prefix in ("", "peer-"):
            flags += [
                f"--{prefix}cert-file={folder / 'tls.crt'}",
                f"--{prefix}key-file={folder / 'tls.key'}",
                f"--{prefix}trusted-ca-file={folder / 'ca.crt'}",
            ]
        return flags

    def _log(self, number: int) -> Path:
        return self._folder / f"etcd-{number}.log"

    async def _serves(self) -> bool:
        """Whether all members answer linearizable reads: each has applied what was committed."""
        assert self.pids  # raises if one has ended
        try:
            for endpoint in self.endpoints:
                async with open_member(endpoint, self.tls) as member:
                    await member.get(b"ready", timeout_s=2.0)
        except grpc.aio.AioRpcError:
            return False
        return True

    async def leader(self) -> int:
        async def find() -> tuple[int] | None:
            for number, endpoint in enumerate(self.endpoints):
                try:
                    async with open_member(endpoint, self.tls) as member:
                        if await member.leads(timeout_s=2.0):
                            return (number,)
                except grpc.aio.AioRpcError:
                    continue
            return None

        return (await eventually(find, "a member of etcd leads", READY_S))[0]

    def kill(self, number: int) -> None:
        self._processes[number].kill()

    async def restart(self, number: int) -> None:
        await asyncio.to_thread(self._processes[number].wait)
        self._processes[number] = self._start(number)
        await eventually(self._serves, "etcd serves", READY_S)

    def print_logs(self) -> None:
        for number in range(len(self._processes)):
            tail = self._log(number).read_text(errors="replace").splitlines()[-40:]
            print(f"--- etcd-{number}", *tail, sep="\n", file=sys.stderr)

    def stop(self) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()


def _pids(processes: "list[subprocess.Popen[bytes]]", name: str) -> list[int]:
    for number, process in enumerate(processes):
        if process.poll() is not None:
            raise RuntimeError(f"process {number} of {name} has ended: {process.returncode}")
    return [process.pid for process in processes]


@asynccontextmanager
async def etcd_group(folder: Path, security: Security | None) -> AsyncIterator[Etcd]:
    folder.mkdir(parents=True)
    group = Etcd(folder, security)
    try:
        await group.start()
        yield group
    except Exception:
        group.print_logs()
        raise
    finally:
        group.stop()


@dataclass(frozen=True, slots=True)
class Version:
    """The code that our replicas and commands run."""

    name: str
    python: str
    environment: dict[str, str]

    @classmethod
    def current(cls) -> "Version":
        return cls("ours", sys.executable, {})


@asynccontextmanager
async def our_group(
    folder: Path, security: Security | None, version: Version | None = None
) -> AsyncIterator[Ours]:
    """Started as the operator starts replicas: with no setting of its own. The benchmark does the
    operator's part, and so is the operator's client."""
    folder.mkdir(parents=True)
    version = version or Version.current()
    local = LocalGroup(
        folder,
        size=MEMBERS,
        tls=security.tls if security else None,
        tls_directories=security.folders if security else None,
        tick_ms=None,
    )
    for replica in local.replicas:
        replica.python = version.python
        replica.environment |= version.environment
    async with local:
        await local.bootstrap()
        group = Ours(version.name, local)
        async with AsyncClient(group.endpoints, group.tls) as client:
            await client.set_key(READ_KEY, READ_VALUE)
        yield group
