"""How a stored snapshot is proven, step by step, without a cluster."""

import datetime as dt
from dataclasses import replace
from typing import Any

import pytest
from partition_operator.api import names
from partition_operator.api.times import stamp
from partition_operator.reconcile.observed.progress import JobProgress
from partition_operator.reconcile.observed.snapshot import NoJob, ObservedJob
from partition_operator.reconcile.snapshot import verification
from partition_operator.reconcile.snapshot.actions import (
    CreateVerifyPod,
    DeletePod,
    StartVerify,
)
from partition_operator.reconcile.snapshot.plan import SnapshotPlan, plan
from partition_operator.resources.snapshot_pods import waiting_for

from tests.support.snapshot_objects import (
    NOW,
    OBJECT_STORE,
    VOLUME,
    group,
    partition,
)
from tests.support.snapshot_plans import SECOND, after, condition, succeeded, view


def test_without_verification_it_ends() -> None:
    found = succeeded("None")
    step = plan(view(found), "image:1")
    assert (step.action, step.pause_s) == (None, None)
    assert condition(step, "Verified")["reason"] == "NotRequested"


def test_checksums_are_compared_by_a_replica() -> None:
    found = succeeded()
    step = plan(view(found), "image:1")
    assert isinstance(step.action, StartVerify)
    assert step.action.job_id == "uid-snap/verify-1"
    found = after(step, found)
    going = plan(view(found, job=ObservedJob("Running", "Verifying", 47)), "image:1")
    assert going.action is None
    assert "Verifying, 45 %" in condition(going, "Verified")["message"]
    good = plan(view(found, job=ObservedJob("Succeeded")), "image:1")
    assert good.status["state"] == "Verified"
    assert condition(good, "Verified")["status"] == "True"
    assert [e.reason for e in good.events] == ["SnapshotVerified"]
    bad = ObservedJob("Failed", reason="SnapshotDamaged", message="object 12ab is missing")
    damaged = plan(view(found, job=bad), "image:1")
    assert damaged.status["state"] == "VerifyFailed"
    assert condition(damaged, "Verified")["status"] == "False"
    assert condition(damaged, "Succeeded")["status"] == "True", "it was taken"
    assert "object 12ab is missing" in damaged.status["message"]
    assert [e.reason for e in damaged.events] == ["VerifyFailed"]
    assert damaged.partition_events[0].reason == "VerifyFailed"


def test_a_verification_that_can_not_be_done_says_nothing_of_the_snapshot() -> None:
    found, now = succeeded(), NOW
    lost = ObservedJob("Failed", reason="StoreUnavailable", message="no answer", retriable=True)
    for _ in range(verification.ATTEMPTS_MAX):
        found = after(plan(view(found, now), "image:1"), found)
        step = plan(view(found, now, job=lost), "image:1")
        found = after(step, found)
        now += dt.timedelta(minutes=2)
    assert step.status["state"] == "Succeeded"
    assert condition(step, "Verified")["status"] == "Unknown"
    assert condition(step, "Verified")["reason"] == "StoreUnavailable"
    assert not found.verifying
    again = plan(view(found, now), "image:1")
    assert (again.action, again.pause_s) == (None, None)


def test_a_restarted_verifier_is_asked_once_more_with_the_same_id() -> None:
    found = succeeded()
    found = after(plan(view(found), "image:1"), found)
    step = plan(view(found, job=NoJob.UNKNOWN), "image:1")
    assert isinstance(step.action, StartVerify)
    assert step.action.job_id == "uid-snap/verify-1"
    found = after(step, found)
    lost = plan(view(found, job=NoJob.UNKNOWN), "image:1")
    assert lost.action is None
    assert condition(lost, "Verified")["reason"] == "Retrying"


