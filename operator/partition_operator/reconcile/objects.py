"""The objects that have to exist, and those of them that differ."""

from typing import Any

from partition_operator.api import names
from partition_operator.api.partition import PartitionSpec
from partition_operator.reconcile.actions import (
    Action,
    Apply,
    Delete,
    IssueCertificate,
    TrustAuthority,
)
from partition_operator.reconcile.observed import Observed
from partition_operator.resources import pdb, services, statefulset
from partition_operator.resources.common import (
    content_hash,
    covers,
    is_foreign,
    is_leaving,
)


def wanted(
    observed: Observed, spec: PartitionSpec, pods: int, voters: int, image: str
) -> list[dict[str, Any]]:
    """In the order in which they are applied."""
    partition = observed.partition
    objects = [
        services.build_account(partition),
        services.build_headless(partition),
        services.build_client(partition),
        statefulset.build(partition, spec, pods, spec.image or image),
    ]
    budget = pdb.build(partition, voters)
    return objects if budget is None else [*objects, budget]


def next_difference(
    observed: Observed, spec: PartitionSpec, pods: int, voters: int, image: str
) -> Action | None:
    """The first thing that has to be written; None where all is as it should be."""
    partition = observed.partition
    for secret, role in (
        (names.tls_secret(partition.name), "replica"),
        (names.client_secret(partition.name), "client"),
    ):
        if not observed.certificates_good.get(secret, False):
            return IssueCertificate(secret, role)
        if secret in observed.certificates.untrusting:
            return TrustAuthority(secret, role)
    for body in wanted(observed, spec, pods, voters, image):
        key = (body["kind"], body["metadata"]["name"])
        live = observed.objects.get(key)
        if live is None:
            return Apply(body)
        if body["kind"] == "StatefulSet":
            body = _keep_immutable(body, live)  # noqa: PLW2901
        # What was applied and is unchanged since is as good as it gets, however it reads back
        # (a default, a webhook): applying it again would be a loop.
        last = (content_hash(body), live["metadata"].get("resourceVersion", ""))
        if observed.applied.get(key) != last and not covers(live, body):
            return Apply(body)
    budget = observed.objects.get(("PodDisruptionBudget", partition.name))
    if voters < 2 and budget is not None and not is_foreign(budget, partition):
        return Delete("PodDisruptionBudget", partition.name)
    return None


def in_the_way(observed: Observed) -> str:
    """Names the objects that carry our names and are somebody else's; "" where there are none."""
    found = [
        f"{kind} {name}"
        for (kind, name), live in sorted(observed.objects.items())
        if is_foreign(live, observed.partition)
    ]
    return ", ".join(found)


def leaving(observed: Observed) -> bool:
    """Whether something of an earlier Partition of this name is still being collected."""
    return any(is_leaving(live, observed.partition) for live in observed.objects.values())


def _keep_immutable(body: dict[str, Any], live: dict[str, Any]) -> dict[str, Any]:
    """A StatefulSet's claim templates can't be changed: what is there stays."""
    templates = live["spec"].get("volumeClaimTemplates", [])
    kept = [
        {key: value for key, value in template.items() if key != "status"} for template in templates
    ]
    return body | {"spec": body["spec"] | {"volumeClaimTemplates": kept}}
