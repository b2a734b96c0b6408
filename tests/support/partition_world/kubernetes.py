"""Nodes, disks, claims and pods of one Partition, and what Kubernetes does to them in a tick: the
StatefulSet's controller, the garbage collector, the scheduler, the kubelets, pvc-protection.

Smaller than Kubernetes: a node takes any number of pods, other pods do not exist, disks are made
at once, and what a controller does in a tick it does as a whole.
"""

import datetime as dt
import hashlib
import json
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from partition_operator.api import names
from partition_operator.api.quantities import parse_quantity
from partition_operator.api.times import stamp

from tests.support.partition_world.replicas import Volume

NAME, NAMESPACE, UID = "part", "ns", "partition-uid"
BEGIN = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
GRACE = dt.timedelta(seconds=30)
NODE_LOST = dt.timedelta(seconds=300)
"""After this time the pods of a node that does not answer are to be deleted."""
DEFAULT_CLASS = "net"
LOCAL = frozenset({"local"})
"""Classes whose disks are on one node, and can't grow or get other attributes. Those of any other
can do all of it."""
BAD_IMAGE = "image:bad"
FAR_IMAGE = "image:4"
"""Of a version that may not run beside the others. Its tag does not tell."""
STATEFUL_SET, BUDGET = ("StatefulSet", NAME), ("PodDisruptionBudget", NAME)


@dataclass
class Node:
    name: str
    up: bool = True
    cordoned: bool = False
    out_of_service: bool = False
    down_since: dt.datetime | None = None

    @property
    def takes_pods(self) -> bool:
        return self.up and not self.cordoned and not self.out_of_service


@dataclass
class Disk:
    """A PersistentVolume and its content. node: "" if every node reaches it. claim: the UID of its
    claim, also after that is gone."""

    name: str
    node: str
    storage_class: str
    capacity: str
    claim: str
    volume: Volume
    retain: bool = False


@dataclass
class Claim:
    ordinal: int
    uid: str
    created: str
    size: str
    storage_class: str
    version: int
    cluster_id: str = ""
    disk: str = ""
    deleting: bool = False
    given_up: bool = False
    owned: bool = False
    lost: bool = False
    labelled: bool = True
    attributes: str = ""
    attributes_now: str = ""

    @property
    def bound(self) -> bool:
        return bool(self.disk)


@dataclass
class Pod:
    """owner: the UID of its StatefulSet, "" for an orphan. starting: ticks before its process runs.
    wait: ticks that a process takes to start."""

    ordinal: int
    uid: str
    owner: str
    revision: str
    image: str
    created: str
    since: str
    node: str = ""
    ends: dt.datetime | None = None
    starting: int = 1
    wait: int = 1
    running: bool = False
    ready: bool = False
    broken: str = ""
    labelled: bool = True


