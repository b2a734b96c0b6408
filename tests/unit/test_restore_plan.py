"""A Partition that begins with a snapshot: every step in its order, every refusal, without a
cluster."""

import datetime as dt
from dataclasses import replace
from typing import Any

import pytest
from partition_operator.api import names
from partition_operator.api.destination import DestinationProblem, ObjectStore
from partition_operator.api.partition import parse, parse_spec
from partition_operator.api.times import stamp
from partition_operator.errors import InvalidSpec
from partition_operator.reconcile.observed.last_write import refused
from partition_operator.reconcile.observed.partition import ObservedClaim
from partition_operator.reconcile.observed.progress import JobProgress
from partition_operator.reconcile.observed.restore import ObservedRestore
from partition_operator.reconcile.partition.actions import (
    Apply,
    Bootstrap,
    CreateClaim,
    CreatePod,
    Delete,
    DeleteUnchanged,
    GiveUpVolume,
    RecordBootstrapped,
    RecordCluster,
    RecordRestored,
)
from partition_operator.reconcile.partition.restore import PENDING
from partition_operator.reconcile.partition.writes import target

from tests.support.restore_plans import (
    ON_VOLUME,
    OURS,
    REPORT,
    SOURCE,
    account,
    condition,
    ended,
    from_volume,
    next_plan,
    partition,
    ready_for_pod,
    replica,
    restored,
    see,
    with_pod,
)
from tests.support.snapshot_objects import NOW, STORE, snapshot, stored


def test_a_pod_that_does_not_end_is_named_with_its_node() -> None:
    observed = with_pod(ready_for_pod(see(partition())), phase="Running")
    assert observed.restore is not None
    pod = observed.restore.pod
    assert pod is not None
    for ends, words in (
        (NOW, "waiting for pod copy-restore to end"),
        (NOW - dt.timedelta(minutes=2), "node gone does not confirm it"),
    ):
        leaving = pod | {
            "metadata": pod["metadata"] | {"deletionTimestamp": stamp(ends)},
            "spec": pod["spec"] | {"nodeName": "gone"},
        }
        step = next_plan(replace(observed, restore=replace(observed.restore, pod=leaving)))
        assert step.action is None
        assert words in condition(step)["message"]


def test_the_order_of_steps() -> None:
    fresh = see(partition({"clusterID": ""}))
    assert next_plan(fresh).action == RecordCluster(OURS)
    observed = account(see(partition()))
    step = next_plan(observed)
    assert isinstance(step.action, CreateClaim)
    claim = step.action.body
    assert (claim["kind"], claim["metadata"]["name"]) == ("PersistentVolumeClaim", "data-copy-0")
    assert claim["metadata"]["annotations"] == {names.ANNOTATION_CLUSTER_ID: OURS}
    assert claim["metadata"]["labels"] == names.selector("copy")
    observed = replace(observed, claims=(ObservedClaim(0, stamp(NOW), OURS),))
    step = next_plan(observed)
    assert isinstance(step.action, CreatePod)
    assert step.action.body["metadata"]["name"] == "copy-restore"
    assert (step.status["state"], condition(step)["reason"]) == ("Restoring", "Restoring")
    assert condition(step, "Ready")["status"] == "False"
    assert "RestoreStarted" in [e.reason for e in step.events]
    observed = with_pod(observed, **ended(0, REPORT))
    step = next_plan(observed)
    assert isinstance(step.action, RecordRestored)
    record = step.action.record
    assert (record["lsn"], record["term"], record["digest"]) == (str(2**60), "3", "abc")
    done = replace(observed, partition=partition({"restored": record}))
    step = next_plan(done)
    assert step.action == Delete("Pod", "copy-restore", "pod-uid")
    assert condition(step)["status"] == "True"
    assert "RestoreCompleted" in [e.reason for e in step.events]
    assert step.status["restored"] == record
    after = next_plan(replace(done, restore=ObservedRestore(snapshot=SOURCE)))
    assert isinstance(after.action, Apply)
    assert after.action.body["kind"] != "StatefulSet", "services first"


