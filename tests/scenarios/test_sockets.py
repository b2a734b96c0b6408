"""A replica's Unix domain socket: a program beside it calls as a client, and finds the leader."""

import stat
from pathlib import Path

import grpc
import pytest
from partition_client import AsyncClient
from partition_client.channels import open_channel
from partition_client.errors import TlsRefused
from partition_proto.v1 import log_store_pb2 as api
from partition_proto.v1 import log_store_pb2_grpc, replica_admin_pb2_grpc

from tests.support import certificates
from tests.support.local_group import PARTITION, LocalGroup, eventually

pytestmark = pytest.mark.timeout(180)


async def test_a_program_beside_a_replica_reads_there_and_writes_at_the_leader(
    tmp_path: Path,
) -> None:
    tls, folders = certificates.make(tmp_path / "pki", PARTITION, 3)
    group = LocalGroup(tmp_path, tls=tls, tls_directories=folders)
    socket = tmp_path / "s"
    here = f"unix:{socket}"
    beside = group.replicas[1]
    beside.environment = {"PARTITION_SOCKET": here}
    async with group:
        await group.bootstrap()
        await group.lead(group.replicas[0])
        assert stat.S_IMODE(socket.stat().st_mode) == 0o660, "its owner and its group"

        async with AsyncClient([here], tls["client"]) as client:
            await client.set_key(b"a", b"1")
            assert client._routing.leader == group.replicas[0].address
            assert await client.get_key(b"a") == b"1"

            # Now the leader is the one beside.
            await group.lead(beside)

            async def local() -> bool:
                await client.set_key(b"a", b"2")
                return client._routing.leader == here

            await eventually(local, "the client writes through the socket")

            # A process that is killed leaves its socket behind.
            beside.kill()
            assert socket.exists()
            await client.close()
        await group.start(beside)
        await group.settled()
        async with AsyncClient([here], tls["client"]) as client:
            assert await client.get_key(b"a", stale_from=here) == b"2"

        # Without a certificate: only the replica beside can be read.
        await group.lead(group.replicas[0])
        async with AsyncClient([here], deadline_s=10) as client:
            assert await client.get_key(b"a", stale_from=here) == b"2"
            with pytest.raises(TlsRefused, match="requires TLS"):
                await client.set_key(b"a", b"3")


async def test_the_socket_is_for_clients_alone(tmp_path: Path) -> None:
    tls, folders = certificates.make(tmp_path / "pki", PARTITION, 1)
    group = LocalGroup(tmp_path, size=1, tls=tls, tls_directories=folders)
    group.replicas[0].arguments += ["--socket", f"unix:{tmp_path}/s"]
    async with group:
        await group.bootstrap()
        channel = open_channel(f"unix:{tmp_path}/s", None)
        try:
            log_store = log_store_pb2_grpc.LogStoreStub(channel)
            assert (await log_store.GetStatus(api.GetStatusRequest())).role == "leader"
            admin = replica_admin_pb2_grpc.ReplicaAdminStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await admin.TransferLeadership(group.transfer())
            assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED
        finally:
            await channel.close()
        assert group.replicas[0].terminate() == 0

        # Something else is there: the replica says so, and removes nothing.
        (tmp_path / "s").write_text("mine")
        group.replicas[0].start()
        assert group.replicas[0].wait_exit() == 70
        last = group.replicas[0].log.read_text().splitlines()[-1]
        assert (
            last == f"FATAL: FileExistsError: {tmp_path}/s is not a socket: remove it, or set "
            "another --socket"
        )
        assert (tmp_path / "s").read_text() == "mine"
