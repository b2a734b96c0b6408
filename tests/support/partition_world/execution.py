"""What each action of a plan does to the world: what the executor asks for, as the API server and
the replicas answer it. A step that is not possible raises Failed, and changes nothing."""

import copy
from collections.abc import Callable
from typing import Any

from partition_operator.api import names
from partition_operator.api.times import stamp
from partition_operator.reconcile.observed.partition import ObservedPartition
from partition_operator.reconcile.partition import actions
from partition_operator.reconcile.partition.actions import Action

from tests.support.partition_world.errors import Conflict, Failed, Refused, RefusedWrite, Violation
from tests.support.partition_world.kubernetes import (
    BUDGET,
    LOCAL,
    NAME,
    STATEFUL_SET,
    UID,
    Claim,
    Pod,
)
from tests.support.partition_world.replicas import Configuration, Group, Volume
from tests.support.partition_world.world import LastSnapshot, World

GIVE_UP_STEPS = 3
"""The volume is kept, the claim is marked, the claim is deleted."""


class Execution:
    """One action. half: how many requests of an action of several are sent, before the operator
    ends."""

    def __init__(self, world: World, observed: ObservedPartition, half: int = 9) -> None:
        self.world = world
        self.kube = world.kube
        self.observed = observed
        self.half = half

    def run(self, action: Action) -> None:
        does: Callable[[Any], None] = getattr(self, f"_{type(action).__name__}")
        does(action)

    # --- objects ---

    def _writable(self, kind: str) -> None:
        if kind in self.world.refusing:
            raise RefusedWrite(f"exceeded quota: {kind}")

    def _Apply(self, action: actions.Apply) -> None:
        body = copy.deepcopy(action.body)
        key = (body["kind"], body["metadata"]["name"])
        self._writable(key[0])
        live = self.kube.objects.get(key)
        old = live or {"metadata": {"uid": self.kube.fresh("uid"), "generation": 0}}
        if live is not None and "spec" in live:
            templates = [o["spec"].get("volumeClaimTemplates") for o in (live, body)]
            if templates[0] != templates[1]:
                raise RefusedWrite("updates to volumeClaimTemplates are forbidden")
        marks = {key: old["metadata"][key] for key in ("uid", "generation")}
        if old.get("spec") != body.get("spec"):
            marks["generation"] += 1
        if "status" in old:
            body["status"] = old["status"]
        body["metadata"] |= marks | {"resourceVersion": str(next(self.kube.serial))}
        self.kube.objects[key] = body

    def _Delete(self, action: actions.Delete) -> None:
        if action.kind == "Pod":
            restoring = self.world.restore_pod
            if restoring is not None and restoring["metadata"]["uid"] == action.uid:
                self.world.restore_pod = None
                return
            pod = self._pod_of(action.name, action.uid)
            if pod is not None:
                self.kube.delete_pod(pod)
            return
        live = self.kube.objects.get((action.kind, action.name))
        if live is not None and live["metadata"]["uid"] == action.uid:
            del self.kube.objects[action.kind, action.name]

    def _pod_of(self, name: str, uid: str) -> Pod | None:
        found = (p for p in self.kube.pods.values() if names.pod(NAME, p.ordinal) == name)
        return next((p for p in found if p.uid == uid), None)

    def _DeleteUnchanged(self, action: actions.DeleteUnchanged) -> None:
        if action.kind == "StatefulSet":
            self._delete_set(action.uid, action.version)
            return
        assert action.kind == "PersistentVolumeClaim", action
        for claim in self.kube.claims.values():
            if claim.uid == action.uid and str(claim.version) == action.version:
                claim.deleting = True

    def _delete_set(self, uid: str, version: str) -> bool:
        live = self.kube.objects.get(STATEFUL_SET)
        if live is None:
            return False
        marks = live["metadata"]
        if (marks["uid"], marks["resourceVersion"]) != (uid, version):
            return False
        del self.kube.objects[STATEFUL_SET]
        return True

    def _OrphanPods(self, action: actions.OrphanPods) -> None:
        if self._delete_set(action.uid, action.version):
            for pod in self.kube.pods.values():
                pod.owner = ""

    def _RepairLabels(self, action: actions.RepairLabels) -> None:
        self._writable(action.kind)
        if action.kind == "Secret":
            live = self.kube.objects.get((action.kind, action.name))
            if live is None or live["metadata"]["uid"] != action.uid:
                raise Conflict(action.name)
            live["metadata"]["labels"] = dict(action.labels)
            if action.owned:
                live["metadata"]["ownerReferences"] = [{"uid": UID, "controller": True}]
            return
        found: list[Pod | Claim] = [*self.kube.pods.values(), *self.kube.claims.values()]
        for one in found:
            if one.uid == action.uid:
                one.labelled = True
                return
        raise Conflict(action.name)

    def _IssueCertificate(self, action: actions.IssueCertificate) -> None:
        self._secret(action.secret, action.role)
        self.world.secrets[action.secret] = True
        self.world.untrusting.discard(action.secret)

    def _TrustAuthority(self, action: actions.TrustAuthority) -> None:
        self._secret(action.secret, action.role)
        self.world.untrusting.discard(action.secret)

    def _secret(self, name: str, role: str) -> None:
        self._writable("Secret")
        owner = {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "name": NAME,
            "uid": UID,
            "controller": True,
        }
        marks = {
            "name": name,
            "uid": self.kube.fresh("uid"),
            "resourceVersion": str(next(self.kube.serial)),
            "labels": names.labels(NAME, role),
            "ownerReferences": [owner],
        }
        self.kube.objects["Secret", name] = {"kind": "Secret", "metadata": marks}

    def _EvictPod(self, action: actions.EvictPod) -> None:
        pod = self.kube.pods.get(action.ordinal)
        if pod is None or pod.uid != action.uid:
            return
        evict(self.world, pod)

    def _CreatePod(self, action: actions.CreatePod) -> None:
        if self.world.restore_pod is None:
            body = copy.deepcopy(action.body)
            body["metadata"] |= {
                "uid": self.kube.fresh("pod"),
                "creationTimestamp": stamp(self.kube.now),
            }
            self.world.restore_pod = body

    def _CreateSnapshot(self, action: actions.CreateSnapshot) -> None:
        assert action.body["kind"] == names.SNAPSHOT_KIND
        made = LastSnapshot(stamp(self.kube.now))
        self.world.snapshots.setdefault(action.body["metadata"]["name"], made)

    # --- the Partition ---

    def _record(self, status: dict[str, Any]) -> None:
        seen = self.observed.partition.body["metadata"]["resourceVersion"]
        if seen != self.world.body["metadata"]["resourceVersion"]:
            raise Conflict("the Partition has changed")
        merged = self.world.status | status
        self.world.body["status"] = {k: v for k, v in merged.items() if v is not None}
        self.world.touch()

    def _RecordCluster(self, action: actions.RecordCluster) -> None:
        self._record({"clusterID": action.cluster_id, "bootstrapped": False})

    def _RecordBootstrapped(self, action: actions.RecordBootstrapped) -> None:
        self._record({"clusterID": action.cluster_id, "bootstrapped": True})

    def _RecordRestored(self, action: actions.RecordRestored) -> None:
        self._record({"restored": dict(action.record), "restore": None})

    def _SetFinalizer(self, action: actions.SetFinalizer) -> None:
        marks = self.world.body["metadata"]
        marks["finalizers"] = [names.FINALIZER] if action.present else []
        self.world.touch()
        self.world.leave()

    # --- claims ---

    def _claim(self, ordinal: int, uid: str) -> Claim:
        self._writable("PersistentVolumeClaim")
        claim = self.kube.claims.get(ordinal)
        if claim is None or claim.uid != uid:
            raise Conflict(f"claim {ordinal}")
        claim.version = next(self.kube.serial)
        return claim

    def _AnnotateClaim(self, action: actions.AnnotateClaim) -> None:
        seen = (c.uid for c in self.observed.claims if c.ordinal == action.ordinal)
        self._claim(action.ordinal, next(seen, "")).cluster_id = action.cluster_id

    def _GrowClaim(self, action: actions.GrowClaim) -> None:
        claim = self._claim(action.ordinal, action.uid)
        if claim.storage_class in LOCAL:
            raise RefusedWrite("the storageclass that provisions the pvc must support resize")
        claim.size = action.size

    def _ModifyClaim(self, action: actions.ModifyClaim) -> None:
        claim = self._claim(action.ordinal, action.uid)
        if not claim.bound or (not action.attributes_class and claim.attributes_now):
            raise RefusedWrite("volumeAttributesClassName is forbidden")
        claim.attributes = action.attributes_class

    def _OwnClaim(self, action: actions.OwnClaim) -> None:
        self._claim(action.ordinal, action.uid).owned = action.owned

    def _CreateClaim(self, action: actions.CreateClaim) -> None:
        self._writable("PersistentVolumeClaim")
        body = action.body
        assert body["metadata"]["name"] == names.claim(NAME, 0)
        if 0 not in self.kube.claims:
            cluster = body["metadata"]["annotations"][names.ANNOTATION_CLUSTER_ID]
            self.kube.make_claim(0, body["spec"], cluster)

    def _GiveUpVolume(self, action: actions.GiveUpVolume) -> None:
        claim = self._claim(action.ordinal, action.uid)
        disk = self.kube.disks.get(action.volume)
        if action.keep and disk is not None and disk.claim == claim.uid:
            disk.retain = True
        if self.half > 1:
            claim.given_up = True
        if self.half > GIVE_UP_STEPS - 1:
            claim.deleting = True

    # --- commands to replicas ---

    def _replica(self, ordinal: int) -> Volume:
        volume = self.world.serving(ordinal)
        pod = self.kube.pods.get(ordinal)
        seen = self.observed.pod(ordinal)
        if volume is None or pod is None or seen is None or seen.uid != pod.uid:
            raise Failed(f"replica {ordinal} does not answer")
        return volume

    def _leader(self, ordinal: int) -> Group:
        volume, group = self._replica(ordinal), self.world.group
        if group is None or group.leader != volume.member or volume.switching:
            raise Refused("it does not lead")
        return group

    def _Bootstrap(self, action: actions.Bootstrap) -> None:
        volume = self._replica(action.ordinal)
        if volume.cluster:
            if volume.cluster != action.cluster_id:
                raise Refused("the volume belongs to another cluster")
            return
        if self.world.group is not None and not self.world.robbed:
            raise Violation("a second group is begun")
        volume.cluster, volume.standalone = action.cluster_id, action.standalone
        self.world.found(volume, action.ordinal, matched=1)

    def _Join(self, action: actions.Join) -> None:
        volume = self._replica(action.ordinal)
        if volume.cluster not in ("", action.cluster_id):
            raise Refused("the volume belongs to another cluster")
        volume.cluster = action.cluster_id

    def _EnableReplication(self, action: actions.EnableReplication) -> None:
        volume = self._replica(action.ordinal)
        if volume.standalone and volume.backfilled is None:
            volume.backfilled = 0

    def _AddLearner(self, action: actions.AddLearner) -> None:
        group = self._leader(action.leader)
        now = group.configuration
        if action.member_id in now.members:
            return
        group.addresses[action.member_id] = self.observed.ordinal_of(action.address)
        wanted = Configuration(now.voters, now.learners | {action.member_id})
        group.change(wanted, self.world.volumes, self.world.up())

    def _PromoteLearner(self, action: actions.PromoteLearner) -> None:
        group = self._leader(action.leader)
        group.promote(action.member_id, self.world.volumes, self.world.up())

    def _RemoveMember(self, action: actions.RemoveMember) -> None:
        group = self._leader(action.leader)
        group.remove(action.member_id, self.world.volumes, self.world.up())

    def _TransferLeadership(self, action: actions.TransferLeadership) -> None:
        group = self._leader(action.leader)
        group.transfer(action.to_member_id, self.world.volumes, self.world.up())

    def _SetFenced(self, action: actions.SetFenced) -> None:
        volume = self.kube.volume_of(action.ordinal) if self.kube.runs(action.ordinal) else None
        if volume is None:
            raise Failed(f"replica {action.ordinal} does not answer")
        volume.fenced = action.fenced


def evict(world: World, pod: Pod) -> None:
    """As the API server does it, for the operator or for a drain. Raises Refused. Without a budget
    every pod may go; with one, an unready pod may while the others are enough."""
    budget = world.kube.objects.get(BUDGET)
    if budget is not None and pod.ends is None:
        pods = world.kube.pods.values()
        healthy = sum(p.ready and p.ends is None and p.labelled for p in pods)
        left = healthy - (1 if pod.ready else 0)
        if left < int(budget["spec"]["minAvailable"]):
            raise Refused("it would violate the pod's disruption budget")
    world.kube.delete_pod(pod)
