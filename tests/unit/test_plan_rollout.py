"""Pods get a changed template one by one, followers first, never at the cost of the quorum."""

import datetime as dt
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from partition_operator.api import names
from partition_operator.clients.observer import _why_broken
from partition_operator.reconcile.observed.partition import ObservedPartition
from partition_operator.reconcile.partition import actions

from tests.support.partition_views import (
    NOW,
    after,
    by_type,
    group,
    look,
    member,
    pod,
    reasons,
    replica,
)
from tests.support.rollouts import (
    NEW,
    OLD,
    STATEFUL_SET,
    annotated,
    of,
    of_all,
    rolling,
    told,
    with_revision,
)

# --- the order --------------------------------------------------------------------------------


def test_a_group_whose_pods_have_the_revision_is_up_to_date() -> None:
    step = look(after(with_revision(of_all(group(), NEW), NEW)))
    assert step.action is None
    assert step.settled
    assert told(step) == ("True", "UpToDate")
    assert (step.status["revision"], step.status["updatedReplicas"]) == (NEW, 3)


def test_the_last_follower_is_first_and_the_leader_is_last() -> None:
    found = rolling()
    assert look(found).action == actions.EvictPod(2, "u2")
    found = of(found, 2, revision=NEW)
    assert look(found).action == actions.EvictPod(1, "u1")
    found = of(found, 1, revision=NEW)
    handed_over = look(found).action
    assert handed_over == actions.TransferLeadership(0, 101)
    assert told(look(found)) == ("False", "Rolling")


def test_a_leader_that_handed_over_is_replaced() -> None:
    members = tuple(member(n) for n in range(3))
    found = of(of(rolling(), 1, revision=NEW), 2, revision=NEW)
    found = replace(
        found,
        replicas=(
            replica(0, "follower", members=members),
            replica(1, "leader", members=members),
            replica(2, "follower", members=members),
        ),
    )
    assert look(found).action == actions.EvictPod(0, "u0")


def test_the_rollout_lasts_until_the_last_pod_is_back() -> None:
    found = after(of(of(rolling(), 1, revision=NEW), 2, revision=NEW))
    for gone in (of(found, 0, deleting=True), replace(found, pods=found.pods[1:])):
        step = look(gone)
        assert told(step) == ("False", "Rolling")
        assert "part-0 to be created anew" in by_type(step)["RolledOut"]["message"]
        started = of(found, 0, revision=NEW, uid="u0-1", ready=False)
        step = look(after(started))
        assert told(step) == ("False", "Rolling")
        assert told(look(after(of(started, 0, ready=True)))) == ("True", "UpToDate")


def test_a_single_replica_is_replaced_as_it_is() -> None:
    assert look(rolling(1)).action == actions.EvictPod(0, "u0")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"pods": "deleting"}, "waiting for part-1 to be created anew"),
        ({"pods": "missing"}, "waiting for part-1 to be created anew"),
        ({"member": {"recently_active": False}}, "part-1 does not answer the leader"),
        ({"member": {"matched": 0}, "last": 5000}, "part-1 is about 1000 entries behind"),
        ({"member": {"voter": False}}, ""),
        ({"changing": True}, "the members of the group change"),
        ({"leaderless": True}, "no replica leads"),
    ],
)
def test_no_sound_pod_is_replaced_while_the_group_is_not_whole(
    change: dict[str, Any], why: str
) -> None:
    found = rolling()
    members = tuple(member(n, **(change.get("member", {}) if n == 1 else {})) for n in range(3))
    last = change.get("last", 10)
    members = tuple(replace(m, matched=m.matched if m.member_id == 101 else last) for m in members)
    role = "follower" if change.get("leaderless") else "leader"
    lead = replica(
        0,
        role,
        members=members,
        last_index=last,
        committed=last,
        changing=change.get("changing", False),
    )
    found = replace(found, replicas=(lead, *found.replicas[1:]))
    if change.get("pods") == "deleting":
        found = of(found, 1, deleting=True)
    if change.get("pods") == "missing":
        found = replace(found, pods=tuple(p for p in found.pods if p.ordinal != 1))
    step = look(found)
    replacing = actions.EvictPod | actions.Delete | actions.TransferLeadership
    assert not isinstance(step.action, replacing)
    if why:
        assert by_type(step)["RolledOut"]["message"].endswith(why)


# --- pods that do not become ready ------------------------------------------------------------


def test_a_new_pod_that_is_not_ready_stops_the_rollout() -> None:
    found = of(rolling(), 2, revision=NEW, ready=False, since="2026-01-02T00:00:00Z")
    step = look(found)
    assert step.action is None
    assert told(step) == ("False", "Rolling")
    later = replace(found, now=NOW + dt.timedelta(seconds=601))
    step = look(later)
    assert step.action is None
    assert told(step) == ("False", "Stalled")
    assert "RolloutStalled" in reasons(look(replace(after(found), now=later.now)))
    assert by_type(step)["Progressing"]["reason"] == "Stalled"


