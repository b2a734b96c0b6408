"""Members get new volumes: lost ones, asked-for ones, and ones that differ from the spec."""

from dataclasses import replace
from typing import Any

import pytest
from partition_operator.api.partition import parse
from partition_operator.reconcile.observed.partition import ObservedClaim, ObservedPartition
from partition_operator.reconcile.partition import actions
from partition_operator.reconcile.partition.plan import plan

from tests.support.partition_views import (
    CLUSTER,
    after,
    by_type,
    claim,
    complete,
    empty,
    group,
    look,
    member,
    pod,
    reasons,
    replica,
    with_spec,
    with_status,
)
from tests.support.rollouts import annotated

GONE = "PersistentVolume pv-2 of claim data-part-2 is local to node node-2, which was deleted"


def bound(ordinal: int, **more: Any) -> ObservedClaim:
    values: dict[str, Any] = {"bound": True, "uid": f"u{ordinal}", "volume": f"pv-{ordinal}"}
    values |= {"size": "1Gi", "capacity": "1Gi", "storage_class": "local", "cluster_id": CLUSTER}
    return claim(ordinal, **(values | more))


def leaving(ordinal: int, **more: Any) -> ObservedClaim:
    """Given up by the operator; it goes when no pod uses it any more."""
    return bound(ordinal, deleting=True, given_up=True, **more)


def whole(size: int = 3, **more: Any) -> ObservedPartition:
    """A group that serves, with volumes."""
    return after(group(size, claims=tuple(bound(n) for n in range(size)), **more))


def losing(found: ObservedPartition, ordinal: int = 2, why: str = GONE) -> ObservedPartition:
    """Its node was deleted: no other node can take the pod."""
    unplaced = pod(ordinal, node="", ip="", ready=False, uid="p", broken="Unschedulable")
    return replace(
        found,
        lost={ordinal: why},
        pods=tuple(unplaced if p.ordinal == ordinal else p for p in found.pods),
        replicas=without(found, ordinal),
    )


def without(found: ObservedPartition, ordinal: int) -> Any:
    """The replicas that are left, as their leader sees the others."""
    left = [r for r in found.replicas if r.ordinal != ordinal]
    members = tuple(
        replace(m, recently_active=m.member_id != 100 + ordinal) for m in found.replicas[0].members
    )
    return tuple(replace(r, members=members) for r in left)


def test_a_lost_member_gets_a_new_volume_and_the_old_one_is_kept() -> None:
    found = losing(whole())
    step = look(found)
    assert step.action == actions.GiveUpVolume(2, "u2", "pv-2", keep=True)
    assert reasons(step).count("ReplicaRebuilding") == 1
    assert by_type(step)["StorageReady"]["reason"] == "Rebuilding"
    # The claim ends; then the pod, or it would use the claim again.
    ending = replace(found, claims=(*found.claims[:2], leaving(2)))
    step = look(after(ending))
    assert step.action == actions.Delete("Pod", "part-2", "p")
    assert "ReplicaRebuilding" not in reasons(step)
    # The StatefulSet makes both anew, and the new member joins.
    made = bound(2, uid="new", volume="", bound=False, cluster_id="", size="1Gi", capacity="")
    anew = replace(found, lost={}, claims=(*found.claims[:2], made))
    assert isinstance(look(anew).action, actions.AnnotateClaim)
    marked = replace(anew, claims=(*found.claims[:2], replace(made, cluster_id=CLUSTER)))
    up = replace(marked, pods=(*found.pods[:2], pod(2)), replicas=(*marked.replicas, empty(2)))
    assert look(up).action == actions.Join(2, CLUSTER)


def test_a_pod_whose_claim_is_gone_is_made_again() -> None:
    found = losing(whole())
    bare = replace(found, lost={}, claims=found.claims[:2])
    assert look(bare).action == actions.Delete("Pod", "part-2", "p")
    starting = replace(bare, pods=(*found.pods[:2], pod(2, node="", ip="", ready=False)))
    assert look(starting).action is None, "it may only not be scheduled yet"


