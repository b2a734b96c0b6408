"""Volumes that are gone: when the group comes back by itself, and when it says that it can't."""

from dataclasses import replace

import pytest
from partition_operator.reconcile.observed import last_write
from partition_operator.reconcile.observed.partition import ObservedReplica
from partition_operator.reconcile.partition import actions, writes

from tests.support.partition_views import (
    CLUSTER,
    claim,
    complete,
    condition,
    empty,
    group,
    look,
    member,
    partition,
    pod,
    reasons,
    replica,
    see,
)

FOLLOWER = replica(0, "follower", members=tuple(member(n) for n in range(3)))


def test_the_only_replicas_volume_is_lost() -> None:
    step = look(replace(group(1), replicas=(empty(0),)))
    ready = condition(step, "Ready")
    assert (ready["status"], ready["reason"]) == ("False", "VolumeLost")
    assert step.status["state"] == "VolumeLost"
    page = "operations/volumes.md"
    for words in ("volume of part-0 is new", "data-part-0", "restore a snapshot", page):
        assert words in ready["message"]
    assert {"VolumeLost", "QuorumLost"} <= set(reasons(step))


def test_an_object_that_is_refused_does_not_hide_the_loss() -> None:
    lost = replace(group(1), replicas=(empty(0),), objects={})
    action = look(lost).action
    assert action is not None
    found = writes.target(action, "part")
    assert found is not None
    record = last_write.refused(None, found[1], "exceeded quota: q", lost.now)
    step = look(replace(lost, writes={found[0]: record}))
    assert condition(step, "Ready")["reason"] == step.status["state"] == "VolumeLost"
    assert condition(step, "ObjectsApplied")["reason"] == "ObjectRefused"


@pytest.mark.parametrize("joined", [False, True])
def test_most_volumes_are_lost(joined: bool) -> None:
    others = (empty(1), empty(2))
    if joined:
        # They were told to join the group, which changes nothing.
        others = tuple(replica(n, "joining", member_id=900 + n) for n in (1, 2))
    step = look(replace(group(3), replicas=(FOLLOWER, *others)))
    ready = condition(step, "Ready")
    assert (ready["status"], ready["reason"]) == ("False", "QuorumLost")
    assert step.status["state"] == "QuorumLost"
    assert step.action is None  # nothing joins: the new volumes may become another group's
    for words in ("part-1, part-2 are new", "2 of 3 voters", "part-0 still has", "data-part-2"):
        assert words in ready["message"]


def test_a_volume_that_is_out_of_reach_is_lost_although_nobody_answers_there() -> None:
    """As Kubernetes says, not the time."""
    silent = replace(group(3), replicas=(FOLLOWER,))
    assert "quorumLoss" not in look(silent).status
    step = look(replace(silent, lost={1: "its node is gone", 2: "its node is gone"}))
    assert step.status["state"] == "QuorumLost"
    assert step.status["quorumLoss"]["lost"] == ["part-1", "part-2"]


def test_it_is_said_again_only_when_another_volume_is_lost() -> None:
    lost = replace(group(3), replicas=(FOLLOWER, empty(1), empty(2)))
    written = lost.partition.body | {"status": look(lost).status}
    again = replace(lost, partition=replace(lost.partition, body=written))
    assert "QuorumLost" not in reasons(look(again))
    assert look(again).status == look(lost).status
    assert "VolumeLost" in reasons(look(replace(again, replicas=(empty(0), empty(1), empty(2)))))


@pytest.mark.parametrize(
    "replicas",
    [
        # One volume of three: the others elect, and the member is replaced.
        (FOLLOWER, replica(1, "follower"), empty(2)),
        # The others are silent, and may come back with their volumes.
        (FOLLOWER, empty(2)),
        (empty(2),),
        (),
        # Nobody lost anything; nobody leads yet.
        (FOLLOWER, replica(1, "follower"), replica(2, "follower")),
    ],
)
def test_what_may_come_back_is_not_lost(replicas: tuple[ObservedReplica, ...]) -> None:
    step = look(replace(group(3), replicas=replicas))
    assert condition(step, "Ready")["reason"] == "NoLeader"
    assert "quorumLoss" not in step.status


def test_every_known_configuration_has_to_rule_an_election_out() -> None:
    """The status knows one voter; a survivor knows that the group has grown since."""
    alone = group(1)
    members = tuple(member(n) for n in range(3))
    grown = (empty(0), *(replica(n, "follower", members=members) for n in (1, 2)))
    assert condition(look(replace(alone, replicas=grown)), "Ready")["reason"] == "NoLeader"


def test_a_minority_is_repaired_as_before() -> None:
    members = tuple(member(n, recently_active=n != 2) for n in range(3))
    found = (replica(0, "leader", members=members), replica(1, "follower"), empty(2))
    step = look(replace(group(3), replicas=found))
    assert step.action == actions.Join(2, CLUSTER)
    assert condition(step, "Ready")["reason"] == "Degraded"


def test_a_volume_lost_between_restore_and_bootstrap_is_said() -> None:
    spec = {"replicas": 1, "bootstrap": {"snapshotRef": {"name": "s"}}}
    found = partition(spec, clusterID=CLUSTER, bootstrapped=False, restored={"snapshotID": "s"})
    step = look(complete(see(found, pods=(pod(0),), claims=(claim(0),), replicas=(empty(0),))))
    assert step.action is None
    assert step.status["state"] == "VolumeLost"
    assert "restored" in condition(step, "Ready")["message"]
