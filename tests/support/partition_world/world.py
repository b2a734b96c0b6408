"""The world of one Partition: the object that users edit, Kubernetes below it, and the group."""

import copy
import json
from dataclasses import dataclass, field
from typing import Any

from partition_operator.api import names
from partition_operator.api.partition import Partition, parse
from partition_operator.api.times import stamp

from tests.support.partition_world.kubernetes import (
    BEGIN,
    NAME,
    NAMESPACE,
    UID,
    Kubernetes,
    Node,
    number,
)
from tests.support.partition_world.replicas import Configuration, Group, Volume

BACKFILL_TICKS = 3
RESTORE_TICKS = 2
SNAPSHOT_TICKS = 2
SECRET = {"credentialsSecretRef": {"name": "s"}}
STORE = {"bucket": "bucket", "path": "group", "region": "r"} | SECRET
"""What a restored Partition is made of."""
SNAPSHOTS = {
    "destination": {
        "objectStore": {"bucket": "bucket", "region": "r", "credentialsSecretRef": {"name": "s"}}
    }
}
"""What a last snapshot needs."""
REPORT = {
    "state": "succeeded",
    "snapshotID": "snap",
    "lsn": 50,
    "term": 1,
    "digest": "abc",
    "keys": 1,
    "files": 2,
    "clusterID": "old",
}


@dataclass
class LastSnapshot:
    """left: ticks until it ends. lsn: up to which it has everything, once it has succeeded."""

    created: str
    left: int = SNAPSHOT_TICKS
    state: str = "Running"
    lsn: int = 0


