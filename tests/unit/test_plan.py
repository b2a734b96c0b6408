"""The operator's plan, without a cluster: every refusal, every order that must hold."""

import datetime as dt
from dataclasses import replace
from typing import Any

import pytest
from partition_operator.api import names
from partition_operator.api.partition import parse, parse_spec
from partition_operator.errors import InvalidSpec
from partition_operator.reconcile.observed.last_write import taken
from partition_operator.reconcile.observed.partition import (
    ObservedClaim,
    ObservedPartition,
    ObservedReplica,
)
from partition_operator.reconcile.partition import actions, membership
from partition_operator.resources.common import content_hash, covers, fingerprint

from tests.support.partition_views import (
    CLUSTER,
    NOW,
    OTHER,
    claims,
    complete,
    draw,
    empty,
    look,
    member,
    partition,
    pods,
    replica,
    see,
)


def test_the_cluster_is_drawn_and_recorded_before_anything_else() -> None:
    assert draw(see(partition())).action == actions.RecordCluster(CLUSTER)


def test_objects_come_before_the_group_in_a_fixed_order() -> None:
    observed = see(partition(clusterID=CLUSTER), certificates_good={})
    kinds: list[str] = []
    for _ in range(10):
        action = look(observed).action
        if isinstance(action, actions.IssueCertificate):
            kinds.append(action.secret)
            good = observed.certificates_good | {action.secret: True}
            observed = replace(observed, certificates_good=good)
        elif isinstance(action, actions.Apply):
            body = action.body
            kinds.append(body["kind"])
            key = (body["kind"], body["metadata"]["name"])
            observed = replace(observed, objects=observed.objects | {key: body})
        else:
            assert action is None  # no pod yet
            break
    assert kinds == [
        "part-replica-tls",
        "part-client-tls",
        "ServiceAccount",
        "Service",
        "Service",
        "StatefulSet",
    ]


def test_a_claim_is_marked_before_its_volume_is_touched() -> None:
    observed = complete(
        see(partition(clusterID=CLUSTER), pods=pods(3), claims=claims(3), replicas=(empty(0),))
    )
    assert look(observed).action == actions.AnnotateClaim(0, CLUSTER)
    observed = replace(observed, claims=claims(3, CLUSTER))
    assert look(observed).action == actions.Bootstrap(0, CLUSTER)


def test_only_replica_0_bootstraps_and_only_once() -> None:
    base = see(partition(clusterID=CLUSTER), pods=pods(3), claims=claims(3, CLUSTER))
    others = complete(replace(base, replicas=(empty(1), empty(2))))
    assert look(others).action is None
    formed = (replica(0, "leader", members=(member(0),)), empty(1), empty(2))
    observed = complete(replace(base, replicas=formed))
    assert look(observed).action == actions.RecordBootstrapped(CLUSTER)
    lost = complete(
        see(
            partition(clusterID=CLUSTER, bootstrapped=True),
            pods=pods(3),
            claims=claims(3, CLUSTER),
            replicas=(empty(0),),
        )
    )
    assert look(lost).action is None


@pytest.mark.parametrize(
    "found",
    [
        {"claims": claims(3, OTHER)},
        {"claims": claims(1, created="2025-01-01T00:00:00Z")},
        {"claims": claims(3), "replicas": (replica(0, "joining", cluster_id=OTHER),)},
    ],
)
def test_volumes_of_another_life_are_refused_with_the_way_out(found: dict[str, Any]) -> None:
    step = draw(see(partition(), **found))
    assert step.action is None
    accepted = step.status["conditions"][0]
    assert (accepted["status"], accepted["reason"]) == ("False", "VolumesFound")
    assert "spec.bootstrap.adopt" in accepted["message"]
    assert [e.reason for e in step.events] == ["VolumesFound"]


def test_adoption_takes_the_volumes_cluster_and_never_bootstraps() -> None:
    spec = {"bootstrap": {"adopt": True}}
    step = draw(see(partition(spec), claims=claims(3, OTHER)))
    assert step.action == actions.RecordCluster(OTHER)
    mixed = (*claims(1, OTHER), ObservedClaim(1, "2026-01-01T00:00:05Z", CLUSTER))
    refused = draw(see(partition(spec), claims=mixed))
    assert refused.action is None
    assert "several clusters" in refused.status["conditions"][0]["message"]