@pytest.mark.parametrize("gone", [True, False])
def test_checksums_end_without_a_result_when_the_group_is_gone(gone: bool) -> None:
    found = succeeded()
    other = group(partition({"destination": OBJECT_STORE}, status={"clusterID": "another"}))
    for before in (found, after(plan(view(found), "i"), found)):
        step = plan(replace(view(before), group=None if gone else other), "image:1")
        proof = condition(step, "Verified")
        assert (proof["status"], proof["reason"]) == ("Unknown", "PartitionNotFound")
        assert not after(step, before).verifying


def test_a_pod_of_somebody_else_is_reported_and_left_alone() -> None:
    found = succeeded("Restore")
    step = plan(view(found, taken=True), "image:1")
    assert (step.action, condition(step, "Verified")["reason"]) == (None, "Conflict")
    assert step.pause_s is not None
    assert step.pause_s >= 10
    free = plan(view(after(step, found)), "image:1")
    assert isinstance(free.action, CreateVerifyPod), "it goes on by itself"


def pod_of(step: SnapshotPlan, **status: Any) -> dict[str, Any]:
    assert isinstance(step.action, CreateVerifyPod)
    body = step.action.body
    meta = body["metadata"] | {"creationTimestamp": stamp(NOW), "uid": "pod-uid"}
    return body | {"metadata": meta, "status": status}


def ended(code: int, report: str = "") -> dict[str, Any]:
    state = {"terminated": {"exitCode": code, "message": report, "finishedAt": stamp(NOW)}}
    return {
        "phase": "Failed" if code else "Succeeded",
        "containerStatuses": [{"name": "verify", "state": state}],
    }


def test_it_is_restored_in_a_pod_that_goes_afterwards() -> None:
    found = succeeded("Restore")
    step = plan(view(found), "image:1")
    pod = pod_of(step, phase="Running")
    found = after(step, found)
    assert plan(view(found, pod=pod), "image:1").action is None
    good = pod | {"status": ended(0, '{"state": "succeeded", "digest": "abc"}')}
    step = plan(view(found, pod=good), "image:1")
    assert step.status["state"] == "Verified"
    assert step.action is None
    assert "abc" in condition(step, "Verified")["message"]
    found = after(step, found)
    left = plan(view(found, pod=good), "image:1")
    assert left.action == DeletePod("snap-verify", "pod-uid")
    assert left.status == step.status


@pytest.mark.parametrize(
    ("status", "retried", "verified", "reason"),
    [
        (
            ended(65, '{"state": "failed", "reason": "SnapshotDamaged", "message": "blob x"}'),
            False,
            "False",
            "SnapshotDamaged",
        ),
        (
            ended(
                69,
                '{"state": "failed", "reason": "StoreUnavailable", "message": "m", '
                '"retriable": true}',
            ),
            True,
            "Unknown",
            "Retrying",
        ),
        (ended(137), True, "Unknown", "Retrying"),
        (
            {"phase": "Failed", "reason": "DeadlineExceeded", "message": "too long"},
            True,
            "Unknown",
            "Retrying",
        ),
        (
            ended(78, '{"state": "failed", "reason": "StoreRefused", "message": "no"}'),
            False,
            "Unknown",
            "StoreRefused",
        ),
    ],
)
def test_how_a_verifying_pod_may_fail(
    status: dict[str, Any], retried: bool, verified: str, reason: str
) -> None:
    found = succeeded("Restore")
    first = plan(view(found), "image:1")
    pod = pod_of(first) | {"status": status}
    found = after(first, found)
    step = plan(view(found, pod=pod), "image:1")
    proof = condition(step, "Verified")
    assert (proof["status"], proof["reason"]) == (verified, reason)
    found = after(step, found)
    assert found.verifying == retried
    if retried:
        room = plan(view(found, pod=pod), "image:1")
        assert room.action == DeletePod("snap-verify", "pod-uid")
        again = plan(view(found, NOW + SECOND * 11), "image:1")
        assert names.ANNOTATION_ATTEMPT in pod_of(again)["metadata"]["annotations"]
        assert pod_of(again)["metadata"]["annotations"][names.ANNOTATION_ATTEMPT] == "2"


