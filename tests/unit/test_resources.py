"""What Kubernetes is told of the replicas: how long they may take, and when they may be evicted."""

from typing import Any

import pytest
from partition_operator.resources import pdb, services, statefulset

from tests.support.partition_views import partition


def container() -> dict[str, Any]:
    found = partition()
    template = statefulset.build(found, found.spec(), 3, "image:1")["spec"]["template"]
    (only,) = template["spec"]["containers"]
    return dict(only)


def seconds(probe: dict[str, Any]) -> int:
    return int(probe["periodSeconds"]) * int(probe["failureThreshold"])


def test_a_replica_that_recovers_a_large_log_is_not_killed() -> None:
    replica = container()
    start, alive = replica["startupProbe"], replica["livenessProbe"]
    assert seconds(start) >= 3600
    # Liveness begins when start-up has succeeded: the same question, which needs no quorum.
    assert start["httpGet"] == alive["httpGet"]
    assert start["httpGet"]["path"] == "/livez"
    assert seconds(alive) <= 120, "once it has started, a replica that hangs is restarted soon"


def test_members_reach_each_other_at_the_port_that_the_replica_listens_at() -> None:
    replica = container()
    listens = [word for word in replica["args"] if word.startswith("--raft-listen=")]
    (port,) = [p["containerPort"] for p in replica["ports"] if p["name"] == "raft"]
    assert listens == [f"--raft-listen=[::]:{port}"]
    headless = services.build_headless(partition())["spec"]["ports"]
    assert {"name": "raft", "port": port, "targetPort": "raft", "protocol": "TCP"} in headless
    # Clients have no business there.
    assert [p["name"] for p in services.build_client(partition())["spec"]["ports"]] == ["grpc"]


@pytest.mark.parametrize(("voters", "wanted"), [(2, 2), (3, 2), (5, 3), (7, 4)])
def test_a_drain_takes_no_quorum_and_none_that_is_coming_back(voters: int, wanted: int) -> None:
    budget = pdb.build(partition(), voters)
    assert budget is not None
    assert budget["spec"]["minAvailable"] == wanted
    assert budget["spec"]["unhealthyPodEvictionPolicy"] == "IfHealthyBudget"


def test_a_single_voter_can_be_drained() -> None:
    assert pdb.build(partition(), 1) is None