def test_a_foreign_volume_among_ours_is_refused_by_name() -> None:
    found = (replica(0, "leader", members=(member(0),)), replica(1, "follower", cluster_id=OTHER))
    step = look(see(partition(clusterID=CLUSTER, bootstrapped=True), replicas=found))
    assert step.action is None
    assert "part-1" in step.status["conditions"][0]["message"]


def running(*replicas: ObservedReplica, wanted: int = 3) -> ObservedPartition:
    return see(
        partition({"replicas": wanted}, clusterID=CLUSTER, bootstrapped=True),
        pods=pods(max(wanted, len(replicas))),
        claims=claims(wanted, CLUSTER),
        replicas=replicas,
    )


def change(observed: ObservedPartition, wanted: int = 3) -> object:
    return membership.next_change(observed, CLUSTER, wanted)


def test_a_lost_member_leaves_before_one_that_the_quorum_needs() -> None:
    members = (member(0), member(1, recently_active=False), member(2))
    found = running(replica(0, "leader", members=members), replica(2, "follower"), empty(1))
    assert change(found, wanted=1) == actions.RemoveMember(0, 101, "part-1")
    left = running(replica(0, "leader", members=(member(0), member(2))), replica(2, "follower"))
    assert change(left, wanted=1) == actions.RemoveMember(0, 102, "part-2")
    alone = (member(0), member(1, recently_active=False), member(2, recently_active=False))
    assert change(running(replica(0, "leader", members=alone)), wanted=1) is None


def test_one_that_has_just_ended_does_not_count_for_a_removal() -> None:
    """The leader has not missed it yet. Without member 2 the group might have no quorum."""
    members = (member(0), member(1), member(2))
    found = running(replica(0, "leader", members=members), replica(2, "follower"))
    assert change(found, wanted=1) == actions.RemoveMember(0, 101, "part-1")
    all_there = running(
        replica(0, "leader", members=members), replica(1, "follower"), replica(2, "follower")
    )
    assert change(all_there, wanted=1) == actions.RemoveMember(0, 102, "part-2")


def test_newcomers_join_learn_and_are_promoted_one_at_a_time() -> None:
    alone = (member(0),)
    assert change(running(replica(0, "leader", members=alone), empty(1), empty(2))) == actions.Join(
        1, CLUSTER
    )
    joined = (replica(1, "joining"), replica(2, "joining"))
    added = change(running(replica(0, "leader", members=alone), *joined))
    assert added == actions.AddLearner(0, 101, names.address("part", "ns", 1), "part-1")
    learning = (member(0), member(1, voter=False, matched=0))
    assert change(running(replica(0, "leader", members=learning), *joined)) is None
    behind = (member(0), member(1, voter=False, matched=10))
    leader = replica(0, "leader", members=behind, last_index=5000)
    assert change(running(leader, *joined)) is None
    caught_up = replica(0, "leader", members=behind)
    assert change(running(caught_up, *joined)) == actions.PromoteLearner(0, 101, "part-1")
    busy = replica(0, "leader", members=behind, changing=True)
    assert change(running(busy, *joined)) is None


def test_scaling_down_removes_the_highest_first_and_keeps_its_pod_until_then() -> None:
    five = tuple(member(n) for n in range(5))
    followers = [replica(n, "follower") for n in range(1, 5)]
    observed = running(replica(0, "leader", members=five), *followers, wanted=3)
    assert change(observed) == actions.RemoveMember(0, 104, "part-4")
    assert membership.pods_wanted(observed, 3) == 5
    four = replica(3, "leader", member_id=103, members=five[:4])
    transferees = [replica(n, "follower") for n in range(3)]
    assert change(running(four, *transferees)) == actions.TransferLeadership(3, 100)
    assert change(running(four)) is None, "nobody who could lead answers"


@pytest.mark.parametrize("ahead", [0, 1, 2])
def test_a_leader_that_goes_hands_over_to_the_voter_that_is_furthest(ahead: int) -> None:
    """Any other one would have to be sent what it lacks first, while nobody takes appends."""
    known = [replace(member(n), matched=900 if n == ahead else 500) for n in range(3)]
    leaving = replica(3, "leader", member_id=103, members=(*known, member(3)), last_index=900)
    transferees = [replica(n, "follower") for n in range(3)]
    assert change(running(leaving, *transferees)) == actions.TransferLeadership(3, 100 + ahead)


def test_scaling_down_never_takes_the_quorum() -> None:
    away = [replace(member(n), recently_active=False) for n in (0, 1)]
    members = (*away, member(2), member(3), member(4))
    leader = replica(2, "leader", member_id=102, members=members)
    assert change(running(leader, replica(3, "follower"), replica(4, "follower"))) is None
    three = (away[0], member(1), member(2))
    leading = replica(2, "leader", member_id=102, members=three)
    assert change(running(leading), wanted=1) is None


