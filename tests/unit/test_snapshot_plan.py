"""The plan of one PartitionSnapshot in every state, without a cluster."""

import datetime as dt
from dataclasses import replace
from typing import Any

import pytest
from partition_operator.api import names
from partition_operator.api.destination import Refusal, VolumeDestination
from partition_operator.api.snapshot import Snapshot, parse_snapshot
from partition_operator.api.times import stamp
from partition_operator.reconcile import snapshots, verification
from partition_operator.reconcile.progress import Progress
from partition_operator.reconcile.removal import marked
from partition_operator.reconcile.snapshot_actions import (
    CancelJob,
    CreatePod,
    DeletePod,
    Label,
    StartTake,
    StartVerify,
)
from partition_operator.reconcile.snapshot_view import Job, NoJob, SnapshotView
from partition_operator.reconcile.snapshots import SnapshotPlan, plan, volume_lost

from tests.support.snapshot_objects import (
    CLUSTER,
    NOW,
    OBJECT_STORE,
    VOLUME,
    group,
    partition,
    snapshot,
    stored,
)

SECOND = dt.timedelta(seconds=1)
PREFIX = f"backups/ns/part/{CLUSTER}"
DONE = Job(
    "Succeeded",
    lsn=2**60,
    term=7,
    keys=3,
    files=2,
    size_bytes=500,
    transferred_bytes=50,
    digest="abc",
)


def view(found: Snapshot, now: dt.datetime = NOW, **more: Any) -> SnapshotView:
    spec = more.pop("spec", {"destination": OBJECT_STORE})
    seen = more.pop("group", None) or group(
        partition(spec),
        now,
        silent=more.pop("silent", ()),
        leaderless=more.pop("leaderless", False),
    )
    return SnapshotView(
        found, now, seen, volumes=more.pop("volumes", {"data-part-1": "u1"}), **more
    )


def after(step: SnapshotPlan, before: Snapshot) -> Snapshot:
    return parse_snapshot(before.body | {"status": step.status})


def condition(step: SnapshotPlan, kind: str) -> dict[str, Any]:
    found: dict[str, Any] = next(c for c in step.status["conditions"] if c["type"] == kind)
    return found


def started(found: Snapshot | None = None, **more: Any) -> Snapshot:
    found = found or snapshot()
    return after(plan(view(found, **more), "image:1"), found)


def test_status_stands_from_the_first_look() -> None:
    step = plan(view(snapshot(labelled=False)), "image:1")
    assert step.action == Label("part")
    assert step.status["state"] == "Queued"
    assert condition(step, "Queued")["status"] == "True"
    assert condition(step, "Succeeded")["status"] == "Unknown"


def test_what_is_needed_later_is_recorded_before_it_is_started() -> None:
    step = plan(view(snapshot()), "image:1")
    assert isinstance(step.action, StartTake)
    assert (step.action.ordinal, step.action.job_id) == (1, "uid-snap/1")
    status = step.status
    assert (status["state"], status["phase"], status["percent"]) == ("Running", "Starting", 0)
    assert (status["sourcePod"], status["attempts"]) == ("part-1", 1)
    assert (status["snapshotID"], status["clusterID"]) == ("snap", CLUSTER)
    assert status["destination"]["objectStore"]["prefix"] == PREFIX
    assert status["location"] == f"s3://bucket/{PREFIX}"
    assert [e.reason for e in step.events] == ["SnapshotStarted"]


