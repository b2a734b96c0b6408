"""Three replicas as three processes on loopback: started, killed, stopped, wiped by tests."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import grpc
from partition_client import (
    AsyncClient,
)
from partition_client.channels import Tls, open_channel
from partition_client.tree import digest_tree
from partition_proto.v1 import log_store_pb2 as api
from partition_proto.v1 import log_store_pb2_grpc, replica_admin_pb2_grpc
from partition_proto.v1 import replica_admin_pb2 as admin_api

from dev.ports import free_port

T = TypeVar("T")

PARTITION = "tests/group"
WAIT_S = 60.0
POLL_S_MIN, POLL_S_MAX = 0.02, 0.5


async def eventually(
    condition: Callable[[], Awaitable[T | None]], what: str, within_s: float = WAIT_S
) -> T:
    """Waits until `condition` returns something true; fails with `what` after within_s."""
    deadline = time.monotonic() + within_s
    while True:
        began = time.monotonic()
        found = await condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_s} s: {what}")
        # As long as it took to ask: some conditions start a program each time.
        await asyncio.sleep(min(max(time.monotonic() - began, POLL_S_MIN), POLL_S_MAX))


@dataclass(slots=True)
class LocalReplica:
    """One replica's process and volume."""

    name: str
    data: Path
    port: int
    http_port: int
    arguments: list[str]
    log: Path
    environment: dict[str, str] = field(default_factory=dict)
    process: "subprocess.Popen[bytes] | None" = None
    advertised_port: int = 0
    """Of a proxy in front of it; 0 for none."""
    prefix: tuple[str, ...] = ()
    """In front of its command."""
    python: str = sys.executable

    @property
    def address(self) -> str:
        return f"localhost:{self.advertised_port or self.port}"

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self, **environment: str) -> None:
        assert not self.running
        command = [
            *self.prefix,
            self.python,
            "-m",
            "partition_replica",
            "serve",
            "--data",
            str(self.data),
            "--listen",
            f"127.0.0.1:{self.port}",
            "--http-listen",
            f"127.0.0.1:{self.http_port}",
            "--advertise",
            self.address,
            "--partition",
            PARTITION,
            *self.arguments,
        ]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env=os.environ | self.environment | environment
            )

    def kill(self) -> None:
        """SIGKILL, and waits until it is gone."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def terminate(self, within_s: float = 30.0) -> int:
        """SIGTERM; returns the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(within_s)

    def wait_exit(self, within_s: float = WAIT_S) -> int:
        assert self.process is not None
        return self.process.wait(within_s)

    def metric(self, name: str, **labels: str) -> float:
        """A sample of its metrics; 0 where there is none yet."""
        status, text = self.http("/metrics")
        assert status == 200, f"{self.name} tells no metrics"
        inner = ",".join(f'{key}="{value}"' for key, value in labels.items())
        wanted = f"{name}{{{inner}}}" if labels else name
        values = [line.split()[1] for line in text.splitlines() if line.split()[0] == wanted]
        return float(values[0]) if values else 0.0

    def http(self, path: str) -> tuple[int, str]:
        """(status, body) of a probe; (0, "") where nothing answers."""
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self.http_port}{path}", timeout=5
            ) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""


