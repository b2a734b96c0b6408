"""The objects that have to exist, whose those are that exist, and which of them differ."""

from typing import Any

from partition_operator.api import names
from partition_operator.api.partition import PartitionSpec
from partition_operator.reconcile.observed.last_write import Key
from partition_operator.reconcile.observed.partition import ObservedClaim, ObservedPartition
from partition_operator.reconcile.partition.actions import (
    Action,
    Apply,
    Delete,
    IssueCertificate,
    RepairLabels,
    TrustAuthority,
)
from partition_operator.reconcile.partition.writes import PendingWrites
from partition_operator.resources import pdb, services, statefulset
from partition_operator.resources.common import (
    content_hash,
    controller,
    covers,
    difference,
    fingerprint,
    is_foreign,
    is_leaving,
    metadata,
    stamped,
)


def wanted(
    observed: ObservedPartition, spec: PartitionSpec, pods: int, voters: int, image: str
) -> list[dict[str, Any]]:
    """In the order in which they are applied."""
    partition = observed.partition
    objects = [
        services.build_account(partition),
        services.build_headless(partition),
        services.build_client(partition),
        statefulset.build(partition, spec, pods, image),
    ]
    budget = pdb.build(partition, voters)
    return objects if budget is None else [*objects, budget]


def differences(
    observed: ObservedPartition, spec: PartitionSpec, pods: int, voters: int, image: str
) -> tuple[list[Action], PendingWrites]:
    """Everything that has to be written, in order; objects of somebody else are left out."""
    partition = observed.partition
    found: list[tuple[Key, Action]] = [*_labels(observed), *_certificates(observed)]
    altered: dict[Key, str] = {}
    for body in wanted(observed, spec, _pods_possible(observed, pods), voters, image):
        key = (body["kind"], body["metadata"]["name"])
        live = observed.objects.get(key)
        asked = stamped(body)
        if live is None:
            found.append((key, Apply(asked)))
            continue
        if body["kind"] == "StatefulSet":
            asked = _keep_immutable(asked, live)
        path = difference(live, asked)
        if is_foreign(live, partition) or path is None:
            continue
        last = observed.writes.get(key)
        # What was applied and has not been changed since is as good as it gets, however it reads
        # back (a default, a webhook): applying it again would be a loop.
        if last is not None and (last.wanted, last.left) == (
            content_hash(asked),
            fingerprint(live),
        ):
            altered[key] = path
            continue
        found.append((key, Apply(asked)))
    budget = observed.objects.get(("PodDisruptionBudget", partition.name))
    if voters <= 1 and budget is not None and not is_foreign(budget, partition):
        key = ("PodDisruptionBudget", partition.name)
        found.append((key, Delete(*key, budget["metadata"]["uid"])))
    keys = tuple(dict.fromkeys(key for key, _ in found))
    return [action for _, action in found], PendingWrites(keys, altered)


def _labels(observed: ObservedPartition) -> list[tuple[Key, Action]]:
    """Of pods and claims: selectors don't find them without."""
    name = observed.partition.name
    found: list[tuple[Key, Action]] = []
    for pod in observed.pods:
        if not pod.labelled and not pod.deleting:
            key = ("Pod", names.pod(name, pod.ordinal))
            found.append((key, RepairLabels(*key, pod.uid, names.labels(name))))
    for claim in observed.claims:
        if not claim.labelled and claim.cluster_id == observed.partition.status.get("clusterID"):
            key = ("PersistentVolumeClaim", names.claim(name, claim.ordinal))
            found.append((key, RepairLabels(*key, claim.uid, names.selector(name))))
    return found


def renewals(observed: ObservedPartition) -> tuple[list[Action], PendingWrites]:
    """What the Secrets with certificates need, whatever the spec says."""
    found = _certificates(observed)
    return [action for _, action in found], PendingWrites(tuple(key for key, _ in found))


def _certificates(observed: ObservedPartition) -> list[tuple[Key, Action]]:
    partition = observed.partition
    found: list[tuple[Key, Action]] = []
    for secret, role in (
        (names.tls_secret(partition.name), "replica"),
        (names.client_secret(partition.name), "client"),
    ):
        key = ("Secret", secret)
        live = observed.objects.get(key)
        if live is not None and (is_foreign(live, partition) or is_leaving(live, partition)):
            continue
        marks = metadata(partition, secret, role)
        if not observed.certificates_good.get(secret, False):
            found.append((key, IssueCertificate(secret, role)))
        elif secret in observed.certificates.untrusting:
            found.append((key, TrustAuthority(secret, role)))
        elif live is not None:
            # Only what RepairLabels writes is compared, or it would be written for ever. It does
            # not change the owner reference of a Secret that we control.
            uid, labels = live["metadata"]["uid"], live["metadata"].get("labels")
            owned = controller(live) is None
            if owned or not covers(labels, marks["labels"]):
                found.append((key, RepairLabels(*key, uid, marks["labels"], owned)))
    return found


def _pods_possible(observed: ObservedPartition, pods: int) -> int:
    """A pod would take a claim of its name, whoever made it: the StatefulSet does not grow so far
    that it meets one of somebody else."""
    met = [claim.ordinal for claim in unknown_claims(observed) if claim.ordinal < pods]
    live = observed.objects.get(("StatefulSet", observed.partition.name)) or {}
    running = int((live.get("spec") or {}).get("replicas", 0))
    return max(min(met), min(running, pods)) if met else pods


def unknown_claims(observed: ObservedPartition) -> list[ObservedClaim]:
    """Claims with names of ours that carry neither our labels nor a cluster's mark, and whose
    volumes do not say that they are ours. With spec.bootstrap.adopt they are taken over like
    others."""
    asked = observed.partition.asked
    adopt = asked is not None and asked.adopt
    cluster_id = observed.partition.status.get("clusterID", "")
    ours = {r.ordinal for r in observed.replicas if r.belongs and r.cluster_id == cluster_id}
    return [
        claim
        for claim in observed.claims
        if not claim.labelled and not claim.cluster_id and not adopt and claim.ordinal not in ours
    ]


def in_the_way(observed: ObservedPartition) -> str:
    """Names the objects that carry our names and are somebody else's; "" where there are none."""
    foreign = [
        key for key, live in observed.objects.items() if is_foreign(live, observed.partition)
    ]
    claims = [
        ("PersistentVolumeClaim", names.claim(observed.partition.name, claim.ordinal))
        for claim in unknown_claims(observed)
    ]
    found = sorted([*foreign, *observed.conflicting, *claims])
    return ", ".join(f"{kind} {name}" for kind, name in found)


def leaving(observed: ObservedPartition) -> str:
    """Names the objects of ours that are being deleted, or are to be collected with an earlier
    Partition of this name; "" if there are none."""
    found = sorted(
        key
        for key, live in observed.objects.items()
        if is_leaving(live, observed.partition) and not is_foreign(live, observed.partition)
    )
    return ", ".join(f"{kind} {name}" for kind, name in found)


def _keep_immutable(body: dict[str, Any], live: dict[str, Any]) -> dict[str, Any]:
    """A StatefulSet's claim templates can't be changed: what is there stays."""
    templates = live["spec"].get("volumeClaimTemplates", [])
    kept = [
        {key: value for key, value in template.items() if key != "status"} for template in templates
    ]
    return body | {"spec": body["spec"] | {"volumeClaimTemplates": kept}}