@pytest.mark.parametrize("how", ["the claim says so", "Kubernetes says so"])
def test_a_volume_that_is_lost_meanwhile_is_replaced(how: str) -> None:
    """Its pod goes first, because a claim in use does not."""
    claim = ObservedClaim(0, stamp(NOW), OURS, uid="u", volume="pv")
    observed = with_pod(replace(account(see(partition())), claims=(claim,)), phase="Pending")
    assert next_plan(observed).action is None
    if how == "the claim says so":
        claim = replace(claim, lost=True)
        observed = replace(observed, claims=(claim,))
    else:
        observed = replace(observed, lost={0: "node gone was deleted"})
    step = next_plan(observed)
    assert step.action == Delete("Pod", "copy-restore", "pod-uid")
    assert "data-copy-0 is lost" in condition(step)["message"]
    without_pod = replace(observed, restore=ObservedRestore(snapshot=SOURCE))
    assert next_plan(without_pod).action == GiveUpVolume(0, "u", "pv", keep=True)
    leaving = replace(without_pod, claims=(replace(claim, deleting=True),))
    assert next_plan(leaving).action is None
    gone = replace(without_pod, claims=(), lost={})
    assert isinstance(next_plan(gone).action, CreateClaim)


def test_the_pod_restores_our_cluster_from_their_store() -> None:
    step = next_plan(ready_for_pod(see(partition())))
    assert isinstance(step.action, CreatePod)
    container = step.action.body["spec"]["containers"][0]
    assert container["command"] == ["python3", "-m", "partition_replica"]
    arguments = container["args"]
    assert arguments[:2] == ["snapshot", "restore"]
    recorded = SOURCE.stored_in()
    assert isinstance(recorded, ObjectStore)
    for word in (
        "--snapshot=snap",
        f"--s3-prefix={recorded.prefix}",
        f"--data={names.DATA_PATH}/data",
        f"--cluster-id={OURS}",
    ):
        assert word in arguments
    assert "--unreplicated" not in arguments
    plain = next_plan(ready_for_pod(see(partition(replication={"mode": "None"}))))
    assert isinstance(plain.action, CreatePod)
    assert "--unreplicated" in plain.action.body["spec"]["containers"][0]["args"]


def test_status_says_how_far_the_pod_is() -> None:
    running = with_pod(ready_for_pod(see(partition())), phase="Running")
    assert running.restore is not None
    silent = next_plan(running)
    assert silent.status["restore"] == {"attempts": 1}
    told = replace(running.restore, progress=JobProgress("Restoring", 20))
    step = next_plan(replace(running, restore=told))
    assert step.status["restore"] == {"attempts": 1, "phase": "Restoring", "percent": 20}
    assert "restores volume 0: Restoring, 20 %" in condition(step)["message"]
    assert condition(step, "Ready")["message"] == condition(step)["message"]
    # An answer that is missed moves nothing; another attempt begins anew.
    known = partition({"restore": step.status["restore"]})
    again = next_plan(replace(running, partition=known))
    assert again.status["restore"] == step.status["restore"]
    assert condition(again)["message"] == condition(step)["message"]
    before = partition({"restore": {"attempts": 0, "phase": "Restoring", "percent": 95}})
    assert next_plan(replace(running, partition=before)).status["restore"] == {"attempts": 1}


def test_from_a_store_whose_cluster_is_gone() -> None:
    bootstrap = {"objectStore": STORE | {"path": "backups/ns/part/old"}}
    found = see(partition(bootstrap=bootstrap), restore=ObservedRestore(authority=True))
    step = next_plan(ready_for_pod(found))
    assert isinstance(step.action, CreatePod)
    arguments = step.action.body["spec"]["containers"][0]["args"]
    assert "--snapshot=latest" in arguments
    assert "--s3-prefix=backups/ns/part/old" in arguments
    assert "--s3-ca-file=/etc/partition/store/ca.crt" in arguments