@dataclass
class Kubernetes:
    """members: draws the member ID of each new volume. slow_starts: by ordinal, ticks that a pod
    takes to start. used: bytes on each disk. restoring: a placed pod restores volume 0."""

    now: dt.datetime = BEGIN
    nodes: dict[str, Node] = field(default_factory=dict)
    disks: dict[str, Disk] = field(default_factory=dict)
    claims: dict[int, Claim] = field(default_factory=dict)
    pods: dict[int, Pod] = field(default_factory=dict)
    objects: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    slow_starts: dict[int, int] = field(default_factory=dict)
    used: int = 0
    restoring: bool = False
    serial: "count[int]" = field(default_factory=lambda: count(1))

    def fresh(self, what: str) -> str:
        return f"{what}-{next(self.serial)}"

    # --- what belongs together ---

    def disk_of(self, ordinal: int) -> Disk | None:
        claim = self.claims.get(ordinal)
        return self.disks.get(claim.disk) if claim is not None else None

    def volume_of(self, ordinal: int) -> Volume | None:
        disk = self.disk_of(ordinal)
        return disk.volume if disk is not None else None

    def is_reachable(self, ordinal: int) -> bool:
        """Whether its disk exists, and a node that can have it."""
        disk = self.disk_of(ordinal)
        return disk is not None and (not disk.node or disk.node in self.nodes)

    def runs(self, ordinal: int) -> bool:
        """Whether the process of a pod runs and can be reached."""
        pod = self.pods.get(ordinal)
        return pod is not None and pod.running and self._is_up(pod.node)

    def _is_up(self, node: str) -> bool:
        return node in self.nodes and self.nodes[node].up

    # --- a tick ---

    def pass_tick(self, seconds: int) -> None:
        self.now += dt.timedelta(seconds=seconds)
        self._nodes()
        self._collect()
        self._stateful_set()
        self._schedule()
        for pod in list(self.pods.values()):
            self._kubelet(pod)
        self._protect_claims()
        self._grow()

    def _nodes(self) -> None:
        """Pods of nodes that are gone, are declared to be off, or do not answer for long."""
        for pod in list(self.pods.values()):
            if not pod.node:
                continue
            node = self.nodes.get(pod.node)
            if node is None or (node.out_of_service and not node.up):
                del self.pods[pod.ordinal]
            elif node.down_since and self.now - node.down_since > NODE_LOST:
                self.delete_pod(pod)

    def _collect(self) -> None:
        """The pods of a StatefulSet that was deleted with them."""
        live = self.objects.get(STATEFUL_SET)
        uid = live["metadata"]["uid"] if live else ""
        for pod in list(self.pods.values()):
            if pod.owner and pod.owner != uid:
                self.delete_pod(pod)

    def _stateful_set(self) -> None:
        live = self.objects.get(STATEFUL_SET)
        if live is None:
            return
        uid, revision = live["metadata"]["uid"], revision_of(live)
        live["status"] = {
            "observedGeneration": live["metadata"]["generation"],
            "updateRevision": revision,
        }
        for pod in self.pods.values():
            if pod.ends is None:
                pod.owner = uid if pod.labelled else ""
        size = int(live["spec"]["replicas"])
        for ordinal in range(size):
            if ordinal not in self.pods:
                self._make_pod(ordinal, live, revision)
        for ordinal, pod in list(self.pods.items()):
            if ordinal >= size and pod.owner == uid:
                self.delete_pod(pod)

    def _make_pod(self, ordinal: int, live: dict[str, Any], revision: str) -> None:
        claim = self.claims.get(ordinal)
        if claim is not None and claim.deleting:
            return  # the controller waits until it is gone
        if claim is None:
            template = live["spec"]["volumeClaimTemplates"][0]["spec"]
            self.make_claim(ordinal, template)
        now = stamp(self.now)
        (container,) = live["spec"]["template"]["spec"]["containers"]
        self.pods[ordinal] = Pod(
            ordinal,
            self.fresh("pod"),
            live["metadata"]["uid"],
            revision,
            container["image"],
            created=now,
            since=now,
            wait=self.slow_starts.get(ordinal, 1),
        )

    def make_claim(self, ordinal: int, spec: dict[str, Any], cluster_id: str = "") -> Claim:
        self.claims[ordinal] = Claim(
            ordinal,
            self.fresh("claim"),
            stamp(self.now),
            spec["resources"]["requests"]["storage"],
            spec.get("storageClassName", DEFAULT_CLASS),
            next(self.serial),
            cluster_id,
            attributes=spec.get("volumeAttributesClassName", ""),
        )
        return self.claims[ordinal]

    def delete_pod(self, pod: Pod) -> None:
        if pod.ends is None:
            pod.ends = self.now + GRACE
            if not pod.node:
                del self.pods[pod.ordinal]

    def _schedule(self) -> None:
        for pod in self.pods.values():
            if pod.node or pod.ends is not None:
                continue
            problem = self.place(pod.ordinal)
            if problem in self.nodes:
                pod.node, pod.broken, pod.starting = problem, "", pod.wait
            else:
                pod.broken = f"Unschedulable: {problem}"

    def place(self, ordinal: int) -> str:
        """Returns a node for a pod with this claim, whose disk is made if it has none; or why there
        is none."""
        claim = self.claims.get(ordinal)
        if claim is None or claim.deleting or claim.lost:
            return "its claim is gone, is being deleted, or is lost"
        disk = self.disks.get(claim.disk)
        fit = [n.name for n in self.nodes.values() if n.takes_pods]
        if disk is not None and disk.node:
            fit = [name for name in fit if name == disk.node]
        if not fit:
            return "no node fits"
        load = {name: sum(p.node == name for p in self.pods.values()) for name in fit}
        node = min(sorted(fit), key=load.__getitem__)
        if disk is None:
            place = node if claim.storage_class in LOCAL else ""
            volume = Volume(next(self.serial))
            disk = Disk(self.fresh("pv"), place, claim.storage_class, claim.size, claim.uid, volume)
            self.disks[disk.name], claim.disk = disk, disk.name
            claim.attributes_now = claim.attributes
        return node

    def _kubelet(self, pod: Pod) -> None:
        if not pod.node:
            return
        if not self._is_up(pod.node):
            pod.running = False
            return
        if pod.ends is not None:
            del self.pods[pod.ordinal]
            return
        claim = self.claims.get(pod.ordinal)
        if claim is None or claim.lost:
            pod.running, pod.broken = False, "CrashLoopBackOff: the disk does not answer"
        elif pod.image == BAD_IMAGE:
            pod.running, pod.broken = False, "ImagePullBackOff: no such image"
        elif not pod.running:
            pod.starting -= 1
            pod.running = pod.starting <= 0
            pod.broken = ""

    def _protect_claims(self) -> None:
        """A deleted claim stays while a placed pod uses it."""
        for claim in list(self.claims.values()):
            pod = self.pods.get(claim.ordinal)
            used = (pod is not None and pod.node) or (self.restoring and claim.ordinal == 0)
            if claim.deleting and not used:
                del self.claims[claim.ordinal]
                disk = self.disks.get(claim.disk)
                if disk is not None and not disk.retain:
                    del self.disks[disk.name]

    def _grow(self) -> None:
        for claim in self.claims.values():
            disk = self.disks.get(claim.disk)
            if disk is not None and claim.storage_class not in LOCAL:
                claim.attributes_now = claim.attributes
            if disk is not None and number(disk.capacity) < number(claim.size):
                disk.capacity = claim.size

    def set_ready(self, ordinal: int, *, ready: bool) -> None:
        pod = self.pods[ordinal]
        if pod.ready != ready:
            pod.ready, pod.since = ready, stamp(self.now)


def number(size: str) -> int:
    return int(parse_quantity(size) or 0)


def revision_of(live: dict[str, Any]) -> str:
    """As the controller names it: by the pods' template alone."""
    text = json.dumps(live["spec"]["template"], sort_keys=True)
    return f"{NAME}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"


def image_in(live: dict[str, Any]) -> str:
    (container,) = live["spec"]["template"]["spec"]["containers"]
    assert container["name"] == names.REPLICA_CONTAINER
    return str(container["image"])