@pytest.mark.parametrize(
    ("more", "reason", "what"),
    [
        ({"leaderless": True}, "WaitingForSource", "no replica leads"),
        (
            {
                "group": group(
                    partition({"destination": OBJECT_STORE}, status={"bootstrapped": False})
                )
            },
            "WaitingForSource",
            "does not exist yet",
        ),
        (
            {"others": (snapshot("older", created=NOW - SECOND, status={"state": "Running"}),)},
            "WaitingForTurn",
            "older comes first",
        ),
        (
            {"others": (snapshot("older", created=NOW - SECOND, status={"state": "Queued"}),)},
            "WaitingForTurn",
            "older comes first",
        ),
    ],
)
def test_it_waits_and_says_for_what(more: dict[str, Any], reason: str, what: str) -> None:
    step = plan(view(snapshot(), **more), "image:1")
    assert step.action is None
    assert step.status["state"] == "Queued"
    queued = condition(step, "Queued")
    assert (queued["status"], queued["reason"]) == ("True", reason)
    assert what in step.status["message"]
    assert step.pause_s is not None


def test_a_younger_or_ended_one_is_not_waited_for() -> None:
    others = (
        snapshot("younger", created=NOW + SECOND, status={"state": "Queued"}),
        stored("ended", NOW - SECOND),
    )
    assert isinstance(plan(view(snapshot(), others=others), "image:1").action, StartTake)


@pytest.mark.parametrize(
    ("found", "more", "reason", "what"),
    [
        (snapshot(), {"spec": {}}, "NoDestination", "set spec.destination"),
        (
            snapshot(),
            {"refusal": Refusal("SecretNotFound", "Secret s3 does not exist")},
            "SecretNotFound",
            "Secret s3 does not exist",
        ),
        (
            snapshot(spec={"destination": {"volume": {}, "objectStore": {}}}),
            {},
            "InvalidSpec",
            "one of volume and objectStore",
        ),
        (
            snapshot(
                spec={
                    "destination": {
                        "objectStore": OBJECT_STORE["objectStore"] | {"endpoint": "http://x"}
                    }
                }
            ),
            {},
            "InvalidSpec",
            "allowHTTP",
        ),
    ],
)
def test_bad_input_fails_at_once_and_says_what_to_do(
    found: Snapshot, more: dict[str, Any], reason: str, what: str
) -> None:
    step = plan(view(found, **more), "image:1")
    assert step.status["state"] == "Failed"
    failed = condition(step, "Failed")
    assert (failed["status"], failed["reason"]) == ("True", reason)
    assert what in failed["message"]
    assert [e.reason for e in step.events] == ["SnapshotFailed"]
    assert step.partition_events[0].message.startswith("snap: ")
    assert step.pause_s is None
    again = plan(view(after(step, found), **more), "image:1")
    assert (again.status, again.events) == (step.status, []), "said once"


def test_a_partition_may_come_a_little_later() -> None:
    found = snapshot()
    early = SnapshotView(found, NOW + SECOND * 29, None)
    assert condition(plan(early, "image:1"), "Queued")["reason"] == "WaitingForPartition"
    late = SnapshotView(found, NOW + snapshots.PARTITION_GRACE, None)
    assert condition(plan(late, "image:1"), "Failed")["reason"] == "PartitionNotFound"


def test_waiting_for_a_source_ends_somewhere() -> None:
    found = started(leaderless=True)
    late = NOW + snapshots.SOURCE_WAIT
    step = plan(view(found, late, leaderless=True), "image:1")
    assert condition(step, "Failed")["reason"] == "NoSource"
    assert isinstance(plan(view(found, late), "image:1").action, StartTake)


# --- sources ----------------------------------------------------------------------------------


def source(others: tuple[Snapshot, ...] = (), **more: Any) -> str:
    status = plan(view(snapshot(), others=others, **more), "image:1").status
    return str(status.get("sourcePod", ""))


def test_the_source_is_a_follower_best_the_one_with_the_last_one() -> None:
    assert source() == "part-1"
    last = stored("last", NOW - SECOND * 90, pod="part-2")
    assert source((last,)) == "part-2"
    older = stored("older", NOW - SECOND * 200, pod="part-1")
    assert source((older, last)) == "part-2"
    elsewhere = stored(
        "last", NOW, pod="part-2", destination={"volume": {"claim": "c", "claimUID": "u"}}
    )
    assert source((elsewhere,)) == "part-1", "nothing of it is in this store"
    assert source((last,), silent=(2,)) == "part-1"
    assert source(silent=(1, 2)) == "part-0", "the leader where nobody else is"


