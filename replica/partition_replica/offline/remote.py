"""A running replica, asked over gRPC for what the commands show of a stopped one's volume."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
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
from partition_replica.transport.channels import CLIENT_MESSAGE_BYTES_MAX, client_credentials

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
        """`progress(step, done, total)` as it goes."""
        for found in self._inspection.Verify(inspection_pb2.VerifyRequest()):
            if found.HasField("report"):
                report = found.report
                return VerifyReport(
                    list(report.findings), list(report.unchecked), dict(report.counts)
                )
            progress(found.step, found.done, found.total)
        raise InvalidArgument("the replica ended the verification without a report")


@contextmanager
def connect(address: str, tls: TlsFiles | None, server_name: str) -> Iterator[RemoteReplica]:
    """`server_name`: the name in the replica's certificate, where it is dialled by another."""
    options: list[tuple[str, Any]] = [("grpc.max_receive_message_length", CLIENT_MESSAGE_BYTES_MAX)]
    if server_name:
        options.append(("grpc.ssl_target_name_override", server_name))
    channel = (
        grpc.insecure_channel(address, options=options)
        if tls is None
        else grpc.secure_channel(address, client_credentials(tls), options=options)
    )
    with channel:
        yield RemoteReplica(channel)
