"""The operator's plan for partitions without Raft, and for the switch to it: every state."""

import datetime as dt
from dataclasses import replace
from typing import Any

import pytest
from partition_operator.api.partition import parse
from partition_operator.clients.replica import _replica
from partition_operator.reconcile.observed.partition import (
    ObservedBackfill,
    ObservedPartition,
    ObservedReplica,
)
from partition_operator.reconcile.partition import actions, losses
from partition_operator.reconcile.partition.plan import Plan, plan
from partition_operator.reconcile.partition.replication import PROGRESS_WRITE_S
from partition_proto.v1 import log_store_pb2 as api

from tests.support.partition_views import (
    CLUSTER,
    OTHER,
    by_type,
    claims,
    complete,
    draw,
    empty,
    member,
    partition,
    pods,
    reasons,
    replica,
    see,
)

NONE = {"replication": {"mode": "None"}}
RAFT = {"replication": {"mode": "Raft"}}
KNOWN = {"clusterID": CLUSTER, "bootstrapped": True}
STALLED_S = 60.0


def plain(**more: Any) -> ObservedReplica:
    """Replica 0 without Raft, with a log of 10 entries."""
    values: dict[str, Any] = {"standalone": True, "term": 0, "members": (member(0),)} | more
    return replica(0, "leader", **values)


def look(observed: ObservedPartition) -> Plan:
    return plan(observed, "image:1", backfill_stalled_s=STALLED_S)


def after(observed: ObservedPartition, seconds: float = 0.0, **more: Any) -> ObservedPartition:
    """The same once the plan's status is written, `seconds` later."""
    body = observed.partition.body | {"status": look(observed).status}
    now = observed.now + dt.timedelta(seconds=seconds)
    return replace(observed, partition=parse(body), now=now, **more)


def switched_on(observed: ObservedPartition, **more: Any) -> ObservedPartition:
    """The same with the spec's mode set to Raft."""
    body = observed.partition.body
    spec = body["spec"] | RAFT
    return replace(observed, partition=parse(body | {"spec": spec}), **more)


def serving() -> ObservedPartition:
    """A partition of mode None that serves, its status written."""
    observed = see(
        partition(NONE, **KNOWN), pods=pods(1), claims=claims(1, CLUSTER), replicas=(plain(),)
    )
    return after(complete(observed))


def backfilling(at: int = 4, target: int = 10) -> ObservedPartition:
    """In the middle of the backfill, with its status written."""
    asked = after(switched_on(serving()))
    return after(asked, replicas=(plain(backfill=ObservedBackfill(1, at, target)),))


def test_without_raft_one_pod_is_made_and_a_standalone_log_begun() -> None:
    observed = complete(see(partition(NONE, clusterID=CLUSTER)))
    assert observed.objects["StatefulSet", "part"]["spec"]["replicas"] == 1
    first = replace(observed, pods=pods(1), claims=claims(1, CLUSTER), replicas=(empty(0),))
    assert look(first).action == actions.Bootstrap(0, CLUSTER, standalone=True)
    formed = look(replace(first, replicas=(plain(),)))
    assert formed.action == actions.RecordBootstrapped(CLUSTER)


def test_a_partition_without_raft_says_so_and_is_ready() -> None:
    step = look(serving())
    assert step.action is None
    assert step.settled
    assert (step.status["mode"], step.status["ready"], step.status["state"]) == (
        "None",
        "1/1",
        "Ready",
    )
    assert "backfill" not in step.status
    said = by_type(step)
    assert (said["Replicated"]["status"], said["Replicated"]["reason"]) == (
        "False",
        "Standalone",
    )
    assert said["QuorumAvailable"]["status"] == "True"
    for kind in ("QuorumAvailable", "Ready"):
        assert "not replicated" in said[kind]["message"], kind
    assert said["BackfillComplete"]["reason"] == "NotRequested"
    assert ("PodDisruptionBudget", "part") not in serving().objects


def test_ready_is_said_when_the_pod_is() -> None:
    """Until then no client gets to it through the Service."""
    waiting = replace(serving(), pods=tuple(replace(p, ready=False) for p in pods(1)))
    step = look(waiting)
    assert (step.status["ready"], step.status["state"]) == ("0/1", "Degraded")
    assert "waiting for its pod" in by_type(step)["Ready"]["message"]
    assert look(after(waiting, pods=pods(1))).status["state"] == "Ready"


def test_an_idle_partition_without_raft_is_not_written() -> None:
    observed = serving()
    later = replace(
        observed,
        now=observed.now + dt.timedelta(hours=5),
        replicas=(
            plain(last_index=99, committed=99, applied=99, members=(member(0, matched=99),)),
        ),
    )
    step = look(later)
    assert step.status == observed.partition.status
    assert step.events == []


