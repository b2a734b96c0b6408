"""What becomes of the data when a Partition is deleted."""

from dataclasses import replace
from typing import Any

import pytest
from partition_operator.api import names
from partition_operator.api.partition import parse, parse_spec
from partition_operator.api.snapshot import Snapshot, parse_snapshot
from partition_operator.errors import InvalidSpec
from partition_operator.reconcile.observed.partition import ObservedPartition
from partition_operator.reconcile.partition import actions, deletion

from tests.support.partition_views import CLUSTER, after, claim, group, look, with_spec
from tests.support.snapshot_objects import OBJECT_STORE

LAST = "part-last-u"


def kept(policy: str = "", *, owned: bool = False, finalizer: bool = False) -> ObservedPartition:
    claims = tuple(claim(n, uid=f"u{n}", owned=owned) for n in range(3))
    found = after(group(claims=claims))
    body = found.partition.body
    marks = {"finalizers": [*(["other"]), *([names.FINALIZER] if finalizer else [])]}
    found = replace(found, partition=parse(body | {"metadata": body["metadata"] | marks}))
    more = {"deletionPolicy": policy, "snapshots": {"destination": OBJECT_STORE}} if policy else {}
    return with_spec(found, **more)


def snapshot(state: str, **more: Any) -> Snapshot:
    return parse_snapshot(
        {
            "metadata": {
                "name": LAST,
                "namespace": "ns",
                "uid": "s",
                "creationTimestamp": "2026-01-02T00:00:00Z",
            },
            "spec": {"partitionRef": {"name": "part"}},
            "status": {"state": state} | more,
        }
    )


def test_by_default_nothing_is_prepared() -> None:
    assert look(kept()).action is None
    assert look(kept("Retain")).action is None


def test_delete_makes_the_partition_an_owner_and_retain_ends_that() -> None:
    assert look(kept("Delete")).action == actions.OwnClaim(0, "u0", owned=True)
    assert look(kept("Delete", owned=True)).action is None
    assert look(kept("Retain", owned=True)).action == actions.OwnClaim(0, "u0", owned=False)


def test_claims_of_others_are_never_owned() -> None:
    found = kept("Delete")
    claims = (claim(0, uid="x", cluster_id="other"), claim(1, uid="u1"), claim(2, uid="u2"))
    assert look(replace(found, claims=claims)).action == actions.OwnClaim(1, "u1", owned=True)


def test_snapshot_then_delete_holds_the_partition_and_owns_nothing() -> None:
    assert look(kept("SnapshotThenDelete")).action == actions.SetFinalizer(present=True)
    held = kept("SnapshotThenDelete", owned=True, finalizer=True)
    assert look(held).action == actions.OwnClaim(0, "u0", owned=False)
    assert look(kept("SnapshotThenDelete", finalizer=True)).action is None
    assert look(kept("Retain", finalizer=True)).action == actions.SetFinalizer(present=False)


def test_it_needs_a_store_outside_of_the_volumes() -> None:
    spec: dict[str, Any] = {"storage": {"size": "1Gi"}, "deletionPolicy": "SnapshotThenDelete"}
    for snapshots in (None, {}, {"destination": {"volume": {}}}):
        with pytest.raises(InvalidSpec, match=r"needs spec\.snapshots\.destination\.objectStore"):
            parse_spec("part", spec | {"snapshots": snapshots})
    parse_spec("part", spec | {"snapshots": {"destination": OBJECT_STORE}})


# --- a Partition that is being deleted ----------------------------------------------------------


def test_the_claims_go_only_after_a_good_snapshot() -> None:
    found = kept("SnapshotThenDelete", finalizer=True)
    step = deletion.depart(found, None)
    assert isinstance(step.action, actions.CreateSnapshot)
    body = step.action.body
    assert (body["metadata"]["name"], body["spec"]["partitionRef"]) == (LAST, {"name": "part"})
    assert body["metadata"]["annotations"] == {"logstore.dev/pinned": "true"}
    for state in ("", "Queued", "Running"):
        assert deletion.depart(found, snapshot(state)).action is None
    for state in ("Succeeded", "Verified"):
        step = deletion.depart(found, snapshot(state))
        assert step.action == actions.GiveUpVolume(0, "u0", "", keep=False)
    gone = replace(found, claims=tuple(replace(c, deleting=True) for c in found.claims))
    step = deletion.depart(gone, snapshot("Succeeded"))
    assert step.action == actions.SetFinalizer(present=False)
    other = replace(found, claims=(claim(0, uid="x", cluster_id="other"),))
    step = deletion.depart(other, snapshot("Succeeded"))
    assert step.action == actions.SetFinalizer(present=False)


@pytest.mark.parametrize("state", ["Failed", "VerifyFailed", "Removing"])
def test_a_snapshot_that_is_not_good_blocks_and_says_the_way_out(state: str) -> None:
    found = kept("SnapshotThenDelete", finalizer=True)
    failed = {"type": "Failed", "status": "True", "message": "the bucket is gone"}
    step = deletion.depart(found, snapshot(state, conditions=[failed]))
    assert step.action is None
    assert step.condition.reason == "DeletionBlocked"
    assert "set spec.deletionPolicy to Retain" in step.condition.message
    (event,) = deletion.events(found, step)
    assert (event.kind, event.reason) == ("Warning", "DeletionBlocked")
    status = deletion.status(found, step)
    assert status["state"] == "DeletionBlocked"
    assert status["clusterID"] == CLUSTER
    body = found.partition.body | {"status": status}
    later = replace(found, partition=parse(body))
    assert deletion.events(later, step) == []
    assert deletion.status(later, step) == status


def test_the_way_out() -> None:
    step = deletion.depart(kept("Retain", finalizer=True), snapshot("Failed"))
    assert step.action == actions.SetFinalizer(present=False)
    found = kept("Delete", finalizer=True)
    step = deletion.depart(found, None)
    assert step.action == actions.OwnClaim(0, "u0", owned=True)
    owned = kept("Delete", finalizer=True, owned=True)
    assert deletion.depart(owned, None).action == actions.SetFinalizer(present=False)


def test_a_spec_that_is_not_valid_keeps_the_data() -> None:
    found = with_spec(kept("SnapshotThenDelete", finalizer=True), replicas=2)
    assert isinstance(deletion.depart(found, None).action, actions.CreateSnapshot)