def test_a_pod_that_finds_no_node_is_not_waited_for_for_ever() -> None:
    found = succeeded("Restore")
    first = plan(view(found), "image:1")
    unschedulable = {
        "phase": "Pending",
        "conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3"}
        ],
    }
    pod = pod_of(first) | {"status": unschedulable}
    found = after(first, found)
    assert plan(view(found, pod=pod), "image:1").status == found.status
    late = plan(view(found, NOW + verification.PENDING, pod=pod), "image:1")
    assert "Unschedulable: 0/3" in condition(late, "Verified")["message"]
    over = plan(view(found, NOW + verification.GIVEN_UP, pod=pod), "image:1")
    assert condition(over, "Verified")["reason"] == "TimedOut"


SIDECAR = {"name": "istio-proxy", "state": {"running": {"startedAt": stamp(NOW)}}}


@pytest.mark.parametrize("first", [True, False])
def test_an_injected_container_that_runs_for_ever_does_not_hold_the_result(first: bool) -> None:
    """The pod stays Running; our own container has ended, wherever it stands in the list."""
    found = succeeded("Restore")
    step = plan(view(found), "image:1")
    pod = pod_of(step)
    found = after(step, found)
    own = {"name": "verify", "state": {"running": {"startedAt": stamp(NOW)}}}

    def status(container: dict[str, Any]) -> dict[str, Any]:
        both = [SIDECAR, container] if first else [container, SIDECAR]
        return pod | {"status": {"phase": "Running", "containerStatuses": both}}

    assert plan(view(found, pod=status(own)), "image:1").status == found.status
    for report, state in (
        ('{"state": "succeeded", "digest": "abc"}', "Verified"),
        ('{"state": "failed", "reason": "SnapshotDamaged", "message": "m"}', "VerifyFailed"),
    ):
        code = 0 if state == "Verified" else 65
        (mine,) = ended(code, report)["containerStatuses"]
        step = plan(view(found, pod=status(mine)), "image:1")
        assert step.status["state"] == state
        left = plan(view(after(step, found), pod=status(mine)), "image:1")
        assert left.action == DeletePod("snap-verify", "pod-uid"), "the sidecar goes with the pod"


def test_an_injected_container_that_ended_well_is_no_result() -> None:
    found = succeeded("Restore")
    step = plan(view(found), "image:1")
    other = ended(0, '{"state": "succeeded", "digest": "abc"}')["containerStatuses"][0]
    status = {"phase": "Running", "containerStatuses": [other | {"name": "istio-proxy"}]}
    pod = pod_of(step) | {"status": status}
    assert plan(view(after(step, found), pod=pod), "image:1").status["state"] == "Succeeded"


def test_what_an_injected_init_container_waits_for_is_said() -> None:
    initializing = {"waiting": {"reason": "PodInitializing"}}
    pull = {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}
    pod = {
        "status": {
            "phase": "Pending",
            "containerStatuses": [{"name": "verify", "state": initializing}],
            "initContainerStatuses": [{"name": "istio-init", "state": pull}],
        }
    }
    assert waiting_for(pod) == "ImagePullBackOff: no such image"


def test_a_refused_pod_is_said_in_the_api_servers_words_once() -> None:
    found = succeeded("Restore")
    first = plan(view(found), "image:1")
    found = after(first, found)
    held = replace(view(found), refused="exceeded quota: q")
    step = plan(held, "image:1")
    assert step.action is None
    proof = condition(step, "Verified")
    assert (proof["status"], proof["reason"]) == ("Unknown", "PodRefused")
    assert "exceeded quota: q" in proof["message"]
    assert [e.reason for e in step.events] == ["PodRefused"]
    assert step.pause_s == verification.TAKEN_POLL_S
    found = after(step, found)
    again = plan(replace(view(found), refused="exceeded quota: q"), "image:1")
    assert (again.status, again.events) == (step.status, [])
    assert isinstance(plan(view(found), "image:1").action, CreateVerifyPod), "it is tried again"


