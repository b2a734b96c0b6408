"""`python -m tests.benchmarks.replica_channels`: what the operator's connections to replicas cost.

A process of its own answers GetStatus for 100 replicas of as many Partitions, over mutual TLS on
loopback. This one asks them with the operator's client. It prints memory and processor time per
replica, which many_partitions leaves out.
"""

import asyncio
import datetime as dt
import os
import subprocess
import sys
import time
from pathlib import Path

import grpc
from partition_operator.api import names
from partition_operator.clients.fencing import FencingToken
from partition_operator.clients.replica import Replicas
from partition_operator.reconcile.observed.partition import ObservedPod
from partition_operator.resources.certificates import identity, issue, make_authority
from partition_operator.resources.trust import Authority
from partition_operator.turns.partition import Seen
from partition_proto.v1 import log_store_pb2 as api
from partition_proto.v1 import log_store_pb2_grpc

from dev.ports import free_port
from tests.support.certificates import KnownAuthority

COUNT = 100
ROUNDS = 30
NAMESPACE = "many"


class Answering(log_store_pb2_grpc.LogStoreServicer):
    async def GetStatus(self, request: object, context: object) -> api.GetStatusResponse:
        member = api.MemberStatus(member_id=1, address="part-0", recently_active=True)
        return api.GetStatusResponse(cluster_id="c", member_id=1, role="leader", members=[member])


async def answer(port: int) -> None:
    """Serves with the files' content on standard input: key, certificate, authority."""
    key, certificate, authority = sys.stdin.buffer.read().split(b"\0")
    server = grpc.aio.server()
    log_store_pb2_grpc.add_LogStoreServicer_to_server(Answering(), server)
    credentials = grpc.ssl_server_credentials(
        [(key, certificate)], root_certificates=authority, require_client_auth=True
    )
    server.add_secure_port(f"0.0.0.0:{port}", credentials)
    await server.start()
    await server.wait_for_termination()


def resident_kib() -> int:
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


async def ask(port: int, authority: Authority) -> None:
    names.GRPC_PORT = port
    replicas = Replicas(KnownAuthority(authority), FencingToken("bench", 1), 30.0)
    # Each has an address of its own, as pods do.
    pods = [ObservedPod(0, f"127.0.{n // 250}.{n % 250 + 1}", True, False) for n in range(COUNT)]
    partitions = [Seen(NAMESPACE, f"part-{n}", (), ()) for n in range(COUNT)]
    pairs = list(zip(partitions, pods, strict=True))
    while await replicas.status(*pairs[0]) is None:
        await asyncio.sleep(0.1)
    before = resident_kib()
    for partition, pod in pairs:
        assert await replicas.status(partition, pod) is not None
    memory = (resident_kib() - before) / (COUNT - 1)
    began = time.process_time()
    for _ in range(ROUNDS):
        assert all(await asyncio.gather(*(replicas.status(*pair) for pair in pairs)))
    took_ms = 1000 * (time.process_time() - began) / ROUNDS / COUNT
    print(f"{memory:.0f} KiB per replica, {took_ms:.2f} ms of a core per request", end=" ")
    print(f"(load {os.getloadavg()[0]:.1f})")
    await replicas.close()


def main() -> None:
    if len(sys.argv) > 1:
        asyncio.run(answer(int(sys.argv[1])))
        return
    now, port = dt.datetime.now(dt.UTC), free_port()
    authority = make_authority(now)
    hosts = [names.host(f"part-{n}", NAMESPACE, 0) for n in range(COUNT)]
    pair = issue(authority, identity(NAMESPACE, "part", "replica"), hosts, now)
    given = b"\0".join((pair.key, pair.certificate, authority.certificate))
    command = [sys.executable, "-m", "tests.benchmarks.replica_channels", str(port)]
    server = subprocess.Popen(command, stdin=subprocess.PIPE)
    assert server.stdin is not None
    server.stdin.write(given)
    server.stdin.close()
    try:
        asyncio.run(ask(port, Authority(authority)))
    finally:
        server.kill()
        server.wait()


if __name__ == "__main__":
    main()