class LocalGroup:
    """A group of replicas below `root`. Use as an async context manager."""

    def __init__(
        self,
        root: Path,
        *,
        size: int = 3,
        tls: dict[str, Tls] | None = None,
        tls_directories: dict[str, Path] | None = None,
        arguments: tuple[str, ...] = (),
        tick_ms: int | None = 50,
    ) -> None:
        """tls: the operator's and a client's ("operator", "client"); tls_directories: each
        replica's folder; neither means plain text. tick_ms: None for the replica's default."""
        self.root = root
        self.tls = tls
        self.lease = admin_api.FencingToken(transitions=1, holder="tests")
        self.cluster = str(uuid.uuid4())
        self.replicas: list[LocalReplica] = []
        self._channels: list[grpc.aio.Channel] = []
        for number in range(size):
            name = f"replica-{number}"
            security = (
                ["--tls-dir", str(tls_directories[name])] if tls_directories else ["--insecure"]
            )
            ticks = [] if tick_ms is None else ["--tick-ms", str(tick_ms)]
            self.replicas.append(
                LocalReplica(
                    name,
                    root / name,
                    free_port(),
                    free_port(),
                    [*security, *ticks, *arguments],
                    root / f"{name}.log",
                )
            )

    async def __aenter__(self) -> "LocalGroup":
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        await self.disconnect()
        for replica in self.replicas:
            if replica.running:
                replica.kill()
        # A caller that ends early, as by Ctrl-C, has no use for the logs.
        if kind is not None and kind is not asyncio.CancelledError:
            for replica in self.replicas:
                if replica.log.exists():
                    tail = replica.log.read_text(errors="replace").splitlines()[-40:]
                    print(f"--- {replica.name}", *tail, sep="\n", file=sys.stderr)

    def client(self, **options: object) -> AsyncClient:
        tls = self.tls["client"] if self.tls else None
        return AsyncClient([r.address for r in self.replicas], tls, **options)  # type: ignore[arg-type]

    def stub(self, replica: LocalReplica) -> log_store_pb2_grpc.LogStoreStub:
        return log_store_pb2_grpc.LogStoreStub(self._channel(replica, "client"))

    def admin(self, replica: LocalReplica) -> replica_admin_pb2_grpc.ReplicaAdminStub:
        return replica_admin_pb2_grpc.ReplicaAdminStub(self._channel(replica, "operator"))

    def _channel(self, replica: LocalReplica, role: str) -> grpc.aio.Channel:
        channel = open_channel(replica.address, self.tls[role] if self.tls else None)
        self._channels.append(channel)
        return channel

    async def disconnect(self) -> None:
        """Closes the connections of the calls so far. Idle ones cost the replicas keepalives."""
        channels, self._channels = self._channels, []
        for channel in channels:
            await channel.close()

    async def status(self, replica: LocalReplica) -> api.GetStatusResponse | None:
        with suppress(grpc.aio.AioRpcError):
            response: api.GetStatusResponse = await self.stub(replica).GetStatus(
                api.GetStatusRequest(), timeout=2
            )
            return response
        return None

    async def start(self, replica: LocalReplica, **environment: str) -> None:
        replica.start(**environment)
        await eventually(lambda: self.status(replica), f"{replica.name} answers")

    async def bootstrap(self) -> None:
        """Starts all, bootstraps the first, adds and promotes the others: the operator's part."""
        await self.bootstrap_started()

    async def bootstrap_started(self) -> None:
        """The same, where some run already."""
        for replica in self.replicas:
            if not replica.running:
                replica.start()
        for replica in self.replicas:
            await eventually(lambda r=replica: self.status(r), f"{replica.name} answers")
        first = self.replicas[0]
        await self.admin(first).Bootstrap(
            admin_api.BootstrapRequest(lease=self.lease, cluster_id=self.cluster),
            timeout=WAIT_S,
            wait_for_ready=True,
        )
        for replica in self.replicas[1:]:
            await self.add(replica)

    async def bootstrap_unreplicated(self) -> None:
        """Starts the first replica, as a partition without Raft."""
        await self.start(self.replicas[0])
        request = self.bootstrap_request()
        request.standalone = True
        await self.admin(self.replicas[0]).Bootstrap(request)

    def bootstrap_request(self) -> admin_api.BootstrapRequest:
        return admin_api.BootstrapRequest(lease=self.lease, cluster_id=self.cluster)

    def transfer(self, member_id: int = 0) -> admin_api.TransferLeadershipRequest:
        return admin_api.TransferLeadershipRequest(lease=self.lease, member_id=member_id)

    async def lead(self, replica: LocalReplica) -> None:
        """Hands leadership to a replica."""
        status = await eventually(lambda: self.status(replica), f"{replica.name} answers")

        async def leads() -> bool:
            leader = await self.leader()
            if leader is not replica:
                with suppress(grpc.aio.AioRpcError):
                    request = self.transfer(status.member_id)
                    await self.admin(leader).TransferLeadership(request, timeout=5)
            return await self.leader() is replica

        await eventually(leads, f"{replica.name} leads")

    async def add(self, replica: LocalReplica) -> int:
        """Joins, adds as a learner, waits, promotes; returns the member's ID."""
        member = await self.begin_adding(replica)
        await self.finish_adding(member)
        return member

    async def begin_adding(self, replica: LocalReplica) -> int:
        """Joins a new volume and adds it as a learner."""
        joined = await self.admin(replica).Join(
            admin_api.JoinRequest(lease=self.lease, cluster_id=self.cluster)
        )
        learner = admin_api.AddLearnerRequest(
            lease=self.lease, member_id=joined.member_id, address=replica.address
        )
        await eventually(lambda: self._change("AddLearner", learner), f"{replica.name} added")
        return int(joined.member_id)

    async def finish_adding(self, member_id: int) -> None:
        """Waits until a learner can be promoted, and promotes it."""
        promote = admin_api.PromoteLearnerRequest(lease=self.lease, member_id=member_id)
        await eventually(lambda: self._change("PromoteLearner", promote), "promoted")

    async def _change(self, method: str, request: object) -> bool:
        leader = await self.leader()
        try:
            await getattr(self.admin(leader), method)(request, timeout=20)
            return True
        except grpc.aio.AioRpcError as error:
            if error.code() not in (grpc.StatusCode.ABORTED, grpc.StatusCode.UNAVAILABLE):
                raise
            return False

    async def leader(self) -> LocalReplica:
        async def find() -> LocalReplica | None:
            best: tuple[int, LocalReplica] | None = None
            for replica in self.replicas:
                if not replica.running:
                    continue
                status = await self.status(replica)
                if status is not None and status.serving:
                    if best is None or status.term > best[0]:
                        best = (status.term, replica)
            return best[1] if best else None

        return await eventually(find, "a leader serves")

    async def settled(self) -> int:
        """Waits until every running replica has applied the same; returns that LSN."""

        async def same() -> int | None:
            statuses = [await self.status(r) for r in self.replicas if r.running]
            found = {(s.applied, s.last_index, s.committed) for s in statuses if s is not None}
            if None in statuses or len(found) != 1:
                return None
            applied, last, committed = found.pop()
            return applied if applied == last == committed else None

        return await eventually(same, "all replicas have applied the same")


