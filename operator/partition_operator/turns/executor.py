"""Executes an action of a plan: calls a client, and writes a line to the log."""

import logging
from dataclasses import dataclass, field
from typing import Any

from partition_operator import failpoints
from partition_operator.api import names
from partition_operator.api.partition import Partition
from partition_operator.clients.authority import AuthorityKeeper
from partition_operator.clients.kube import ApiError, Body, Kube
from partition_operator.clients.partition_secrets import PartitionSecrets
from partition_operator.clients.replica import Replicas
from partition_operator.errors import Conflict, ReplicaUnreachable, text_of
from partition_operator.reconcile.observed.last_write import WriteRecords
from partition_operator.reconcile.observed.partition import ObservedPartition, ObservedPod
from partition_operator.reconcile.partition import actions
from partition_operator.reconcile.partition.writes import target
from partition_operator.resources import trust
from partition_operator.resources.certificates import LIFETIMES, Lifetimes
from partition_operator.resources.common import (
    fingerprint,
    is_foreign,
    is_leaving,
    metadata,
    owner_reference,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Executor:
    """Executes actions. After an error the action is planned again, so it may be repeated."""

    kube: Kube
    replicas: Replicas
    authority: AuthorityKeeper
    writes: WriteRecords = field(default_factory=WriteRecords)
    """The result of the last write of each object."""
    lifetimes: Lifetimes = LIFETIMES

    async def execute(self, observed: ObservedPartition, action: actions.Action) -> Body | None:
        """Returns the stored object if the action wrote a whole object; otherwise None. Raises
        OperatorError, but not if the API server refuses an object: the refusal is recorded, and the
        next plan reports it and continues with the other steps."""
        partition = observed.partition
        logger.info("%s/%s: %s", *partition.key, _describe(action))
        found = target(action, partition.name)
        now = observed.now
        try:
            left = await self._execute(observed, partition, action)
        except ApiError as error:
            if found is None or not error.refused:
                raise
            logger.warning("%s/%s: the API server refuses: %s", *partition.key, text_of(error))
            self.writes.note_refused(partition.key, *found, error.words, now)
            return None
        if found is not None:
            mark = fingerprint(left) if left is not None else ""
            self.writes.note_taken(partition.key, *found, mark, now)
        failpoints.reach(_failpoint(action))
        return left

    async def _execute(  # noqa: C901, PLR0912, PLR0915  # a flat match over actions
        self, observed: ObservedPartition, partition: Partition, action: actions.Action
    ) -> Body | None:
        """Returns the stored object if the action wrote a whole object; otherwise None."""
        match action:
            case actions.Apply(body):
                name = body["metadata"]["name"]
                live = await self.kube.get(body["kind"], partition.namespace, name)
                return await self._apply(partition, body, live)
            case actions.IssueCertificate(secret, role, former):
                step = trust.TrustStep.EXTEND if former else trust.TrustStep.ISSUE
                return await self._renew(partition, secret, role, step)
            case actions.TrustAuthority(secret, role):
                return await self._renew(partition, secret, role, trust.TrustStep.TRUST)
            case actions.WriteClients(secret, kept):
                await self._list_clients(observed, secret, kept)
            case actions.CreatePod(body) | actions.CreateClaim(body) | actions.CreateSnapshot(body):
                await self._create(body)
            case actions.SetFinalizer(present):
                await self._set_finalizer(partition, present=present)
            case actions.OwnClaim(ordinal, uid, owned):
                await self._own_claim(partition, names.claim(partition.name, ordinal), uid, owned)
            case actions.RepairLabels(kind, name, uid, labels, owned):
                await self._mark(partition, kind, name, uid, {"labels": labels}, owned=owned)
            case actions.RecordRestored(record):
                status = {"restored": record, "restore": None}
                await self._merge_status(partition, status)
            case actions.Delete(kind, name, uid):
                await self.kube.delete(kind, partition.namespace, name, uid)
            case actions.DeleteUnchanged(kind, name, uid, version):
                await self.kube.delete_unchanged(kind, partition.namespace, name, uid, version)
            case actions.RecordCluster(cluster_id):
                await self._record(partition, cluster_id, bootstrapped=False)
            case actions.RecordBootstrapped(cluster_id):
                await self._record(partition, cluster_id, bootstrapped=True)
            case actions.RecordRecovery(record, cluster_id):
                changed: dict[str, Any] = {"recovery": record}
                if cluster_id:
                    # The members are those of the former group: the new leader tells the others.
                    changed |= {"clusterID": cluster_id, "bootstrapped": True, "members": None}
                await self._merge_status(partition, changed)
            case actions.EvictPod(ordinal, uid):
                name = names.pod(partition.name, ordinal)
                await self.kube.evict(partition.namespace, name, uid)
            case actions.GrowClaim(ordinal, uid, size):
                name = names.claim(partition.name, ordinal)
                request = {"spec": {"resources": {"requests": {"storage": size}}}}
                live = await self._observed("PersistentVolumeClaim", partition, name, uid)
                await self.kube.merge("PersistentVolumeClaim", live, request)
            case actions.ModifyClaim(ordinal, uid, attributes_class):
                name = names.claim(partition.name, ordinal)
                change = {"spec": {"volumeAttributesClassName": attributes_class or None}}
                live = await self._observed("PersistentVolumeClaim", partition, name, uid)
                await self.kube.merge("PersistentVolumeClaim", live, change)
            case actions.GiveUpVolume():
                await self._give_up(partition, action)
            case actions.OrphanPods(name, uid, version):
                await self.kube.delete_unchanged(
                    "StatefulSet", partition.namespace, name, uid, version, orphan=True
                )
            case actions.AnnotateClaim(ordinal, cluster_id):
                name = names.claim(partition.name, ordinal)
                uid = next((c.uid for c in observed.claims if c.ordinal == ordinal), "")
                mark = {"annotations": {names.ANNOTATION_CLUSTER_ID: cluster_id}}
                await self._mark(partition, "PersistentVolumeClaim", name, uid, mark)
            case _:
                await self._command(observed, partition, action)
        return None

    async def _set_finalizer(self, partition: Partition, *, present: bool) -> None:
        """Other finalizers stay. Read again, because this turn may have written status."""
        live = await self._observed(names.KIND, partition, partition.name, partition.uid)
        found = live["metadata"].get("finalizers") or []
        others = [name for name in found if name != names.FINALIZER]
        wanted = [*others, names.FINALIZER] if present else others
        await self.kube.merge(names.KIND, live, {"metadata": {"finalizers": wanted}})

    async def _own_claim(self, partition: Partition, name: str, uid: str, owned: bool) -> None:
        live = await self._observed("PersistentVolumeClaim", partition, name, uid)
        owners = live["metadata"].get("ownerReferences") or []
        others = [owner for owner in owners if owner.get("uid") != partition.uid]
        ours = owner_reference(names.KIND, partition.name, partition.uid)
        # Not its controller: a StatefulSet's retention policy may want to be that.
        wanted = [*others, ours | {"controller": False}] if owned else others
        await self.kube.merge(
            "PersistentVolumeClaim", live, {"metadata": {"ownerReferences": wanted}}
        )

    async def _give_up(self, partition: Partition, action: actions.GiveUpVolume) -> None:
        """Raises Conflict if the claim was replaced."""
        name = names.claim(partition.name, action.ordinal)
        if action.keep and action.volume:
            await self._keep_volume(action.volume, action.uid)
            failpoints.reach("GiveUpVolume.kept")
        # Its pod is ended later, and only if the claim says whose will that is.
        mark = {"annotations": {names.ANNOTATION_GIVEN_UP: "true"}}
        await self._mark(partition, "PersistentVolumeClaim", name, action.uid, mark)
        failpoints.reach("GiveUpVolume.marked")
        await self.kube.delete("PersistentVolumeClaim", partition.namespace, name, action.uid)

    async def _keep_volume(self, volume: str, claim_uid: str) -> None:
        """Sets a volume's reclaim policy to Retain. A volume of another claim is left alone."""
        live = await self.kube.get("PersistentVolume", "", volume)
        if live is None:
            return
        spec = live.get("spec") or {}
        ours = (spec.get("claimRef") or {}).get("uid") == claim_uid
        if ours and spec.get("persistentVolumeReclaimPolicy") != "Retain":
            change = {"spec": {"persistentVolumeReclaimPolicy": "Retain"}}
            await self.kube.merge("PersistentVolume", live, change)

    async def _apply(self, partition: Partition, body: Body, live: Body | None) -> Body:
        """live: the object of this name, read just before, because the observed one may be seconds
        old. Raises Conflict if it has changed since or belongs to another owner."""
        kind, name = body["kind"], body["metadata"]["name"]
        if live is not None and (is_foreign(live, partition) or is_leaving(live, partition)):
            raise Conflict(f"{kind} {name} does not belong to this Partition, or no longer does")
        return await self.kube.apply(body, live)

    async def _create(self, body: Body) -> None:
        try:
            await self.kube.create(body)
        except ApiError as error:
            # The next turn checks the owner of the existing object.
            if not error.exists:
                raise

    async def _mark(
        self,
        partition: Partition,
        kind: str,
        name: str,
        uid: str,
        change: Body,
        *,
        owned: bool = False,
    ) -> None:
        """Changes metadata of the observed object. Raises Conflict if it was replaced."""
        live = await self._observed(kind, partition, name, uid)
        if owned:
            # A merge patch replaces lists.
            owners = live["metadata"].get("ownerReferences") or []
            # An owner reference of ours that does not control the object is replaced: a uid may
            # occur only once.
            others = [owner for owner in owners if owner.get("uid") != partition.uid]
            change |= {"ownerReferences": [*others, *metadata(partition, name)["ownerReferences"]]}
        await self.kube.merge(kind, live, {"metadata": change})

    async def _observed(self, kind: str, partition: Partition, name: str, uid: str) -> Body:
        """Returns the observed object, read again. Raises Conflict if it was replaced."""
        live = await self.kube.get(kind, partition.namespace, name)
        if live is None or live["metadata"]["uid"] != uid:
            raise Conflict(f"{kind} {name} is not the observed object (uid {uid})")
        return live

    async def _renew(
        self, partition: Partition, secret: str, role: str, step: trust.TrustStep
    ) -> Body:
        secrets = PartitionSecrets(self.kube, self.authority, self.lifetimes)
        body, live = await secrets.renewed(partition, secret, role, step)
        return await self._apply(partition, body, live)

    async def _list_clients(
        self, observed: ObservedPartition, secret: str, kept: frozenset[str]
    ) -> None:
        partition = observed.partition
        uid = observed.objects["Secret", secret]["metadata"]["uid"]
        live = await self._observed("Secret", partition, secret, uid)
        existing = frozenset(
            s.removeprefix(names.named_client_secret(partition.name, "")) for s in kept
        )
        secrets = PartitionSecrets(self.kube, self.authority, self.lifetimes)
        await self.kube.merge("Secret", live, secrets.listed(partition, live, existing))

    async def _command(
        self, observed: ObservedPartition, partition: Partition, action: actions.Action
    ) -> None:
        replicas = self.replicas
        match action:
            case actions.Bootstrap(ordinal, cluster_id, standalone):
                pod = _pod(observed, ordinal)
                await replicas.bootstrap(partition, pod, cluster_id, standalone=standalone)
            case actions.EnableReplication(ordinal):
                await replicas.enable_replication(partition, _pod(observed, ordinal))
            case actions.RecoverQuorum(ordinal, member_id, cluster_id, accept_loss):
                pod = _pod(observed, ordinal)
                await replicas.recover_quorum(partition, pod, member_id, cluster_id, accept_loss)
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
            case actions.SetFenced(ordinal, fenced):
                await replicas.set_fenced(partition, _pod(observed, ordinal), fenced=fenced)
            case _:
                raise AssertionError(f"no way to execute {action}")

    async def _record(self, partition: Partition, cluster_id: str, *, bootstrapped: bool) -> None:
        status = {"clusterID": cluster_id, "bootstrapped": bootstrapped}
        await self._merge_status(partition, status)

    async def _merge_status(self, partition: Partition, status: dict[str, Any]) -> None:
        """Writes at the observed resource version, so of two writers only one succeeds."""
        body = {
            "metadata": {"resourceVersion": partition.body["metadata"]["resourceVersion"]},
            "status": status,
        }
        await self.kube.merge_status(partition.namespace, partition.name, body)


def _pod(observed: ObservedPartition, ordinal: int) -> ObservedPod:
    pod = observed.pod(ordinal)
    if pod is None or not pod.ip:
        raise ReplicaUnreachable(f"{names.pod(observed.partition.name, ordinal)} has no address")
    return pod


def _describe(action: actions.Action) -> str:
    match action:
        case actions.Apply(body):
            return f"apply {body['kind']} {body['metadata']['name']}"
        case actions.CreatePod(body) | actions.CreateClaim(body) | actions.CreateSnapshot(body):
            return f"create {body['kind']} {body['metadata']['name']}"
        case _:
            return repr(action)


def _failpoint(action: actions.Action) -> str:
    match action:
        case actions.Apply(body):
            return f"Apply.{body['kind']}"
        case actions.Delete(kind, _, _):
            return f"Delete.{kind}"
        case actions.CreatePod(body) | actions.CreateClaim(body) | actions.CreateSnapshot(body):
            return f"Create.{body['kind']}"
        case _:
            return type(action).__name__
