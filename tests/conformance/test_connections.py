"""Channels: they outlive a certificate without losing a call, use no proxy, and survive files that
are not what they should be."""

import asyncio
import datetime as dt
import os
from contextlib import closing, suppress
from pathlib import Path

import grpc
import pytest
from aiohttp import web
from kubernetes.aio.config import kube_config
from partition_client.channels import open_channel
from partition_operator.api.partition import Partition
from partition_operator.clients.fencing import FencingToken
from partition_operator.clients.kube import Kube
from partition_operator.clients.replica import Replicas
from partition_operator.reconcile.observed.partition import ObservedPod
from partition_operator.resources import certificates
from partition_operator.resources.trust import Authority
from partition_proto.connection.pem import BadPem
from partition_proto.v1 import log_store_pb2 as api
from partition_proto.v1 import log_store_pb2_grpc
from partition_replica.transport.channels import add_port, peer_channel, peer_credentials

from tests.support.certificates import KnownAuthority, MountedCertificates, mount
from tests.support.local_group import eventually
from tests.support.renewed_servers import LIFETIME, Service, files, generations, served, status
from tests.support.renewed_servers import pki as pki  # a fixture

POD_IP = f"127.77.{os.getpid() // 250 % 250}.{os.getpid() % 250 + 1}"
"""The operator dials pods at one port: an address of this process's own keeps it free."""


async def test_a_call_under_way_ends_on_the_channel_it_began_on(pki: MountedCertificates) -> None:
    async with served(pki.folders["replica-0"]) as port:
        async with open_channel(f"localhost:{port}", pki.tls["client"]) as channel:
            stub = log_store_pb2_grpc.LogStoreStub(channel)
            call = stub.Append()
            await call.write(api.AppendRequest(request_id=1))
            assert (await call.read()).request_id == 1
            pki.renew()
            assert await status(channel) == "leader"
            assert generations(channel) == 2
            await call.write(api.AppendRequest(request_id=2))
            assert (await call.read()).request_id == 2
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF

            async def closed() -> bool:
                return generations(channel) == 1

            await eventually(closed, "the old channel is closed after its last call")
            again = stub.Append()
            await again.write(api.AppendRequest(request_id=3))
            assert (await again.read()).request_id == 3
            again.cancel()