def test_pods_of_all_who_may_vote_are_wanted_while_nobody_leads() -> None:
    five = tuple(member(n) for n in range(5))
    lonely = running(replica(0, "follower", members=five), wanted=1)
    assert membership.pods_wanted(lonely, 1) == 5


def test_a_member_is_replaced_only_when_its_volume_is_gone_and_the_rest_has_a_quorum() -> None:
    fresh = replica(2, "follower", member_id=999)
    silent = replace(member(2), recently_active=False)
    newcomer = member(2, voter=False, member_id=999)
    seen = (member(0), member(1), silent, newcomer)
    leader = replica(0, "leader", members=seen)
    gone = change(running(leader, replica(1, "follower"), fresh))
    assert gone == actions.RemoveMember(0, 102, "part-2")
    weak = (member(0), replace(member(1), recently_active=False), silent, newcomer)
    held = change(running(replica(0, "leader", members=weak), fresh))
    assert held is None
    # Its successor has to hold the log before its place goes.
    for matched, last_index in ((0, 10), (10, 11 + membership.PROMOTE_LAG_MAX)):
        learning = (*seen[:3], replace(newcomer, matched=matched))
        leader = replica(0, "leader", members=learning, last_index=last_index)
        assert change(running(leader, replica(1, "follower"), fresh)) is None
    # The pod is only away: nobody else answers at its address, so nothing is removed.
    away = replica(0, "leader", members=(member(0), member(1), silent))
    assert change(running(away, replica(1, "follower"))) is None


def test_a_learner_that_does_not_answer_is_not_promoted_and_a_lost_one_is_removed() -> None:
    silent = replace(member(1, voter=False), recently_active=False)
    leader = replica(0, "leader", members=(member(0), silent))
    assert change(running(leader)) is None
    heard = replica(0, "leader", members=(member(0), member(1, voter=False)))
    assert change(running(heard)) is None, "its replica does not answer us"
    other = replica(1, "joining", member_id=999)
    assert change(running(leader, other)) == actions.RemoveMember(0, 101, "part-1")


def test_unmarked_volumes_are_asked_before_an_identity_is_chosen() -> None:
    spec = {"bootstrap": {"adopt": True}}
    old = claims(3, created="2025-01-01T00:00:00Z")
    observed = see(partition(spec), claims=old)
    assert isinstance(draw(observed).action, actions.Apply)
    silent = complete(replace(observed, pods=pods(3)))
    assert draw(silent).action is None, "nothing is marked or drawn while they are silent"
    held = tuple(replica(n, "follower", cluster_id=OTHER) for n in range(3))
    assert draw(replace(silent, replicas=held)).action == actions.RecordCluster(OTHER)
    blank = tuple(empty(n) for n in range(3))
    assert draw(replace(silent, replicas=blank)).action == actions.RecordCluster(CLUSTER)


def test_marked_volumes_that_were_never_bootstrapped_are_when_all_say_so() -> None:
    old = claims(3, CLUSTER, created="2025-01-01T00:00:00Z")
    base = see(partition({"bootstrap": {"adopt": True}}, clusterID=CLUSTER), claims=old)
    some = complete(replace(base, pods=pods(3), replicas=(empty(0), empty(1))))
    assert look(some).action is None
    every = replace(some, replicas=tuple(empty(n) for n in range(3)))
    assert look(every).action == actions.Bootstrap(0, CLUSTER)
    known = partition(clusterID=CLUSTER, members=[{"memberID": "1", "pod": "p", "role": "voter"}])
    edited = replace(every, partition=known)
    assert look(complete(edited)).action is None, "a group existed"


def test_objects_of_somebody_else_are_left_alone() -> None:
    foreign = {"kind": "Service", "metadata": {"name": "part", "labels": {"app": "mine"}}}
    observed = see(partition(clusterID=CLUSTER), objects={("Service", "part"): foreign})
    step = look(observed)
    assert step.action is None
    accepted = step.status["conditions"][0]
    assert accepted["reason"] == "Conflict"
    assert "Service part" in accepted["message"]


