"""`kubectl partition snapshot` and `restore`. What they create is pure."""

import argparse
import datetime as dt
import re
from typing import Any

from partition_kubectl import names
from partition_kubectl.errors import NotFound, Refused, UsageError
from partition_kubectl.kubectl import Body, Kubectl
from partition_kubectl.output import put, size, yaml
from partition_kubectl.waiting import Patience

GOOD = frozenset({"Succeeded", "Verified"})
BAD = frozenset({"Failed", "VerifyFailed"})
KEPT = (
    "replicas",
    "storage",
    "resources",
    "affinity",
    "tolerations",
    "image",
    "updateStrategy",
    "podTemplate",
    "settings",
    "service",
    "serviceAccount",
)
"""Fields that a restored Partition takes from the one that was snapshotted. Its schedule of
snapshots is left out, because the user should decide, and so is its deletion policy."""
NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")


def snapshot(kubectl: Kubectl, options: argparse.Namespace) -> int:
    now = dt.datetime.now(dt.UTC)  # noqa: TID251  # part of a name
    body = snapshot_body(
        options.name,
        options.snapshot_name or f"{options.name}-{now:%Y%m%d%H%M%S}",
        {"verify": options.verify, "full": options.full or None},
        volume=options.volume,
        pinned=options.pinned,
    )
    kubectl.get(names.PARTITIONS, options.name)
    created = kubectl.create(body)
    name = created["metadata"]["name"]
    put(f"PartitionSnapshot {name} is created.")
    if options.wait:
        _until_stored(kubectl, name, options.timeout, verifies=options.verify != "None")
    return 0


def snapshot_body(
    partition: str, name: str, fields: dict[str, Any], *, volume: bool, pinned: bool
) -> Body:
    """Returns a PartitionSnapshot. Without a destination, that of the Partition applies. Pure."""
    spec = {key: value for key, value in fields.items() if value is not None}
    metadata: dict[str, Any] = {"name": name}
    if pinned:
        metadata["annotations"] = {f"{names.GROUP}/pinned": "true"}
    return {
        "apiVersion": names.API_VERSION,
        "kind": "PartitionSnapshot",
        "metadata": metadata,
        "spec": {"partitionRef": {"name": partition}}
        | spec
        | ({"destination": {"volume": {}}} if volume else {}),
    }


def _until_stored(kubectl: Kubectl, name: str, limit_s: float, *, verifies: bool) -> None:
    def status(seen: Body) -> Body:
        found: Body = seen.get("status") or {}
        return found

    def done(seen: Body) -> bool:
        return stored(status(seen), verifies=verifies)

    def told(seen: Body) -> str:
        now = status(seen)
        percent = f" {now['percent']} %" if "percent" in now else ""
        why = f": {now['message']}" if now.get("message") else ""
        return f"waiting for the snapshot; STATUS is {now.get('state', 'not set')}{percent}{why}"

    found = status(Patience(limit_s).until(lambda: kubectl.get(names.SNAPSHOTS, name), done, told))
    if found["state"] in BAD:
        raise Refused(f"{name} is {found['state']}: {found.get('message', 'no message')}")
    where = found.get("location", "its destination")
    put(
        f"{name} is {found['state']}: LSN {found.get('lsn')}, {size(found.get('sizeBytes'))}, "
        f"in {where}."
    )


def stored(status: Body, *, verifies: bool) -> bool:
    """Whether a snapshot has come to its end. verifies: it is also verified. Pure."""
    state = status.get("state")
    if state in BAD or state == "Verified":
        return True
    verified = [c for c in status.get("conditions") or [] if c["type"] == "Verified"]
    # Succeeded, and no verification that could still change it.
    settled = not verifies or any(c.get("status") == "False" for c in verified)
    return state == "Succeeded" and settled


def restore(kubectl: Kubectl, options: argparse.Namespace) -> int:
    body = _restored(kubectl, options)
    if not options.create:
        put(yaml(body).rstrip())
        return 0
    kubectl.create(body)
    put(f"Partition {options.name} is created. It restores the snapshot into its first volume.")
    if options.wait:
        _until_restored(kubectl, options)
    return 0


def _restored(kubectl: Kubectl, options: argparse.Namespace) -> Body:
    if bool(options.snapshot) == bool(options.bucket):
        raise UsageError("give either --snapshot NAME, or --bucket with --path and --secret")
    if options.bucket and not (options.path and options.secret):
        raise UsageError("--bucket needs --path, the folder with format.json, and --secret")
    kept: Body = {}
    if options.snapshot:
        found = kubectl.get(names.SNAPSHOTS, options.snapshot)
        state = (found.get("status") or {}).get("state", "not set")
        if state not in GOOD:
            raise Refused(
                f"{options.snapshot} is {state}; only one that is Succeeded or Verified is restored"
            )
        kept = _spec_of(kubectl, found["spec"]["partitionRef"]["name"])
    return restored_body(options, kept)


def _spec_of(kubectl: Kubectl, name: str) -> Body:
    """Returns the spec of the Partition that was snapshotted; {} if it is gone."""
    try:
        found: Body = kubectl.get(names.PARTITIONS, name)["spec"]
    except NotFound:
        return {}
    return found


def restored_body(options: argparse.Namespace, source: Body) -> Body:
    """Returns the new Partition. source: the spec that it takes its fields from; {} for none.
    Raises UsageError. Pure."""
    if not NAME.fullmatch(options.name):
        raise UsageError(
            f"{options.name}: lower-case letters, digits and '-' are allowed, beginning with a "
            "letter"
        )
    spec = {key: source[key] for key in KEPT if key in source}
    if options.replicas:
        spec["replicas"] = options.replicas
    if options.size:
        spec["storage"] = (spec.get("storage") or {}) | {"size": options.size}
    if options.storage_class:
        spec["storage"] = (spec.get("storage") or {}) | {"className": options.storage_class}
    if not (spec.get("storage") or {}).get("size"):
        raise UsageError("--size: the Partition that was snapshotted is gone, so give a size")
    spec["bootstrap"] = _bootstrap(options)
    return {
        "apiVersion": names.API_VERSION,
        "kind": "Partition",
        "metadata": {"name": options.name},
        "spec": spec,
    }


def _bootstrap(options: argparse.Namespace) -> Body:
    if options.snapshot:
        return {"snapshotRef": {"name": options.snapshot}}
    store = {
        "endpoint": options.endpoint,
        "bucket": options.bucket,
        "region": options.region,
        "path": options.path,
        "snapshot": options.stored,
    }
    given: Body = {key: value for key, value in store.items() if value}
    return {"objectStore": given | {"credentialsSecretRef": {"name": options.secret}}}


def _until_restored(kubectl: Kubectl, options: argparse.Namespace) -> None:
    def status(seen: Body) -> Body:
        found: Body = seen.get("status") or {}
        return found

    def done(seen: Body) -> bool:
        return status(seen).get("state") in ("Ready", "RestoreFailed", "InvalidSpec", "Conflict")

    def told(seen: Body) -> str:
        now = status(seen).get("restore") or {}
        percent = f", {now['phase']} {now.get('percent', 0)} %" if now.get("phase") else ""
        return (
            f"waiting until it is Ready; STATUS is {status(seen).get('state', 'not set')}{percent}"
        )

    found = Patience(options.timeout).until(
        lambda: kubectl.get(names.PARTITIONS, options.name), done, told
    )
    state = status(found)["state"]
    if state != "Ready":
        raise Refused(f"{options.name} is {state}: kubectl partition why {options.name}")
    put(f"{options.name} is Ready.")
