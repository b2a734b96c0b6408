"""The ReplicaAdmin service, which the operator calls."""

import uuid
from collections.abc import Callable
from typing import Any

from partition_proto.v1 import replica_admin_pb2 as api
from partition_proto.v1 import replica_admin_pb2_grpc
from partition_proto.v1 import types_pb2 as types

from partition_replica.core.services import (
    AdministrationService,
    RecoveryService,
    SnapshotJobService,
)
from partition_replica.errors import InvalidArgument
from partition_replica.transport.failures import Failures, unary


class ReplicaAdminService(replica_admin_pb2_grpc.ReplicaAdminServicer):
    """Each command of the operator first checks its fencing token. Reads need no token."""

    def __init__(
        self,
        administration: AdministrationService,
        snapshot_jobs: SnapshotJobService,
        recoveries: RecoveryService,
        failures: Failures,
        is_client: Callable[[Any], bool] = lambda _: False,
    ) -> None:
        """is_client: whether the caller of a context is a client with the rights Admin. It has no
        fencing token, because it is no operator that another one could replace."""
        self._is_client = is_client
        self._administration = administration
        self._snapshot_jobs = snapshot_jobs
        self._recoveries = recoveries
        self.failures = failures

    @unary
    async def Bootstrap(self, request: api.BootstrapRequest, context: Any) -> Any:
        await self._check(request, context)
        member = await self._administration.bootstrap(
            _cluster(request.cluster_id), standalone=request.standalone
        )
        return api.BootstrapResponse(member_id=member)

    @unary
    async def Join(self, request: api.JoinRequest, context: Any) -> Any:
        await self._check(request, context)
        member = await self._administration.join(_cluster(request.cluster_id))
        return api.JoinResponse(member_id=member)

    @unary
    async def AddLearner(self, request: api.AddLearnerRequest, context: Any) -> Any:
        await self._check(request, context)
        lsn = await self._administration.add_learner(request.member_id, request.address)
        return api.MembershipResponse(lsn=lsn)

    @unary
    async def PromoteLearner(self, request: api.PromoteLearnerRequest, context: Any) -> Any:
        await self._check(request, context)
        return api.MembershipResponse(
            lsn=await self._administration.promote_learner(request.member_id)
        )

    @unary
    async def RemoveMember(self, request: api.RemoveMemberRequest, context: Any) -> Any:
        await self._check(request, context)
        return api.MembershipResponse(
            lsn=await self._administration.remove_member(request.member_id)
        )

    @unary
    async def TransferLeadership(self, request: api.TransferLeadershipRequest, context: Any) -> Any:
        await self._check(request, context)
        member, address = await self._administration.transfer_leadership(request.member_id)
        return api.TransferLeadershipResponse(
            leader=types.LeaderHint(member_id=member, address=address)
        )

    @unary
    async def EnableReplication(self, request: api.EnableReplicationRequest, context: Any) -> Any:
        await self._check(request, context)
        replicated = await self._administration.enable_replication()
        return api.EnableReplicationResponse(replicated=replicated)

    @unary
    async def SetFenced(self, request: api.SetFencedRequest, context: Any) -> Any:
        await self._check(request, context)
        if request.fenced:
            await self._administration.fence(request.lease.transitions, request.lease.holder)
        return api.SetFencedResponse()

    @unary
    async def RecoverQuorum(self, request: api.RecoverQuorumRequest, context: Any) -> Any:
        await self._check(request, context)
        recovered = await self._recoveries.recover(
            request.member_id, _cluster(request.cluster_id), request.accept_loss
        )
        return api.RecoverQuorumResponse(recovered=recovered)

    @unary
    async def StartSnapshotJob(self, request: api.StartSnapshotJobRequest, context: Any) -> Any:
        await self._check(request, context)
        return self._snapshot_jobs.start(request)

    @unary
    async def GetSnapshotJob(self, request: api.GetSnapshotJobRequest, context: Any) -> Any:
        return self._snapshot_jobs.get(request.job_id)

    @unary
    async def CancelSnapshotJob(self, request: api.CancelSnapshotJobRequest, context: Any) -> Any:
        await self._check(request, context)
        return await self._snapshot_jobs.cancel(request.job_id)

    async def _check(self, request: Any, context: Any) -> None:
        if self._is_client(context):
            return
        if not request.HasField("lease") or not request.lease.holder:
            raise InvalidArgument(
                "lease is missing, or its holder is empty: a command needs the operator's fencing "
                "token, which is lease.transitions and lease.holder"
            )
        await self._administration.check_fencing_token(
            request.lease.transitions, request.lease.holder
        )


def _cluster(text: str) -> str:
    try:
        return str(uuid.UUID(text))
    except ValueError as error:
        raise InvalidArgument(f"cluster_id {text!r} is not a UUID") from error
