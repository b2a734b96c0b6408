"""A Partition as the operator reads it. validation.py says what is refused, and why here again."""

from dataclasses import dataclass, field
from typing import Any, Final, Literal, cast

from partition_operator.api import schema, validation
from partition_operator.api.bootstrap import RestoreFrom, parse_bootstrap
from partition_operator.api.names import KIND
from partition_operator.api.rule import Rule

Mode = Literal["None", "Raft"]
"""Of spec.replication.mode."""
RAFT: Final = "Raft"
UNREPLICATED: Final = "None"

SNAPSHOT_CONDITIONS = frozenset({"SnapshotScheduleValid", "SnapshotFresh", "SnapshotsPruned"})
"""Of a Partition's status; written by the turn of its snapshots alone."""

OTHERS_FIELDS = frozenset({"snapshots", "operator"})
"""Of a Partition's status: written by the turn of its snapshots, and by a claim (ownership)."""


@dataclass(frozen=True, slots=True)
class PartitionSpec:
    """What a user asked for, checked."""

    replicas: int
    storage_size: str
    storage_class: str | None
    resources: schema.Resources
    adopt: bool
    mode: Mode = RAFT
    restore: RestoreFrom | None = None
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
    def whole_status(self) -> schema.PartitionStatus:
        """Of every writer."""
        return cast(schema.PartitionStatus, self.body.get("status") or {})

    @property
    def status(self) -> schema.PartitionStatus:
        """What the group's own turn writes; what others write into it is left out."""
        found = self.whole_status
        theirs = any(c["type"] in SNAPSHOT_CONDITIONS for c in found.get("conditions") or [])
        if not OTHERS_FIELDS & found.keys() and not theirs:
            return found
        own = {key: value for key, value in found.items() if key not in OTHERS_FIELDS}
        mine = cast(schema.PartitionStatus, own)
        if theirs:
            mine["conditions"] = [
                c for c in found["conditions"] if c["type"] not in SNAPSHOT_CONDITIONS
            ]
        return mine

    @property
    def snapshot_status(self) -> schema.SnapshotsStatus:
        """status.snapshots."""
        return self.whole_status.get("snapshots") or {}

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


def parse_spec(name: str, body: object) -> PartitionSpec:
    """parse_snapshots_spec reads what is in spec.snapshots: a wrong schedule stops nothing else.
    Raises InvalidSpec, saying what is allowed."""
    validation.check_name(schema.Partition, name)
    spec = validation.checked(
        schema.PartitionSpec, body, "spec", instead={"snapshots": Rule("object")}
    )
    bootstrap = spec.get("bootstrap", schema.Bootstrap())
    template = spec.get("podTemplate", schema.PodTemplate())
    marks = template.get("metadata", schema.PodMarks())
    return PartitionSpec(
        replicas=spec["replicas"],
        mode=spec["replication"]["mode"],
        storage_size=spec["storage"]["size"],
        storage_class=spec["storage"].get("className"),
        resources=spec.get("resources", schema.Resources()),
        adopt=bootstrap.get("adopt", False),
        restore=parse_bootstrap(bootstrap),
        affinity=spec.get("affinity", {}),
        tolerations=spec.get("tolerations", []),
        pod_labels=dict(marks.get("labels", {})),
        pod_annotations=dict(marks.get("annotations", {})),
    )