@pytest.mark.parametrize(
    ("seen", "reason", "what"),
    [
        (ObservedRestore(), "SnapshotNotFound", "waiting for PartitionSnapshot"),
        (
            ObservedRestore(snapshot=snapshot("snap", status={"state": "Running"})),
            "SnapshotNotReady",
            "not succeeded yet",
        ),
        (
            ObservedRestore(snapshot=snapshot("snap", status={"state": "Failed"})),
            "SnapshotFailed",
            "a snapshot that succeeded",
        ),
        (
            ObservedRestore(
                snapshot=stored(
                    "snap",
                    NOW,
                    more={"conditions": [{"type": "Available", "status": "False"}]},
                )
            ),
            "SnapshotVolumeLost",
            "is lost",
        ),
        (
            ObservedRestore(
                snapshot=stored("snap", NOW, destination=ON_VOLUME),
                volumes={"data-part-1": "made anew"},
            ),
            "SnapshotVolumeLost",
            "is lost",
        ),
        (
            ObservedRestore(snapshot=stored("snap", NOW, state="Removing")),
            "SnapshotRemoved",
            "create it with another snapshot",
        ),
        (
            ObservedRestore(snapshot=SOURCE, taken=True),
            "Conflict",
            "pod copy-restore belongs to another owner",
        ),
        (
            ObservedRestore(
                snapshot=SOURCE,
                refusal=DestinationProblem("SecretKeyMissing", "no secretAccessKey"),
            ),
            "SecretKeyMissing",
            "no secretAccessKey",
        ),
    ],
)
def test_what_is_missing_is_said_once_and_waited_for(
    seen: ObservedRestore, reason: str, what: str
) -> None:
    observed = see(partition(), restore=seen)
    step = next_plan(observed)
    assert step.action is None
    assert not step.settled, "it is looked at again soon"
    assert step.waiting, "and not every second"
    found = condition(step)
    assert (found["status"], found["reason"]) == ("False", reason)
    assert what in found["message"]
    assert condition(step, "Ready")["message"] == found["message"]
    assert [e.reason for e in step.events if e.kind == "Warning"][-1:] == ["RestoreWaiting"]
    body = observed.partition.body | {"status": step.status}
    again = next_plan(replace(observed, partition=parse(body)))
    assert (again.status, again.events) == (step.status, [])
    there = replace(observed, partition=parse(body), restore=ObservedRestore(snapshot=SOURCE))
    assert isinstance(next_plan(there).action, Apply), "it goes on by itself"


def test_nothing_is_restored_over_a_volume_of_somebody_else() -> None:
    for claim in (ObservedClaim(0, stamp(NOW), ""), ObservedClaim(0, stamp(NOW), "other")):
        step = next_plan(replace(see(partition()), claims=(claim,)))
        assert step.action is None
        assert condition(step)["reason"] == "VolumesFound"
    # One without our labels, which is not listed among ours.
    step = next_plan(see(partition(), restore=ObservedRestore(snapshot=SOURCE, claimed=True)))
    assert (step.action, condition(step)["reason"]) == (None, "VolumesFound")
    found = replace(
        see(partition({"clusterID": ""})), claims=(ObservedClaim(0, stamp(NOW), "other"),)
    )
    step = next_plan(found)
    assert step.action is None
    assert condition(step, "Accepted")["reason"] == "VolumesFound"
    way_out = condition(step, "Accepted")["message"]
    assert "delete this Partition and apply it with spec.bootstrap {adopt: true}" in way_out
    assert "set spec.bootstrap.adopt" not in way_out, "beside a snapshot that is refused"


def test_what_can_not_succeed_stays_failed_with_what_is_damaged() -> None:
    report = {"state": "failed", "reason": "SnapshotDamaged", "message": "object 12ab is missing"}
    observed = with_pod(ready_for_pod(see(partition())), **ended(65, report))
    step = next_plan(observed)
    assert step.action is None
    assert step.status["state"] == "RestoreFailed"
    assert step.settled, "it stays so"
    found = condition(step)
    assert found["reason"] == "SnapshotDamaged"
    assert "object 12ab is missing" in found["message"]
    assert "kubectl delete pod copy-restore" in found["message"]
    assert [e.reason for e in step.events if e.kind == "Warning"][-1] == "RestoreFailed"
    assert observed.restore is not None
    gone = replace(observed, restore=replace(observed.restore, pod=None))
    assert isinstance(next_plan(gone).action, CreatePod), "begun anew when its pod is deleted"


@pytest.mark.parametrize(
    "status",
    [
        ended(
            69, {"state": "failed", "reason": "StoreUnavailable", "message": "m", "retriable": True}
        ),
        ended(137),
        {"phase": "Failed", "reason": "Evicted", "message": "node is gone"},
    ],
)
def test_what_may_succeed_later_is_tried_again_with_a_pause(status: dict[str, Any]) -> None:
    observed = with_pod(ready_for_pod(see(partition())), **status)
    step = next_plan(observed)
    assert (step.action, condition(step)["reason"]) == (None, "Retrying")
    later = replace(observed, now=NOW + dt.timedelta(seconds=6))
    step = next_plan(later)
    assert step.action == Delete("Pod", "copy-restore", "pod-uid")
    assert step.status["restore"] == {"attempts": 1}
    body = later.partition.body | {"status": step.status}
    gone = replace(later, partition=parse(body), restore=ObservedRestore(snapshot=SOURCE))
    again = next_plan(gone)
    assert isinstance(again.action, CreatePod)
    assert again.action.body["metadata"]["annotations"][names.ANNOTATION_ATTEMPT] == "2"


