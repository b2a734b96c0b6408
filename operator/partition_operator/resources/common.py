"""What every object of ours carries, whose a live object is, and how it is compared with the wanted
one."""

import hashlib
import json
from typing import Any

from partition_operator.api import names
from partition_operator.api.partition import Partition
from partition_operator.api.quantities import parse_quantity

MERGE_KEYS = {
    "containers": "name",
    "volumes": "name",
    "env": "name",
    "volumeMounts": "mountPath",
    "ownerReferences": "uid",
}
"""Lists into which others may put items of their own, with the key that tells items apart."""

UNSTABLE = ("resourceVersion", "generation", "managedFields")
"""Of an object's metadata: what changes though nobody changes what the object asks for."""


def metadata(partition: Partition, name: str, component: str = "replica") -> dict[str, Any]:
    """Named, labelled and owned: deleting the Partition collects it. The owner does not block: a
    namespace can be deleted with the operator stopped."""
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
    """Whether everything that is wanted is there already; what else is there does not matter.

    What is there and no longer wanted is found by the hash that `stamped` writes.
    """
    return difference(live, wanted) is None


def difference(live: Any, wanted: Any) -> str | None:
    """The path of the first thing that is wanted and not there; None if everything is there."""
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
    # The API server writes quantities its own way: 1000m comes back as 1.
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


# --- whose it is ------------------------------------------------------------------------------


def controller(live: dict[str, Any]) -> dict[str, Any] | None:
    """The owner that controls an object; None for an object without one."""
    owners: list[dict[str, Any]] = live["metadata"].get("ownerReferences") or []
    return next((owner for owner in owners if owner.get("controller")), None)


def is_owner(owner: dict[str, Any], group: str, kind: str, name: str) -> bool:
    """Whether an owner reference names this object. Two API groups may have a kind of one name."""
    found = str(owner.get("apiVersion", "")).partition("/")[0]
    return (found, owner["kind"], owner["name"]) == (group, kind, name)


def is_foreign(live: dict[str, Any], partition: Partition) -> bool:
    """Whether an object is somebody else's.

    The owner decides, by its uid: labels can be written and removed by anybody. An object of an
    earlier Partition of this name is about to be collected, and not foreign. An object without a
    controller is taken over if it carries all of our marks: deleting a Partition with
    --cascade=orphan leaves such objects.
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
    """Whether an object is being deleted, or will be with the Partition that it belonged to."""
    owner = controller(live)
    return "deletionTimestamp" in live["metadata"] or (
        owner is not None and owner["uid"] != partition.uid
    )


# --- what was written -------------------------------------------------------------------------


def content_hash(body: dict[str, Any]) -> str:
    """Of what is wanted: the same body, the same hash. The claim templates of a StatefulSet are
    left out: they can't be changed, so the live ones stay."""
    spec = body.get("spec")
    if isinstance(spec, dict) and "volumeClaimTemplates" in spec:
        body = body | {"spec": {k: v for k, v in spec.items() if k != "volumeClaimTemplates"}}
    return _digest(body)


def stamped(body: dict[str, Any]) -> dict[str, Any]:
    """The body with its own hash in an annotation.

    Server-side apply takes out what our field manager applied before and does not apply now. But an
    apply must be issued for that, and a live object that still has a removed field covers all that
    is wanted. The annotation is written by the same request as the fields, so it says what the last
    apply contained.
    """
    metadata = body["metadata"]
    annotations = (metadata.get("annotations") or {}) | {
        names.ANNOTATION_APPLIED: content_hash(body)
    }
    return body | {"metadata": metadata | {"annotations": annotations}}


def fingerprint(live: dict[str, Any]) -> str:
    """Of an object as it is read back, without what changes by itself."""
    metadata = {k: v for k, v in live["metadata"].items() if k not in UNSTABLE}
    return _digest({k: v for k, v in live.items() if k != "status"} | {"metadata": metadata})


def _digest(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
