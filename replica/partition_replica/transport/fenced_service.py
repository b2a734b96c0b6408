"""What a fenced replica answers: its status, and the operator that ends the fence. All other calls
are refused, and tell the client to use another replica."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from partition_proto.v1 import log_store_pb2 as api
from partition_proto.v1 import log_store_pb2_grpc, replica_admin_pb2_grpc
from partition_proto.v1 import replica_admin_pb2 as admin

from partition_replica import __version__
from partition_replica.core.model import Fence
from partition_replica.errors import Deposed, InvalidArgument, Stopping
from partition_replica.transport.failures import Failures, abort, unary

ANSWERED = frozenset({"/logstore.v1.LogStore/GetStatus", "/logstore.v1.ReplicaAdmin/SetFenced"})
ROLE = "fenced"


class RefuseOthers(grpc.aio.ServerInterceptor):
    """Refuses every call but those of ANSWERED, also of methods that nobody implements."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        if handler_call_details.method in ANSWERED:
            return await continuation(handler_call_details)

        async def refuse(_: Any, context: Any) -> AsyncIterator[Any]:
            await abort(context, Stopping("this replica is fenced: use another replica"))
            yield  # never reached: makes this a generator, which the Authorizer iterates over

        return grpc.stream_stream_rpc_method_handler(refuse)


class FencedStatusService(log_store_pb2_grpc.LogStoreServicer):
    def __init__(self, fence: Fence) -> None:
        self._fence = fence

    async def GetStatus(self, request: api.GetStatusRequest, context: Any) -> Any:
        return api.GetStatusResponse(
            cluster_id=self._fence.cluster_id,
            member_id=self._fence.member_id,
            role=ROLE,
            version=__version__,
        )


class FencedAdminService(replica_admin_pb2_grpc.ReplicaAdminServicer):
    """lower: removes the fence durably, and lets the process serve again."""

    def __init__(
        self, fence: Fence, failures: Failures, lower: Callable[[], Awaitable[None]]
    ) -> None:
        self._fence = fence
        self._lower = lower
        self.failures = failures

    @unary
    async def SetFenced(self, request: admin.SetFencedRequest, context: Any) -> Any:
        if not request.HasField("lease") or not request.lease.holder:
            raise InvalidArgument("lease is missing, or its holder is empty")
        if request.lease.transitions < self._fence.transitions:
            raise Deposed(
                f"fencing token {request.lease.transitions} of {request.lease.holder} is below "
                f"{self._fence.transitions}: another operator is the leader now",
                self._fence.transitions,
            )
        if not request.fenced:
            await self._lower()
        return admin.SetFencedResponse()