@dataclass
class World:
    """body: of the Partition. founded: how many groups were begun. secrets: by name, whether its
    certificate is good; untrusting: those that lack an authority. refusing: kinds whose writes the
    API server refuses. restoring: ticks that the restoring pod still needs; fails: how many of its
    attempts fail. snapshots: the last ones, by name, in order; spoils: how many of them fail.
    writes: how often status was written. rate: entries that clients append in a tick. gone: the
    Partition is deleted. robbed: a fault took data that the group could not spare. autogrown: its
    volumes have had leave to grow by themselves."""

    body: dict[str, Any]
    kube: Kubernetes
    group: Group | None = None
    founded: int = 0
    secrets: dict[str, bool] = field(default_factory=dict)
    untrusting: set[str] = field(default_factory=set)
    refusing: set[str] = field(default_factory=set)
    restore_pod: dict[str, Any] | None = None
    restoring: int = 0
    fails: int = 0
    snapshots: dict[str, LastSnapshot] = field(default_factory=dict)
    spoils: int = 0
    writes: int = 0
    rate: int = 1
    gone: bool = False
    robbed: bool = False
    autogrown: bool = False

    # --- the object ---

    @property
    def spec(self) -> dict[str, Any]:
        found: dict[str, Any] = self.body["spec"]
        return found

    @property
    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.body["status"]
        return found

    def partition(self) -> Partition:
        return parse(copy.deepcopy(self.body))

    def touch(self) -> None:
        self.body["metadata"]["resourceVersion"] = str(next(self.kube.serial))

    def edit(self, **spec: Any) -> None:
        """None removes a field."""
        found = self.spec | spec
        self.body["spec"] = {key: value for key, value in found.items() if value is not None}
        self.body["metadata"]["generation"] += 1
        self.touch()

    def edit_storage(self, **storage: Any) -> bool:
        """Returns whether the rules of the CRD allow the change."""
        found = {k: v for k, v in (self.spec["storage"] | storage).items() if v is not None}
        has = self.status.get("storage") or {}
        if found.get("replacement") != "Rolling":
            smaller = "size" in has and number(found["size"]) < number(has["size"])
            other = "className" in has and found.get("className", has["className"])
            if smaller or (other and other != has["className"]):
                return False
        self.autogrown |= "autogrow" in found
        self.edit(storage=found)
        return True

    def annotate(self, key: str, value: str) -> None:
        """ "" removes it."""
        marks = self.body["metadata"].setdefault("annotations", {})
        marks.pop(key, None)
        if value:
            marks[key] = value
        self.touch()

    def annotation(self, key: str) -> str:
        return str((self.body["metadata"].get("annotations") or {}).get(key, ""))

    @property
    def finalizer(self) -> bool:
        return names.FINALIZER in (self.body["metadata"].get("finalizers") or [])

    def delete(self) -> None:
        self.body["metadata"]["deletionTimestamp"] = stamp(self.kube.now)
        self.touch()
        self.leave()

    def leave(self) -> None:
        """Ends the Partition, if it is deleted and nobody holds it; what it owns goes with it."""
        if "deletionTimestamp" not in self.body["metadata"] or self.finalizer:
            return
        self.gone = True
        self.kube.objects.clear()
        for claim in self.kube.claims.values():
            claim.deleting = claim.deleting or claim.owned

    # --- the replicas ---

    @property
    def volumes(self) -> dict[int, Volume]:
        """Of the present claims, by member ID."""
        found = (self.kube.volume_of(ordinal) for ordinal in self.kube.claims)
        return {volume.member: volume for volume in found if volume is not None}

    def serving(self, ordinal: int) -> Volume | None:
        """The volume of a replica that runs and is not fenced."""
        volume = self.kube.volume_of(ordinal) if self.kube.runs(ordinal) else None
        return None if volume is None or volume.fenced else volume

    def up(self) -> frozenset[int]:
        """The members whose replicas run and belong to the group."""
        found = (self.serving(ordinal) for ordinal in self.kube.pods)
        return frozenset(v.member for v in found if v is not None and v.cluster and not v.switching)

    def found(self, volume: Volume, ordinal: int, matched: int) -> None:
        """Begins a group."""
        self.founded += 1
        alone = Configuration(frozenset({volume.member}))
        volume.matched = matched
        self.group = Group(
            volume.cluster, [(1, alone)], {volume.member: ordinal}, acknowledged=matched
        )

    # --- time ---

    def pass_tick(self, seconds: int = 1) -> None:
        self.kube.pass_tick(seconds)
        for ordinal in self.kube.pods:
            self._backfill(ordinal)
        if self.group is not None:
            self.group.pass_tick(self.volumes, self.up(), self.rate)
        for ordinal in list(self.kube.pods):
            self.kube.set_ready(ordinal, ready=self._is_ready(ordinal))
        self._restore()
        self._take_snapshots()
        self.leave()

    def pass_ticks(self, number_of: int, seconds: int = 1) -> None:
        for _ in range(number_of):
            self.pass_tick(seconds)

    def _backfill(self, ordinal: int) -> None:
        volume = self.serving(ordinal)
        if volume is None:
            return
        if volume.switching:
            volume.switching = volume.standalone = False
        elif volume.backfilled is not None:
            volume.backfilled += 1
            if volume.backfilled > BACKFILL_TICKS:
                volume.backfilled, volume.switching = None, True

    def _is_ready(self, ordinal: int) -> bool:
        """A replica is ready while it knows its leader."""
        volume = self.serving(ordinal)
        if volume is None or self.group is None or volume.cluster != self.group.cluster:
            return False
        known = volume.member in self.group.configuration.members
        return bool(self.group.leader) and known and not volume.switching and volume.matched > 0

    def _restore(self) -> None:
        pod = self.restore_pod
        if pod is None or pod.get("status", {}).get("phase") in ("Succeeded", "Failed"):
            self.kube.restoring = False
            return
        if "nodeName" not in pod["spec"]:
            node = self.kube.place(0)
            if node not in self.kube.nodes:
                return
            pod["spec"]["nodeName"] = node
            pod["status"], self.restoring = {"phase": "Running"}, RESTORE_TICKS
            self.kube.restoring = True
        self.restoring -= 1
        if self.restoring > 0:
            return
        code, self.fails = (1, self.fails - 1) if self.fails else (0, 0)
        volume = self.kube.volume_of(0)
        code = 1 if volume is None else code
        if volume is not None and not code:
            volume.cluster = self.kube.claims[0].cluster_id
            volume.standalone = self.spec.get("replication", {}).get("mode") == "None"
            self.found(volume, 0, REPORT["lsn"])  # type: ignore[arg-type]
        message = "" if code else json.dumps(REPORT)
        ended = {"exitCode": code, "message": message, "finishedAt": stamp(self.kube.now)}
        state = [{"name": "restore", "state": {"terminated": ended}}]
        pod["status"] = {"phase": "Failed" if code else "Succeeded", "containerStatuses": state}

    def _take_snapshots(self) -> None:
        """One that runs needs a leader, and has what was acknowledged when it ends."""
        group = self.group
        for one in self.snapshots.values():
            if one.state != "Running" or group is None or not group.serving:
                continue
            one.left -= 1
            if one.left <= 0:
                one.state = "Failed" if self.spoils else "Succeeded"
                one.lsn, self.spoils = group.acknowledged, max(self.spoils - 1, 0)


def new_world(nodes: int = 4, **spec: Any) -> World:
    """A Partition that was just made. Its certificates are not issued yet."""
    body = {
        "metadata": {
            "name": NAME,
            "namespace": NAMESPACE,
            "uid": UID,
            "generation": 1,
            "creationTimestamp": stamp(BEGIN),
            "resourceVersion": "0",
        },
        "spec": {"replicas": 3, "storage": {"size": "1Gi"}} | spec,
        "status": {},
    }
    kube = Kubernetes(nodes={f"node-{n}": Node(f"node-{n}") for n in range(nodes)})
    return World(body, kube, secrets=dict.fromkeys(secret_names(), False))


def secret_names() -> tuple[str, str]:
    return names.tls_secret(NAME), names.client_secret(NAME)
