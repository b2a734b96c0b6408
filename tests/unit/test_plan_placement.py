"""Pods that don't end, and replicas that share a node."""

from dataclasses import replace

import pytest
from partition_operator.api import names
from partition_operator.clients.observer import _pod
from partition_operator.reconcile.observed.partition import ObservedPartition

from tests.support.partition_views import (
    after,
    condition,
    group,
    look,
    member,
    partition,
    pod,
    reasons,
    replica,
)

ENDS = "2026-01-01T23:58:00Z"
"""Two minutes before it is looked at."""


def on(*nodes: str, size: int = 0) -> ObservedPartition:
    pods = tuple(pod(n, node=node) for n, node in enumerate(nodes))
    return replace(group(size or len(nodes)), pods=pods)


def lost(ends: str = ENDS) -> ObservedPartition:
    """The node of replica 1 is off; its pod is being deleted."""
    members = tuple(member(n, recently_active=n != 1) for n in range(3))
    replicas = (replica(0, "leader", members=members), replica(2, "follower"))
    pods = (pod(0), pod(1, ready=False, deleting=True, ends=ends), pod(2))
    return replace(group(3), pods=pods, replicas=replicas)


def test_a_pod_whose_node_is_gone_is_named_with_the_ways_out() -> None:
    step = look(lost())
    placed = condition(step, "PodsPlaced")
    assert (placed["status"], placed["reason"]) == ("False", "PodStuck")
    for words in ("part-1", ENDS, "node-1", "out-of-service", "--force", "Only if"):
        assert words in placed["message"]
    assert "part-1 to end" in condition(step, "Ready")["message"]
    assert reasons(step).count("PodStuck") == 1
    assert "PodStuck" not in reasons(look(after(lost(), seconds=600))), "it is said once"
    assert look(after(lost(), seconds=600)).status == step.status, "and nothing is written"


def test_another_pod_that_is_stuck_is_news() -> None:
    first = after(lost())
    pods = (pod(0, ready=False, deleting=True, ends=ENDS), *first.pods[1:])
    assert "PodStuck" in reasons(look(replace(first, pods=pods)))


def test_a_pod_has_its_grace_period_to_end() -> None:
    # As Kubernetes writes it: the time of the deletion and the grace period after it.
    step = look(lost(ends="2026-01-02T00:00:20Z"))
    assert condition(step, "PodsPlaced")["reason"] == "Spread"
    assert (
        condition(look(after(lost("2026-01-02T00:00:20Z"), 90)), "PodsPlaced")["reason"]
        == "PodStuck"
    )


def test_the_only_replica_that_is_stuck_is_said_too() -> None:
    observed = replace(group(1), pods=(pod(0, deleting=True, ends=ENDS),), replicas=())
    assert "part-0 to end" in condition(look(observed), "Ready")["message"]


@pytest.mark.parametrize(
    ("nodes", "status", "reason"),
    [
        (("a", "b", "c"), "True", "Spread"),
        (("a", "a", "a"), "False", "AllOnOneNode"),
        (("a", "b", "b"), "False", "QuorumOnOneNode"),
        # Two of five may go at once.
        (("a", "a", "b", "b", "c"), "True", "Spread"),
        (("a", "a", "b", "a", "c"), "False", "QuorumOnOneNode"),
        (("a",), "True", "Single"),
        (("a", "b", ""), "Unknown", "NotScheduled"),
    ],
)
def test_a_node_that_would_take_the_quorum_is_named(
    nodes: tuple[str, ...], status: str, reason: str
) -> None:
    observed = on(*nodes)
    step = look(observed)
    placed = condition(step, "PodsPlaced")
    assert (placed["status"], placed["reason"]) == (status, reason)
    assert step.status["state"] == "Ready", "a warning is no outage"
    assert (reason in reasons(step)) is (status == "False")
    written = after(observed)
    assert reasons(look(written)) == [], "it is said once"


def test_why_a_drain_waits_is_said() -> None:
    message = condition(look(on("a", "b", "b")), "PodsPlaced")["message"]
    for words in ("part-1, part-2 share node b", "a drain of the node waits", "kubectl cordon b"):
        assert words in message


def test_the_end_of_a_pod_is_read_from_its_object() -> None:
    metadata = {"name": "part-1", "uid": "p1", "resourceVersion": "1", "deletionTimestamp": ENDS}
    found = _pod(
        partition(), {"metadata": metadata, "spec": {"nodeName": "n"}}, names.selector("part")
    )
    assert (found.ends, found.node, found.deleting) == (ENDS, "n", True)
    assert (found.uid, found.labelled) == ("p1", False)