def test_it_is_made_again_while_another_rebuild_waits_for_it() -> None:
    bare = replace(losing(whole()), lost={}, claims=whole().claims[:2])
    step = look(annotated(bare, rebuild="part-1"))
    assert step.action == actions.Delete("Pod", "part-2", "p")
    ending = claimed(bare, {1: bound(1, deleting=True)})
    assert look(ending).action == actions.Delete("Pod", "part-2", "p")


@pytest.mark.parametrize("size", [1, 3])
def test_without_a_quorum_of_the_others_nothing_is_given_up(size: int) -> None:
    found = losing(whole(size), size - 1)
    if size == 1:
        found = replace(found, replicas=())
    else:
        members = (member(0), member(1, recently_active=False), member(2, recently_active=False))
        found = replace(found, replicas=(replica(0, "leader", members=members),))
    step = look(found)
    assert not isinstance(step.action, actions.GiveUpVolume | actions.Delete)
    told = by_type(step)["StorageReady"]
    assert (told["status"], told["reason"]) == ("False", "VolumeLost")
    assert GONE in told["message"]
    assert "VolumeLost" in reasons(step)


def test_a_lost_learner_is_rebuilt_before_what_waits_for_it() -> None:
    """Nothing else is given up while there is a learner, and this one never catches up."""
    found = losing(losing(whole(5), 1), 4)
    lead, *others = found.replicas
    learner = member(4, voter=False, recently_active=False, matched=0)
    members = (*(m for m in lead.members if m.member_id != 104), learner)
    found = replace(found, lost={1: GONE, 4: GONE})
    found = replace(found, replicas=(replace(lead, members=members), *others))
    assert look(found).action == actions.GiveUpVolume(4, "u4", "pv-4", keep=True)


def test_one_that_is_behind_does_not_count_for_the_quorum() -> None:
    found = losing(whole())
    lead, *others = found.replicas
    behind = replace(lead, committed=9000, members=(member(0, matched=9000), *lead.members[1:]))
    step = look(replace(found, replicas=(behind, *others)))
    assert not isinstance(step.action, actions.GiveUpVolume)


def test_one_whose_volume_was_given_up_just_now_does_not_count() -> None:
    """Its claim and its process are gone. The leader has not missed it yet."""
    found = annotated(whole(), rebuild="part-1")
    gone = tuple(r for r in found.replicas if r.ordinal != 2)
    step = look(replace(found, claims=found.claims[:2], pods=found.pods[:2], replicas=gone))
    assert step.action is None
    assert "no quorum without it" in by_type(step)["StorageReady"]["message"]
    anew = replace(found, replicas=(*gone, empty(2)), claims=(*found.claims[:2], bound(2, uid="n")))
    assert not isinstance(look(anew).action, actions.GiveUpVolume)


def test_a_claim_of_another_group_is_left_alone() -> None:
    found = losing(whole())
    other = replace(found, claims=(*found.claims[:2], bound(2, cluster_id="other")))
    assert not isinstance(look(other).action, actions.GiveUpVolume)


# --- asked for --------------------------------------------------------------------------------


def test_a_user_asks_for_a_rebuild_once() -> None:
    found = annotated(whole(), rebuild="part-1")
    step = look(found)
    assert step.action == actions.GiveUpVolume(1, "u1", "pv-1", keep=True)
    record = {"request": "part-1", "pod": "part-1", "claimUID": "u1"}
    assert step.status["rebuild"] == record
    # Also after a restart of the operator between the record and the deletion.
    begun = after(found)
    assert look(begun).action == step.action
    ending = replace(begun, claims=(begun.claims[0], leaving(1), begun.claims[2]))
    assert look(ending).action == actions.EvictPod(1, "")
    # The next claim is not given up.
    anew = replace(begun, claims=(begun.claims[0], bound(1, uid="new"), begun.claims[2]))
    step = look(anew)
    assert step.action is None
    assert step.status["rebuild"] == record
    again = look(annotated(anew, rebuild="part-1/again"))
    assert again.action == actions.GiveUpVolume(1, "new", "pv-1", keep=True)


