"""Calls a running replica over gRPC for what the commands show of a stopped replica's volume."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from partition_proto.connection import handshake, pem
from partition_proto.connection.channel import credentials_of
from partition_proto.v1 import (
    inspection_pb2,
    inspection_pb2_grpc,
    log_store_pb2,
    log_store_pb2_grpc,
)

from partition_replica.config import TlsFiles
from partition_replica.core.model import LogEntry, VerifyReport
from partition_replica.errors import InvalidArgument
from partition_replica.ids import LSN, Term
from partition_replica.transport.channels import CLIENT_MESSAGE_BYTES_MAX

CALL_S = 30.0


class RemoteReplica:
    """Blocking calls to one replica."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._log_store = log_store_pb2_grpc.LogStoreStub(channel)
        self._inspection = inspection_pb2_grpc.InspectionStub(channel)

    def status(self) -> log_store_pb2.GetStatusResponse:
        found: log_store_pb2.GetStatusResponse = self._log_store.GetStatus(
            log_store_pb2.GetStatusRequest(), timeout=CALL_S
        )
        return found

    def consumers(self) -> dict[str, int]:
        found = self._log_store.ListConsumers(log_store_pb2.ListConsumersRequest(), timeout=CALL_S)
        return {consumer.name: consumer.lsn for consumer in found.consumers}

    def entries(self, lo: int, hi: int) -> Iterator[LogEntry]:
        """Applied entries of [lo, hi); without the data of configuration changes."""
        request = log_store_pb2.ReadRequest(from_lsn=lo, to_lsn=hi)
        for found in self._log_store.Read(request):
            data = found.body.SerializeToString() if found.HasField("body") else b""
            kind = 1 if found.configuration_change else 0
            yield LogEntry(LSN(found.lsn), Term(found.term), kind, data)

    def verify(self, progress: Any) -> VerifyReport:
        """Verifies the replica's volume; calls `progress(step, done, total)` meanwhile."""
        for found in self._inspection.Verify(inspection_pb2.VerifyRequest()):
            if found.HasField("report"):
                report = found.report
                return VerifyReport(
                    list(report.findings), list(report.unchecked), dict(report.counts)
                )
            progress(found.step, found.done, found.total)
        raise InvalidArgument("the replica ended the verification without a report: try again")


@contextmanager
def connect(address: str, tls: TlsFiles | None, server_name: str) -> Iterator[RemoteReplica]:
    """Opens a channel to the replica at `address`. `server_name`: the name in the replica's
    certificate, if it differs from the host of `address`. Raises InvalidArgument if TLS does not
    work with these files."""
    options: list[tuple[str, Any]] = [
        ("grpc.max_receive_message_length", CLIENT_MESSAGE_BYTES_MAX),
        ("grpc.enable_http_proxy", 0),
    ]
    if server_name:
        options.append(("grpc.ssl_target_name_override", server_name))
    try:
        found = pem.read(tls)[0] if tls is not None else None
    except pem.BadPem as error:
        raise InvalidArgument(str(error)) from error
    channel = (
        grpc.insecure_channel(address, options=options)
        if found is None
        else grpc.secure_channel(address, credentials_of(found), options=options)
    )
    with channel:
        try:
            yield RemoteReplica(channel)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            refusal = handshake.refusal(address, found, server_name)
            if refusal is None:
                raise
            raise InvalidArgument(f"{refusal.reason}: {refusal.message}") from error
