"""gRPC servers on loopback whose certificate files are renewed while they serve."""

import datetime as dt
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from partition_proto.connection import renewed
from partition_proto.connection.channel import RenewedChannel
from partition_proto.v1 import log_store_pb2 as api
from partition_proto.v1 import log_store_pb2_grpc
from partition_replica.config import TlsFiles
from partition_replica.transport.channels import add_port

from tests.support.certificates import MountedCertificates

PARTITION = "tests/group"
LIFETIME = dt.timedelta(seconds=3)


class Service(log_store_pb2_grpc.LogStoreServicer):
    """GetStatus answers; Append answers each request, as long as it is asked."""

    async def GetStatus(self, request: Any, context: Any) -> api.GetStatusResponse:
        return api.GetStatusResponse(role="leader", serving=True, member_id=1, term=1)

    async def Append(
        self, requests: AsyncIterator[api.AppendRequest], context: Any
    ) -> AsyncIterator[api.AppendResponse]:
        async for request in requests:
            yield api.AppendResponse(request_id=request.request_id)


def files(folder: Path) -> TlsFiles:
    return TlsFiles(folder / "tls.crt", folder / "tls.key", folder / "ca.crt")


@asynccontextmanager
async def served(folder: Path | None, listen: str = "localhost:0") -> AsyncIterator[int]:
    server = grpc.aio.server()
    log_store_pb2_grpc.add_LogStoreServicer_to_server(Service(), server)
    port = add_port(server, listen, None if folder is None else files(folder))
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


@pytest.fixture
def pki(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MountedCertificates:
    monkeypatch.setattr(renewed, "LOOK_S", 0.0)
    return MountedCertificates(tmp_path, PARTITION, 1, dt.timedelta(hours=1))


async def status(channel: grpc.aio.Channel) -> str:
    stub = log_store_pb2_grpc.LogStoreStub(channel)
    found = await stub.GetStatus(api.GetStatusRequest(), timeout=10)
    return str(found.role)


def generations(channel: RenewedChannel) -> int:
    """How many channels there are underneath."""
    return 1 + len(channel._old)