def test_after_a_damaged_one_the_next_is_written_anew() -> None:
    bad = stored("bad", NOW - SECOND * 90, state="VerifyFailed", pod="part-2")
    step = plan(view(snapshot(), others=(bad,)), "image:1")
    assert isinstance(step.action, StartTake)
    assert step.action.full
    assert step.action.ordinal == 1
    asked = plan(view(snapshot(spec={"full": True})), "image:1").action
    assert isinstance(asked, StartTake)
    assert asked.full


# --- running ----------------------------------------------------------------------------------


def test_progress_is_written_in_steps() -> None:
    found = started()
    step = plan(view(found, job=Job("Running", "Writing", 13)), "image:1")
    assert (step.status["percent"], step.status["phase"]) == (13, "Writing")
    assert step.action is None
    next_found = after(step, found)
    same = plan(view(next_found, NOW + SECOND * 30, job=Job("Running", "Writing", 14)), "image:1")
    assert same.status == step.status, "no write for a percent"
    later = plan(view(next_found, NOW + SECOND * 60, job=Job("Running", "Writing", 14)), "image:1")
    assert later.status["percent"] == 14, "nor is a move overlooked"


def test_a_slow_job_that_moves_or_waits_its_turn_is_not_stalled() -> None:
    found, now = run(started()), NOW
    for percent in range(51, 55):
        now += snapshots.JOB_STALLED - SECOND
        found = after(plan(view(found, now, job=Job("Running", "Writing", percent)), "i"), found)
        assert (found.state, found.status["percent"]) == ("Running", percent)
    found = after(plan(view(found, now, job=Job("Queued")), "i"), found)
    now += snapshots.JOB_STALLED * 3
    waiting = plan(view(found, now, job=Job("Queued")), "i")
    assert waiting.status["state"] == "Running", "other jobs of its replica come first"
    found = after(plan(view(found, now, job=Job("Running", "Writing", 0)), "i"), found)
    now += snapshots.JOB_STALLED - SECOND
    assert plan(view(found, now, job=Job("Running", "Writing", 0)), "i").action is None
    over = plan(view(found, now + SECOND, job=Job("Running", "Writing", 0)), "i")
    assert over.action == CancelJob(1, "uid-snap/1"), "two at once would write the same"


def test_a_partition_made_anew_is_not_snapshotted_in_its_place() -> None:
    other = group(partition({"destination": OBJECT_STORE}, status={"clusterID": "another"}))
    queued = started(leaderless=True)
    assert (queued.state, queued.cluster_id) == ("Queued", CLUSTER), "from the first look"
    for found in (queued, run(started())):
        step = plan(view(found, group=other, job=Job("Running", "Writing", 50)), "image:1")
        assert step.action is None
        assert condition(step, "Failed")["reason"] == "PartitionReplaced"


def test_the_source_has_what_was_acknowledged_before_it_was_asked_for() -> None:
    seen = group(partition({"destination": OBJECT_STORE}))
    behind = replace(seen, replicas=tuple(replace(r, applied=9) for r in seen.replicas))
    step = plan(view(snapshot(labelled=False), group=behind), "image:1")
    assert step.status["leastLSN"] == "10"
    found = after(step, snapshot())
    assert plan(view(found, group=behind), "i").status["sourcePod"] == "part-0", "the leader"
    assert plan(view(found, group=seen), "i").status["sourcePod"] == "part-1"


def test_a_start_that_was_lost_is_made_again_with_the_same_id() -> None:
    found = started()
    step = plan(view(found, job=NoJob.UNKNOWN), "image:1")
    assert isinstance(step.action, StartTake)
    assert step.action.job_id == "uid-snap/1"
    assert step.status["attempts"] == 1
    late = plan(view(found, NOW + snapshots.SOURCE_SILENT, job=NoJob.UNKNOWN), "image:1")
    assert late.status["state"] == "Queued", "not for ever"


