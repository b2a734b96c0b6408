"""What every object of ours carries, and how a live object is compared with the wanted one."""

import hashlib
import json
from typing import Any

from partition_operator.api import names
from partition_operator.api.partition import Partition
from partition_operator.api.quantities import parse_quantity


def metadata(partition: Partition, name: str, component: str = "replica") -> dict[str, Any]:
    """Named, labelled and owned: deleting the Partition collects it. The owner does not block: a
    namespace can be deleted with the operator stopped."""
    return {
        "name": name,
        "namespace": partition.namespace,
        "labels": names.labels(partition.name, component),
        "ownerReferences": [
            {
                "apiVersion": names.API_VERSION,
                "kind": names.KIND,
                "name": partition.name,
                "uid": partition.uid,
                "controller": True,
                "blockOwnerDeletion": False,
            }
        ],
    }


def covers(live: Any, wanted: Any) -> bool:
    """Whether everything that is wanted is there already; what else is there does not matter.

    Applying an object that covers would change nothing, and is left out: an idle Partition causes
    no writes.
    """
    if wanted is None:
        return live is None
    if isinstance(wanted, dict):
        return isinstance(live, dict) and all(
            covers(live.get(key), value) if value not in ({}, []) else not live.get(key)
            for key, value in wanted.items()
        )
    if isinstance(wanted, list):
        return (
            isinstance(live, list)
            and len(live) == len(wanted)
            and all(covers(a, b) for a, b in zip(live, wanted, strict=True))
        )
    if live == wanted:
        return True
    # The API server writes quantities its own way: 1000m comes back as 1.
    quantity = parse_quantity(wanted)
    return quantity is not None and parse_quantity(live) == quantity


def is_foreign(live: dict[str, Any], partition: Partition) -> bool:
    """Whether an object is somebody else's: it does not carry our label, or another object
    controls it. One that an earlier Partition of this name controls is about to be collected."""
    metadata = live["metadata"]
    if (metadata.get("labels") or {}).get(names.LABEL_PARTITION) != partition.name:
        return True
    return any(
        owner.get("controller") and (owner["kind"], owner["name"]) != (names.KIND, partition.name)
        for owner in metadata.get("ownerReferences") or []
    )


def is_leaving(live: dict[str, Any], partition: Partition) -> bool:
    """Whether an object is being deleted, or will be with the Partition that it belonged to."""
    metadata = live["metadata"]
    owners = metadata.get("ownerReferences") or []
    return "deletionTimestamp" in metadata or any(
        owner.get("controller") and owner["uid"] != partition.uid for owner in owners
    )


def content_hash(body: dict[str, Any]) -> str:
    """Of what is wanted: the same body, the same hash."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
