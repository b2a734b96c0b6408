"""The Inspection service, which verifies the volume of a running replica."""

from collections.abc import AsyncGenerator
from typing import Any

from partition_proto.v1 import inspection_pb2 as api
from partition_proto.v1 import inspection_pb2_grpc

from partition_replica.core.model import VerifyReport
from partition_replica.core.services import InspectionService
from partition_replica.transport.failures import Failures, stream


class InspectionGrpcService(inspection_pb2_grpc.InspectionServicer):
    """Translates between gRPC messages and the replica's InspectionService."""

    def __init__(self, inspection: InspectionService, failures: Failures) -> None:
        self._inspection = inspection
        self.failures = failures

    @stream
    async def Verify(
        self, request: api.VerifyRequest, context: Any
    ) -> AsyncGenerator[api.VerifyResponse, None]:
        async for item in self._inspection.verify():
            if isinstance(item, VerifyReport):
                report = api.VerifyReport(
                    findings=item.findings, unchecked=item.unchecked, counts=item.counts
                )
                yield api.VerifyResponse(report=report)
            else:
                yield api.VerifyResponse(step=item[0], done=item[1], total=item[2])