@pytest.mark.parametrize("replicas", [1, 3, 7])
def test_replicas_counts_in_raft_mode_only(replicas: int) -> None:
    observed = complete(see(partition(NONE | {"replicas": replicas}, clusterID=CLUSTER)))
    assert observed.objects["StatefulSet", "part"]["spec"]["replicas"] == 1
    step = look(replace(observed, pods=pods(1)))
    assert step.status["ready"].endswith("/1")


def test_the_switch_is_in_the_status_before_the_replica_is_told() -> None:
    step = look(switched_on(serving()))
    assert step.action == actions.EnableReplication(0)
    assert step.hurried
    assert step.status["mode"] == "Backfilling"
    assert step.status["backfill"] == {
        "fromLSN": "1",
        "doneLSN": "0",
        "targetLSN": "10",
        "percent": 0,
        "progressTime": "2026-01-02T00:00:00Z",
    }
    assert step.status["state"] == "Degraded"
    assert by_type(step)["BackfillComplete"]["reason"] == "Running"
    assert reasons(step) == ["BackfillStarted"]
    told_again = look(after(switched_on(serving())))
    assert told_again.action == actions.EnableReplication(0), "nothing shows that it was told"
    assert told_again.events == []


def test_a_replica_that_does_not_serve_yet_is_not_told() -> None:
    asked = switched_on(serving(), replicas=(plain(serving=False),))
    assert look(asked).action is None


def test_a_backfill_under_way_is_left_alone_and_its_progress_written_now_and_then() -> None:
    observed = backfilling(at=4)
    assert look(observed).action is None
    assert observed.partition.status["backfill"]["doneLSN"] == "0", "too soon after the start"
    moved = replace(observed, replicas=(plain(backfill=ObservedBackfill(1, 8, 10)),))
    soon = replace(moved, now=observed.now + dt.timedelta(seconds=PROGRESS_WRITE_S - 1))
    assert look(soon).status == observed.partition.status
    later = replace(moved, now=observed.now + dt.timedelta(seconds=PROGRESS_WRITE_S))
    step = look(later)
    assert step.status["backfill"] == {
        "fromLSN": "1",
        "doneLSN": "7",
        "targetLSN": "10",
        "percent": 70,
        "progressTime": "2026-01-02T00:00:05Z",
    }
    assert step.events == []


def test_a_target_that_was_guessed_before_the_start_is_put_right() -> None:
    observed = switched_on(serving())
    begun = after(observed, 1, replicas=(plain(backfill=ObservedBackfill(1, 1, 14)),))
    step = look(begun)
    assert step.status["backfill"]["targetLSN"] == "14"
    assert step.events == []


def test_a_stall_is_said_once_with_what_to_do_and_taken_back() -> None:
    observed = after(backfilling(at=4), PROGRESS_WRITE_S)
    assert look(observed).status["backfill"]["doneLSN"] == "3"
    waiting = after(observed, STALLED_S - 1)
    assert reasons(look(waiting)) == []
    stalled = replace(waiting, now=waiting.now + dt.timedelta(seconds=1))
    step = look(stalled)
    assert reasons(step) == ["BackfillStalled"]
    said = by_type(step)["BackfillComplete"]
    assert (said["status"], said["reason"]) == ("False", "Stalled")
    assert "3 of 10" in said["message"]
    assert "kubectl logs part-0" in said["message"]
    assert by_type(step)["Ready"]["status"] == "True"
    assert not step.hurried
    still = after(stalled, 1000)
    assert look(still).status == still.partition.status
    assert look(still).events == []
    moving = replace(still, replicas=(plain(backfill=ObservedBackfill(1, 9, 10)),))
    going = look(moving)
    assert by_type(going)["BackfillComplete"]["reason"] == "Running"
    assert going.events == []


def test_a_stall_of_a_silent_or_a_full_replica_names_the_cause() -> None:
    observed = backfilling()
    for found, why in (
        ((), "kubectl describe pod part-0"),
        (
            (plain(disk_full=True, backfill=ObservedBackfill(1, 4, 10)),),
            "less free space than its reserve",
        ),
    ):
        seen = after(replace(observed, replicas=found), STALLED_S * 2)
        seen = after(seen, STALLED_S * 2)
        assert why in by_type(look(seen))["BackfillComplete"]["message"]