def test_a_verifying_pod_carries_the_marks_of_every_pod() -> None:
    marks = {"labels": {"team": "x"}, "annotations": {"sidecar.istio.io/inject": "false"}}
    spec = {"podTemplate": {"metadata": marks}}
    seen = view(succeeded("Restore"))
    assert seen.group is not None
    group = replace(seen.group, partition=partition(spec=spec))
    meta = pod_of(plan(replace(seen, group=group), "image:1"))["metadata"]
    assert meta["labels"].items() >= (names.labels("part", "verify") | marks["labels"]).items()
    assert meta["annotations"] == marks["annotations"] | {names.ANNOTATION_ATTEMPT: "1"}


def test_a_verifying_pod_says_how_far_it_is() -> None:
    found = succeeded("Restore")
    first = plan(view(found), "image:1")
    pod = pod_of(first) | {"status": {"phase": "Running"}}
    found = after(first, found)
    told = JobProgress("Restoring", 50)
    step = plan(replace(view(found, pod=pod), progress=told), "image:1")
    assert "Restoring, 50 %" in condition(step, "Verified")["message"]
    silent = plan(view(after(step, found), pod=pod), "image:1")
    assert silent.status == step.status, "an answer that is missed moves nothing"


def test_a_verifying_pod_is_restricted_and_bounded() -> None:
    pod = pod_of(plan(view(succeeded("Restore"), authority=True), "image:1"))
    spec, container = pod["spec"], pod["spec"]["containers"][0]
    assert spec["restartPolicy"] == "Never"
    assert spec["activeDeadlineSeconds"] > 0
    assert spec["securityContext"]["runAsNonRoot"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert container["resources"]["limits"]["memory"] == "1Gi"
    room = str(750 + 256 * 2**20)
    assert container["resources"]["requests"]["ephemeral-storage"] == room
    assert container["resources"]["limits"]["ephemeral-storage"] == room
    scratch = next(v for v in spec["volumes"] if v["name"] == "scratch")
    assert scratch["emptyDir"] == {"sizeLimit": "1Gi"}
    assert "--s3-ca-file=/etc/partition/store/ca.crt" in container["args"]
    assert {e["name"] for e in container["env"]} == {
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "PARTITION_PROGRESS_LISTEN",
        "POD_IP",
        "TMPDIR",
    }
    told = {"name": "PARTITION_PROGRESS_LISTEN", "value": "$(POD_IP):7080"}
    assert told in container["env"]
    assert all("value" not in e for e in container["env"] if e["name"].startswith("AWS"))
    (owner,) = pod["metadata"]["ownerReferences"]
    assert owner["kind"] == "PartitionSnapshot"


def test_a_volume_snapshot_is_read_beside_the_pod_that_holds_it() -> None:
    spec = {"destination": VOLUME}
    pod = pod_of(plan(view(succeeded("Restore", spec=spec), spec=spec), "image:1"))
    term = pod["spec"]["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert term[0]["labelSelector"]["matchLabels"] == {
        "statefulset.kubernetes.io/pod-name": "part-1"
    }
    container = pod["spec"]["containers"][0]
    assert "--directory=/source/data/snapshots" in container["args"]
    mount = next(m for m in container["volumeMounts"] if m["name"] == "source")
    assert mount["readOnly"]


def test_a_verifying_pod_runs_on_the_nodes_of_the_partition() -> None:
    nodes = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"a": 1}]}}
    spec = {"affinity": {"nodeAffinity": nodes, "podAntiAffinity": {"x": 1}}}
    seen = group(partition({"destination": OBJECT_STORE}, spec=spec))
    pod = pod_of(plan(view(succeeded("Restore"), group=seen), "image:1"))
    assert pod["spec"]["affinity"] == {"nodeAffinity": nodes}
