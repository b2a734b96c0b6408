"""The client of the replicas: gRPC to pod IPs; TLS checks the DNS name in the certificate."""

import asyncio
import datetime as dt
import hashlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
from partition_common import error_details
from partition_proto.connection import handshake
from partition_proto.connection.channel import RenewedChannel, credentials_of
from partition_proto.connection.pem import Pem
from partition_proto.v1 import log_store_pb2 as api
from partition_proto.v1 import log_store_pb2_grpc, replica_admin_pb2_grpc
from partition_proto.v1 import replica_admin_pb2 as admin
from partition_proto.v1 import types_pb2 as types

from partition_operator.api import names
from partition_operator.api.partition import Partition
from partition_operator.api.words import MemberRole
from partition_operator.clients.authority import AuthorityKeeper
from partition_operator.clients.fencing import FencingToken
from partition_operator.errors import AuthorityInvalid, Deposed, ReplicaRefused, ReplicaUnreachable
from partition_operator.reconcile.observed.partition import (
    ObservedBackfill,
    ObservedMember,
    ObservedPod,
    ObservedReplica,
)
from partition_operator.resources import own_certificate, trust
from partition_operator.resources.certificates import (
    LIFETIMES,
    KeyPair,
    Lifetimes,
    identity,
    issue,
)

COMMAND_TIMEOUT_S = 20.0

OPTIONS: list[tuple[str, int | str]] = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.enable_retries", 0),
    # Pods are dialled by their IP. The environment's proxy is not for them.
    ("grpc.enable_http_proxy", 0),
]

LOOK_FOR_REFUSAL_S = 10.0