def test_a_refusal_to_begin_is_said_once_in_the_replicas_words() -> None:
    told = after(switched_on(serving()))
    refused = replace(told, refused="EnableReplication of part-0: make room")
    step = look(refused)
    assert step.action == actions.EnableReplication(0), "it is tried again"
    said = by_type(step)["BackfillComplete"]
    assert (said["reason"], said["message"]) == ("Refused", refused.refused)
    assert reasons(step) == ["BackfillStalled"]
    assert reasons(look(after(refused))) == []
    begun = after(refused, replicas=(plain(backfill=ObservedBackfill(1, 4, 10)),))
    assert by_type(look(begun))["BackfillComplete"]["reason"] == "Running"
    assert look(begun).events == []


@pytest.mark.parametrize("standalone", [True, False])
def test_the_moment_in_which_raft_takes_over_is_no_outage(standalone: bool) -> None:
    observed = backfilling(at=11)
    role = replica(0, "switching", serving=False, standalone=standalone)
    step = look(replace(observed, replicas=(role,)))
    assert step.status["mode"] == "Backfilling"
    assert step.status["leader"] == "part-0"
    assert by_type(step)["QuorumAvailable"]["reason"] == "Switching"
    assert by_type(step)["Ready"]["status"] == "True"
    assert "QuorumLost" not in reasons(step)
    # One that does not come back is one.
    late = after(replace(observed, replicas=(role,)), STALLED_S * 2)
    lost = look(after(late))
    assert by_type(lost)["QuorumAvailable"]["status"] == "False"
    assert by_type(lost)["Ready"]["status"] == "False"


def test_a_replica_killed_meanwhile_is_an_outage_and_nothing_else_changes() -> None:
    observed = backfilling()
    down = replace(observed, replicas=())
    step = look(down)
    assert step.action is None
    assert step.status["mode"] == "Backfilling"
    assert step.status["backfill"] == observed.partition.status["backfill"]
    assert by_type(step)["Ready"]["status"] == "False"
    assert "QuorumLost" in reasons(step)
    up = after(down, replicas=(plain(serving=False, backfill=ObservedBackfill(1, 4, 10)),))
    assert by_type(look(up))["QuorumAvailable"]["status"] == "False", "it has to serve first"


def test_completion_is_said_once_and_the_group_grows() -> None:
    observed = backfilling(at=11)
    leads = replica(0, "leader", members=(member(0),))
    done = replace(observed, replicas=(leads,))
    step = look(done)
    assert step.status["mode"] == "Raft"
    assert step.status["backfill"] | {"progressTime": ""} == {
        "fromLSN": "1",
        "doneLSN": "10",
        "targetLSN": "10",
        "percent": 100,
        "progressTime": "",
    }
    said = by_type(step)["BackfillComplete"]
    assert (said["status"], said["reason"]) == ("True", "Completed")
    assert reasons(step) == ["BackfillCompleted"]
    assert isinstance(step.action, actions.Apply)
    assert step.action.body["spec"]["replicas"] == 3
    grown = complete(after(done, replicas=(leads, empty(1), empty(2)), pods=pods(3)))
    grown = replace(grown, claims=claims(3, CLUSTER))
    assert look(grown).action == actions.Join(1, CLUSTER)
    assert look(grown).events == []


def test_a_backfill_that_nobody_saw_running_is_complete_all_the_same() -> None:
    told = after(switched_on(serving()))
    step = look(replace(told, replicas=(replica(0, "leader", members=(member(0),)),)))
    assert reasons(step) == ["BackfillCompleted"]
    assert step.status["backfill"]["percent"] == 100


def test_a_partition_that_began_with_raft_has_no_word_of_a_backfill() -> None:
    members = tuple(member(n) for n in range(3))
    found = (replica(0, "leader", members=members), replica(1, "follower"), replica(2, "follower"))
    observed = see(partition(**KNOWN), pods=pods(3), claims=claims(3, CLUSTER), replicas=found)
    step = look(complete(observed))
    assert "BackfillComplete" not in by_type(step)
    assert "backfill" not in step.status


def test_the_switch_waits_for_a_pod_that_is_down() -> None:
    down = switched_on(serving(), replicas=())
    step = look(down)
    assert step.action is None
    assert step.status["mode"] == "Backfilling"
    assert by_type(step)["BackfillComplete"]["reason"] == "Waiting"
    up = look(after(down, replicas=(plain(),)))
    assert up.action == actions.EnableReplication(0)
    assert "BackfillStarted" in reasons(up)


def test_a_lost_volume_without_raft_is_said_and_nothing_joins() -> None:
    observed = replace(serving(), replicas=(empty(0),))
    step = look(observed)
    assert step.action is None
    assert step.status["state"] == "VolumeLost"
    assert "VolumeLost" in reasons(step)
    # As of every group, with the way out; not that a volume went that others still have.
    assert ("VolumeLost", by_type(step)["Ready"]["message"]) == losses.explain(
        observed, bootstrapped=True
    )
    assert "replaced the only copy" in by_type(step)["Ready"]["message"]


