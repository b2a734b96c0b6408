"""The plan of one PartitionSnapshot in every state, without a cluster; of its verification:
test_verification_plan."""

import datetime as dt
from dataclasses import replace
from typing import Any

import pytest
from partition_operator.api.destination import DestinationProblem, VolumeDestination
from partition_operator.api.snapshot import Snapshot, parse_snapshot
from partition_operator.api.times import stamp
from partition_operator.reconcile.observed.snapshot import (
    NoJob,
    ObservedJob,
    ObservedSnapshot,
    volume_lost,
)
from partition_operator.reconcile.schedule.deletion import marked
from partition_operator.reconcile.snapshot import plan as snapshots
from partition_operator.reconcile.snapshot.actions import (
    CancelJob,
    Label,
    StartTake,
)
from partition_operator.reconcile.snapshot.plan import plan

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
from tests.support.snapshot_plans import (
    DONE,
    SECOND,
    after,
    condition,
    run,
    started,
    succeeded,
    view,
)

PREFIX = f"backups/ns/part/{CLUSTER}"


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
        ({"leaderless": True}, "WaitingForSource", "no replica is the leader"),
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
            "waiting for snapshot older",
        ),
        (
            {"others": (snapshot("older", created=NOW - SECOND, status={"state": "Queued"}),)},
            "WaitingForTurn",
            "waiting for snapshot older",
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
            {"refusal": DestinationProblem("SecretNotFound", "Secret s3 does not exist")},
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
    early = ObservedSnapshot(found, NOW + SECOND * 240, None)
    step = plan(early, "image:1")
    assert condition(step, "Queued")["reason"] == "WaitingForPartition"
    assert "for Partition part, which does not exist yet" in step.status["message"]
    assert [e.reason for e in step.events] == ["SnapshotWaiting"]
    again = ObservedSnapshot(after(step, found), NOW + SECOND * 250, None)
    assert plan(again, "image:1").events == [], "said once"
    late = ObservedSnapshot(found, NOW + snapshots.PARTITION_GRACE, None)
    assert condition(plan(late, "image:1"), "Failed")["reason"] == "PartitionNotFound"


def test_it_says_what_state_its_partition_is_in() -> None:
    """A Partition that was refused never gets a group by itself."""
    refused = {"bootstrapped": False, "state": "VolumesFound"}
    found = group(partition({"destination": OBJECT_STORE}, status=refused))
    step = plan(view(snapshot(), group=found), "image:1")
    assert condition(step, "Queued")["reason"] == "WaitingForSource"
    for words in ("Partition part is VolumesFound", "waiting until"):
        assert words in step.status["message"]
    assert [e.reason for e in step.events] == ["SnapshotWaiting"]
    again = plan(view(after(step, snapshot()), NOW + SECOND, group=found), "image:1")
    assert (again.events, again.status) == ([], step.status)


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
    step = plan(view(found, job=ObservedJob("Running", "Writing", 13)), "image:1")
    assert (step.status["percent"], step.status["phase"]) == (13, "Writing")
    assert step.action is None
    next_found = after(step, found)
    same = plan(
        view(next_found, NOW + SECOND * 30, job=ObservedJob("Running", "Writing", 14)), "image:1"
    )
    assert same.status == step.status, "no write for a percent"
    later = plan(
        view(next_found, NOW + SECOND * 60, job=ObservedJob("Running", "Writing", 14)), "image:1"
    )
    assert later.status["percent"] == 14, "nor is a move overlooked"


def test_a_slow_job_that_moves_or_waits_its_turn_is_not_stalled() -> None:
    found, now = run(started()), NOW
    for percent in range(51, 55):
        now += snapshots.JOB_STALLED - SECOND
        found = after(
            plan(view(found, now, job=ObservedJob("Running", "Writing", percent)), "i"), found
        )
        assert (found.state, found.status["percent"]) == ("Running", percent)
    found = after(plan(view(found, now, job=ObservedJob("Queued")), "i"), found)
    now += snapshots.JOB_STALLED * 3
    waiting = plan(view(found, now, job=ObservedJob("Queued")), "i")
    assert waiting.status["state"] == "Running", "other jobs of its replica come first"
    found = after(plan(view(found, now, job=ObservedJob("Running", "Writing", 0)), "i"), found)
    now += snapshots.JOB_STALLED - SECOND
    assert plan(view(found, now, job=ObservedJob("Running", "Writing", 0)), "i").action is None
    over = plan(view(found, now + SECOND, job=ObservedJob("Running", "Writing", 0)), "i")
    assert over.action == CancelJob(1, "uid-snap/1"), "two at once would write the same"


def test_a_partition_made_anew_is_not_snapshotted_in_its_place() -> None:
    other = group(partition({"destination": OBJECT_STORE}, status={"clusterID": "another"}))
    queued = started(leaderless=True)
    assert (queued.state, queued.cluster_id) == ("Queued", CLUSTER), "from the first look"
    for found in (queued, run(started())):
        step = plan(view(found, group=other, job=ObservedJob("Running", "Writing", 50)), "image:1")
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


@pytest.mark.parametrize(
    ("job", "wait", "reason"),
    [
        (NoJob.UNKNOWN, 0, "SourceRestarted"),
        (
            ObservedJob("Failed", reason="StoreUnavailable", message="m", retriable=True),
            0,
            "StoreUnavail",
        ),
        (NoJob.SILENT, 60, "SourceUnreachable"),
        (ObservedJob("Running", "Writing", 50), 6 * 3600, "Stalled"),
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
    lost = ObservedJob("Failed", reason="StoreUnavailable", message="no answer", retriable=True)
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
    assert "the last of 5 attempts failed" in condition(step, "Failed")["message"]


def test_what_nobody_can_mend_by_waiting_fails_at_once() -> None:
    refused = ObservedJob("Failed", reason="StoreRefused", message="NoSuchBucket: create it")
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


# --- success ----------------------------------------------------------------------------------


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