def test_a_damaged_member_waits_for_the_user_and_is_rebuilt_then() -> None:
    """It ends at each start. The operator can't know that nothing of its volume can be used."""
    found = losing(whole())
    ending = pod(2, ready=False, uid="p", broken="CrashLoopBackOff: FATAL: Damaged: a row")
    damaged = replace(found, lost={}, pods=(*found.pods[:2], ending))
    assert look(damaged).action is None
    asked = annotated(damaged, rebuild="part-2")
    assert look(asked).action == actions.GiveUpVolume(2, "u2", "pv-2", keep=True)
    given = replace(after(asked), claims=(*found.claims[:2], leaving(2)))
    assert look(given).action == actions.Delete("Pod", "part-2", "p")


def test_the_leader_hands_over_before_it_is_rebuilt() -> None:
    step = look(annotated(whole(), rebuild="part-0"))
    assert isinstance(step.action, actions.TransferLeadership)
    assert "rebuild" not in step.status


@pytest.mark.parametrize(
    ("size", "value"), [(3, "part-7"), (3, "/"), (1, "part-0"), (3, "other-1")]
)
def test_a_wrong_request_is_refused_once(size: int, value: str) -> None:
    found = annotated(whole(size), rebuild=value)
    step = look(found)
    assert step.action is None
    assert "RebuildRefused" in reasons(step)
    assert step.status["rebuild"] == {"request": value}
    assert look(after(found)).events == []


def test_a_request_waits_for_the_others() -> None:
    found = annotated(whole(), rebuild="part-1")
    step = look(replace(found, replicas=without(found, 2)))
    assert step.action is None
    assert "waiting: the other members have no quorum" in by_type(step)["StorageReady"]["message"]
    assert "rebuild" not in step.status


def test_nothing_is_recorded_before_it_is_done() -> None:
    """Otherwise the record of a paused Partition would give a volume up later, without a look."""
    asking = annotated(whole(), rebuild="part-1")
    paused = with_spec(asking, paused=True)
    assert "rebuild" not in look(paused).status
    grows = with_spec(asking, replicas=5)
    assert isinstance(look(grows).action, actions.Apply)
    assert "rebuild" not in look(grows).status


def test_a_request_that_was_begun_looks_at_the_others_again() -> None:
    record = {"request": "part-1", "pod": "part-1", "claimUID": "u1"}
    begun = with_status(annotated(whole(), rebuild="part-1"), rebuild=record)
    assert isinstance(look(begun).action, actions.GiveUpVolume)
    alone = replace(begun, replicas=without(begun, 2))
    assert look(alone).action is None
    # Who takes the annotation back takes the request back.
    assert look(annotated(begun)).action is None


def test_claims_of_replicas_that_were_removed_are_no_members() -> None:
    """Scaling down keeps them, whatever else is asked for."""
    found = smaller(whenReplaced="Delete")
    objects = {k: v for k, v in found.objects.items() if k[0] != "StatefulSet"}
    found = complete(replace(found, objects=objects))
    left = (bound(3), bound(4, deleting=True))
    found = replace(found, claims=(*found.claims, *left))
    assert look(found).action == actions.GiveUpVolume(2, "u2", "pv-2", keep=False)
    lost = replace(losing(whole()), lost={3: GONE, 2: GONE}, claims=(*whole().claims, *left))
    assert look(lost).action == actions.GiveUpVolume(2, "u2", "pv-2", keep=True)


def test_without_rights_to_volumes_nothing_is_begun() -> None:
    step = look(replace(annotated(whole(), rebuild="part-1"), sees_volumes=False))
    assert step.action is None
    assert "RebuildRefused" in reasons(step)
    step = look(replace(smaller(), sees_volumes=False))
    assert step.action is None
    assert "set watchNodes" in by_type(step)["StorageReady"]["message"]


# --- replaced ---------------------------------------------------------------------------------


def smaller(**storage: Any) -> ObservedPartition:
    asked = {"size": "512Mi", "replacement": "Rolling"} | storage
    return complete(with_spec(whole(), storage=asked))