def run(found: Snapshot, now: dt.datetime = NOW) -> Snapshot:
    """It has been seen to run."""
    return after(plan(view(found, now, job=Job("Running", "Writing", 50)), "image:1"), found)


@pytest.mark.parametrize(
    ("job", "wait", "reason"),
    [
        (NoJob.UNKNOWN, 0, "SourceRestarted"),
        (Job("Failed", reason="StoreUnavailable", message="m", retriable=True), 0, "StoreUnavail"),
        (NoJob.SILENT, 60, "SourceUnreachable"),
        (Job("Running", "Writing", 50), 6 * 3600, "Stalled"),
    ],
)
def test_a_source_that_dies_means_another_try_elsewhere(job: Any, wait: int, reason: str) -> None:
    found = run(started())
    if wait:
        first = plan(view(found, job=job), "image:1")
        assert first.status["state"] == "Running"
        found = after(first, found)
    step = plan(view(found, NOW + SECOND * wait, job=job), "image:1")
    assert step.status["state"] == "Queued"
    queued = condition(step, "Queued")
    assert queued["reason"] == "Retrying"
    assert reason in queued["message"]
    assert [e.reason for e in step.events] == ["SnapshotRetrying"]
    found = after(step, found)
    now = NOW + SECOND * wait
    waiting = plan(view(found, now + SECOND), "image:1")
    assert (waiting.action, waiting.status) == (None, step.status)
    again = plan(view(found, now + SECOND * 6), "image:1")
    assert isinstance(again.action, StartTake)
    assert (again.action.ordinal, again.action.job_id) == (2, "uid-snap/2")
    assert again.status["triedPods"] == ["part-1"]
    assert again.events == [], "started once"


def test_attempts_end_with_the_last_reason() -> None:
    found, now = started(), NOW
    lost = Job("Failed", reason="StoreUnavailable", message="no answer", retriable=True)
    for attempt in range(1, snapshots.ATTEMPTS_MAX + 1):
        assert found.status["attempts"] == attempt
        step = plan(view(found, now, job=lost), "image:1")
        found = after(step, found)
        if step.status["state"] == "Failed":
            break
        now += dt.timedelta(seconds=step.pause_s or 0) + SECOND
        found = after(plan(view(found, now), "image:1"), found)
    assert found.status["attempts"] == snapshots.ATTEMPTS_MAX
    assert condition(step, "Failed")["reason"] == "StoreUnavailable"
    assert "given up after 5 attempts" in condition(step, "Failed")["message"]


def test_what_nobody_can_mend_by_waiting_fails_at_once() -> None:
    refused = Job("Failed", reason="StoreRefused", message="NoSuchBucket: create it")
    step = plan(view(run(started()), job=refused), "image:1")
    assert condition(step, "Failed")["reason"] == "StoreRefused"
    assert step.status["message"] == "StoreRefused: NoSuchBucket: create it"


def test_a_partition_deleted_meanwhile() -> None:
    step = plan(replace(view(run(started())), group=None), "image:1")
    assert condition(step, "Failed")["reason"] == "PartitionDeleted"


def test_a_volume_is_tried_again_on_the_same_pod_which_may_have_it_whole() -> None:
    spec = {"destination": VOLUME}
    found = run(started(spec=spec))
    assert found.status["destination"] == {"volume": {"claim": "data-part-1", "claimUID": "u1"}}
    step = plan(view(found, job=NoJob.UNKNOWN, spec=spec), "image:1")
    again = plan(view(after(step, found), NOW + SECOND * 6, spec=spec), "image:1")
    assert isinstance(again.action, StartTake)
    assert (again.action.ordinal, again.action.destination) == (1, VolumeDestination())


