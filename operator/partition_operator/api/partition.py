"""A Partition as the operator reads it. The CRD's CEL rules refuse most of what is refused here;
this is for what slips through: another CRD version, a rule that an API server didn't run."""

import re
from dataclasses import dataclass, field
from typing import Any

from partition_operator.api.bootstrap import RestoreFrom, parse_bootstrap
from partition_operator.api.names import GROUP, KIND, NAME_MAX
from partition_operator.api.quantities import parse_quantity
from partition_operator.errors import InvalidSpec

REPLICAS_ALLOWED = (1, 3, 5, 7)
RAFT, UNREPLICATED = "Raft", "None"
"""Of spec.replication.mode."""

SNAPSHOT_CONDITIONS = frozenset({"SnapshotScheduleValid", "SnapshotFresh", "SnapshotsPruned"})
"""Of a Partition's status; written by the turn of its snapshots alone."""

OTHERS_FIELDS = frozenset({"snapshots", "operator"})
"""Of a Partition's status: written by the turn of its snapshots, and by a claim (ownership)."""

POD_PREFIXES_RESERVED = (f"{GROUP}/", "statefulset.kubernetes.io/", "apps.kubernetes.io/")
POD_KEYS_RESERVED = frozenset(
    {
        "controller-revision-hash",
        "app.kubernetes.io/name",
        "app.kubernetes.io/instance",
        "app.kubernetes.io/component",
        "app.kubernetes.io/part-of",
        "app.kubernetes.io/managed-by",
    }
)
"""Of spec.podTemplate.metadata: by these pods are found. The CRD refuses the same."""

_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
SIZE_MIN = 64 * 2**20


@dataclass(frozen=True, slots=True)
class PartitionSpec:
    """What a user asked for, checked."""

    replicas: int
    storage_size: str
    storage_class: str | None
    resources: dict[str, Any]
    adopt: bool
    mode: str = RAFT
    restore: RestoreFrom | None = None
    image: str | None = None
    affinity: dict[str, Any] = field(default_factory=dict)
    tolerations: list[dict[str, Any]] = field(default_factory=list)
    pod_labels: dict[str, str] = field(default_factory=dict)
    pod_annotations: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Partition:
    """One object, at one resource version."""

    namespace: str
    name: str
    uid: str
    generation: int
    deleting: bool
    body: dict[str, Any]

    @property
    def key(self) -> tuple[str, str]:
        return self.namespace, self.name

    @property
    def kind(self) -> str:
        return KIND

    @property
    def status(self) -> dict[str, Any]:
        """What the group's own turn writes; what others write into it is left out."""
        found: dict[str, Any] = self.body.get("status") or {}
        theirs = any(c["type"] in SNAPSHOT_CONDITIONS for c in found.get("conditions") or [])
        if not OTHERS_FIELDS & found.keys() and not theirs:
            return found
        mine = {key: value for key, value in found.items() if key not in OTHERS_FIELDS}
        if theirs:
            mine["conditions"] = [
                c for c in found["conditions"] if c["type"] not in SNAPSHOT_CONDITIONS
            ]
        return mine

    @property
    def snapshot_status(self) -> dict[str, Any]:
        """status.snapshots."""
        found: dict[str, Any] = (self.body.get("status") or {}).get("snapshots") or {}
        return found

    def spec(self) -> PartitionSpec:
        """Raises InvalidSpec."""
        return parse_spec(self.name, self.body.get("spec") or {})


def parse(body: dict[str, Any]) -> Partition:
    metadata = body["metadata"]
    return Partition(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        generation=metadata.get("generation", 0),
        deleting="deletionTimestamp" in metadata,
        body=body,
    )


def parse_spec(name: str, spec: dict[str, Any]) -> PartitionSpec:
    """Raises InvalidSpec, saying what is allowed."""
    if len(name) > NAME_MAX or not _NAME.fullmatch(name):
        raise InvalidSpec(
            f"name {name!r}: at most {NAME_MAX} characters, lower-case letters, digits and '-', "
            "beginning with a letter"
        )
    replicas = spec.get("replicas", 3)
    if replicas not in REPLICAS_ALLOWED:
        raise InvalidSpec(
            f"spec.replicas {replicas!r}: an odd number keeps a majority clear; allowed are "
            + ", ".join(map(str, REPLICAS_ALLOWED))
        )
    mode = (spec.get("replication") or {}).get("mode", RAFT)
    if mode not in (RAFT, UNREPLICATED):
        raise InvalidSpec(f"spec.replication.mode {mode!r}: allowed are {UNREPLICATED} and {RAFT}")
    storage = spec.get("storage") or {}
    size = str(storage.get("size", ""))
    if (parse_quantity(size) or 0) < SIZE_MIN:
        raise InvalidSpec(f"spec.storage.size {size!r}: a quantity of at least 64Mi, such as 10Gi")
    bootstrap = spec.get("bootstrap") or {}
    pods = (spec.get("podTemplate") or {}).get("metadata") or {}
    return PartitionSpec(
        replicas=replicas,
        mode=mode,
        storage_size=size,
        storage_class=storage.get("className"),
        resources=spec.get("resources") or {},
        adopt=bool(bootstrap.get("adopt", False)),
        restore=parse_bootstrap(bootstrap),
        image=spec.get("image"),
        affinity=spec.get("affinity") or {},
        tolerations=spec.get("tolerations") or [],
        pod_labels=_pod_marks(pods, "labels"),
        pod_annotations=_pod_marks(pods, "annotations"),
    )


def _pod_marks(metadata: dict[str, Any], kind: str) -> dict[str, str]:
    """Labels or annotations of every pod. Raises InvalidSpec for keys that are not to be set."""
    found = metadata.get(kind) or {}
    for key, value in found.items():
        where = f"spec.podTemplate.metadata.{kind} {key!r}"
        if key in POD_KEYS_RESERVED or key.startswith(POD_PREFIXES_RESERVED):
            raise InvalidSpec(f"{where}: the operator and Kubernetes set it; use another key")
        if not isinstance(value, str):
            raise InvalidSpec(f"{where}: the value {value!r} is no text; put it into quotes")
    return dict(found)