async def test_files_that_are_half_written_are_not_used(pki: MountedCertificates) -> None:
    heard: list[BadPem | None] = []
    folder = pki.tls["client"].certificate.parent
    whole = {name: (folder / name).read_bytes() for name in ("tls.crt", "tls.key", "ca.crt")}
    async with served(pki.folders["replica-0"]) as port:
        credentials = peer_credentials(files(folder), heard.append)
        async with peer_channel(f"localhost:{port}", credentials) as channel:
            for name, content in whole.items():
                for broken in (b"", content[: len(content) // 2]):
                    (folder / name).write_bytes(broken)
                    assert await status(channel) == "leader"
                    assert await status(channel) == "leader"
                    problem = heard.pop()
                    assert heard == []
                    assert name in str(problem)
                    (folder / name).write_bytes(content)
                    assert await status(channel) == "leader"
                    assert heard == [None]
                    heard.clear()
            assert generations(channel) == 1
            (folder / "ca.crt").unlink()
            assert await status(channel) == "leader"
            assert "ca.crt" in str(heard.pop())


async def test_a_server_keeps_what_it_has_while_its_files_are_half_written(
    pki: MountedCertificates, tmp_path: Path
) -> None:
    folder = pki.folders["replica-0"]
    heard: list[BadPem | None] = []
    server = grpc.aio.server()
    log_store_pb2_grpc.add_LogStoreServicer_to_server(Service(), server)
    port = add_port(server, "localhost:0", files(folder), heard.append)
    await server.start()
    try:
        whole = (folder / "tls.crt").read_bytes()
        for content in (b"", whole[:300]):
            (folder / "tls.crt").write_bytes(content)
            async with open_channel(f"localhost:{port}", pki.tls["client"]) as channel:
                assert await status(channel) == "leader"
            assert "tls.crt" in str(heard[-1])
        (folder / "tls.crt").write_bytes(whole)
        async with open_channel(f"localhost:{port}", pki.tls["client"]) as channel:
            assert await status(channel) == "leader"
        assert heard[-1] is None
    finally:
        await server.stop(None)


async def test_a_channel_is_not_made_of_files_that_are_empty(pki: MountedCertificates) -> None:
    folder = pki.tls["client"].certificate.parent
    (folder / "tls.crt").write_bytes(b"")
    with pytest.raises(BadPem, match=r"tls\.crt is empty"):
        open_channel("localhost:1", pki.tls["client"])
    with pytest.raises(BadPem, match=r"tls\.crt is empty"):
        peer_channel("localhost:1", peer_credentials(files(folder)))


# --- the operator -----------------------------------------------------------------------------


def partition() -> Partition:
    return Partition("tests", "group", "uid", 1, deleting=False, body={})


def replicas(authority: certificates.KeyPair, lifetimes: certificates.Lifetimes) -> Replicas:
    token = FencingToken("tests", 1)
    return Replicas(KnownAuthority(Authority(authority)), token, 5.0, lifetimes)


async def test_the_operator_outlives_its_certificates(tmp_path: Path) -> None:
    """It talks to a replica that is restarted when the operator's first certificate has ended."""
    lifetimes = certificates.Lifetimes(certificate=LIFETIME, renew_before=LIFETIME / 2)
    now = dt.datetime.now(dt.UTC)
    authority = certificates.make_authority(now)
    pair = certificates.issue_for(partition(), "replica", authority, now, certificates.Lifetimes())
    folder = mount(tmp_path / "replica", pair, authority.certificate)
    pod = ObservedPod(0, POD_IP, ready=True, deleting=False)
    found = replicas(authority, lifetimes)
    try:
        async with served(folder, f"{POD_IP}:7000"):
            assert await found.status(partition(), pod) is not None
            ended = dt.datetime.now(dt.UTC) + LIFETIME

        async def over() -> bool:
            return dt.datetime.now(dt.UTC) > ended

        await eventually(over, "the first certificate has ended")
        async with served(folder, f"{POD_IP}:7000"):

            async def answers() -> bool:
                return await found.status(partition(), pod) is not None

            await eventually(answers, "the replica answers", within_s=10)
            assert found.refused(partition(), [pod]) == {}
    finally:
        await found.close()


async def test_the_operator_names_a_replica_that_does_not_accept_it(tmp_path: Path) -> None:
    now = dt.datetime.now(dt.UTC)
    ours, other = certificates.make_authority(now), certificates.make_authority(now)
    lifetimes = certificates.Lifetimes()
    pair = certificates.issue_for(partition(), "replica", ours, now, lifetimes)
    folder = mount(tmp_path / "replica", pair, other.certificate)
    pod = ObservedPod(0, POD_IP, ready=True, deleting=False)
    found = replicas(ours, lifetimes)
    try:
        async with served(folder, f"{POD_IP}:7000"):
            assert await found.status(partition(), pod) is None
            assert "OWN_CERTIFICATE_REFUSED" in found.refused(partition(), [pod])[0]
        mount(folder, pair, ours.certificate)
        async with served(folder, f"{POD_IP}:7000"):

            async def answers() -> bool:
                return await found.status(partition(), pod) is not None

            await eventually(answers, "the replica answers", within_s=10)
            assert found.refused(partition(), [pod]) == {}
    finally:
        await found.close()


# --- proxies ----------------------------------------------------------------------------------


class Proxy:
    """Takes connections, remembers the first line of each, and closes them."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []

    async def __aenter__(self) -> "Proxy":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer):
            self.asked.append(await reader.readline())


async def test_nobody_uses_a_proxy_unasked(
    pki: MountedCertificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "no_grpc_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    folder = pki.folders["replica-0"]
    async with served(folder) as port, Proxy() as proxy:
        for name in ("grpc_proxy", "https_proxy", "http_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        # Proxies of the environment are not used for localhost by everybody: the name matters not.
        address = f"localhost:{port}"
        async with peer_channel(address, peer_credentials(files(folder))) as channel:
            assert await status(channel) == "leader"
        async with open_channel(address, pki.tls["client"]) as channel:
            assert await status(channel) == "leader"
        assert proxy.asked == []
        async with open_channel(address, pki.tls["client"], use_proxy=True) as channel:
            with pytest.raises(grpc.aio.AioRpcError):
                await status(channel)
        assert proxy.asked[0].startswith(b"CONNECT ")


async def test_the_operator_uses_no_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, lifetimes = dt.datetime.now(dt.UTC), certificates.Lifetimes()
    authority = certificates.make_authority(now)
    pair = certificates.issue_for(partition(), "replica", authority, now, lifetimes)
    folder = mount(tmp_path / "replica", pair, authority.certificate)
    for name in ("no_proxy", "no_grpc_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    async with served(folder, f"{POD_IP}:7000"), Proxy() as proxy:
        for name in ("grpc_proxy", "https_proxy", "http_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        found = replicas(authority, lifetimes)
        pod = ObservedPod(0, POD_IP, ready=True, deleting=False)
        assert await found.status(partition(), pod) is not None
        assert proxy.asked == []
        await found.close()


async def test_the_api_server_is_reached_without_a_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"kind": "Secret", "data": {}})

    app = web.Application()
    app.router.add_get("/api/v1/namespaces/n/secrets/s", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
    kubeconfig = tmp_path / "config"
    kubeconfig.write_text(
        f"""\
apiVersion: v1
kind: Config
current-context: c
clusters: [{{name: c, cluster: {{server: "http://127.0.0.1:{port}"}}}}]
users: [{{name: c, user: {{}}}}]
contexts: [{{name: c, context: {{cluster: c, user: c}}}}]
"""
    )
    # KUBECONFIG is read when the library is imported.
    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(kubeconfig))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    async with Proxy() as proxy:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        kube = await Kube.connect(10.0)
        try:
            assert await kube.get("Secret", "n", "s") == {"kind": "Secret", "data": {}}
        finally:
            await kube.close()
            await runner.cleanup()
        assert proxy.asked == []


class Slow:
    """Passes connections on to a port, each answer late by `delay_s`: a far network."""

    def __init__(self, target: int, delay_s: float) -> None:
        self._target = target
        self._delay_s = delay_s
        self.connections = 0

    async def __aenter__(self) -> int:
        self._server = await asyncio.start_server(self._accept, "localhost", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        far = await asyncio.open_connection("localhost", self._target)
        await asyncio.gather(
            self._pass(reader, far[1], 0.0), self._pass(far[0], writer, self._delay_s)
        )

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float
    ) -> None:
        with closing(writer), suppress(OSError):
            while data := await reader.read(65_536):
                await asyncio.sleep(delay_s)
                writer.write(data)


async def test_a_slow_handshake_is_waited_for(pki: MountedCertificates) -> None:
    """At the first try: a call that does not wait for the channel fails with the first try."""
    folder = pki.folders["replica-0"]
    async with served(folder) as port:
        for make in (
            lambda address: open_channel(address, pki.tls["client"]),
            lambda address: peer_channel(address, peer_credentials(files(folder))),
        ):
            async with Slow(port, 0.15) as slow, make(f"localhost:{slow}") as channel:
                assert await status(channel) == "leader"