def test_the_former_template_replaces_the_broken_pod_first() -> None:
    why = "ImagePullBackOff: no such image"
    found = of(rolling(), 2, revision=NEW, ready=False, broken=why)
    back = with_revision(found, OLD)
    step = look(back)
    assert step.action == actions.Delete("Pod", "part-2", "u2")
    assert why in by_type(step)["RolledOut"]["message"]


def test_a_broken_pod_is_replaced_outside_a_window_and_without_a_leader() -> None:
    window = {"schedule": "0 3 * * *", "durationMinutes": 60}
    found = rolling(updateStrategy={"maintenanceWindows": [window]})
    found = of(found, 1, ready=False, broken="CrashLoopBackOff")
    found = replace(found, replicas=())
    assert look(found).action == actions.Delete("Pod", "part-1", "u1")


def test_a_pod_that_is_not_ready_is_replaced_while_the_rest_serves() -> None:
    found = of(rolling(), 1, ready=False)
    members = tuple(member(n, recently_active=n != 1) for n in range(3))
    lead = replica(0, "leader", members=members)
    found = replace(found, replicas=(lead, found.replicas[2]))
    assert look(found).action == actions.EvictPod(1, "u1")
    alone = tuple(member(n, recently_active=n == 0) for n in range(3))
    found = replace(found, replicas=(replica(0, "leader", members=alone),))
    assert look(found).action is None


def test_a_pod_that_runs_is_not_broken_however_often_it_was_started() -> None:
    """It may be a voter that counts."""
    ran = {"name": "replica", "lastState": {"terminated": {"reason": "OOMKilled"}}}
    running = ran | {"restartCount": 3, "state": {"running": {}}}
    assert _why_broken({"containerStatuses": [running]}) == ""
    starting = {"name": "replica", "state": {"waiting": {"reason": "ContainerCreating"}}}
    assert _why_broken({"containerStatuses": [starting]}) == ""
    looping = ran | {"state": {"waiting": {"reason": "CrashLoopBackOff", "message": "a\nb"}}}
    assert _why_broken({"containerStatuses": [looping]}) == "CrashLoopBackOff: b"
    ended = {"terminated": {"message": "x\nFATAL: Damaged: y\n"}}
    refusing = looping | {"lastState": ended}
    assert _why_broken({"containerStatuses": [refusing]}) == "CrashLoopBackOff: FATAL: Damaged: y"
    beside = looping | {"name": "a-mesh"}
    assert _why_broken({"containerStatuses": [beside, running]}) == ""
    initialising = {"name": "replica", "state": {"waiting": {"reason": "PodInitializing"}}}
    held = {"containerStatuses": [initialising], "initContainerStatuses": [beside]}
    assert _why_broken(held) == "CrashLoopBackOff: b"
    unplaced = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    assert _why_broken({"conditions": [unplaced]}) == "Unschedulable"


def test_without_a_leader_a_pod_is_replaced_once_it_was_not_ready_for_the_deadline() -> None:
    """A template whose replicas run and never elect a leader, and the way back."""
    for size in (1, 3):
        found = replace(rolling(size), replicas=())
        for ordinal in range(size):
            found = of(found, ordinal, ready=False, since="2026-01-02T00:00:00Z")
        assert look(found).action is None
        found = replace(found, now=NOW + dt.timedelta(seconds=601))
        for ordinal in range(size):
            assert look(found).action == actions.Delete("Pod", f"part-{ordinal}", f"u{ordinal}")
            found = of(found, ordinal, revision=NEW)


def test_an_eviction_that_is_refused_is_said() -> None:
    found = replace(rolling(), eviction_refused="the budget part allows none")
    step = look(found)
    assert step.action == actions.EvictPod(2, "u2")
    assert by_type(step)["RolledOut"]["message"].endswith("the budget part allows none")


def test_a_statefulset_of_somebody_else_says_nothing_about_our_pods() -> None:
    found = rolling()
    live = found.objects[STATEFUL_SET]
    owner = {"apiVersion": "v1", "kind": "Other", "name": "o", "uid": "o", "controller": True}
    live = live | {"metadata": live["metadata"] | {"ownerReferences": [owner]}}
    step = look(replace(found, objects=found.objects | {STATEFUL_SET: live}))
    assert not isinstance(step.action, actions.EvictPod)


def test_a_pod_that_fails_later_is_no_rollout() -> None:
    found = after(with_revision(of_all(group(), NEW), NEW))
    step = look(of(found, 1, ready=False))
    assert told(step) == ("True", "UpToDate")


# --- who decides ------------------------------------------------------------------------------


def test_on_delete_leaves_it_to_the_user() -> None:
    step = look(rolling(updateStrategy={"type": "OnDelete"}))
    assert step.action is None
    assert told(step) == ("False", "OnDelete")
    assert step.settled


def test_supervised_waits_for_the_revision_to_be_approved() -> None:
    found = rolling(updateStrategy={"type": "Supervised"})
    step = look(found)
    assert step.action is None
    assert told(step) == ("False", "WaitingForApproval")
    message = by_type(step)["RolledOut"]["message"]
    assert "part-0, part-1, part-2" in message
    assert f"{names.ANNOTATION_APPROVE}={NEW}" in message
    assert look(annotated(found, approve_rollout=OLD)).action is None
    assert look(annotated(found, approve_rollout=NEW)).action == actions.EvictPod(2, "u2")


