"""What becomes of the data when a Partition is deleted."""

from dataclasses import replace
from typing import Any

import pytest
from partition_operator.api import names
from partition_operator.api.partition import parse, parse_spec
from partition_operator.api.snapshot import Snapshot, parse_snapshot
from partition_operator.errors import InvalidSpec
from partition_operator.reconcile.observed.last_write import Write
from partition_operator.reconcile.observed.partition import ObservedPartition
from partition_operator.reconcile.partition import actions, deletion, writes

from tests.support.partition_views import (
    CLUSTER,
    after,
    claim,
    complete,
    condition,
    group,
    look,
    with_spec,
)
from tests.support.snapshot_objects import OBJECT_STORE

LAST = "part-last-u"


def kept(policy: str = "", *, owned: bool = False, finalizer: bool = False) -> ObservedPartition:
    claims = tuple(claim(n, uid=f"u{n}", owned=owned) for n in range(3))
    found = replace(after(group()), claims=claims)
    body = found.partition.body
    marks = {"finalizers": [*(["other"]), *([names.FINALIZER] if finalizer else [])]}
    found = replace(found, partition=parse(body | {"metadata": body["metadata"] | marks}))
    more = {"deletionPolicy": policy, "snapshots": {"destination": OBJECT_STORE}} if policy else {}
    return with_spec(found, **more)


def leaving(policy: str = "SnapshotThenDelete", **more: Any) -> ObservedPartition:
    """It is being deleted, and clients have written up to LSN 10."""
    found = kept(policy, finalizer=True, **more)
    body = found.partition.body
    marks = {"deletionTimestamp": "2026-01-02T00:00:00Z"}
    return replace(found, partition=parse(body | {"metadata": body["metadata"] | marks}))


def snapshot(state: str, name: str = LAST, **more: Any) -> Snapshot:
    status = {"clusterID": CLUSTER, "destination": OBJECT_STORE, "lsn": "10", "state": state} | more
    return parse_snapshot(
        {
            "metadata": {
                "name": name,
                "namespace": "ns",
                "uid": "s",
                "creationTimestamp": status.pop("created", "2026-01-02T00:00:01Z"),
            },
            "spec": {"partitionRef": {"name": "part"}} | status.pop("spec", {}),
            "status": status,
        }
    )


def turned(found: ObservedPartition, *taken: Snapshot) -> ObservedPartition:
    """The same once the status of a deletion's step is written."""
    status = deletion.status(found, deletion.depart(found, taken))
    return replace(found, partition=parse(found.partition.body | {"status": status}))


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


PAUSED_DELETE = (
    "the operator changes nothing but certificates and fences: set spec.paused to false to go on; "
    "until then a deletion keeps the volumes, although spec.deletionPolicy is Delete"
)


@pytest.mark.parametrize("spec", [{"paused": True}, {"replicas": 2}])
def test_data_is_kept_also_while_the_operator_is_stopped(spec: dict[str, Any]) -> None:
    """Kubernetes would delete the claims of an earlier policy, whatever the spec says by now."""
    found = with_spec(kept("Retain", owned=True), **spec)
    assert look(found).action == actions.OwnClaim(0, "u0", owned=False)
    found = with_spec(kept("SnapshotThenDelete"), **spec)
    assert look(found).action == actions.SetFinalizer(present=True)
    found = with_spec(kept("SnapshotThenDelete", owned=True, finalizer=True), **spec)
    assert look(found).action == actions.OwnClaim(0, "u0", owned=False)


def test_what_deletes_more_waits_for_the_operator() -> None:
    found = with_spec(kept("Delete"), paused=True)
    assert look(found).action is None
    assert condition(look(found), "Paused")["message"] == PAUSED_DELETE
    found = with_spec(kept("Retain", finalizer=True), paused=True)
    assert look(found).action is None


def test_it_goes_before_a_fence() -> None:
    found = kept("Retain", owned=True)
    body = found.partition.body
    marks = body["metadata"] | {"annotations": {names.ANNOTATION_FENCE: "part-1"}}
    found = replace(found, partition=parse(body | {"metadata": marks}))
    assert look(found).action == actions.OwnClaim(0, "u0", owned=False)


# --- a Partition that is being deleted ----------------------------------------------------------


GIVE_UP = actions.GiveUpVolume(0, "u0", "", keep=False)