def test_a_volume_that_others_have_copies_of_is_not_called_lost() -> None:
    """Raft has taken over, which nobody has recorded yet, and replica 0's volume was replaced."""
    members = tuple(member(n) for n in range(3))
    others = (replica(n, "follower", members=members) for n in (1, 2))
    observed = replace(backfilling(), replicas=(empty(0), *others), pods=pods(3))
    step = look(observed)
    assert step.status["mode"] == "Backfilling"
    assert by_type(step)["Ready"]["reason"] != "VolumeLost"


def test_an_imported_volume_is_taken_over_with_its_own_cluster() -> None:
    spec = NONE | {"bootstrap": {"adopt": True}}
    old = claims(1, created="2025-01-01T00:00:00Z")
    observed = see(partition(spec), claims=old)
    started = complete(observed)
    assert started.objects["StatefulSet", "part"]["spec"]["replicas"] == 1
    held = replace(started, pods=pods(1), replicas=(plain(cluster_id=OTHER),))
    assert draw(held).action == actions.RecordCluster(OTHER)
    known = replace(held, partition=partition(spec, clusterID=OTHER), claims=claims(1, OTHER))
    assert look(complete(known)).action == actions.RecordBootstrapped(OTHER)
    refused = look(see(partition(NONE), claims=old))
    assert by_type(refused)["Accepted"]["reason"] == "VolumesFound"


def test_a_partition_applied_before_its_import_had_ended_takes_the_volume_over_all_the_same() -> (
    None
):
    spec = NONE | {"bootstrap": {"adopt": True}}
    fresh = see(partition(spec), claims=claims(1))
    assert draw(fresh).action == actions.RecordCluster(CLUSTER), "the claim is not older"
    held = replace(fresh, partition=partition(spec, clusterID=CLUSTER), pods=pods(1))
    held = replace(held, claims=claims(1, CLUSTER), replicas=(plain(cluster_id=OTHER),))
    assert look(held).action == actions.RecordCluster(OTHER)
    known = complete(replace(held, partition=partition(spec, clusterID=OTHER)))
    assert look(known).action == actions.AnnotateClaim(0, OTHER)
    marked = replace(known, claims=claims(1, OTHER))
    assert look(marked).action == actions.RecordBootstrapped(OTHER)
    # Not without being told to, and not once there is a group.
    for body, status in ((NONE, {}), (spec, {"bootstrapped": True})):
        refused = look(replace(held, partition=partition(body, clusterID=CLUSTER, **status)))
        assert by_type(refused)["Accepted"]["reason"] == "VolumesFound"


def test_an_imported_volume_under_another_ordinal_is_refused() -> None:
    spec = NONE | {"bootstrap": {"adopt": True}}
    found = (empty(0), replace(plain(), ordinal=1))
    observed = complete(see(partition(spec), pods=pods(2), claims=claims(2), replicas=found))
    step = draw(observed)
    assert step.action is None
    assert "data-part-1" in by_type(step)["Accepted"]["message"]


def test_an_unreplicated_volume_under_a_spec_of_raft_is_backfilled_and_no_pod_goes() -> None:
    observed = complete(
        see(
            partition({"bootstrap": {"adopt": True}}, **KNOWN),
            pods=pods(3),
            claims=claims(3, CLUSTER),
            replicas=(empty(1), empty(2)),
        )
    )
    step = look(replace(observed, replicas=(plain(), empty(1), empty(2))))
    assert step.action == actions.EnableReplication(0)
    assert "BackfillStarted" in reasons(step)


def test_a_replicated_volume_under_a_spec_of_none_is_refused() -> None:
    found = (replica(0, "follower", members=tuple(member(n) for n in range(3))),)
    observed = see(partition(NONE, clusterID=CLUSTER), pods=pods(1), replicas=found)
    step = look(observed)
    assert step.action is None
    accepted = by_type(step)["Accepted"]
    assert accepted["reason"] == "InvalidSpec"
    assert "set the mode to Raft" in accepted["message"]


def test_what_a_replica_without_raft_says_of_itself_is_read_as_current() -> None:
    answer = api.GetStatusResponse(
        cluster_id=CLUSTER,
        member_id=7,
        role="leader",
        last_index=500_000,
        serving=True,
        standalone=True,
        stored_from=3,
        backfill=api.BackfillStatus(from_lsn=3, next_lsn=9, target_lsn=12),
        members=[api.MemberStatus(member_id=7, address="a:1", role="voter")],
    )
    found = _replica(0, answer)
    assert (found.members[0].matched, found.members[0].recently_active) == (500_000, True)
    assert (found.backfill, found.stored_from) == (ObservedBackfill(3, 9, 12), 3)
