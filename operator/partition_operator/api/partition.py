"""A Partition as the operator reads it. validation.py checks its spec again, after the CRD."""

from dataclasses import dataclass, field
from typing import Any, Final, Literal, cast

from partition_operator.api import pod_template, schema, validation
from partition_operator.api.bootstrap import RestoreFrom, parse_bootstrap
from partition_operator.api.names import CLUSTER_DOMAIN, KIND
from partition_operator.api.quantities import parse_quantity
from partition_operator.api.rule import Rule
from partition_operator.api.settings import parse_settings
from partition_operator.api.snapshot import SnapshotsSpec, parse_snapshots_spec
from partition_operator.api.tls import Client, TlsSource, parse_clients, parse_tls
from partition_operator.api.update import UpdateStrategy, parse_update_strategy
from partition_operator.errors import InvalidSpec

Mode = Literal["None", "Raft"]
"""The values of spec.replication.mode."""
RAFT: Final = "Raft"
STANDALONE: Final = "None"

DeletionPolicy = Literal["Retain", "Delete", "SnapshotThenDelete"]
"""The values of spec.deletionPolicy."""
RETAIN: Final = "Retain"
DELETE: Final = "Delete"
SNAPSHOT_THEN_DELETE: Final = "SnapshotThenDelete"

RETENTION_ENFORCED: Final = "RetentionEnforced"
SNAPSHOTS_PRUNED: Final = "SnapshotsPruned"
"""Deprecated: the earlier name of RetentionEnforced, written beside it for one minor version."""

SNAPSHOT_CONDITIONS = frozenset(
    {"SnapshotScheduleValid", "SnapshotFresh", RETENTION_ENFORCED, SNAPSHOTS_PRUNED}
)
"""Conditions of a Partition that only the turn of its snapshots writes."""

OTHERS_FIELDS = frozenset({"snapshots", "operator"})
"""Fields of a Partition's status that other writers own: the turn of its snapshots writes
`snapshots`, and a claim of the Partition writes `operator` (ownership.py)."""


@dataclass(frozen=True, slots=True)
class Autogrow:
    """free_share: of a volume, 0 to 0.9; free_bytes: instead of it. step, size_max: in bytes."""

    step: int
    size_max: int
    free_share: float = 0.0
    free_bytes: int = 0


@dataclass(frozen=True, slots=True)
class PartitionSpec:
    """The spec of a Partition, checked, with its defaults."""

    replicas: int
    storage_size: str
    storage_class: str | None
    resources: schema.Resources
    adopt: bool
    replace_volumes: bool = False
    """Volumes that differ from the spec and can't be changed are replaced."""
    keep_replaced: bool = True
    attributes_class: str | None = None
    """The VolumeAttributesClass of the volumes; None leaves them as they are."""
    autogrow: Autogrow | None = None
    mode: Mode = RAFT
    restore: RestoreFrom | None = None
    affinity: dict[str, Any] = field(default_factory=dict)
    tolerations: list[dict[str, Any]] = field(default_factory=list)
    pod_labels: dict[str, str] = field(default_factory=dict)
    pod_annotations: dict[str, str] = field(default_factory=dict)
    paused: bool = False
    hibernated: bool = False
    deletion: DeletionPolicy = RETAIN
    image: str = ""
    """"" leaves the choice to the operator."""
    update: UpdateStrategy = field(default_factory=UpdateStrategy)
    tls: TlsSource = field(default_factory=TlsSource)
    clients: tuple[Client, ...] = ()
    template: dict[str, Any] = field(default_factory=dict)
    """spec.podTemplate.spec, without affinity and tolerations, which are above."""
    service: schema.Service = field(default_factory=schema.Service)
    account_annotations: dict[str, str] = field(default_factory=dict)
    settings: tuple[str, ...] = ()
    """Flags of the replica."""


