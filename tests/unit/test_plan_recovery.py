"""A lost quorum: what the status says of the survivors, and the recovery step by step."""

import json
from dataclasses import replace
from typing import Any

import pytest
from partition_common.loss_token import loss_token
from partition_operator.api import names
from partition_operator.api.partition import parse
from partition_operator.reconcile.observed.partition import ObservedPartition, ObservedReplica
from partition_operator.reconcile.partition import actions
from partition_operator.reconcile.partition.plan import Plan, plan

from tests.support.partition_views import (
    CLUSTER,
    IMAGE,
    OTHER,
    claims,
    condition,
    empty,
    group,
    look,
    member,
    reasons,
    replica,
)

MEMBERS = tuple(member(n) for n in range(3))


def survivor(ordinal: int = 0, **more: Any) -> ObservedReplica:
    values = {"members": MEMBERS, "leader_id": 0, "last_term": 2, "last_index": 12}
    return replica(ordinal, "precandidate", **(values | more))


def lost(*replicas: ObservedReplica) -> ObservedPartition:
    """Two of three volumes are new, and the status says so."""
    found = replicas or (survivor(), empty(1), empty(2))
    return written(replace(group(3), replicas=found))


def written(observed: ObservedPartition, step: Plan | None = None) -> ObservedPartition:
    """The same once the plan's status is written, as the turn and the executor do it."""
    step = step or plan(observed, IMAGE, draw=lambda: OTHER)
    status: dict[str, Any] = dict(step.status)
    if isinstance(step.action, actions.RecordRecovery):
        status = dict(observed.partition.status) | {"recovery": step.action.record}
        if step.action.record is None:
            del status["recovery"]
        if step.action.cluster_id:
            status |= {"clusterID": step.action.cluster_id}
            del status["members"]
    return replace(observed, partition=parse(observed.partition.body | {"status": status}))


def ask(observed: ObservedPartition, text: str) -> ObservedPartition:
    metadata = observed.partition.body["metadata"]
    marks = {"annotations": {names.ANNOTATION_RECOVER: text}}
    body = observed.partition.body | {"metadata": metadata | marks}
    return replace(observed, partition=parse(body))


def order(observed: ObservedPartition, pod: str = "part-0") -> str:
    return json.dumps({"from": pod, "acceptLoss": token(observed)})


def token(observed: ObservedPartition) -> str:
    return observed.partition.status["quorumLoss"]["token"]


def test_the_status_says_what_is_left() -> None:
    observed = lost()
    found = observed.partition.status["quorumLoss"]
    assert found["lost"] == ["part-1", "part-2"]
    assert found["survivors"] == [
        {
            "pod": "part-0",
            "memberID": f"{100:016x}",
            "term": "2",
            "lastTerm": "2",
            "lastLSN": "12",
            "appliedLSN": "10",
        }
    ]
    assert "ends at LSN 12. Entries behind that are lost" in found["message"]
    assert look(observed).status == observed.partition.status  # nothing happens: nothing is written
    silent = replace(observed, replicas=(empty(1), empty(2)))
    assert look(silent).status["quorumLoss"] == found  # it may answer again
    assert look(silent).status["state"] == "QuorumLost"


def test_the_newest_survivor_is_first_and_each_change_makes_another_token() -> None:
    five = tuple(member(n) for n in range(5))
    replicas = (
        survivor(0, members=five, last_index=90),
        survivor(1, members=five, last_index=20, last_term=3),
        *(empty(n) for n in (2, 3, 4)),
    )
    observed = written(replace(group(5), replicas=replicas))
    rows = observed.partition.status["quorumLoss"]["survivors"]
    assert [row["pod"] for row in rows] == ["part-1", "part-0"]
    grown = replace(replicas[0], term=4)
    assert look(replace(observed, replicas=(grown, *replicas[1:]))).status["quorumLoss"][
        "token"
    ] != token(observed)


def test_replicas_of_an_earlier_version_give_no_token() -> None:
    observed = lost(survivor(last_term=0), empty(1), empty(2))
    assert "token" not in observed.partition.status["quorumLoss"]
    assert "another image" in observed.partition.status["quorumLoss"]["message"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("part-0", "is not JSON"),
        ('{"from": "part-0"}', "these two fields"),
        ('{"from": "part-0", "acceptLoss": 7}', "both values are text"),
        ('{"from": "part-0", "acceptLoss": "0000"}', "does not accept the loss as it is now"),
        ('{"from": "part-1", "acceptLoss": "TOKEN"}', "the survivors are part-0"),
    ],
)
def test_what_is_refused_changes_nothing(text: str, why: str) -> None:
    observed = lost()
    observed = ask(observed, text.replace("TOKEN", token(observed)))
    step = look(observed)
    assert step.action is None
    told = condition(step, "QuorumRecovered")
    assert (told["status"], told["reason"]) == ("False", "Refused")
    assert why in told["message"]
    if not why.endswith(("JSON", "fields", "text")):
        wanted = json.loads(text.replace("TOKEN", token(observed)))
        order_named = f"from {wanted['from']} with token {wanted['acceptLoss']}: "
        assert order_named in told["message"], "the plugin waits for the answer to its own order"
    assert reasons(step) == ["RecoveryRefused"]
    assert reasons(look(written(observed))) == []  # it is said once


def test_a_group_that_has_a_quorum_is_not_recovered() -> None:
    observed = ask(group(3), order(lost()))
    assert look(observed).action is None
    told = condition(look(observed), "QuorumRecovered")
    assert "not lost for good" in told["message"]
    # Nor one whose other members are only silent.
    silent = ask(replace(group(3), replicas=(survivor(), empty(2))), order(lost()))
    assert "not lost for good" in condition(look(silent), "QuorumRecovered")["message"]