def test_smaller_volumes_replace_larger_ones_the_leader_last() -> None:
    found = smaller()
    step = look(found)
    live = found.objects["StatefulSet", "part"]["metadata"]
    assert isinstance(step.action, actions.OrphanPods), "its claims would have the old size"
    assert live["name"] == step.action.name
    objects = {k: v for k, v in found.objects.items() if k[0] != "StatefulSet"}
    found = complete(replace(found, objects=objects))
    assert look(found).action == actions.GiveUpVolume(2, "u2", "pv-2", keep=True)
    done = {2: bound(2, uid="n2", size="512Mi", capacity="512Mi")}
    assert look(claimed(found, done)).action == actions.GiveUpVolume(1, "u1", "pv-1", keep=True)
    done[1] = bound(1, uid="n1", size="512Mi", capacity="512Mi")
    assert isinstance(look(claimed(found, done)).action, actions.TransferLeadership)


def test_while_one_is_given_up_no_other_is() -> None:
    """Its pod still serves: each of the next turns would give up another copy."""
    found = smaller(whenReplaced="Delete")
    objects = {k: v for k, v in found.objects.items() if k[0] != "StatefulSet"}
    found = complete(replace(found, objects=objects))
    one = claimed(found, {2: leaving(2)})
    assert look(one).action == actions.EvictPod(2, "")
    ended = tuple(replace(p, deleting=p.ordinal == 2) for p in found.pods)
    assert look(replace(one, pods=ended)).action is None
    gone = replace(one, claims=found.claims[:2], pods=found.pods[:2], replicas=without(found, 2))
    assert not isinstance(look(gone).action, actions.GiveUpVolume | actions.EvictPod)
    joined = claimed(found, {2: bound(2, uid="n2", size="512Mi", capacity="512Mi")})
    assert look(joined).action == actions.GiveUpVolume(1, "u1", "pv-1", keep=False)


def test_what_was_given_up_together_ends_one_by_one() -> None:
    found = smaller()
    both = claimed(found, {1: leaving(1), 2: leaving(2)})
    assert look(both).action == actions.EvictPod(1, "")
    first = replace(both, replicas=without(both, 1))
    assert not isinstance(look(replace(first, pods=both.pods[::2])).action, actions.EvictPod)


def test_a_claim_that_a_user_deletes_is_not_hastened() -> None:
    found = claimed(smaller(), {1: bound(1, deleting=True)})
    step = look(found)
    assert step.action is None
    assert "data-part-1 is being deleted" in by_type(step)["StorageReady"]["message"]


def claimed(found: ObservedPartition, done: dict[int, ObservedClaim]) -> ObservedPartition:
    claims = tuple(done.get(one.ordinal, one) for one in found.claims)
    return replace(found, claims=claims)


def test_other_classes_and_those_that_cannot_grow_are_replaced() -> None:
    other = smaller(size="1Gi", className="fast")
    assert isinstance(look(other).action, actions.OrphanPods)
    larger = smaller(size="2Gi")
    assert isinstance(look(larger).action, actions.GrowClaim), "its class lets it grow"
    fixed = replace(larger, claims=tuple(bound(n, fixed=True) for n in range(3)))
    assert isinstance(look(fixed).action, actions.OrphanPods)


def test_a_class_that_does_not_exist_is_said_before_anything_is_given_up() -> None:
    step = look(replace(smaller(className="fsat"), class_missing=True))
    assert step.action is None
    assert "there is no storage class fsat" in by_type(step)["StorageReady"]["message"]


def test_a_claim_that_no_provisioner_serves_is_made_anew() -> None:
    """A group that is not whole can't wait for itself."""
    found = smaller(size="1Gi", className="fast")
    stuck = {2: bound(2, uid="n2", bound=False, volume="", storage_class="fsat", version="7")}
    found = claimed(losing(replace(found, lost={})), stuck)
    found = replace(found, lost={})
    assert isinstance(look(found).action, actions.OrphanPods)
    objects = {k: v for k, v in found.objects.items() if k[0] != "StatefulSet"}
    found = complete(replace(found, objects=objects))
    wanted = actions.DeleteUnchanged("PersistentVolumeClaim", "data-part-2", "n2", "7")
    assert look(found).action == wanted


def test_volumes_that_have_grown_are_replaced_only_if_the_size_is_lowered() -> None:
    grown = autogrown(500, "1536Mi")
    storage = {"size": "1Gi", "replacement": "Rolling"}
    without_rule = after(complete(with_spec(after(grown), storage=storage)))
    assert look(without_rule).action is None
    lowered = complete(with_spec(without_rule, storage=storage | {"size": "512Mi"}))
    assert isinstance(look(lowered).action, actions.OrphanPods)
    # It stays wanted until all are replaced.
    assert isinstance(look(after(lowered)).action, actions.OrphanPods)