@dataclass(frozen=True, slots=True)
class Partition:
    """One object, at one resource version. Its spec is parsed once, here."""

    namespace: str
    name: str
    uid: str
    generation: int
    deleting: bool
    body: dict[str, Any]
    cluster_domain: str = CLUSTER_DOMAIN
    """The cluster's DNS domain, a setting of the operator."""
    _spec: PartitionSpec | InvalidSpec = field(init=False, repr=False, compare=False)
    _snapshots: SnapshotsSpec | InvalidSpec | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # The class is frozen, so plain assignment is not possible.
        put = object.__setattr__
        given = self.body.get("spec") or {}
        try:
            put(self, "_spec", parse_spec(self.name, given))
        except InvalidSpec as error:
            put(self, "_spec", error)
        try:
            put(self, "_snapshots", parse_snapshots_spec(given))
        except InvalidSpec as error:
            put(self, "_snapshots", error)

    @property
    def key(self) -> tuple[str, str]:
        return self.namespace, self.name

    @property
    def kind(self) -> str:
        return KIND

    def annotation(self, key: str) -> str:
        """The value of an annotation; "" if there is none."""
        return str((self.body["metadata"].get("annotations") or {}).get(key, ""))

    @property
    def whole_status(self) -> schema.PartitionStatus:
        """The status with the parts of every writer."""
        return cast(schema.PartitionStatus, self.body.get("status") or {})

    @property
    def status(self) -> schema.PartitionStatus:
        """The part of status that the Partition's own turn writes."""
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

    @property
    def asked(self) -> PartitionSpec | None:
        """The spec, or None if it is not valid."""
        return None if isinstance(self._spec, InvalidSpec) else self._spec

    def spec(self) -> PartitionSpec:
        """Raises InvalidSpec."""
        if isinstance(self._spec, InvalidSpec):
            raise InvalidSpec(str(self._spec))
        return self._spec

    @property
    def external_hostnames(self) -> tuple[str, ...]:
        """The valid items of spec.service.externalHostnames, also if the spec is not valid: a
        certificate that is renewed meanwhile must not lose them."""
        given = (self.body.get("spec") or {}).get("service") or {}
        names = given.get("externalHostnames") if isinstance(given, dict) else None
        return tuple(validation.hostnames(names))

    def snapshots(self) -> SnapshotsSpec | None:
        """spec.snapshots; None if it is absent. Raises InvalidSpec."""
        if isinstance(self._snapshots, InvalidSpec):
            raise InvalidSpec(str(self._snapshots))
        return self._snapshots


def _autogrow(body: schema.Autogrow | None) -> Autogrow | None:
    """body: checked."""
    if body is None:
        return None
    step, size_max = (int(parse_quantity(body[key]) or 0) for key in ("step", "max"))
    below = body["whenFreeBelow"]
    if below.endswith("%"):
        return Autogrow(step, size_max, free_share=int(below[:-1]) / 100)
    return Autogrow(step, size_max, free_bytes=int(parse_quantity(below) or 0))


def parse(body: dict[str, Any], cluster_domain: str = CLUSTER_DOMAIN) -> Partition:
    metadata = body["metadata"]
    return Partition(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        generation=metadata.get("generation", 0),
        deleting="deletionTimestamp" in metadata,
        body=body,
        cluster_domain=cluster_domain,
    )


def parse_spec(name: str, body: object) -> PartitionSpec:
    """Checks and parses a spec, without spec.snapshots: parse_snapshots_spec does that, so that a
    wrong schedule stops nothing else. Raises InvalidSpec; the message contains what is allowed."""
    validation.check_name(schema.Partition, name)
    spec = validation.checked(
        schema.PartitionSpec, body, "spec", instead={"snapshots": Rule("object")}
    )
    bootstrap = spec.get("bootstrap", schema.Bootstrap())
    template = spec.get("podTemplate", schema.PodTemplate())
    marks = template.get("metadata", schema.PodMarks())
    pods = pod_template.cleaned(template.get("spec", {}))
    account = spec.get("serviceAccount", schema.ServiceAccount())
    return PartitionSpec(
        replicas=spec["replicas"],
        mode=spec["replication"]["mode"],
        storage_size=spec["storage"]["size"],
        storage_class=spec["storage"].get("className"),
        resources=spec.get("resources", schema.Resources()),
        adopt=bootstrap.get("adopt", False),
        replace_volumes=spec["storage"].get("replacement") == "Rolling",
        keep_replaced=spec["storage"].get("whenReplaced", "Retain") == "Retain",
        attributes_class=spec["storage"].get("volumeAttributesClassName"),
        autogrow=_autogrow(spec["storage"].get("autogrow")),
        restore=parse_bootstrap(bootstrap),
        affinity=pods.pop("affinity", {}) or spec.get("affinity", {}),
        tolerations=pods.pop("tolerations", []) or spec.get("tolerations", []),
        template=pods,
        service=spec.get("service", schema.Service()),
        account_annotations=dict(account.get("annotations", {})),
        paused=spec.get("paused", False),
        hibernated=spec.get("hibernated", False),
        deletion=spec.get("deletionPolicy", RETAIN),
        image=spec.get("image", ""),
        update=parse_update_strategy(spec.get("updateStrategy", schema.UpdateStrategy())),
        tls=parse_tls(spec.get("tls", schema.Tls())),
        clients=parse_clients(spec.get("clients", [])),
        settings=parse_settings(spec.get("settings", schema.Settings())),
        pod_labels=dict(marks.get("labels", {})),
        pod_annotations=dict(marks.get("annotations", {})),
    )
