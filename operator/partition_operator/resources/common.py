"""The metadata of our objects, their owners, and comparisons of live and wanted objects."""

import hashlib
import json
from typing import Any

from partition_operator.api import names
from partition_operator.api.partition import Partition
from partition_operator.api.quantities import parse_quantity

MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "env": "name",
    "volumeMounts": "mountPath",
    "ownerReferences": "uid",
}
"""Lists to which other writers may add items, each with the key that identifies an item."""

UNSTABLE = ("resourceVersion", "generation", "managedFields")
"""Fields of metadata that may change although the object's content does not."""


def metadata(partition: Partition, name: str, component: str = "replica") -> dict[str, Any]:
    """Returns metadata with name, labels and owner, so that Kubernetes collects the object with the
    Partition. blockOwnerDeletion is false: a namespace can be deleted while the operator is
    stopped.
    """
    return {
        "name": name,
        "namespace": partition.namespace,
        "labels": names.labels(partition.name, component),
        "ownerReferences": [owner_reference(names.KIND, partition.name, partition.uid)],
    }


def owner_reference(kind: str, name: str, uid: str) -> dict[str, Any]:
    return {
        "apiVersion": names.API_VERSION,
        "kind": kind,
        "name": name,
        "uid": uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }


def covers(live: Any, wanted: Any) -> bool:
    """Whether the live object contains everything that is wanted. Other content does not matter.

    The hash that `stamped` writes shows content that is no longer wanted.
    """
    return difference(live, wanted) is None


def difference(live: Any, wanted: Any) -> str | None:
    """Returns the path of the first wanted value that is missing; None if none is missing."""
    if isinstance(wanted, dict):
        if not isinstance(live, dict):
            return ""
        found = ((key, _field(key, live.get(key), value)) for key, value in wanted.items())
        return next((_join(key, rest) for key, rest in found if rest is not None), None)
    if isinstance(wanted, list):
        if not isinstance(live, list) or len(live) != len(wanted):
            return ""
        items = (difference(a, b) for a, b in zip(live, wanted, strict=True))
        return next(
            (_join(f"[{n}]", rest) for n, rest in enumerate(items) if rest is not None), None
        )
    if live == wanted:
        return None
    # The API server normalizes quantities: 1000m comes back as 1.
    quantity = parse_quantity(wanted)
    return None if quantity is not None and parse_quantity(live) == quantity else ""


def _field(name: str, live: Any, wanted: Any) -> str | None:
    if wanted in ({}, []):
        return "" if live else None
    key = MERGE_KEYS.get(name)
    if key is None or not isinstance(live, list) or not isinstance(wanted, list):
        return difference(live, wanted)
    items = {item.get(key): item for item in live}
    found = ((item[key], difference(items.get(item[key]), item)) for item in wanted)
    return next((_join(f"[{name}]", rest) for name, rest in found if rest is not None), None)


def _join(first: str, rest: str) -> str:
    return f"{first}{'' if not rest or rest.startswith('[') else '.'}{rest}"


# --- owners -----------------------------------------------------------------------------------


def controller(live: dict[str, Any]) -> dict[str, Any] | None:
    """Returns the owner reference of the object's controller; None if it has none."""
    owners: list[dict[str, Any]] = live["metadata"].get("ownerReferences") or []
    return next((owner for owner in owners if owner.get("controller")), None)


def is_owner(owner: dict[str, Any], group: str, kind: str, name: str) -> bool:
    """Whether an owner reference names this object. Two API groups may have the same kind."""
    found = str(owner.get("apiVersion", "")).partition("/")[0]
    return (found, owner["kind"], owner["name"]) == (group, kind, name)


def is_foreign(live: dict[str, Any], partition: Partition) -> bool:
    """Whether an object belongs to another owner.

    The uid of its controller decides, because any user can write labels. An object of an earlier
    Partition of this name is not foreign: Kubernetes will collect it. An object without a
    controller is not foreign if it has all of our labels: `kubectl delete --cascade=orphan` leaves
    such objects.
    """
    owner = controller(live)
    if owner is not None:
        earlier = is_owner(owner, names.GROUP, names.KIND, partition.name)
        return owner["uid"] != partition.uid and not earlier
    labels = live["metadata"].get("labels") or {}
    marks = {
        names.LABEL_PARTITION: partition.name,
        names.LABEL_MANAGED_BY: names.MANAGED_BY,
    }
    return any(labels.get(key) != value for key, value in marks.items())


def is_leaving(live: dict[str, Any], partition: Partition) -> bool:
    """Whether an object is being deleted, or will be together with an earlier Partition."""
    owner = controller(live)
    return "deletionTimestamp" in live["metadata"] or (
        owner is not None and owner["uid"] != partition.uid
    )


# --- hashes -----------------------------------------------------------------------------------


def content_hash(body: dict[str, Any]) -> str:
    """Returns a hash of a wanted body. It leaves out the claim templates of a StatefulSet: they
    can't change, so the live ones stay."""
    spec = body.get("spec")
    if isinstance(spec, dict) and "volumeClaimTemplates" in spec:
        body = body | {"spec": {k: v for k, v in spec.items() if k != "volumeClaimTemplates"}}
    return _digest(body)


def stamped(body: dict[str, Any]) -> dict[str, Any]:
    """Returns the body with its own hash in an annotation.

    Server-side apply removes fields that our field manager applied before and does not apply now.
    But a live object with such a field still covers the wanted one, so no difference would show.
    The changed hash does. The same request writes the annotation and the fields.
    """
    metadata = body["metadata"]
    annotations = (metadata.get("annotations") or {}) | {
        names.ANNOTATION_APPLIED: content_hash(body)
    }
    return body | {"metadata": metadata | {"annotations": annotations}}


def fingerprint(live: dict[str, Any]) -> str:
    """Returns a hash of a live object, without status and the unstable metadata."""
    metadata = {k: v for k, v in live["metadata"].items() if k not in UNSTABLE}
    return _digest({k: v for k, v in live.items() if k != "status"} | {"metadata": metadata})


def _digest(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