def test_the_image_and_the_pod_spec_stay_while_the_statefulset_is_made_anew() -> None:
    """By a later operator, which would make other pods."""
    found = smaller()
    before = found.objects["StatefulSet", "part"]
    step = plan(found, "image:2")
    assert isinstance(step.action, actions.OrphanPods)
    body = found.partition.body | {"status": step.status}
    leaving_set = replace(
        found,
        partition=parse(body),
        objects={
            **found.objects,
            ("StatefulSet", "part"): before
            | {"metadata": before["metadata"] | {"deletionTimestamp": "2026-01-02T00:00:00Z"}},
        },
    )
    step = plan(leaving_set, "image:2")
    assert step.status["image"] == found.partition.status["image"]
    body = found.partition.body | {"status": step.status}
    objects = {k: v for k, v in found.objects.items() if k[0] != "StatefulSet"}
    step = plan(replace(found, partition=parse(body), objects=objects), "image:2")
    assert isinstance(step.action, actions.Apply)
    assert step.action.body["spec"]["template"] == before["spec"]["template"]
    written = parse(found.partition.body | {"status": step.status})
    made = replace(found, partition=written, objects=objects)
    assert "keptPodSpec" not in plan(complete(made), "image:1").status


def test_without_leave_nothing_is_replaced() -> None:
    found = complete(with_spec(whole(), storage={"size": "512Mi"}))
    assert look(found).action is None


def test_a_group_that_is_not_sound_is_waited_for() -> None:
    found = smaller()
    found = replace(found, replicas=without(found, 2))
    step = look(found)
    assert step.action is None
    told = by_type(step)["StorageReady"]
    assert (told["status"], told["reason"]) == ("True", "Waiting")
    assert "part-2 does not answer" in told["message"]


def test_data_that_does_not_fit_is_not_moved() -> None:
    found = smaller()
    full = tuple(replace(r, disk_total=2**30, disk_free=2**29) for r in found.replicas)
    step = look(replace(found, replicas=full))
    assert step.action is None
    assert "at least 671088640 are allowed" in by_type(step)["StorageReady"]["message"]


def test_a_deleted_volume_is_left_to_its_class() -> None:
    found = smaller(whenReplaced="Delete")
    objects = {k: v for k, v in found.objects.items() if k[0] != "StatefulSet"}
    action = look(complete(replace(found, objects=objects))).action
    assert action == actions.GiveUpVolume(2, "u2", "pv-2", keep=False)


# --- grown by themselves ----------------------------------------------------------------------


def autogrown(free: int, size: str = "1Gi", **more: Any) -> ObservedPartition:
    rule = {"whenFreeBelow": "20%", "step": "512Mi", "max": "2Gi"} | more
    found = with_spec(whole(), storage={"size": "1Gi", "autogrow": rule})
    replicas = tuple(replace(r, disk_total=1000, disk_free=free) for r in found.replicas)
    claims = tuple(bound(n, size=size, capacity=size) for n in range(3))
    return replace(found, replicas=replicas, claims=claims)


@pytest.mark.parametrize(
    ("found", "size"),
    [
        (autogrown(199), "1536Mi"),
        (autogrown(200), None),
        (autogrown(199, "1536Mi"), "2048Mi"),
        (autogrown(0, "2Gi"), None),
        (autogrown(199, "1792Mi"), "2048Mi"),
        (autogrown(500, whenFreeBelow="1Ki"), "1536Mi"),
    ],
)
def test_volumes_grow_by_themselves(found: ObservedPartition, size: str | None) -> None:
    step = look(found)
    wanted = None if size is None else actions.GrowClaim(0, "u0", size)
    assert step.action == wanted


def test_a_growth_under_way_is_waited_for() -> None:
    found = autogrown(100)
    claims = (bound(0, size="1536Mi"), *found.claims[1:])
    found = replace(found, claims=claims)
    assert look(found).action == actions.GrowClaim(1, "u1", "1536Mi")
