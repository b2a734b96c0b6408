"""Clients of the operator's list at a real replica: their rights, and how they end."""

import asyncio
import datetime as dt
import hashlib
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import pytest
from partition_client import AsyncClient, OutcomeUnknown, Tls, TlsRefused
from partition_client.channels import open_channel
from partition_operator.resources import clients
from partition_operator.resources.certificates import identity, issue
from partition_operator.resources.clients import Entry
from partition_proto.v1 import replica_admin_pb2 as admin_api
from partition_proto.v1 import replica_admin_pb2_grpc

from tests.support.certificates import MountedCertificates, mount
from tests.support.local_group import PARTITION, LocalGroup, eventually

RIGHTS = {"reader": "Read", "writer": "Write", "chief": "Admin"}


def files(pki: MountedCertificates, root: Path, name: str, drawn: str = "1d") -> Tls:
    namespace, _, group = PARTITION.partition("/")
    party = identity(namespace, group, f"client/{name}/{drawn}")
    pair = issue(pki.authority, party, [], dt.datetime.now(dt.UTC))
    return Tls.in_directory(mount(root / f"{name}-{drawn}", pair, pki.authority.certificate))


def allow(pki: MountedCertificates, **rights: str) -> None:
    """Writes the list as the kubelet does: beside the certificate, by one rename."""
    entries = [Entry(name, "1d", given, 1) for name, given in rights.items()]
    for folder in pki.folders.values():
        made = folder / "made"
        made.write_bytes(clients.content(entries))
        made.rename(folder / "clients.json")


async def follow(client: AsyncClient, found: list[int]) -> None:
    async for entry in client.tail(follow=True):
        found.append(entry.lsn)


async def test_rights_and_their_end(tmp_path: Path) -> None:
    pki = MountedCertificates(tmp_path / "pki", PARTITION, 1, dt.timedelta(days=1))
    group = LocalGroup(tmp_path, size=1, tls=pki.tls, tls_directories=pki.folders)
    (replica,) = group.replicas
    async with group, AsyncExitStack() as stack:
        allow(pki, **RIGHTS)
        await group.bootstrap()

        async def connect(name: str, drawn: str = "1d") -> AsyncClient:
            tls = files(pki, tmp_path / "clients", name, drawn)
            return await stack.enter_async_context(
                AsyncClient([replica.address], tls, deadline_s=30.0)
            )

        reader, writer, chief = [await connect(name) for name in RIGHTS]
        await writer.set_key(b"k", b"1")
        assert await reader.get_key(b"k") == b"1"
        with pytest.raises(TlsRefused, match="client reader has the rights Read") as caught:
            await reader.set_key(b"k", b"2")
        assert caught.value.reason == "PERMISSION_DENIED"
        with pytest.raises(TlsRefused, match="was revoked: take the current files of Secret"):
            await (await connect("writer", "0ld")).get_key(b"k")

        # Admin needs no fencing token of an operator; the others may not even ask.
        for name, code in (("chief", None), ("writer", grpc.StatusCode.PERMISSION_DENIED)):
            tls = files(pki, tmp_path / "admins", name)
            channel = open_channel(replica.address, tls)
            stack.push_async_callback(channel.close)
            stub = replica_admin_pb2_grpc.ReplicaAdminStub(channel)
            try:
                await stub.GetSnapshotJob(admin_api.GetSnapshotJobRequest(job_id="none"))
                found = None
            except grpc.aio.AioRpcError as error:
                found = error.code()
            assert (found == grpc.StatusCode.PERMISSION_DENIED) == (code is not None)
        await chief.set_key(b"k", b"3")

        # A client that is revoked loses its open streams, too; the shared certificate stays.
        seen: list[int] = []
        tail = asyncio.create_task(follow(reader, seen))
        stack.callback(tail.cancel)

        async def follows() -> bool:
            return bool(seen)

        await eventually(follows, "the reader follows")
        allow(pki, writer="Read")

        async def refused() -> bool:
            try:
                await writer.set_key(b"k", b"4")
            except (OutcomeUnknown, TlsRefused) as error:
                # Unknown to the client: the stream that ended had taken frames before.
                return "client writer has the rights Read" in str(error)
            return False

        await eventually(refused, "the writer may not write any more")
        shared = await stack.enter_async_context(group.client(deadline_s=30.0))
        await shared.set_key(b"k", b"5")
        with pytest.raises(TlsRefused, match="no client reader"):
            await asyncio.wait_for(tail, 30)
        assert await writer.get_key(b"k") == b"5"

        status = await group.status(replica)
        assert status is not None
        content = (pki.folders["replica-0"] / "clients.json").read_bytes()
        assert status.tls.clients == hashlib.sha256(content).hexdigest()
        assert status.tls.refused_calls > 0
        assert "reader" in status.tls.refused_last or "writer" in status.tls.refused_last
        assert replica.metric("logstore_refused_total", reason="PERMISSION_DENIED") > 0
        assert "may not call" in replica.log.read_text()
