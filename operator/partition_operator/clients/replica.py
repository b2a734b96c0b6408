"""The replicas: gRPC to pod IPs, with the DNS name as the name in the certificate."""

import asyncio
import datetime as dt
from typing import Any

import grpc
from partition_proto.v1 import log_store_pb2 as api
from partition_proto.v1 import log_store_pb2_grpc, replica_admin_pb2_grpc
from partition_proto.v1 import replica_admin_pb2 as admin
from partition_proto.v1 import types_pb2 as types

from partition_operator.api import names
from partition_operator.api.partition import Partition
from partition_operator.errors import Deposed, ReplicaRefused, ReplicaUnreachable
from partition_operator.reconcile.observed import Backfill, Member, Pod, Replica
from partition_operator.resources.certificates import KeyPair, identity, issue

DETAIL_KEY = "logstore-error-bin"
COMMAND_TIMEOUT_S = 20.0

OPTIONS: list[tuple[str, int | str]] = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.enable_retries", 0),
]


class Replicas:
    """Channels to the replicas of every Partition, by address and certificate."""

    def __init__(self, authority: KeyPair, lease: admin.LeaseToken, timeout_s: float) -> None:
        """lease: names this operator's turn; a deposed one is refused."""
        self._authority = authority
        self.lease = lease
        self._timeout_s = timeout_s
        self._certificates: dict[tuple[str, str], KeyPair] = {}
        self._channels: dict[tuple[str, str, str], grpc.aio.Channel] = {}

    async def close(self) -> None:
        await asyncio.gather(*(channel.close() for channel in self._channels.values()))

    async def forget(self, key: tuple[str, str], ips: set[str]) -> None:
        """Closes the channels of a Partition to addresses that no pod of it has any more."""
        gone = [k for k in self._channels if k[:2] == key and k[2] not in ips]
        for name in gone:
            await self._channels.pop(name).close()
        if not ips:
            self._certificates.pop(key, None)

    async def status(self, partition: Partition, pod: Pod) -> Replica | None:
        """What a replica says; None where it does not answer."""
        stub = log_store_pb2_grpc.LogStoreStub(self._channel(partition, pod))
        try:
            answer: api.GetStatusResponse = await stub.GetStatus(
                api.GetStatusRequest(), timeout=self._timeout_s
            )
        except grpc.aio.AioRpcError:
            return None
        return _replica(pod.ordinal, answer)

    async def bootstrap(
        self, partition: Partition, pod: Pod, cluster_id: str, *, unreplicated: bool
    ) -> None:
        request = admin.BootstrapRequest(
            lease=self.lease, cluster_id=cluster_id, unreplicated=unreplicated
        )
        await self.command(partition, pod, "Bootstrap", request)

    async def enable_replication(self, partition: Partition, pod: Pod) -> None:
        request = admin.EnableReplicationRequest(lease=self.lease)
        await self.command(partition, pod, "EnableReplication", request)

    async def join(self, partition: Partition, pod: Pod, cluster_id: str) -> None:
        request = admin.JoinRequest(lease=self.lease, cluster_id=cluster_id)
        await self.command(partition, pod, "Join", request)

    async def add_learner(
        self, partition: Partition, pod: Pod, member_id: int, address: str
    ) -> None:
        request = admin.AddLearnerRequest(lease=self.lease, member_id=member_id, address=address)
        await self.command(partition, pod, "AddLearner", request)

    async def promote_learner(self, partition: Partition, pod: Pod, member_id: int) -> None:
        request = admin.PromoteLearnerRequest(lease=self.lease, member_id=member_id)
        await self.command(partition, pod, "PromoteLearner", request)

    async def remove_member(self, partition: Partition, pod: Pod, member_id: int) -> None:
        request = admin.RemoveMemberRequest(lease=self.lease, member_id=member_id)
        await self.command(partition, pod, "RemoveMember", request)

    async def transfer_leadership(self, partition: Partition, pod: Pod, member_id: int) -> None:
        request = admin.TransferLeadershipRequest(lease=self.lease, member_id=member_id)
        await self.command(partition, pod, "TransferLeadership", request)

    async def command(self, partition: Partition, pod: Pod, method: str, request: Any) -> Any:
        """Calls a method of ReplicaAdmin. Raises ReplicaUnreachable, ReplicaRefused, Deposed."""
        stub = replica_admin_pb2_grpc.ReplicaAdminStub(self._channel(partition, pod))
        name = names.pod(partition.name, pod.ordinal)
        try:
            return await getattr(stub, method)(request, timeout=COMMAND_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            detail = _detail(error)
            if detail is None:
                raise ReplicaUnreachable(
                    f"{method} of {name}: {error.code().name} {error.details()}"
                ) from error
            if detail.reason == types.REASON_DEPOSED:
                raise Deposed(f"{name}: {detail.message}", detail.lease_transitions) from error
            reason = types.Reason.Name(detail.reason).removeprefix("REASON_")
            raise ReplicaRefused(reason, f"{method} of {name}: {detail.message}") from error

    def _channel(self, partition: Partition, pod: Pod) -> grpc.aio.Channel:
        name = (*partition.key, pod.ip)
        channel = self._channels.get(name)
        if channel is None:
            host = names.host(partition.name, partition.namespace, pod.ordinal)
            options = [*OPTIONS, ("grpc.ssl_target_name_override", host)]
            channel = self._channels[name] = grpc.aio.secure_channel(
                names.endpoint(pod.ip, names.GRPC_PORT),
                self._credentials(partition),
                options=options,
            )
        return channel

    def _credentials(self, partition: Partition) -> grpc.ChannelCredentials:
        """The operator's certificate for this Partition: made here, kept in memory alone."""
        pair = self._certificates.get(partition.key)
        if pair is None:
            party = identity(partition.namespace, partition.name, "operator")
            pair = issue(self._authority, party, [], dt.datetime.now(dt.UTC))
            self._certificates[partition.key] = pair
        return grpc.ssl_channel_credentials(self._authority.certificate, pair.key, pair.certificate)


def _detail(error: grpc.aio.AioRpcError) -> types.ErrorDetail | None:
    for key, value in error.trailing_metadata() or ():
        if key == DETAIL_KEY and isinstance(value, bytes):
            return types.ErrorDetail.FromString(value)
    return None


def _replica(ordinal: int, answer: api.GetStatusResponse) -> Replica:
    return Replica(
        ordinal=ordinal,
        cluster_id=answer.cluster_id,
        member_id=answer.member_id,
        role=answer.role,
        term=answer.term,
        leader_id=answer.leader.member_id,
        last_index=answer.last_index,
        committed=answer.committed,
        applied=answer.applied,
        serving=answer.serving,
        changing=answer.configuration_changing,
        disk_full=answer.disk_full,
        members=tuple(_member(answer, member) for member in answer.members),
        unreplicated=answer.unreplicated,
        backfill=_backfill(answer),
        stored_from=answer.stored_from,
    )


def _member(answer: api.GetStatusResponse, member: api.MemberStatus) -> Member:
    # Without Raft nobody counts progress: the only member has what it says it has.
    alone = answer.unreplicated and member.member_id == answer.member_id
    return Member(
        member_id=member.member_id,
        address=member.address,
        voter=member.role == "voter",
        matched=answer.last_index if alone else member.matched,
        recently_active=alone or member.recently_active,
        progress=member.progress,
    )


def _backfill(answer: api.GetStatusResponse) -> Backfill | None:
    if not answer.HasField("backfill"):
        return None
    found = answer.backfill
    return Backfill(found.from_lsn, found.next_lsn, found.target_lsn)
