"""Certificates that end while a group runs, and files that are not what they should be."""

import asyncio
import datetime as dt
import subprocess
import sys
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest
from partition_client import AsyncClient, Tls, TlsRefused

from dev.ports import free_port
from tests.support.certificates import MountedCertificates
from tests.support.local_group import PARTITION, LocalGroup, eventually
from tests.support.proxy import ResettingProxy
from tests.support.tls_refusals import (
    Pki,
    expired_client,
    other_authority_of_the_client,
    young_client,
)
from tests.support.tls_refusals import pki as pki  # a fixture

LIFETIME = dt.timedelta(seconds=10)
RENEWED_EVERY_S = 2.0


async def keep_renewing(pki: MountedCertificates) -> None:
    while True:
        await asyncio.sleep(RENEWED_EVERY_S)
        await asyncio.to_thread(pki.renew)


async def follow(client: AsyncClient, found: list[int]) -> None:
    async for entry in client.tail(follow=True):
        found.append(entry.lsn)


async def test_a_group_and_its_clients_outlive_their_certificates(tmp_path: Path) -> None:
    """Every connection is reset when all certificates that anybody started with have ended: the
    peers', the client's with its append stream and its tail, and the operator's."""
    pki = MountedCertificates(tmp_path / "pki", PARTITION, 3, LIFETIME)
    group = LocalGroup(tmp_path, tls=pki.tls, tls_directories=pki.folders)
    for replica in group.replicas:
        replica.advertised_port = free_port()
    async with group, AsyncExitStack() as stack:
        proxies = [
            await stack.enter_async_context(ResettingProxy(r.advertised_port, r.port))
            for r in group.replicas
        ]
        renewing = asyncio.create_task(keep_renewing(pki))
        stack.callback(renewing.cancel)
        await group.bootstrap()
        client = await stack.enter_async_context(group.client(deadline_s=30.0))
        first = await client.set_key(b"a", b"1")
        seen: list[int] = []
        following = asyncio.create_task(follow(client, seen))
        stack.callback(following.cancel)
        started_with = dt.datetime.now(dt.UTC) + LIFETIME

        async def ended() -> bool:
            await client.set_key(b"a", b"2")
            return dt.datetime.now(dt.UTC) > started_with

        await eventually(ended, "the first certificates have ended")
        for proxy in proxies:
            proxy.arm(to_target=1)

        async def reset() -> bool:
            with suppress(Exception):
                await client.set_key(
                    b"a",
                    b"3",
                )
            return all(proxy.resets for proxy in proxies)

        await eventually(reset, "every connection was reset")
        last = await client.set_key(b"a", b"4")
        await group.settled()

        async def told() -> bool:
            return last.lsn in seen

        await eventually(told, "the tail goes on")
        assert first.lsn in seen
        assert seen == sorted(set(seen))
        assert not following.done()
        await group.lead(group.replicas[(group.replicas.index(await group.leader()) + 1) % 3])
        assert not renewing.done()


async def test_what_a_replica_tells_of_a_client_that_tls_refuses(pki: Pki, tmp_path: Path) -> None:
    """With GRPC_VERBOSITY=INFO, as docs/operations/certificates.md says."""
    group = LocalGroup(tmp_path, size=1, tls_directories={"replica-0": pki.server})
    replica = group.replicas[0]
    async with group:
        replica.start(GRPC_VERBOSITY="INFO")

        async def serves() -> bool:
            return replica.http("/livez")[0] == 200

        await eventually(serves, "it serves")
        for spoil, reason, cause in (
            (expired_client, "OWN_CERTIFICATE_EXPIRED", "certificate has expired"),
            (young_client, "OWN_CERTIFICATE_NOT_YET_VALID", "certificate is not yet valid"),
            (
                other_authority_of_the_client,
                "OWN_CERTIFICATE_REFUSED",
                "unable to get local issuer certificate",
            ),
        ):
            spoil(pki)
            before = replica.metric("logstore_tls_connections_total")
            async with AsyncClient([replica.address], Tls.in_directory(pki.client)) as client:
                with pytest.raises(TlsRefused) as caught:
                    await client.get_key(b"k")
            assert caught.value.reason == reason
            assert cause in replica.log.read_text()
            assert replica.metric("logstore_tls_connections_total") > before


def run(*command: str) -> tuple[int, str]:
    """(exit code, last line on standard error)."""
    done = subprocess.run(
        [sys.executable, "-m", *command], check=False, capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stderr.strip().splitlines()[-1]


def test_programs_name_a_file_that_is_half_written(tmp_path: Path) -> None:
    pki = MountedCertificates(tmp_path / "pki", PARTITION, 1, LIFETIME)
    replica, client = pki.folders["replica-0"], pki.tls["client"].certificate.parent
    (replica / "tls.key").write_bytes(b"")
    (client / "tls.crt").write_bytes(pki.authority.certificate[:100])
    serve = ["serve", "--data", str(tmp_path / "data"), "--advertise", "localhost:1"]
    serve += ["--http-listen", f"127.0.0.1:{free_port()}", "--partition", PARTITION]
    code, line = run("partition_replica", *serve, "--tls-dir", str(replica))
    assert code == 78
    assert line.startswith(f"FATAL: {replica}/tls.key is empty")
    assert not (tmp_path / "data").exists()
    code, line = run(
        "partition_replica", "inspect", "--address", "localhost:1", "--tls-dir", str(replica)
    )
    assert (code, "tls.key is empty" in line) == (1, True), line
    common = ["--endpoints", "localhost:1", "--tls-dir", str(client)]
    code, line = run("partition_client", *common, "get", "k")
    assert (code, f"{client}/tls.crt is incomplete" in line) == (1, True), line
