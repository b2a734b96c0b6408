"""A cluster of paper: an API server that keeps objects and counts requests, and what stands in for
the StatefulSet's controller and the replica of one Partition of one replica."""

import copy
import datetime as dt
from typing import Any, cast

from partition_operator.api import names
from partition_operator.clients.kube import Body, Kube
from partition_operator.clients.observer import Observer
from partition_operator.clients.recorder import Recorder
from partition_operator.config import OperatorConfig
from partition_operator.errors import Conflict
from partition_operator.reconcile.observed.partition import ObservedPod, ObservedReplica
from partition_operator.resources.certificates import make_authority
from partition_operator.resources.trust import Authority
from partition_operator.turns.executor import Executor
from partition_operator.turns.partition import Reconciler
from partition_operator.turns.queue import PARTITION, Key

from tests.support.certificates import KnownAuthority
from tests.support.partition_views import member, replica

NAME, NAMESPACE = "part", "ns"
POD = names.pod(NAME, 0)
KEY = Key(PARTITION, NAMESPACE, NAME)
PARTITION_OBJECT = (names.KIND, NAME)


class CountingKube(Kube):
    """found: by kind and name. reads, writes: requests, in order, as "verb kind name"."""

    def __init__(self) -> None:
        super().__init__(cast("Any", None), 1)
        self.found: dict[tuple[str, str], Body] = {}
        self.reads: list[str] = []
        self.writes: list[str] = []
        self._serial = 10

    def put(self, body: Body) -> Body:
        """As another program would write it. Returns the object as stored."""
        key = (body["kind"], body["metadata"]["name"])
        old = (self.found.get(key) or {}).get("metadata", {})
        self._serial += 1
        kept = {
            "namespace": NAMESPACE,
            "uid": old.get("uid", f"uid-{self._serial}"),
            "creationTimestamp": old.get("creationTimestamp", "2026-01-01T00:00:05Z"),
            "generation": old.get("generation", 1),
            "resourceVersion": str(self._serial),
        }
        self.found[key] = copy.deepcopy(body) | {"metadata": body["metadata"] | kept}
        return copy.deepcopy(self.found[key])

    async def get(self, kind: str, namespace: str, name: str) -> Body | None:
        self.reads.append(f"get {kind} {name}")
        return copy.deepcopy(self.found.get((kind, name)))

    async def list_labelled(
        self, kind: str, namespace: str, selector: dict[str, str]
    ) -> list[Body]:
        self.reads.append(f"list {kind}")
        found = [body for (of, _), body in self.found.items() if of == kind]
        labels = [(body, (body["metadata"].get("labels") or {}).items()) for body in found]
        return [copy.deepcopy(body) for body, has in labels if selector.items() <= has]

    async def events_about(self, namespace: str, uid: str, reason: str) -> list[Body]:
        self.reads.append("list Event")
        return []

    async def create(self, body: Body) -> Body:
        self.writes.append(f"create {body['kind']} {body['metadata']['name']}")
        return self.put(body)

    async def apply(self, body: Body, live: Body | None) -> Body:
        key = (body["kind"], body["metadata"]["name"])
        self.writes.append(f"apply {key[0]} {key[1]}")
        if (live is None) != (key not in self.found):
            raise Conflict(f"{key} has changed")
        return self.put(body)

    async def merge(self, kind: str, live: Body, change: Body) -> Body:
        name = live["metadata"]["name"]
        self.writes.append(f"merge {kind} {name}")
        return self.put({"kind": kind} | _merged(self.found[kind, name], change))

    async def merge_status(self, namespace: str, name: str, body: Body) -> Body:
        self.writes.append(f"status {name}")
        found = self.found[PARTITION_OBJECT]
        return self.put(found | {"status": _merged(found.get("status") or {}, body["status"])})

    async def apply_status(self, body: Body, status: Any, **_: Any) -> Body:
        self.writes.append(f"status {body['metadata']['name']}")
        found = self.found[PARTITION_OBJECT]
        if found["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"]:
            raise Conflict("the Partition has changed")
        kept = {"operator": (found.get("status") or {}).get("operator")}
        return self.put(found | {"status": copy.deepcopy(dict(status)) | kept})


def _merged(found: Body, change: Body) -> Body:
    merged = dict(found)
    for key, value in change.items():
        if isinstance(value, dict):
            merged[key] = _merged(merged.get(key) or {}, value)
        elif value is None:
            merged.pop(key, None)
        else:
            merged[key] = value
    return merged


class PaperReplica:
    """The client of the only replica. cluster: "" until it is bootstrapped. asked: how often."""

    def __init__(self) -> None:
        self.cluster = ""
        self.term = 2
        self.asked = 0

    async def status(self, _: object, pod: ObservedPod) -> ObservedReplica:
        self.asked += 1
        if not self.cluster:
            return replica(0, "unbootstrapped", cluster_id="", leader_id=0, member_id=100)
        members = (member(0, address=names.address(NAME, NAMESPACE, 0)),)
        more = {"cluster_id": self.cluster, "term": self.term, "members": members}
        return replica(0, "leader", **more)

    async def bootstrap(self, _: object, pod: object, cluster_id: str, *, standalone: bool) -> None:
        self.cluster = cluster_id

    async def forget(self, *_: object) -> None: ...

    def follow(self, *_: object) -> None: ...

    def refused(self, *_: object) -> dict[int, str]:
        return {}


class PaperCluster:
    """One Partition, just made, and the operator's turns of it."""

    def __init__(self, **spec: Any) -> None:
        self.kube = CountingKube()
        self.replica = PaperReplica()
        replicas = cast("Any", self.replica)
        authority = KnownAuthority(Authority(make_authority(dt.datetime.now(dt.UTC))))
        self.reconciler = Reconciler(
            OperatorConfig(NAMESPACE, "test", "image:1"),
            self.kube,
            Observer(self.kube, replicas, authority),
            Executor(self.kube, replicas, authority),
            Recorder(self.kube, 1000),
        )
        wanted = {"replicas": 1, "storage": {"size": "1Gi"}} | spec
        meta = {"name": NAME, "creationTimestamp": "2026-01-01T00:00:00Z"}
        body = {"apiVersion": names.API_VERSION, "kind": names.KIND, "metadata": meta}
        self.kube.put(body | {"spec": wanted})

    @property
    def state(self) -> str:
        """STATUS of the Partition."""
        return str((self.kube.found[PARTITION_OBJECT].get("status") or {}).get("state", ""))

    def run_pod(self) -> None:
        """What the StatefulSet's controller and the kubelet do."""
        found = self.kube.found["StatefulSet", NAME]
        template, claim = found["spec"]["template"], names.claim(NAME, 0)
        labels = found["spec"]["selector"]["matchLabels"]
        self.kube.put(
            {
                "kind": "PersistentVolumeClaim",
                "metadata": {"name": claim, "labels": labels},
                "spec": found["spec"]["volumeClaimTemplates"][0]["spec"],
            }
        )
        marks = template["metadata"]["labels"] | {names.LABEL_REVISION: "1"}
        ready = {"type": "Ready", "status": "True"}
        self.kube.put(
            {
                "kind": "Pod",
                "metadata": {"name": POD, "labels": marks},
                "spec": template["spec"] | {"nodeName": "node"},
                "status": {"phase": "Running", "podIP": "10.0.0.1", "conditions": [ready]},
            }
        )
        status = {"observedGeneration": 1, "updateRevision": "1", "replicas": 1}
        self.kube.put(found | {"status": status})

    def forget_requests(self) -> None:
        self.kube.reads.clear()
        self.kube.writes.clear()
        self.replica.asked = 0