def describe(status: api.GetStatusResponse | None) -> str:
    return (
        "down"
        if status is None
        else json.dumps({"role": status.role, "term": status.term, "applied": status.applied})
    )


async def enable(group: LocalGroup) -> None:
    """Asks for replication until the replica says that it is on."""
    request = admin_api.EnableReplicationRequest(lease=group.lease)

    async def enabled() -> bool:
        try:
            found = await group.admin(group.replicas[0]).EnableReplication(request, timeout=5)
        except grpc.aio.AioRpcError as error:
            if error.code() != grpc.StatusCode.UNAVAILABLE:
                raise
            return False
        return bool(found.replicated)

    await eventually(enabled, "replication is enabled")


async def contents(group: LocalGroup, replica: LocalReplica) -> dict[bytes, bytes]:
    """Keys, and a digest of the tree's bytes, of what one replica has applied."""
    async with group.client() as client:
        found = {k: v async for k, v in client.list_keys(stale_from=replica.address)}
        found[b"<tree>"] = (await digest_tree(client, b"", stale_from=replica.address)).encode()
        return found


async def assert_equal(group: LocalGroup) -> None:
    await group.settled()
    found = [await contents(group, replica) for replica in group.replicas if replica.running]
    assert all(other == found[0] for other in found[1:])
