"""`spec.bootstrap` of a Partition: what a group begins with, where it does not begin empty."""

from dataclasses import dataclass

from partition_operator.api import schema
from partition_operator.api.destination import ObjectStore, restore_store

LATEST = "latest"


@dataclass(frozen=True, slots=True)
class RestoreFrom:
    """Either a PartitionSnapshot of the namespace, by name, or a snapshot in an object store, whose
    `prefix` is the store's root: the old cluster need not exist."""

    snapshot_ref: str = ""
    store: ObjectStore | None = None
    snapshot_id: str = LATEST


def parse_bootstrap(body: schema.Bootstrap) -> RestoreFrom | None:
    """Of a body that is checked. None where nothing is restored."""
    if "snapshotRef" in body:
        return RestoreFrom(snapshot_ref=body["snapshotRef"]["name"])
    if "objectStore" not in body:
        return None
    store = body["objectStore"]
    return RestoreFrom(store=restore_store(store), snapshot_id=store.get("snapshot") or LATEST)
