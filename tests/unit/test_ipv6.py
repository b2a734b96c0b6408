"""Pods with IPv6 addresses: the operator dials them, and replicas listen on both families."""

import datetime as dt
import socket

import aiohttp
import grpc
import pytest
from partition_operator.api import names
from partition_operator.clients.fencing import FencingToken
from partition_operator.clients.pod_progress import ask_progress
from partition_operator.clients.replica import Replicas
from partition_operator.reconcile.observed.progress import JobProgress
from partition_operator.resources import statefulset
from partition_operator.resources.certificates import (
    identity,
    issue,
    make_authority,
    replica_hosts,
)
from partition_operator.resources.trust import Authority
from partition_proto.connection import handshake
from partition_proto.v1 import log_store_pb2 as api
from partition_proto.v1 import log_store_pb2_grpc
from partition_replica.__main__ import parse
from partition_replica.config import ReplicaConfig
from partition_replica.transport import sockets
from partition_replica.transport.http import serve_http
from partition_replica.transport.listening import parse_listen
from partition_replica.transport.progress import served_progress
from prometheus_client import CollectorRegistry

from dev.ports import free_port
from tests.support.certificates import KnownAuthority
from tests.support.partition_views import partition, pod

BOTH = ("127.0.0.1", "::1")


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


class Service(log_store_pb2_grpc.LogStoreServicer):
    async def GetStatus(self, request: object, context: object) -> api.GetStatusResponse:
        return api.GetStatusResponse(cluster_id="c", role="leader")


@needs_ipv6
@pytest.mark.parametrize("ip", BOTH)
async def test_the_operator_dials_either_family(ip: str, monkeypatch: pytest.MonkeyPatch) -> None:
    now = dt.datetime.now(dt.UTC)
    authority, found = make_authority(now), partition()
    pair = issue(authority, identity("ns", "part", "replica"), replica_hosts(found), now)
    keys = [(pair.key, pair.certificate)]
    server = grpc.aio.server()
    log_store_pb2_grpc.add_LogStoreServicer_to_server(Service(), server)
    credentials = grpc.ssl_server_credentials(keys, authority.certificate, True)
    port = server.add_secure_port(names.endpoint(ip, 0), credentials)
    monkeypatch.setattr(names, "GRPC_PORT", port)
    await server.start()
    replicas = Replicas(KnownAuthority(Authority(authority)), FencingToken("test", 0), 5.0)
    try:
        status = await replicas.status(found, pod(0, ip=ip))
        assert status is not None
        assert status.role == "leader"
    finally:
        await replicas.close()
        await server.stop(0)


async def test_the_reason_of_a_failure_is_looked_for_at_the_same_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(handshake, "refusal", lambda address, *_: asked.append(address))
    authority = Authority(make_authority(dt.datetime.now(dt.UTC)))
    replicas = Replicas(KnownAuthority(authority), FencingToken("test", 0), 5.0)
    for ip in ("10.0.0.7", "fd00::7"):
        await replicas._look_for_refusal(partition(), pod(0, ip=ip), grpc.StatusCode.UNAVAILABLE)
    await replicas.close()
    assert asked == ["10.0.0.7:7000", "[fd00::7]:7000"]


def flags() -> dict[str, str]:
    found = partition()
    template = statefulset.build(found, found.spec(), 3, "image:1")["spec"]["template"]
    arguments = template["spec"]["containers"][0]["args"]
    return dict(word.removeprefix("--").split("=", 1) for word in arguments if "=" in word)


@needs_ipv6
@pytest.mark.parametrize("ip", BOTH)
async def test_replicas_listen_on_both_families(ip: str) -> None:
    port = free_port()
    listen = flags()["http-listen"].replace(str(names.HTTP_PORT), str(port))
    runner = await serve_http(
        listen, ready=lambda: (True, ""), measure=lambda: None, registry=CollectorRegistry()
    )
    server = grpc.aio.server()
    grpc_port = server.add_insecure_port(flags()["listen"].replace(str(names.GRPC_PORT), "0"))
    await server.start()
    raft = sockets.listening(flags()["raft-listen"].replace(str(names.RAFT_PORT), "0"))
    try:
        for one in raft:
            socket.create_connection((ip, one.getsockname()[1]), timeout=5).close()
        async with (
            aiohttp.ClientSession(trust_env=False) as session,
            session.get(f"http://{names.endpoint(ip, port)}/livez") as response,
        ):
            assert response.status == 200
        socket.create_connection((ip, grpc_port), timeout=5).close()
    finally:
        await server.stop(0)
        await runner.cleanup()
        for one in raft:
            one.close()


@needs_ipv6
def test_a_host_with_two_addresses_has_one_port_for_both(monkeypatch: pytest.MonkeyPatch) -> None:
    both = [info for ip in BOTH for info in socket.getaddrinfo(ip, 0, type=socket.SOCK_STREAM)]
    with monkeypatch.context() as patched:
        patched.setattr(socket, "getaddrinfo", lambda *_, **__: both)
        listening = sockets.listening("both:0")
    try:
        (port,) = {one.getsockname()[1] for one in listening}
        for ip in BOTH:
            socket.create_connection((ip, port), timeout=5).close()
    finally:
        for one in listening:
            one.close()


@needs_ipv6
async def test_a_restoring_pod_says_its_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setattr(names, "HTTP_PORT", port)
    # As $(POD_IP):PORT reads with such an IP.
    async with served_progress(f"::1:{port}", lambda: ("Restoring", 50)):
        seen = await ask_progress({"status": {"phase": "Running", "podIP": "::1"}})
    assert seen == JobProgress("Restoring", 50)


@pytest.mark.parametrize(
    ("listen", "wanted"),
    [
        ("0.0.0.0:1", (None, 1)),
        ("[::]:1", (None, 1)),
        (":1", (None, 1)),
        ("127.0.0.1:1", ("127.0.0.1", 1)),
        ("[fd00::1]:1", ("fd00::1", 1)),
        ("fd00::1:1", ("fd00::1", 1)),
    ],
)
def test_listen(listen: str, wanted: tuple[str | None, int]) -> None:
    assert parse_listen(listen) == wanted


@pytest.mark.parametrize("listen", ["", "7080", "localhost", "localhost:http"])
def test_what_is_no_address_is_refused(listen: str) -> None:
    with pytest.raises(ValueError, match="expected HOST:PORT"):
        parse_listen(listen)


def test_both_families_are_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PARTITION_LISTEN", "PARTITION_HTTP_LISTEN"):
        monkeypatch.delenv(name, raising=False)
    words = ["serve", "--insecure", "--data=/d", "--advertise=a:1", "--partition=n/p"]
    config = parse(words)
    assert isinstance(config, ReplicaConfig)
    assert (config.listen, config.http_listen) == ("[::]:7000", "[::]:7080")
