"""`spec.bootstrap` of a Partition: the data that a new group begins with, if not empty."""

from dataclasses import dataclass

from partition_operator.api import schema
from partition_operator.api.destination import ObjectStore, restore_store

LATEST = "latest"


@dataclass(frozen=True, slots=True)
class RestoreFrom:
    """The source of a restore: either snapshot_ref, the name of a PartitionSnapshot in the
    namespace, or snapshot_id in an object store. The store's `prefix` is its root. The old cluster
    need not exist."""

    snapshot_ref: str = ""
    store: ObjectStore | None = None
    snapshot_id: str = LATEST


def parse_bootstrap(body: schema.Bootstrap) -> RestoreFrom | None:
    """Parses a checked body. Returns None if nothing is restored."""
    if "snapshotRef" in body:
        return RestoreFrom(snapshot_ref=body["snapshotRef"]["name"])
    if "objectStore" not in body:
        return None
    store = body["objectStore"]
    return RestoreFrom(store=restore_store(store), snapshot_id=store.get("snapshot") or LATEST)