class Named(Protocol):
    """A Partition, by its name: all that a call of its replicas needs."""

    @property
    def namespace(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def key(self) -> tuple[str, str]: ...


@dataclass(frozen=True, slots=True)
class _Followed:
    """A Secret that a certificate follows: a digest of its data, and what the data contain, without
    the key."""

    digest: bytes
    contents: trust.SecretContents


def _followed(secret: dict[str, Any] | None, before: _Followed | None) -> _Followed | None:
    """before: returned if the data are the same, because reading them takes longer."""
    if secret is None:
        return None
    data = sorted((secret.get("data") or {}).items())
    digest = hashlib.sha256(repr(data).encode()).digest()
    if before is not None and before.digest == digest:
        return before
    return _Followed(digest, trust.read(secret))


def _contents(found: _Followed | None) -> trust.SecretContents | None:
    return None if found is None else found.contents


@dataclass(frozen=True, slots=True)
class _Looked:
    """looked: monotonic time of the last handshake. why: its failure; "" if it succeeded."""

    looked: float
    why: str


class PartitionCertificate:
    """The operator's certificate for one Partition; implements CredentialSource of RenewedChannel.
    It is reissued before it expires, and when the authority is replaced."""

    def __init__(
        self,
        key: tuple[str, str],
        authority: AuthorityKeeper,
        lifetimes: Lifetimes,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        self._party = identity(*key, "operator")
        self._authority = authority
        self._lifetimes = lifetimes
        self._now = now
        self._secret: _Followed | None = None
        self._clients: _Followed | None = None
        self._basis: object = None
        self._signer: KeyPair | None = None
        self._renew_at = now()
        self._version = 0
        self._pem = Pem(b"", b"", b"")
        self._credentials: grpc.ChannelCredentials | None = None

    def follow(self, secret: dict[str, Any] | None, clients: dict[str, Any] | None = None) -> None:
        """secret: the replicas'. clients: the one that all clients may share; it shows the
        authority that the replicas trust, also if they have a certificate of another one."""
        self._secret = _followed(secret, self._secret)
        self._clients = self._secret if not clients else _followed(clients, self._clients)

    def current(self) -> tuple[int, grpc.ChannelCredentials | None]:
        self._renew()
        return self._version, self._credentials

    def pem(self) -> Pem:
        self._renew()
        return self._pem

    def _renew(self) -> None:
        authority, now = self._authority.value, self._now()
        secret, clients = self._secret, self._clients
        basis = (authority, secret and secret.digest, clients and clients.digest)
        if basis == self._basis and now < self._renew_at:
            return
        signer = own_certificate.signer(_contents(clients), authority, now)
        trusted = own_certificate.trusted(_contents(secret), authority)
        self._basis = basis
        if signer == self._signer and trusted == self._pem.authority and now < self._renew_at:
            return
        try:
            pair = issue(signer, self._party, [], now, self._lifetimes)
        except AuthorityInvalid:
            # The status reports it. The old certificate may still work for open connections.
            if self._signer is None:
                raise
            return
        self._signer = signer
        # A certificate that expires with its authority is renewed early, but not at each call.
        ends = trust.ends(pair)
        self._renew_at = max(ends - self._lifetimes.renew_before, now + (ends - now) / 2)
        self._pem = Pem(pair.certificate, pair.key, trusted)
        self._credentials = credentials_of(self._pem)
        self._version += 1


class Replicas:
    """The channels to the replicas of every Partition, and the calls on them."""

    def __init__(
        self,
        authority: AuthorityKeeper,
        token: FencingToken,
        timeout_s: float,
        lifetimes: Lifetimes = LIFETIMES,
    ) -> None:
        self._authority = authority
        self.token = token
        self._timeout_s = timeout_s
        self._lifetimes = lifetimes
        self._certificates: dict[tuple[str, str], PartitionCertificate] = {}
        self._channels: dict[tuple[str, str, str], RenewedChannel] = {}
        self._refusals: dict[tuple[str, str, str], _Looked] = {}

    async def close(self) -> None:
        await asyncio.gather(*(channel.close() for channel in self._channels.values()))

    async def forget(self, key: tuple[str, str], ips: set[str]) -> None:
        """Closes the channels of a Partition to other IPs than `ips`."""
        gone = [k for k in self._channels if k[:2] == key and k[2] not in ips]
        for name in gone:
            self._refusals.pop(name, None)
            await self._channels.pop(name).close()
        if not ips:
            self._certificates.pop(key, None)

    def follow(
        self,
        key: tuple[str, str],
        secret: dict[str, Any] | None,
        clients: dict[str, Any] | None = None,
    ) -> None:
        """Takes the current Secrets of replicas and clients. During a change of the authority they
        contain the authorities that are trusted, and the issuer of the certificates."""
        self._certificate(key).follow(secret, clients)

    def refused(self, partition: Named, pods: Iterable[ObservedPod]) -> dict[int, str]:
        """Returns why TLS to a pod fails, by ordinal, for the pods where it does."""
        found = {pod.ordinal: self._refusals.get((*partition.key, pod.ip)) for pod in pods}
        return {n: looked.why for n, looked in found.items() if looked is not None and looked.why}

    async def status(self, partition: Named, pod: ObservedPod) -> ObservedReplica | None:
        """Returns a replica's status; None if it does not answer."""
        try:
            stub = log_store_pb2_grpc.LogStoreStub(self._channel(partition, pod))
        except AuthorityInvalid:
            return None  # the operator has no certificate; the status contains the reason
        try:
            answer: api.GetStatusResponse = await stub.GetStatus(
                api.GetStatusRequest(), timeout=self._timeout_s
            )
        except grpc.aio.AioRpcError as error:
            await self._look_for_refusal(partition, pod, error.code())
            return None
        self._refusals.pop((*partition.key, pod.ip), None)
        return _replica(pod.ordinal, answer)

    async def bootstrap(
        self, partition: Partition, pod: ObservedPod, cluster_id: str, *, standalone: bool
    ) -> None:
        request = admin.BootstrapRequest(
            lease=self.token.message(), cluster_id=cluster_id, standalone=standalone
        )
        await self.command(partition, pod, "Bootstrap", request)

    async def enable_replication(self, partition: Partition, pod: ObservedPod) -> None:
        request = admin.EnableReplicationRequest(lease=self.token.message())
        await self.command(partition, pod, "EnableReplication", request)

    async def recover_quorum(
        self,
        partition: Partition,
        pod: ObservedPod,
        member_id: int,
        cluster_id: str,
        accept_loss: str,
    ) -> None:
        """The replica's process ends behind the answer, and recovers at its next start."""
        request = admin.RecoverQuorumRequest(
            lease=self.token.message(),
            member_id=member_id,
            cluster_id=cluster_id,
            accept_loss=accept_loss,
        )
        await self.command(partition, pod, "RecoverQuorum", request)

    async def join(self, partition: Partition, pod: ObservedPod, cluster_id: str) -> None:
        request = admin.JoinRequest(lease=self.token.message(), cluster_id=cluster_id)
        await self.command(partition, pod, "Join", request)

    async def add_learner(
        self, partition: Partition, pod: ObservedPod, member_id: int, address: str
    ) -> None:
        request = admin.AddLearnerRequest(
            lease=self.token.message(), member_id=member_id, address=address
        )
        await self.command(partition, pod, "AddLearner", request)

    async def promote_learner(self, partition: Partition, pod: ObservedPod, member_id: int) -> None:
        request = admin.PromoteLearnerRequest(lease=self.token.message(), member_id=member_id)
        await self.command(partition, pod, "PromoteLearner", request)

    async def remove_member(self, partition: Partition, pod: ObservedPod, member_id: int) -> None:
        request = admin.RemoveMemberRequest(lease=self.token.message(), member_id=member_id)
        await self.command(partition, pod, "RemoveMember", request)

    async def transfer_leadership(
        self, partition: Partition, pod: ObservedPod, member_id: int
    ) -> None:
        request = admin.TransferLeadershipRequest(lease=self.token.message(), member_id=member_id)
        await self.command(partition, pod, "TransferLeadership", request)

    async def set_fenced(self, partition: Partition, pod: ObservedPod, *, fenced: bool) -> None:
        request = admin.SetFencedRequest(lease=self.token.message(), fenced=fenced)
        await self.command(partition, pod, "SetFenced", request)

    async def command(
        self, partition: Partition, pod: ObservedPod, method: str, request: Any
    ) -> Any:
        """Calls a method of ReplicaAdmin. Raises ReplicaUnreachable, ReplicaRefused, Deposed."""
        stub = replica_admin_pb2_grpc.ReplicaAdminStub(self._channel(partition, pod))
        name = names.pod(partition.name, pod.ordinal)
        try:
            return await getattr(stub, method)(request, timeout=COMMAND_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            detail = error_details.find(error.trailing_metadata())
            if detail is None:
                raise ReplicaUnreachable(
                    f"{method} of {name}: {error.code().name} {error.details()}"
                ) from error
            if detail.reason == types.REASON_DEPOSED:
                raise Deposed(f"{name}: {detail.message}", detail.lease_transitions) from error
            raise ReplicaRefused(detail.reason, f"{method} of {name}: {detail.message}") from error

    def _channel(self, partition: Named, pod: ObservedPod) -> RenewedChannel:
        name = (*partition.key, pod.ip)
        channel = self._channels.get(name)
        if channel is None:
            host = names.host(partition.name, partition.namespace, pod.ordinal)
            options = [*OPTIONS, ("grpc.ssl_target_name_override", host)]
            channel = self._channels[name] = RenewedChannel(
                names.endpoint(pod.ip, names.GRPC_PORT), self._certificate(partition.key), options
            )
        return channel

    def _certificate(self, key: tuple[str, str]) -> PartitionCertificate:
        """Returns the operator's certificate for this Partition. It exists only in memory."""
        found = self._certificates.get(key)
        if found is None:
            found = PartitionCertificate(key, self._authority, self._lifetimes)
            self._certificates[key] = found
        return found

    async def _look_for_refusal(self, partition: Named, pod: ObservedPod, code: Any) -> None:
        """Records why TLS to a pod fails, with at most one handshake per LOOK_FOR_REFUSAL_S."""
        if code not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
            return
        name, now = (*partition.key, pod.ip), time.monotonic()
        known = self._refusals.get(name)
        if known is not None and now - known.looked < LOOK_FOR_REFUSAL_S:
            return
        host = names.host(partition.name, partition.namespace, pod.ordinal)
        address = names.endpoint(pod.ip, names.GRPC_PORT)
        pem = self._certificate(partition.key).pem()
        found = await asyncio.to_thread(handshake.refusal, address, pem, host)
        why = "" if found is None else f"{found.reason}: {found.message}"
        self._refusals[name] = _Looked(now, why)


def _replica(ordinal: int, answer: api.GetStatusResponse) -> ObservedReplica:
    return ObservedReplica(
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
        standalone=answer.standalone,
        backfill=_backfill(answer),
        stored_from=answer.stored_from,
        tls=_tls(answer),
        disk_free=answer.disk_free_bytes,
        disk_total=answer.disk_total_bytes,
        last_term=answer.last_term,
        version=answer.version,
    )


def _tls(answer: api.GetStatusResponse) -> trust.Reported | None:
    if not answer.HasField("tls"):
        return None
    found = answer.tls
    return trust.Reported(
        frozenset(found.trusted),
        found.certificate,
        found.clients,
        found.refused_calls,
        found.refused_last,
    )


def _member(answer: api.GetStatusResponse, member: api.MemberStatus) -> ObservedMember:
    # A standalone replica reports no progress of members: it has all of its own log.
    alone = answer.standalone and member.member_id == answer.member_id
    return ObservedMember(
        member_id=member.member_id,
        address=member.address,
        voter=member.role == MemberRole.VOTER,
        matched=answer.last_index if alone else member.matched,
        recently_active=alone or member.recently_active,
        progress=member.progress,
    )


def _backfill(answer: api.GetStatusResponse) -> ObservedBackfill | None:
    if not answer.HasField("backfill"):
        return None
    found = answer.backfill
    return ObservedBackfill(found.from_lsn, found.next_lsn, found.target_lsn)