@pytest.mark.parametrize("code", [0, 69])
def test_an_injected_container_does_not_hold_a_restore(code: int) -> None:
    """The phase of the pod stays Running, and its time of failure is our container's."""
    sidecar = {"name": "istio-proxy", "state": {"running": {"startedAt": stamp(NOW)}}}
    report = REPORT if code == 0 else {"state": "failed", "reason": "StoreUnavailable"}
    own = ended(code, report)["containerStatuses"]
    status = {"phase": "Running", "containerStatuses": [sidecar, *own]}
    observed = with_pod(ready_for_pod(see(partition())), **status)
    if code == 0:
        assert isinstance(next_plan(observed).action, RecordRestored)
        return
    assert condition(next_plan(observed))["reason"] == "Retrying"
    later = replace(observed, now=NOW + dt.timedelta(seconds=6))
    assert next_plan(later).action == Delete("Pod", "copy-restore", "pod-uid")


def test_a_restore_whose_pod_is_refused_says_so() -> None:
    observed = ready_for_pod(see(partition()))
    action = next_plan(observed).action
    assert action is not None
    found = target(action, "copy")
    assert found is not None
    key, wanted = found
    assert key == ("Pod", "copy-restore")
    writes = {key: refused(None, wanted, "exceeded quota: q", NOW)}
    step = next_plan(replace(observed, writes=writes))
    assert (step.action, step.status["state"]) == (None, "ObjectRefused")
    assert "exceeded quota: q" in condition(step, "Ready")["message"]
    assert step.retry_s is not None


def test_a_pod_of_an_earlier_partition_is_waited_for() -> None:
    observed = with_pod(ready_for_pod(see(partition())), phase="Running")
    assert observed.restore is not None
    assert observed.restore.pod is not None
    pod = observed.restore.pod
    meta = pod["metadata"] | {
        "ownerReferences": [
            {"kind": names.KIND, "name": "copy", "uid": "earlier", "controller": True}
        ]
    }
    old = replace(observed.restore, pod=pod | {"metadata": meta})
    step = next_plan(replace(observed, restore=old))
    assert step.action is None
    assert "an earlier Partition" in condition(step)["message"]


