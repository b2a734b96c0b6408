"""The objects that a Partition needs: their owners, and their differences from the live ones."""

from typing import Any

from partition_operator.api import names, schema
from partition_operator.api.partition import PartitionSpec
from partition_operator.reconcile.observed.last_write import Key
from partition_operator.reconcile.observed.partition import ObservedClaim, ObservedPartition
from partition_operator.reconcile.partition.actions import (
    Action,
    Apply,
    Delete,
    IssueCertificate,
    OrphanPods,
    RepairLabels,
    TrustAuthority,
    WriteClients,
)
from partition_operator.reconcile.partition.writes import PendingWrites
from partition_operator.resources import brought, pdb, services, statefulset
from partition_operator.resources.certificates import component_of
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
    """Returns the wanted objects, in the order in which they are applied."""
    partition = observed.partition
    objects = [
        services.build_account(partition),
        services.build_headless(partition),
        services.build_client(partition),
        _set(observed, spec, pods, image),
    ]
    if spec.tls.issuer is not None:
        # First: the pods wait for the Secret that it leads to.
        lifetimes = observed.certificates.lifetimes
        objects.insert(0, brought.build_certificate(partition, spec.tls.issuer, lifetimes))
    budget = pdb.build(partition, voters)
    return objects if budget is None else [*objects, budget]


def _set(observed: ObservedPartition, spec: PartitionSpec, pods: int, image: str) -> dict[str, Any]:
    trusted = str(observed.partition.status.get("podSpecHash", ""))
    live = own_set(observed) or _remembered(observed)
    return statefulset.build(observed.partition, spec, pods, image, live, trusted)


def _remembered(observed: ObservedPartition) -> dict[str, Any] | None:
    """Returns what is known of a StatefulSet that is made anew, as its annotations had it."""
    kept = observed.partition.status.get("keptPodSpec")
    if kept is None:
        return None
    marks = {
        names.ANNOTATION_POD_INPUTS: kept["inputs"],
        names.ANNOTATION_POD_SPEC: kept["spec"],
    }
    return {"metadata": {"annotations": marks}}


def kept_while_made_anew(
    observed: ObservedPartition, action: Action | None
) -> schema.KeptPodSpec | None:
    """Returns status.keptPodSpec: from the step that deletes the StatefulSet without its pods until
    there is a new one. Otherwise the operator would make another pod spec, and restart them all."""
    live = own_set(observed)
    if live is None:
        return observed.partition.status.get("keptPodSpec")
    if not isinstance(action, OrphanPods):
        return None
    marks = live["metadata"].get("annotations") or {}
    spec = marks.get(names.ANNOTATION_POD_SPEC, "")
    return {"inputs": marks.get(names.ANNOTATION_POD_INPUTS, ""), "spec": spec} if spec else None


def compare_template(
    observed: ObservedPartition, spec: PartitionSpec, image: str
) -> tuple[bool, str]:
    """Returns (whether the live pod template differs from the wanted one, the hash of the wanted
    pod spec). Without a StatefulSet of ours nothing differs."""
    live, wanted_set = own_set(observed), _set(observed, spec, 0, image)
    marks = wanted_set["metadata"]["annotations"]
    found = statefulset.kept_hash(marks.get(names.ANNOTATION_POD_SPEC, ""))
    if live is None:
        return False, found
    has = (live["metadata"].get("annotations") or {}).get(names.ANNOTATION_POD_INPUTS)
    same = covers(live["spec"].get("template"), wanted_set["spec"]["template"])
    return not same or has != marks[names.ANNOTATION_POD_INPUTS], found


def own_set(observed: ObservedPartition) -> dict[str, Any] | None:
    """Returns the StatefulSet if it is this Partition's."""
    live = observed.objects.get(("StatefulSet", observed.partition.name))
    if live is None or is_foreign(live, observed.partition):
        return None
    return None if is_leaving(live, observed.partition) else live


def differences(
    observed: ObservedPartition, spec: PartitionSpec, pods: int, voters: int, image: str
) -> tuple[list[Action], PendingWrites]:
    """Returns the writes that are needed, in order. Objects of another owner are left out."""
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
        # The object has not changed since this content was applied. The difference comes from a
        # default or a webhook, so to apply it again would be an endless loop.
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
    """Returns the repairs of pods and claims without our labels: selectors don't find them."""
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
    """Returns the writes of the Secrets with certificates. They do not depend on the spec."""
    found = _certificates(observed)
    return [action for _, action in found], PendingWrites(tuple(key for key, _ in found))


def _certificates(observed: ObservedPartition) -> list[tuple[Key, Action]]:
    partition, seen = observed.partition, observed.certificates
    replica = names.tls_secret(partition.name)
    roles = seen.roles or {replica: "replica", names.client_secret(partition.name): "client"}
    found: list[tuple[Key, Action]] = []
    for secret, role in roles.items():
        key = ("Secret", secret)
        live = observed.objects.get(key)
        if live is not None and (is_foreign(live, partition) or is_leaving(live, partition)):
            continue
        marks = metadata(partition, secret, component_of(role))
        if not observed.certificates_good.get(secret, False):
            found.append((key, IssueCertificate(secret, role, secret in seen.extending)))
        elif secret in seen.untrusting:
            found.append((key, TrustAuthority(secret, role)))
        elif secret == replica and seen.list_differs and live is not None:
            found.append((key, WriteClients(secret, frozenset(seen.revoked))))
        elif live is not None:
            # Only what RepairLabels writes is compared; other differences would cause endless
            # writes. It does not change the owner reference of a Secret that we control.
            uid, labels = live["metadata"]["uid"], live["metadata"].get("labels")
            owned = controller(live) is None
            if owned or not covers(labels, marks["labels"]):
                found.append((key, RepairLabels(*key, uid, marks["labels"], owned)))
    found += [
        (("Secret", secret), Delete("Secret", secret, uid)) for secret, uid in seen.revoked.items()
    ]
    return found


def _pods_possible(observed: ObservedPartition, pods: int) -> int:
    """Returns how many of the pods may exist. A pod would use any claim of its name, so the
    StatefulSet stays below the first claim of another owner."""
    met = [claim.ordinal for claim in unknown_claims(observed) if claim.ordinal < pods]
    live = observed.objects.get(("StatefulSet", observed.partition.name)) or {}
    running = int((live.get("spec") or {}).get("replicas", 0))
    return max(min(met), min(running, pods)) if met else pods


def unknown_claims(observed: ObservedPartition) -> list[ObservedClaim]:
    """Returns claims with our names but without our labels and without a cluster-ID annotation, if
    their replicas do not report our cluster ID. With spec.bootstrap.adopt there are none."""
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
    """Names the objects of other owners that have our names; "" if there are none."""
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
    """Names the objects of the Partition that are being deleted, and those that Kubernetes will
    collect with an earlier Partition of this name; "" if there are none."""
    found = sorted(
        key
        for key, live in observed.objects.items()
        if is_leaving(live, observed.partition) and not is_foreign(live, observed.partition)
    )
    return ", ".join(f"{kind} {name}" for kind, name in found)


def _keep_immutable(body: dict[str, Any], live: dict[str, Any]) -> dict[str, Any]:
    """Returns the body with the live claim templates: a StatefulSet's templates can't be
    changed."""
    templates = live["spec"].get("volumeClaimTemplates", [])
    kept = [
        {key: value for key, value in template.items() if key != "status"} for template in templates
    ]
    return body | {"spec": body["spec"] | {"volumeClaimTemplates": kept}}