def test_an_object_that_reads_back_differently_is_not_applied_for_ever() -> None:
    observed = see(partition(clusterID=CLUSTER))
    action = look(observed).action
    assert isinstance(action, actions.Apply)
    key = (action.body["kind"], action.body["metadata"]["name"])
    mangled = action.body | {"automountServiceAccountToken": True}
    mangled["metadata"] = mangled["metadata"] | {"resourceVersion": "9", "uid": "x"}
    seen = replace(observed, objects={key: mangled})
    assert look(seen).action == action
    written = taken(None, content_hash(action.body), fingerprint(mangled), NOW)
    assert look(replace(seen, writes={key: written})).action != action


def test_an_idle_partition_plans_nothing_and_the_same_status() -> None:
    members = tuple(member(n) for n in range(3))
    found = (replica(0, "leader", members=members), replica(1, "follower"), replica(2, "follower"))
    observed = complete(running(*found))
    first = look(observed)
    assert first.action is None
    assert first.settled
    # Nor is it settled while an object is being deleted: that one has to be made again.
    key = ("Service", "part")
    meta = observed.objects[key]["metadata"] | {"deletionTimestamp": "2026-01-02T00:00:00Z"}
    going = replace(
        observed, objects=observed.objects | {key: observed.objects[key] | {"metadata": meta}}
    )
    assert look(going).status["state"] == "Ready"
    assert not look(going).settled
    body = observed.partition.body | {"status": first.status}
    later = replace(
        observed,
        partition=parse(body),
        now=NOW + dt.timedelta(hours=1),
        replicas=tuple(replace(r, committed=11, applied=11, last_index=11) for r in found),
    )
    second = look(later)
    assert second.status == first.status
    assert second.events == []


def test_status_tells_of_a_missing_member_and_a_lost_quorum() -> None:
    members = (member(0), member(1), replace(member(2), recently_active=False))
    found = (replica(0, "leader", members=members), replica(1, "follower"))
    step = look(complete(running(*found)))
    assert step.status["quorumCriticalPods"] == ["part-0", "part-1"]
    by_type = {c["type"]: c for c in step.status["conditions"]}
    assert by_type["QuorumAvailable"]["reason"] == "NoSpare"
    assert (by_type["Ready"]["status"], by_type["Ready"]["reason"]) == ("True", "Degraded")
    assert "part-2" in by_type["Ready"]["message"]
    body = running().partition.body | {"status": step.status}
    lost = replace(running(replica(0, "follower")), partition=parse(body))
    after = look(lost)
    assert "QuorumLost" in [e.reason for e in after.events]
    assert after.status["state"] == "NoLeader"


def test_leader_changes_are_events_even_over_a_gap() -> None:
    members = tuple(member(n) for n in range(3))
    old = look(complete(running(replica(0, "leader", members=members)))).status
    body = running().partition.body | {"status": old | {"leader": ""}}
    now = running(replica(1, "leader", members=members, term=5))
    step = look(complete(replace(now, partition=parse(body))))
    assert "part-1 leads in term 5" in [e.message for e in step.events]


@pytest.mark.parametrize(
    ("name", "spec", "why"),
    [
        ("x" * 41, {}, "at most 40 characters"),
        ("1a", {}, "beginning with a letter"),
        ("a", {"replicas": 2}, "allowed are 1, 3, 5, 7"),
        ("a", {"storage": {"size": "1Mi"}}, "at least 64Mi"),
        ("a", {"storage": {}}, "at least 64Mi"),
        ("a", {"replication": {"mode": "Paxos"}}, "allowed are None and Raft"),
    ],
)
def test_what_slips_through_the_crd_is_refused(name: str, spec: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidSpec, match=why):
        parse_spec(name, {"storage": {"size": "1Gi"}} | spec)


def test_an_invalid_spec_leaves_a_running_group_as_it_is() -> None:
    found = partition({"replicas": 4}, clusterID=CLUSTER, bootstrapped=True, ready="3/3")
    step = look(see(found))
    assert step.action is None
    assert step.status["ready"] == "3/3"
    assert step.status["state"] == "InvalidSpec"
    assert [e.reason for e in step.events] == ["InvalidSpec"]


def test_covers() -> None:
    live = {"a": 1, "b": {"c": ["x", {"d": 1, "e": 2}]}, "size": "1024Mi"}
    assert covers(live, {"b": {"c": ["x", {"d": 1}]}, "size": "1Gi"})
    assert not covers(live, {"b": {"c": ["x"]}})
    assert not covers(live, {"a": 2})
    assert not covers(live, {"z": 1})
    assert covers(live, {"z": {}})
    for wanted, given in (("0.5", "500m"), (1, "1"), ("1000m", "1"), ("1.5Gi", "1536Mi")):
        assert covers({"cpu": given}, {"cpu": wanted})