def test_the_pod_runs_where_replica_0_may_and_beside_its_source() -> None:
    term = {"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "x"}}}
    nodes = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"a": 1}]}}
    affinity: dict[str, Any] = {
        "nodeAffinity": nodes,
        "podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]},
    }
    step = next_plan(from_volume(affinity=affinity))
    assert isinstance(step.action, CreatePod)
    found = step.action.body["spec"]["affinity"]
    assert found["nodeAffinity"] == nodes
    terms = found["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert terms[0] == term
    labels = {"statefulset.kubernetes.io/pod-name": "part-1"}
    assert terms[1]["labelSelector"]["matchLabels"] == labels
    assert len(affinity["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]) == 1
    plain = next_plan(ready_for_pod(see(partition(affinity=affinity))))
    assert isinstance(plain.action, CreatePod)
    assert plain.action.body["spec"]["affinity"] == affinity


def test_a_pod_that_can_not_start_any_more_is_made_anew() -> None:
    pending = with_pod(from_volume(), phase="Pending")
    assert next_plan(pending).action is None
    seen = pending.restore
    assert seen is not None
    anew = Delete("Pod", "copy-restore", "pod-uid")
    for changed, why in (
        (replace(seen, volumes={}), "SnapshotVolumeLost"),
        (replace(seen, snapshot=None), "SnapshotNotFound"),
        (replace(seen, running=frozenset()), "no other pod"),
    ):
        step = next_plan(replace(pending, restore=changed))
        assert step.action == anew
        assert why in condition(step)["message"]
    late = next_plan(replace(pending, now=NOW + PENDING))
    assert late.action == anew
    assert late.status["restore"] == {"attempts": 1}
    assert next_plan(replace(pending, now=NOW + PENDING / 2)).action is None
    running = with_pod(from_volume(), phase="Running")
    assert running.restore is not None
    gone = replace(running.restore, volumes={}, running=frozenset())
    assert next_plan(replace(running, now=NOW + PENDING, restore=gone)).action is None


def test_then_the_normal_order_goes_on_with_volume_0_as_the_only_voter() -> None:
    observed = restored(replica(OURS, leads=True))
    assert ("StatefulSet", "copy") in observed.objects
    assert next_plan(observed).action == RecordBootstrapped(OURS)


def test_an_empty_volume_in_its_place_is_never_bootstrapped() -> None:
    assert not isinstance(next_plan(restored(replica(""))).action, Bootstrap)


@pytest.mark.parametrize("why", ["leaving", "conflict"])
def test_the_condition_stays_while_something_else_has_to_go_first(why: str) -> None:
    observed = restored(replica(OURS, leads=True))
    status = next_plan(observed).status | {"bootstrapped": True}
    body = observed.partition.body | {"status": status}
    observed = replace(observed, partition=parse(body))
    key = ("Service", "copy")
    meta = observed.objects[key]["metadata"]
    changed = {"deletionTimestamp": stamp(NOW)} if why == "leaving" else {"ownerReferences": []}
    if why == "conflict":
        changed["labels"] = {}
    live = observed.objects[key] | {"metadata": meta | changed}
    step = next_plan(replace(observed, objects=observed.objects | {key: live}))
    assert condition(step)["status"] == "True"
    assert step.status["restored"] == {"snapshotID": "snap", "lsn": "9"}
    assert condition(step, "Progressing")["reason"] == (
        "ObjectsLeaving" if why == "leaving" else "Changing"
    )
    assert not step.settled


def test_the_condition_stays_while_a_claim_is_made_anew() -> None:
    """Its size was mended before anything was restored to it; a snapshot is still waited for."""
    spec = {"storage": {"size": "2Gi"}}
    small = ObservedClaim(0, stamp(NOW), OURS, "c0", size="1Gi", version="v")
    waiting = ObservedRestore(snapshot=None, claimed=True)
    step = next_plan(see(partition(**spec), claims=(small,), restore=waiting))
    assert step.action == DeleteUnchanged("PersistentVolumeClaim", "data-copy-0", "c0", "v")
    assert condition(step)["reason"] == "SnapshotNotFound"
    going = replace(small, deleting=True)
    step = next_plan(see(partition(**spec), claims=(going,), restore=waiting))
    assert (step.action, step.waiting) == (None, False), "it goes by itself, and soon"
    assert condition(step)["reason"] == "SnapshotNotFound"


def test_a_failed_restore_is_not_settled_while_objects_are_leaving() -> None:
    report = {"state": "failed", "reason": "SnapshotDamaged", "message": "object 12ab is missing"}
    observed = with_pod(ready_for_pod(see(partition())), **ended(65, report))
    assert next_plan(observed).settled
    key = ("ServiceAccount", "copy")
    meta = observed.objects[key]["metadata"] | {"deletionTimestamp": stamp(NOW)}
    leaving = {key: observed.objects[key] | {"metadata": meta}}
    step = next_plan(replace(observed, objects=leaving))
    assert not step.settled
    assert step.status["state"] == "RestoreFailed"
    assert "ServiceAccount copy" in condition(step, "Progressing")["message"]


def test_a_refused_spec_forgets_nothing_of_the_restore() -> None:
    record = {"snapshotID": "snap", "lsn": "9"}
    step = next_plan(see(partition({"restored": record}, replicas=2)))
    assert condition(step, "Accepted")["reason"] == "InvalidSpec"
    assert step.status["restored"] == record


@pytest.mark.parametrize(
    ("bootstrap", "why"),
    [
        ({"adopt": True, "snapshotRef": {"name": "x"}}, "adopt and snapshotRef exclude each other"),
        ({"snapshotRef": {"name": "x"}, "objectStore": STORE}, "exclude each other"),
        ({"snapshotRef": {"name": ""}}, "the name of a PartitionSnapshot"),
        ({"objectStore": STORE | {"bucket": "B"}}, "bucket"),
        ({"objectStore": STORE | {"path": "../x"}}, "path"),
        ({"objectStore": STORE | {"path": "x", "snapshot": "A b"}}, "a snapshot's ID, or latest"),
    ],
)
def test_wrong_sources_are_refused(bootstrap: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidSpec, match=why):
        parse_spec("copy", {"storage": {"size": "1Gi"}, "bootstrap": bootstrap})
