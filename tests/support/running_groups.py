"""Groups whose objects are as the plan asks for them."""

from dataclasses import replace
from typing import Any

from partition_operator.reconcile.observed.partition import (
    ObservedClaim,
    ObservedPartition,
    ObservedReplica,
)
from partition_operator.reconcile.partition.actions import (
    Apply,
)
from partition_operator.reconcile.partition.plan import Plan, plan

from tests.support.snapshot_objects import CLUSTER, group, partition

GOOD = {"part-replica-tls": True, "part-client-tls": True}


def applied(observed: ObservedPartition) -> ObservedPartition:
    """With every object as the plan asks for it; Secrets are issued."""
    observed = replace(observed, certificates_good=GOOD)
    for _ in range(10):
        step = plan(observed, "image:1")
        if not isinstance(step.action, Apply):
            return observed
        body = step.action.body
        key = (body["kind"], body["metadata"]["name"])
        meta = body["metadata"] | {"uid": f"uid-{body['kind']}", "resourceVersion": "1"}
        found = observed.objects | {key: body | {"metadata": meta}}
        observed = replace(observed, objects=found)
    raise AssertionError("the plan applies for ever")


def running(spec: dict[str, Any] | None = None, replicas: int = 3) -> ObservedPartition:
    """Three members of which the last one is a learner that has caught up."""
    observed = group(partition(spec=spec), replicas=3)
    leader = observed.replicas[0]
    members = (*leader.members[:2], replace(leader.members[2], voter=False))
    claims = tuple(
        ObservedClaim(n, "2026-01-02T00:00:00Z", CLUSTER, f"c{n}") for n in range(replicas)
    )
    seen = (replace(leader, members=members), *observed.replicas[1:])
    return applied(replace(observed, replicas=seen, claims=claims))


def conditions(step: Plan) -> dict[str, dict[str, Any]]:
    return {c["type"]: c for c in step.status["conditions"]}


def new(ordinal: int) -> ObservedReplica:
    return replace(
        group(partition()).replicas[0],
        ordinal=ordinal,
        cluster_id="",
        member_id=900 + ordinal,
        role="unbootstrapped",
        serving=False,
        members=(),
    )
