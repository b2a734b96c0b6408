"""A group whose pods have another revision than their template, for tests of rollouts."""

from dataclasses import replace
from typing import Any

from partition_operator.api.partition import parse
from partition_operator.reconcile.observed.partition import ObservedPartition, ObservedPod
from partition_operator.reconcile.partition import actions
from partition_operator.reconcile.partition.plan import Plan

from tests.support.partition_views import (
    after,
    by_type,
    group,
    with_spec,
)

OLD, NEW = "part-old", "part-new"
STATEFUL_SET = ("StatefulSet", "part")


def with_revision(observed: ObservedPartition, revision: str) -> ObservedPartition:
    """As the StatefulSet's controller reports it."""
    live = observed.objects[STATEFUL_SET]
    status = {"observedGeneration": 1, "updateRevision": revision}
    live = live | {"status": status, "metadata": live["metadata"] | {"generation": 1}}
    return replace(observed, objects=observed.objects | {STATEFUL_SET: live})


def rolling(size: int = 3, pods: tuple[ObservedPod, ...] = (), **spec: Any) -> ObservedPartition:
    """A group whose pods have the revision OLD, and whose template has the revision NEW."""
    found = group(size, spec=spec)
    old = (replace(p, revision=OLD, uid=f"u{p.ordinal}") for p in found.pods)
    found = replace(found, pods=tuple(old))
    found = after(with_revision(found, OLD))
    changed = {p.ordinal: p for p in pods}
    found = replace(found, pods=tuple(changed.get(p.ordinal, p) for p in found.pods))
    return after(with_revision(found, NEW))


def of(observed: ObservedPartition, ordinal: int, **change: Any) -> ObservedPartition:
    """With a changed pod."""
    pods = (replace(p, **change) if p.ordinal == ordinal else p for p in observed.pods)
    return replace(observed, pods=tuple(pods))


def told(step: Plan) -> tuple[str, str]:
    found = by_type(step)["RolledOut"]
    return found["status"], found["reason"]


def annotated(observed: ObservedPartition, **annotations: str) -> ObservedPartition:
    body = observed.partition.body
    marks = {f"logstore.dev/{key.replace('_', '-')}": value for key, value in annotations.items()}
    metadata = body["metadata"] | {"annotations": marks}
    return replace(observed, partition=parse(body | {"metadata": metadata}))


def of_all(observed: ObservedPartition, revision: str) -> ObservedPartition:
    return replace(observed, pods=tuple(replace(p, revision=revision) for p in observed.pods))


def image_of(step: Plan) -> str:
    assert isinstance(step.action, actions.Apply)
    containers = step.action.body["spec"]["template"]["spec"]["containers"]
    return str(containers[0]["image"])


def without_image(observed: ObservedPartition) -> ObservedPartition:
    body = observed.partition.body
    spec = {k: v for k, v in body["spec"].items() if k != "image"}
    return replace(observed, partition=parse(body | {"spec": spec}))


def with_image(observed: ObservedPartition, image: str) -> ObservedPartition:
    return with_spec(observed, image=image)