def test_the_claims_go_only_after_a_good_snapshot() -> None:
    found = leaving()
    step = deletion.depart(found, [])
    assert isinstance(step.action, actions.CreateSnapshot)
    body = step.action.body
    assert (body["metadata"]["name"], body["spec"]["partitionRef"]) == (LAST, {"name": "part"})
    assert body["metadata"]["annotations"] == {"logstore.dev/pinned": "true"}
    for state in ("", "Queued", "Running"):
        assert deletion.depart(found, [snapshot(state)]).action is None
    for state in ("Succeeded", "Verified"):
        assert deletion.depart(found, [snapshot(state)]).action == GIVE_UP
    other = replace(found, claims=(claim(0, uid="x", cluster_id="other"),))
    step = deletion.depart(other, [snapshot("Succeeded")])
    assert step.action == actions.SetFinalizer(present=False)


def test_a_snapshot_that_is_being_verified_is_waited_for() -> None:
    found, record = leaving(), {"method": "Restore", "attempts": 1}
    step = deletion.depart(found, [snapshot("Succeeded", verification=record)])
    assert (step.action, step.condition.reason) == (None, "Deleting")
    assert "it is being verified" in step.condition.message
    ended = record | {"completionTime": "2026-01-02T00:01:00Z"}
    assert deletion.depart(found, [snapshot("Verified", verification=ended)]).action == GIVE_UP
    unknown = {"type": "Verified", "status": "Unknown", "message": "the pod finds no node"}
    step = deletion.depart(found, [snapshot("Succeeded", verification=ended, conditions=[unknown])])
    assert (step.action, step.condition.reason) == (None, "DeletionBlocked")
    assert "could not be verified: the pod finds no node" in step.condition.message


def test_what_was_written_since_gets_a_snapshot_of_its_own() -> None:
    found, possible = leaving(), deletion.last_names(leaving().partition)
    assert possible == [LAST, *(f"{LAST}-{n}" for n in range(2, 6))]
    taken = [snapshot("Verified", name, lsn="9") for name in possible]
    for count in range(1, 5):
        step = deletion.depart(found, taken[:count])
        assert isinstance(step.action, actions.CreateSnapshot)
        assert step.action.body["metadata"]["name"] == possible[count]
        assert deletion.depart(found, [*taken[:count], snapshot("Queued", possible[count])]) != step
        whole = snapshot("Verified", possible[count])
        assert deletion.depart(found, [*taken[:count], whole]).action == GIVE_UP
    step = deletion.depart(found, taken)
    assert (step.action, step.condition.reason) == (None, "DeletionBlocked")
    assert "stop the clients; delete that PartitionSnapshot" in step.condition.message


def test_only_a_leader_tells_what_was_written() -> None:
    found = leaving()
    silent = replace(found, replicas=found.replicas[1:])
    step = deletion.depart(silent, [snapshot("Verified")])
    assert (step.action, step.condition.reason, step.follows) == (None, "Deleting", True)


def test_once_the_claims_go_the_replicas_are_not_asked_again() -> None:
    """They end with their claims. Before, no claim that is gone for another reason counts."""
    found, good = leaving(), snapshot("Verified")
    begun = turned(found, good)
    assert begun.partition.status["state"] == "Deleting"
    claims = (replace(found.claims[0], deleting=True), *found.claims[1:])
    ended = replace(begun, claims=claims, replicas=())
    step = deletion.depart(ended, [])
    assert step.action == actions.GiveUpVolume(1, "u1", "", keep=False)
    gone = replace(ended, claims=tuple(replace(c, deleting=True) for c in found.claims))
    assert deletion.depart(gone, [good]).action == actions.SetFinalizer(present=False)
    assert not step.follows, "a plan would make their volumes anew"
    assert deletion.depart(replace(begun, replicas=()), [good]).action is None
    rebuilt = replace(found, claims=claims, replicas=())
    assert deletion.depart(rebuilt, [good]).action is None


STRANGE = [
    ({"created": "2026-01-01T12:00:00Z"}, "created before the Partition was deleted"),
    ({"spec": {"partitionRef": {"name": "mine"}}}, "it is of Partition mine"),
    ({"clusterID": "other"}, "it is of cluster other"),
    ({"spec": {"destination": {"volume": {}}}}, "a destination or a verification of its own"),
    ({"spec": {"verify": "None"}}, "a destination or a verification of its own"),
    ({"destination": {"volume": {"claim": "data-part-0"}}}, "on a volume that would be deleted"),
]


@pytest.mark.parametrize(("change", "why"), STRANGE)
def test_the_name_alone_makes_no_last_snapshot(change: dict[str, Any], why: str) -> None:
    step = deletion.depart(leaving(), [snapshot("Verified", **change)])
    assert (step.action, step.condition.reason) == (None, "DeletionBlocked")
    assert why in step.condition.message
    assert "delete that PartitionSnapshot" in step.condition.message


