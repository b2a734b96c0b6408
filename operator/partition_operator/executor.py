"""Carries one action out: the action's fields in, a call of a client, a line in the log."""

import datetime as dt
import logging
from dataclasses import dataclass
from typing import Any

from partition_operator import failpoints
from partition_operator.api import names
from partition_operator.api.partition import Partition
from partition_operator.clients.authority import AuthorityKeeper
from partition_operator.clients.kube import ApiError, Kube
from partition_operator.clients.observer import Applied
from partition_operator.clients.replica import Replicas
from partition_operator.errors import ReplicaUnreachable
from partition_operator.reconcile import actions
from partition_operator.reconcile.observed import Observed, Pod
from partition_operator.resources import trust
from partition_operator.resources.certificates import LIFETIMES, Lifetimes
from partition_operator.resources.common import content_hash

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Executor:
    """Raises OperatorError; an action that failed half-way is simply planned again."""

    kube: Kube
    replicas: Replicas
    authority: AuthorityKeeper
    applied: Applied
    """What was applied last, shared with the observer."""
    lifetimes: Lifetimes = LIFETIMES

    async def execute(self, observed: Observed, action: actions.Action) -> None:
        partition = observed.partition
        logger.info("%s/%s: %s", *partition.key, _describe(action))
        await self._execute(observed, partition, action)
        failpoints.reach(_failpoint(action))

    async def _execute(
        self, observed: Observed, partition: Partition, action: actions.Action
    ) -> None:
        match action:
            case actions.Apply(body):
                applied = await self.kube.apply(body)
                version = applied["metadata"]["resourceVersion"]
                key = (body["kind"], body["metadata"]["name"])
                self.applied.setdefault(partition.key, {})[key] = (content_hash(body), version)
            case actions.CreatePod(body) | actions.CreateClaim(body):
                try:
                    await self.kube.create(body)
                except ApiError as error:
                    # The next look says whose the one that exists is.
                    if error.status != 409:
                        raise
            case actions.RecordRestored(record):
                status = {"restored": record, "restore": None}
                await self._merge_status(partition, status)
            case actions.Delete(kind, name):
                await self.kube.delete(kind, partition.namespace, name)
            case actions.DeleteUnchanged(kind, name, uid, version):
                await self.kube.delete_unchanged(kind, partition.namespace, name, uid, version)
            case actions.IssueCertificate(secret, role):
                await self._renew(partition, secret, role, trust.Step.ISSUE)
            case actions.TrustAuthority(secret, role):
                await self._renew(partition, secret, role, trust.Step.TRUST)
            case actions.RecordCluster(cluster_id):
                await self._record(partition, cluster_id, bootstrapped=False)
            case actions.RecordBootstrapped(cluster_id):
                await self._record(partition, cluster_id, bootstrapped=True)
            case actions.MarkClaim(ordinal, cluster_id):
                await self.kube.merge(
                    "PersistentVolumeClaim",
                    partition.namespace,
                    names.claim(partition.name, ordinal),
                    {"metadata": {"annotations": {names.ANNOTATION_CLUSTER_ID: cluster_id}}},
                )
            case _:
                await self._command(observed, partition, action)

    async def _renew(self, partition: Partition, secret: str, role: str, step: trust.Step) -> None:
        live = await self.kube.get("Secret", partition.namespace, secret)
        now = dt.datetime.now(dt.UTC)
        body = trust.renewed(
            partition, secret, role, live, self.authority.value, now, self.lifetimes, step=step
        )
        await self.kube.apply(body)

    async def _command(
        self, observed: Observed, partition: Partition, action: actions.Action
    ) -> None:
        replicas = self.replicas
        match action:
            case actions.Bootstrap(ordinal, cluster_id, unreplicated):
                pod = _pod(observed, ordinal)
                await replicas.bootstrap(partition, pod, cluster_id, unreplicated=unreplicated)
            case actions.EnableReplication(ordinal):
                await replicas.enable_replication(partition, _pod(observed, ordinal))
            case actions.Join(ordinal, cluster_id):
                await replicas.join(partition, _pod(observed, ordinal), cluster_id)
            case actions.AddLearner(leader, member_id, address, _):
                pod = _pod(observed, leader)
                await replicas.add_learner(partition, pod, member_id, address)
            case actions.PromoteLearner(leader, member_id, _):
                await replicas.promote_learner(partition, _pod(observed, leader), member_id)
            case actions.RemoveMember(leader, member_id, _):
                await replicas.remove_member(partition, _pod(observed, leader), member_id)
            case actions.TransferLeadership(leader, member_id):
                await replicas.transfer_leadership(partition, _pod(observed, leader), member_id)
            case _:
                raise AssertionError(f"no way to execute {action}")

    async def _record(self, partition: Partition, cluster_id: str, *, bootstrapped: bool) -> None:
        status = {"clusterID": cluster_id, "bootstrapped": bootstrapped}
        await self._merge_status(partition, status)

    async def _merge_status(self, partition: Partition, status: dict[str, Any]) -> None:
        """At the resource version that was seen: two writers can't both write."""
        body = {
            "metadata": {"resourceVersion": partition.body["metadata"]["resourceVersion"]},
            "status": status,
        }
        await self.kube.merge_status(partition.namespace, partition.name, body)


def _pod(observed: Observed, ordinal: int) -> Pod:
    pod = observed.pod(ordinal)
    if pod is None or not pod.ip:
        raise ReplicaUnreachable(f"{names.pod(observed.partition.name, ordinal)} has no address")
    return pod


def _describe(action: actions.Action) -> str:
    match action:
        case actions.Apply(body):
            return f"apply {body['kind']} {body['metadata']['name']}"
        case actions.CreatePod(body) | actions.CreateClaim(body):
            return f"create {body['kind']} {body['metadata']['name']}"
        case _:
            return repr(action)


def _failpoint(action: actions.Action) -> str:
    match action:
        case actions.Apply(body):
            return f"Apply.{body['kind']}"
        case actions.Delete(kind, _):
            return f"Delete.{kind}"
        case actions.CreatePod(body) | actions.CreateClaim(body):
            return f"Create.{body['kind']}"
        case _:
            return type(action).__name__
