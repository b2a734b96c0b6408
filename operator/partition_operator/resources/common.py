"""What every object of ours carries, and how a live object is compared with the wanted one."""

from typing import Any

from partition_operator.api import names
from partition_operator.api.partition import Partition, parse_quantity


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
    if isinstance(wanted, dict):
        return isinstance(live, dict) and all(
            key in live and covers(live[key], value) if value not in ({}, []) else not live.get(key)
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
    # The API server writes quantities its own way.
    if isinstance(live, str) and isinstance(wanted, str):
        quantity = parse_quantity(wanted)
        return quantity > 0 and parse_quantity(live) == quantity
    return False