@pytest.mark.parametrize(
    ("hour", "minute", "open_"), [(2, 59, False), (3, 0, True), (3, 59, True), (4, 1, False)]
)
def test_pods_are_replaced_in_maintenance_windows(hour: int, minute: int, open_: bool) -> None:
    window = {"schedule": "0 3 * * *", "durationMinutes": 60}
    found = rolling(updateStrategy={"maintenanceWindows": [window]})
    now = dt.datetime(2026, 1, 5, hour, minute, tzinfo=dt.UTC)
    step = look(replace(found, now=now))
    assert (step.action is not None) is open_
    if not open_:
        assert told(step) == ("False", "OutsideWindow")
        day = 5 if hour < 3 else 6
        assert f"2026-01-0{day}T03:00:00Z" in by_type(step)["RolledOut"]["message"]


@pytest.mark.parametrize(
    ("window", "why"),
    [
        ({"schedule": "0 3 * *", "durationMinutes": 60}, "maintenanceWindows[0].schedule"),
        (
            {"schedule": "0 3 * * *", "durationMinutes": 60, "timeZone": "Mars/Olympus"},
            "maintenanceWindows[0].timeZone",
        ),
    ],
)
def test_a_wrong_window_is_said_and_nothing_is_replaced(window: dict[str, Any], why: str) -> None:
    step = look(rolling(updateStrategy={"maintenanceWindows": [window]}))
    assert step.action is None
    assert told(step) == ("False", "InvalidWindow")
    assert why in by_type(step)["RolledOut"]["message"]


# --- a model ----------------------------------------------------------------------------------


class Model:
    """A group whose pods come and go as the plan asks, and as a seed decides."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.leader = 0
        self.pods = [pod(n, revision=OLD, uid=f"u{n}-0") for n in range(size)]
        self.gone: dict[int, int] = {}
        self.serial = 0
        self.partition = after(with_revision(of_all(group(size), OLD), OLD)).partition
        self.objects = with_revision(group(size), NEW).objects

    def observed(self) -> ObservedPartition:
        up = [p.ordinal for p in self.pods if p.ordinal not in self.gone and p.ready]
        members = tuple(member(n, recently_active=n in up) for n in range(self.size))
        if self.leader not in up and len(up) > self.size // 2:
            self.leader = up[0]
        replicas = tuple(
            replica(
                n,
                "leader" if n == self.leader and len(up) > self.size // 2 else "follower",
                members=members,
                leader_id=100 + self.leader,
            )
            for n in up
        )
        found = group(self.size)
        return replace(
            found,
            partition=self.partition,
            objects=self.objects,
            pods=tuple(p for p in self.pods if p.ordinal not in self.gone),
            replicas=replicas,
        )

    def turn(self) -> actions.Action | None:
        observed = self.observed()
        step = look(observed)
        self.partition = after(observed).partition
        if told(step)[0] == "True":
            assert all(p.revision == NEW and p.ready for p in self.pods)
            assert not self.gone
        match step.action:
            case actions.EvictPod(ordinal, uid):
                assert self.pods[ordinal].uid == uid
                self.gone[ordinal] = 2
            case actions.TransferLeadership(leader, to):
                assert leader == self.leader
                self.leader = to - 100
        return step.action

    def pass_time(self, ready: bool) -> None:
        for ordinal in list(self.gone):
            self.gone[ordinal] -= 1
            if not self.gone[ordinal]:
                del self.gone[ordinal]
                self.serial += 1
                uid = f"u{ordinal}-{self.serial}"
                self.pods[ordinal] = pod(ordinal, revision=NEW, uid=uid, ready=False)
                return
        if ready:
            self.pods = [replace(p, ready=True) for p in self.pods]


@settings(deadline=None, max_examples=60)
@given(
    size=st.sampled_from([1, 3, 5]),
    leader=st.integers(0, 4),
    quick=st.lists(st.booleans(), min_size=200, max_size=200),
    failing=st.lists(st.integers(0, 40), max_size=2),
)
def test_a_rollout_ends_and_never_takes_the_quorum(
    size: int, leader: int, quick: list[bool], failing: list[int]
) -> None:
    """failing: turns before which a pod fails by itself, for a while."""
    model = Model(size)
    model.leader = leader % size
    for number, ready in enumerate(quick):
        if number in failing and size > 1 and all(p.ready for p in model.pods) and not model.gone:
            which = number % size
            model.pods[which] = replace(model.pods[which], ready=False)
        serving = sum(p.ready for p in model.pods) - len(model.gone)
        taken = model.turn()
        if isinstance(taken, actions.EvictPod) and size > 1 and model.pods[taken.ordinal].ready:
            assert serving - 1 > size // 2, "the others are a majority"
        model.pass_time(ready or number % 7 == 6)
        if all(p.revision == NEW and p.ready for p in model.pods) and not model.gone:
            break
    assert {p.revision for p in model.pods} == {NEW}
    assert told(look(model.observed())) == ("True", "UpToDate")