@pytest.mark.parametrize("state", ["Failed", "VerifyFailed", "Removing"])
def test_a_snapshot_that_is_not_good_blocks_and_says_the_way_out(state: str) -> None:
    found = leaving()
    failed = {"type": "Failed", "status": "True", "message": "the bucket is gone"}
    taken = [snapshot(state, conditions=[failed])]
    step = deletion.depart(found, taken)
    assert step.action is None
    assert step.condition.reason == "DeletionBlocked"
    assert "set spec.deletionPolicy to Retain" in step.condition.message
    (event,) = deletion.events(found, step)
    assert (event.kind, event.reason) == ("Warning", "DeletionBlocked")
    status = deletion.status(found, step)
    assert status["state"] == "DeletionBlocked"
    assert status["clusterID"] == CLUSTER
    later = turned(found, *taken)
    assert deletion.events(later, step) == []
    assert deletion.status(later, step) == status


def test_a_refused_snapshot_is_told() -> None:
    found = leaving()
    step = deletion.depart(found, [])
    assert step.action is not None
    place = writes.target(step.action, "part")
    assert place is not None
    refused = Write(place[1], found.now, refusal="a quota allows no more")
    held = replace(found, writes={place[0]: refused})
    step = deletion.depart(held, [])
    assert step.condition.reason == "DeletionBlocked"
    assert f"refuses PartitionSnapshot {LAST}: a quota allows no more" in step.condition.message
    assert step.follows


def test_the_way_out() -> None:
    step = deletion.depart(leaving("Retain"), [snapshot("Failed")])
    assert step.action == actions.SetFinalizer(present=False)
    assert not step.follows
    step = deletion.depart(leaving("Delete"), [])
    assert step.action == actions.OwnClaim(0, "u0", owned=True)
    owned = leaving("Delete", owned=True)
    assert deletion.depart(owned, []).action == actions.SetFinalizer(present=False)


@pytest.mark.parametrize("policy", ["SnapshotThenDelete", "Delete"])
def test_a_spec_that_is_not_valid_keeps_the_data(policy: str) -> None:
    found = with_spec(leaving(policy), replicas=2)
    assert isinstance(deletion.depart(found, []).action, actions.CreateSnapshot)


# --- the group meanwhile ------------------------------------------------------------------------


def test_a_hibernated_group_is_woken_for_its_last_snapshot() -> None:
    found = complete(with_spec(leaving(), hibernated=True))
    asleep = after(replace(found, pods=(), replicas=()))
    departure = deletion.depart(asleep, [snapshot("Queued")])
    assert departure.follows
    step = look(deletion.awake(asleep))
    assert isinstance(step.action, actions.Apply)
    assert step.action.body["spec"]["replicas"] == 3
    assert asleep.partition.body["spec"]["hibernated"], "the spec stays the user's"


def test_the_status_of_the_group_is_told_under_the_deletion() -> None:
    found, taken = leaving(), [snapshot("Running")]
    found = turned(found, *taken)
    silent = replace(found, replicas=found.replicas[1:])
    departure, along = deletion.depart(silent, taken), look(silent)
    status = deletion.status(silent, departure, along.status)
    told = {c["type"]: c for c in status["conditions"]}
    assert (status["state"], status["leader"]) == ("Deleting", "")
    assert told["QuorumAvailable"]["status"] == "False"
    assert "; meanwhile: waiting for part-0 to answer" in told["Ready"]["message"]
    events = deletion.events(silent, departure, (along.status, along.events))
    assert [event.reason for event in events] == ["QuorumLost"]
    whole = look(found)
    events = deletion.events(found, deletion.depart(found, taken), (whole.status, whole.events))
    assert events == [], "Ready is not news, for it is not what status says"


def test_a_deletion_in_the_foreground_makes_no_pods() -> None:
    found = leaving()
    body = found.partition.body
    marks = {"finalizers": [names.FINALIZER, "foregroundDeletion"]}
    found = replace(found, partition=parse(body | {"metadata": body["metadata"] | marks}))
    assert not deletion.depart(found, []).follows
    step = deletion.depart(found, [snapshot("Queued")])
    assert not step.follows
    assert "Kubernetes ends the pods first" in step.condition.message


def test_a_pause_that_keeps_it_from_its_snapshot_is_told() -> None:
    found = replace(with_spec(leaving(), paused=True), replicas=())
    step = deletion.depart(found, [snapshot("Queued")])
    assert "spec.paused stops the operator" in step.condition.message
