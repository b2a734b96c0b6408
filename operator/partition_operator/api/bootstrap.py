"""`spec.bootstrap` of a Partition: what a group begins with, where it does not begin empty."""

import re
from dataclasses import dataclass
from typing import Any

from partition_operator.api.destination import ObjectStore, parse_object_store
from partition_operator.errors import InvalidSpec

LATEST = "latest"
_SNAPSHOT = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class RestoreFrom:
    """Either a PartitionSnapshot of the namespace, by name, or a snapshot in an object store, whose
    `prefix` is the store's root: the old cluster need not exist."""

    snapshot_ref: str = ""
    store: ObjectStore | None = None
    snapshot_id: str = LATEST


def parse_bootstrap(body: dict[str, Any]) -> RestoreFrom | None:
    """None where nothing is restored. Raises InvalidSpec."""
    given = [key for key in ("adopt", "snapshotRef", "objectStore") if body.get(key)]
    if len(given) > 1:
        raise InvalidSpec(f"spec.bootstrap: {' and '.join(given)} exclude each other: keep one")
    if body.get("snapshotRef"):
        name = str(body["snapshotRef"].get("name", ""))
        if not name:
            raise InvalidSpec(
                "spec.bootstrap.snapshotRef.name: the name of a PartitionSnapshot in this namespace"
            )
        return RestoreFrom(snapshot_ref=name)
    if not body.get("objectStore"):
        return None
    where = "spec.bootstrap.objectStore"
    store = parse_object_store(body["objectStore"], where, prefix="path")
    snapshot = str(body["objectStore"].get("snapshot") or LATEST)
    if not _SNAPSHOT.fullmatch(snapshot):
        raise InvalidSpec(
            f"{where}.snapshot {snapshot!r}: a snapshot's ID, or {LATEST}; `partitionctl snapshot "
            "ls` lists them"
        )
    return RestoreFrom(store=store, snapshot_id=snapshot)