def accepted() -> ObservedPartition:
    observed = lost()
    return written(ask(observed, order(observed)))


def switched(*others: ObservedReplica) -> ObservedPartition:
    """The survivor is of the new cluster, leads, and its claim is marked."""
    alone = (member(0),)
    first = replica(0, "leader", cluster_id=OTHER, members=alone, term=1_000_003, last_term=9)
    observed = written(replace(accepted(), replicas=(first, *(others or (empty(1), empty(2))))))
    marked = (*claims(1, OTHER), *observed.claims[1:])
    objects = {k: v for k, v in observed.objects.items() if k[0] != "PodDisruptionBudget"}
    return written(replace(observed, claims=marked, objects=objects))


def test_the_order_is_recorded_before_it_is_given() -> None:
    observed = lost()
    step = plan(ask(observed, order(observed)), IMAGE, draw=lambda: OTHER)
    member_token = loss_token(CLUSTER, 100, 2, 2, 12)
    assert step.action == actions.RecordRecovery(
        {
            "phase": "Accepted",
            "from": "part-0",
            "memberID": f"{100:016x}",
            "acceptLoss": token(observed),
            "memberToken": member_token,
            "lastLSN": "12",
            "clusterID": OTHER,
            "formerClusterID": CLUSTER,
        }
    )
    following = look(accepted())
    assert following.action == actions.RecoverQuorum(0, 100, OTHER, member_token)
    assert reasons(following) == ["RecoveryStarted"]
    assert following.status["recovery"]["phase"] == "Accepted"


def test_an_order_that_no_longer_fits_is_dropped() -> None:
    """The replica would refuse it, too."""
    for first in (
        survivor(last_index=13),
        survivor(member_id=777),
        replica(0, "leader", members=MEMBERS, last_term=2, last_index=12),
    ):
        step = look(replace(accepted(), replicas=(first, empty(1), empty(2))))
        assert step.action == actions.RecordRecovery(None)
        assert condition(step, "QuorumRecovered")["reason"] == "Refused"


def test_a_survivor_that_restarts_is_waited_for() -> None:
    step = look(replace(accepted(), replicas=(empty(1), empty(2))))
    assert step.action is None
    assert "waiting for it to answer" in condition(step, "QuorumRecovered")["message"]
    assert step.status["state"] == "QuorumLost"


def test_the_new_cluster_is_recorded_once_the_survivor_reports_it() -> None:
    first = survivor(cluster_id=OTHER, members=(member(0),), term=1_000_002)
    step = look(replace(accepted(), replicas=(first, empty(1), empty(2))))
    assert isinstance(step.action, actions.RecordRecovery)
    assert step.action.cluster_id == OTHER
    assert step.action.record is not None
    assert step.action.record["phase"] == "Switched"


def test_claims_are_marked_anew_before_empty_volumes_join() -> None:
    found = look(written(replace(switched(), claims=claims(3, CLUSTER))))
    assert found.action == actions.AnnotateClaim(0, OTHER)
    assert look(switched()).action == actions.AnnotateClaim(1, OTHER)
    step = look(replace(switched(), claims=claims(3, OTHER)))
    assert isinstance(step.action, actions.RecordRecovery)
    assert step.action.record is not None
    assert step.action.record["phase"] == "Complete"
    complete = written(replace(switched(), claims=claims(3, OTHER)))
    step = look(complete)
    assert step.action == actions.Join(1, OTHER)
    told = condition(step, "QuorumRecovered")
    assert (told["status"], told["reason"]) == ("True", "Recovered")
    assert reasons(step) == ["RecoveryCompleted"]
    assert "quorumLoss" not in step.status
    assert reasons(look(written(complete))) == []  # the annotation is followed once


def test_volumes_of_the_former_cluster_are_named_and_never_used() -> None:
    """Another survivor, and one that was only told to join the former group."""
    others = (survivor(1), replica(2, "joining", member_id=902))
    observed = switched(*others)
    step = look(observed)
    assert step.action is None
    told = condition(step, "QuorumRecovered")
    assert told["reason"] == "VolumesLeft"
    for words in ("part-1, part-2 belong to the former cluster", "data-part-1, data-part-2"):
        assert words in told["message"]
    assert step.status["state"] == "Degraded"  # the group serves
    assert step.status["leader"] == "part-0"
    # One that is silent keeps its mark, because its volume may be of the former cluster.
    silent = look(replace(observed, replicas=(observed.replicas[0], empty(1))))
    assert silent.action == actions.AnnotateClaim(1, OTHER)
    silent = look(
        replace(
            observed,
            replicas=(observed.replicas[0], empty(1)),
            claims=(*claims(2, OTHER), observed.claims[2]),
        )
    )
    assert silent.action == actions.Join(1, OTHER)
    assert "waiting for part-2 to say" in condition(silent, "QuorumRecovered")["message"]
    # One that is out of reach is named, too.
    gone = replace(
        observed, replicas=(observed.replicas[0], empty(1)), lost={2: "its node is gone"}
    )
    assert "data-part-2 and pods part-2" in condition(look(gone), "QuorumRecovered")["message"]


def test_a_paused_partition_is_not_recovered() -> None:
    observed = accepted()
    spec = observed.partition.body["spec"] | {"paused": True}
    step = look(replace(observed, partition=parse(observed.partition.body | {"spec": spec})))
    assert step.action is None
    assert step.status["recovery"]["phase"] == "Accepted"
