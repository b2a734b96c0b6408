"""Connects to a Partition's replicas from outside of the cluster: each replica has a fixed local
port that follows its pod."""

import asyncio
import base64
import json
import os
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from partition_client import AsyncClient, Tls

from dev.cluster.layout import BIN
from dev.ports import free_port

GRPC_PORT = 7000


class Kubectl:
    """kubectl for one given cluster. It never uses the current context by accident."""

    def __init__(self, *, kubeconfig: Path | None = None, context: str = "") -> None:
        assert kubeconfig or context, "name a cluster"
        self._program = str(BIN / "kubectl") if (BIN / "kubectl").exists() else "kubectl"
        self._where = [f"--kubeconfig={kubeconfig}"] if kubeconfig else [f"--context={context}"]

    def command(self, *words: str) -> list[str]:
        return [self._program, *self._where, *words]

    def __call__(self, *words: str, stdin: str = "", check: bool = True) -> str:
        done = subprocess.run(
            self.command(*words), input=stdin, capture_output=True, text=True, check=False
        )
        if check and done.returncode:
            raise RuntimeError(f"kubectl {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def json(self, *words: str) -> Any:
        return json.loads(self(*words, "-o", "json"))


class Access:
    """Local ports for the pods of a Partition. Use as an async context manager.

    direct: this machine reaches the pods' IPs; otherwise kubectl port-forward carries each
    connection.
    """

    def __init__(
        self, kubectl: Kubectl, namespace: str, partition: str, replicas: int, *, direct: bool
    ) -> None:
        self._kubectl = kubectl
        self._namespace = namespace
        self._partition = partition
        self._replicas = replicas
        self._direct = direct
        self._servers: list[asyncio.Server] = []
        self._forwards: list[asyncio.Task[None]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._folder = tempfile.TemporaryDirectory()
        self.endpoints: list[str] = []

    async def __aenter__(self) -> "Access":
        self._write_certificates()
        for ordinal in range(self._replicas):
            pod = f"{self._partition}-{ordinal}"
            if self._direct:
                server = await asyncio.start_server(
                    lambda r, w, pod=pod: self._relay(r, w, pod), "127.0.0.1", 0
                )
                self._servers.append(server)
                port = server.sockets[0].getsockname()[1]
            else:
                port = free_port()
                self._forwards.append(asyncio.create_task(self._forward(pod, port)))
            self.endpoints.append(f"127.0.0.1:{port}")
        return self

    async def __aexit__(self, *_: object) -> None:
        for server in self._servers:
            server.close()
        for task in (*self._forwards, *self._tasks):
            task.cancel()
        await asyncio.gather(*self._forwards, *self._tasks, return_exceptions=True)
        self._folder.cleanup()

    @property
    def tls(self) -> Tls:
        host = f"{self._partition}-0.{self._partition}-replicas.{self._namespace}.svc"
        return Tls.in_directory(Path(self._folder.name), host)

    def client(self, **options: Any) -> AsyncClient:
        return AsyncClient(self.endpoints, self.tls, follow_hints=False, **options)

    def _write_certificates(self) -> None:
        name = f"{self._partition}-client-tls"
        secret = self._kubectl.json("-n", self._namespace, "get", "secret", name)
        for file, text in secret["data"].items():
            path = Path(self._folder.name) / file
            path.touch(mode=0o600)
            path.write_bytes(base64.b64decode(text))

    async def _relay(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pod: str
    ) -> None:
        address = await asyncio.to_thread(self._address, pod)
        try:
            far_reader, far_writer = await asyncio.wait_for(
                asyncio.open_connection(address, GRPC_PORT), 3
            )
        except (OSError, TimeoutError):
            writer.close()
            return
        pumps = [
            asyncio.create_task(_pump(reader, far_writer)),
            asyncio.create_task(_pump(far_reader, writer)),
        ]
        self._tasks.update(pumps)
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for pump in pumps:
            pump.cancel()
            self._tasks.discard(pump)
        for end in (writer, far_writer):
            end.close()

    def _address(self, pod: str) -> str:
        found = self._kubectl(
            "-n", self._namespace, "get", "pod", pod, "-o", "jsonpath={.status.podIP}", check=False
        )
        return found or "127.0.0.1"

    async def _forward(self, pod: str, port: int) -> None:
        """Runs kubectl port-forward and restarts it, because it ends with its pod."""
        command = self._kubectl.command(
            "-n", self._namespace, "port-forward", f"pod/{pod}", f"{port}:{GRPC_PORT}"
        )
        while True:
            process = await asyncio.create_subprocess_exec(
                *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
            )
            try:
                await process.wait()
            finally:
                if process.returncode is None:
                    process.kill()
            await asyncio.sleep(0.2)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(1 << 18):
            writer.write(data)
            await writer.drain()


def source_tree() -> Path:
    """Returns a real tree of at least 5,000 files and 100 MB: Go's standard library and tools.
    Every machine that can build the project has it."""
    root = subprocess.run(
        ["go", "env", "GOROOT"], check=True, capture_output=True, text=True
    ).stdout.strip()
    return Path(root)


def size_of(root: Path) -> tuple[int, int]:
    """Returns (files, bytes) of a tree, without symbolic links."""
    files = size = 0
    for directory, _, names in os.walk(root):
        for name in names:
            path = Path(directory) / name
            if not path.is_symlink():
                files += 1
                size += path.stat().st_size
    return files, size
