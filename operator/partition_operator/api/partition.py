"""A Partition as the operator reads it. The CRD's CEL rules refuse most of what is refused here;
this is for what slips through: another CRD version, a rule that an API server didn't run."""

import re
from dataclasses import dataclass, field
from typing import Any

from partition_operator.api.names import NAME_MAX
from partition_operator.api.quantities import parse_quantity
from partition_operator.errors import InvalidSpec

REPLICAS_ALLOWED = (1, 3, 5, 7)
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
    image: str | None = None
    affinity: dict[str, Any] = field(default_factory=dict)
    tolerations: list[dict[str, Any]] = field(default_factory=list)


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
    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.body.get("status") or {}
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
    mode = (spec.get("replication") or {}).get("mode", "Raft")
    if mode != "Raft":
        raise InvalidSpec(f"spec.replication.mode {mode!r}: this version supports Raft only")
    storage = spec.get("storage") or {}
    size = str(storage.get("size", ""))
    if (parse_quantity(size) or 0) < SIZE_MIN:
        raise InvalidSpec(f"spec.storage.size {size!r}: a quantity of at least 64Mi, such as 10Gi")
    bootstrap = spec.get("bootstrap") or {}
    return PartitionSpec(
        replicas=replicas,
        storage_size=size,
        storage_class=storage.get("className"),
        resources=spec.get("resources") or {},
        adopt=bool(bootstrap.get("adopt", False)),
        image=spec.get("image"),
        affinity=spec.get("affinity") or {},
        tolerations=spec.get("tolerations") or [],
    )