# --- success, verification --------------------------------------------------------------------


def succeeded(verify: str = "Checksum", **more: Any) -> Snapshot:
    found = run(started(snapshot(spec={"verify": verify}), **more))
    return after(plan(view(found, job=DONE, **more), "image:1"), found)


def test_success_says_all_of_it() -> None:
    found = run(started())
    step = plan(view(found, job=DONE), "image:1")
    status = step.status
    assert (status["lsn"], status["term"]) == (str(2**60), "7")
    assert (status["sizeBytes"], status["transferredBytes"]) == (500, 50)
    assert (status["keys"], status["files"], status["digest"]) == (3, 2, "abc")
    assert status["completionTime"] == stamp(NOW)
    assert condition(step, "Available")["status"] == "True"
    assert condition(step, "Verified")["status"] == "Unknown"
    assert [e.reason for e in step.events] == ["SnapshotSucceeded"]


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
    going = plan(view(found, job=Job("Running", "Verifying", 47)), "image:1")
    assert going.action is None
    assert "Verifying, 45 %" in condition(going, "Verified")["message"]
    good = plan(view(found, job=Job("Succeeded")), "image:1")
    assert good.status["state"] == "Verified"
    assert condition(good, "Verified")["status"] == "True"
    assert [e.reason for e in good.events] == ["SnapshotVerified"]
    bad = Job("Failed", reason="SnapshotDamaged", message="object 12ab is missing")
    damaged = plan(view(found, job=bad), "image:1")
    assert damaged.status["state"] == "VerifyFailed"
    assert condition(damaged, "Verified")["status"] == "False"
    assert condition(damaged, "Succeeded")["status"] == "True", "it was taken"
    assert "object 12ab is missing" in damaged.status["message"]
    assert [e.reason for e in damaged.events] == ["VerifyFailed"]
    assert damaged.partition_events[0].reason == "VerifyFailed"


def test_a_verification_that_can_not_be_done_says_nothing_of_the_snapshot() -> None:
    found, now = succeeded(), NOW
    lost = Job("Failed", reason="StoreUnavailable", message="no answer", retriable=True)
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
    assert isinstance(free.action, CreatePod), "it goes on by itself"


def pod_of(step: SnapshotPlan, **status: Any) -> dict[str, Any]:
    assert isinstance(step.action, CreatePod)
    body = step.action.body
    meta = body["metadata"] | {"creationTimestamp": stamp(NOW)}
    return body | {"metadata": meta, "status": status}


def ended(code: int, report: str = "") -> dict[str, Any]:
    state = {"terminated": {"exitCode": code, "message": report, "finishedAt": stamp(NOW)}}
    return {"phase": "Failed" if code else "Succeeded", "containerStatuses": [{"state": state}]}


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
    assert left.action == DeletePod("snap-verify")
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
        assert room.action == DeletePod("snap-verify")
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


def test_a_verifying_pod_says_how_far_it_is() -> None:
    found = succeeded("Restore")
    first = plan(view(found), "image:1")
    pod = pod_of(first) | {"status": {"phase": "Running"}}
    found = after(first, found)
    told = Progress("Restoring", 50)
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


def test_a_volume_that_is_gone_takes_its_snapshots_along() -> None:
    spec = {"destination": VOLUME}
    found = succeeded("None", spec=spec)
    assert not volume_lost(found, {"data-part-1": "u1"})
    assert volume_lost(parse_snapshot(found.body | {"status": marked(found, NOW)}), {})
    assert volume_lost(found, {"data-part-1": "made anew"})
    step = plan(view(found, spec=spec, volumes={}), "image:1")
    gone = condition(step, "Available")
    assert (gone["status"], gone["reason"]) == ("False", "VolumeLost")
    assert [e.reason for e in step.events] == ["VolumeLost"]
    again = plan(view(after(step, found), spec=spec, volumes={}), "image:1")
    assert (again.status, again.events) == (step.status, [])
