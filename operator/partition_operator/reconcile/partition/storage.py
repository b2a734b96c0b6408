"""The size and class of the volumes, their growth, and spec corrections before any volume exists.
Pure.

A StatefulSet's claim template and a claim's class can't be changed. While no claim is bound, no
volume and no data exist. So the operator deletes both and recreates them as the spec asks. It never
deletes a bound claim.

A bound claim can ask for more. The claim template keeps the first size, so the claim of a replica
that is added later begins with that, and grows once it is bound.
"""

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from partition_operator.api import names, schema
from partition_operator.api.partition import Autogrow, PartitionSpec
from partition_operator.api.quantities import parse_quantity
from partition_operator.reconcile.observed.partition import (
    ObservedClaim,
    ObservedPartition,
    ObservedReplica,
)
from partition_operator.reconcile.partition.actions import Action, DeleteUnchanged, GrowClaim
from partition_operator.resources.statefulset import claim_spec


@dataclass(frozen=True, slots=True)
class Mend:
    """A recreation in progress. action: None while a deletion is in progress."""

    action: Action | None


def mend(observed: ObservedPartition, spec: PartitionSpec) -> Mend | None:
    """Returns the next step to recreate templates and claims that differ from the spec, or None if
    none differ."""
    partition = observed.partition
    if partition.status.get("bootstrapped") or any(claim.bound for claim in observed.claims):
        return None
    if observed.replicas or spec.adopt:
        return None  # the replicas already use volumes, or a user made the claims
    if template_differs(observed, spec):
        # The StatefulSet goes first: it would recreate the claims from the old template.
        live = observed.objects["StatefulSet", partition.name]["metadata"]
        version = live["resourceVersion"]
        return Mend(DeleteUnchanged("StatefulSet", partition.name, live["uid"], version))
    created = partition.body["metadata"].get("creationTimestamp", "")
    # A claim that is older than the Partition was made by a user, for example for an import.
    ours = [claim for claim in _own(observed) if claim.created >= created]
    old = [claim for claim in ours if _claim_differs(claim, spec)]
    for claim in old:
        if not claim.deleting:
            name = names.claim(partition.name, claim.ordinal)
            kind = "PersistentVolumeClaim"
            return Mend(DeleteUnchanged(kind, name, claim.uid, claim.version))
    return Mend(None) if old else None


def grow(observed: ObservedPartition, spec: PartitionSpec) -> list[GrowClaim]:
    """Returns the claims of this group that ask for less than they shall have."""
    size = wanted_size(observed, spec)
    return [
        GrowClaim(claim.ordinal, claim.uid, size)
        for claim in in_use(observed)
        if _less(claim.size, size) and not claim.fixed
    ]


def wanted_size(observed: ObservedPartition, spec: PartitionSpec) -> str:
    """Returns the size that the volumes shall have: that of the spec, or with autogrow what they
    have grown to. They grow a step when one has little free space and none grows."""
    if spec.autogrow is None:
        return spec.storage_size
    own = in_use(observed)
    size = parse_quantity(spec.storage_size) or Decimal(0)
    has = max([size, *(parse_quantity(claim.size) or 0 for claim in own)])
    done = all(parse_quantity(claim.size) == has == parse_quantity(claim.capacity) for claim in own)
    more = min(has + spec.autogrow.step, Decimal(spec.autogrow.size_max))
    short = [r for r in observed.replicas if has_own_file_system(observed, r)]
    if own and done and more > has and any(_short(r, spec.autogrow) for r in short):
        has = more
    return spec.storage_size if has == size else _text(int(has))


def has_own_file_system(observed: ObservedPartition, replica: ObservedReplica) -> bool:
    """Whether the space that a replica reports is its volume's alone. A file system larger than the
    volume is shared with others, and tells nothing about this one."""
    sizes = {claim.ordinal: parse_quantity(claim.capacity) for claim in observed.claims}
    capacity = sizes.get(replica.ordinal)
    return capacity is not None and 0 < replica.disk_total <= capacity


def _short(replica: ObservedReplica, rule: Autogrow) -> bool:
    """Whether a replica's volume has less free space than the rule allows."""
    least = rule.free_bytes or rule.free_share * replica.disk_total
    return replica.disk_free < least


def _text(size: int) -> str:
    whole, rest = divmod(size, 2**20)
    return str(size) if rest else f"{whole}Mi"


@dataclass(frozen=True, slots=True)
class WrongVolume:
    """A claim whose volume has to be replaced, and why."""

    claim: ObservedClaim
    why: str


def to_replace(observed: ObservedPartition, spec: PartitionSpec) -> list[WrongVolume]:
    """Returns the volumes that differ from the spec and can't be changed, if it lets the operator
    replace them."""
    if not spec.replace_volumes:
        return []
    shrinks = _shrinks(observed, spec)
    found = ((claim, _why_wrong(claim, spec, shrinks=shrinks)) for claim in in_use(observed))
    return [WrongVolume(claim, why) for claim, why in found if why]


def _shrinks(observed: ObservedPartition, spec: PartitionSpec) -> bool:
    """Whether a user has lowered the size: a volume that has grown in another way stays."""
    before = observed.partition.status.get("storage", {}).get("specSize", "")
    return spec.autogrow is None and _less(spec.storage_size, before)


def spec_size(observed: ObservedPartition, spec: PartitionSpec) -> str:
    """Returns status.storage.specSize: the size of the spec that the volumes have followed. It
    stays while they are replaced by smaller ones."""
    before: str = observed.partition.status.get("storage", {}).get("specSize", "")
    larger = any(_less(spec.storage_size, claim.size) for claim in in_use(observed))
    return before if _shrinks(observed, spec) and larger else spec.storage_size


def misfits(observed: ObservedPartition, spec: PartitionSpec) -> list[ObservedClaim]:
    """Returns the claims without a volume that ask for other classes, or for more, than the spec
    does now, while volumes may be replaced. Nothing is on them, and maybe no provisioner can make
    their volumes."""
    if not spec.replace_volumes:
        return []
    return [
        claim
        for claim in of_replicas(observed)
        if not claim.bound
        and not claim.deleting
        and observed.replica(claim.ordinal) is None
        and claim.size
        and (
            spec.storage_class not in (None, claim.storage_class)
            or spec.attributes_class not in (None, claim.attributes)
            or _less(spec.storage_size, claim.size)
        )
    ]


def _why_wrong(claim: ObservedClaim, spec: PartitionSpec, *, shrinks: bool) -> str:
    if spec.storage_class not in (None, claim.storage_class):
        return f"the storage class is {claim.storage_class}, and shall be {spec.storage_class}"
    if shrinks and _less(spec.storage_size, claim.size):
        return f"the size is {claim.size}, and shall be {spec.storage_size}"
    if claim.infeasible and claim.attributes == spec.attributes_class:
        return (
            f"the VolumeAttributesClass is {claim.attributes_now or 'none'}, shall be "
            f"{claim.attributes}, and the driver can't change it in place"
        )
    if claim.fixed and _less(claim.size, spec.storage_size):
        return (
            f"the size is {claim.size}, shall be {spec.storage_size}, and storage class "
            f"{claim.storage_class} does not let volumes grow"
        )
    return ""


def growing(observed: ObservedPartition, spec: PartitionSpec) -> list[int]:
    """Returns the ordinals whose volumes are smaller than they shall be."""
    size = wanted_size(observed, spec)
    return [
        claim.ordinal
        for claim in in_use(observed)
        if _less(claim.size, size) or (claim.capacity and _less(claim.capacity, claim.size))
    ]


def in_use(observed: ObservedPartition) -> list[ObservedClaim]:
    """Returns the bound claims whose volumes belong to this group and have a replica."""
    return [claim for claim in of_replicas(observed) if claim.bound and not claim.deleting]


def of_replicas(observed: ObservedPartition) -> list[ObservedClaim]:
    """Returns the claims of this group that have a replica. Those of replicas that were removed
    stay as they are."""
    cluster_id = observed.partition.status.get("clusterID")
    live = observed.objects.get(("StatefulSet", observed.partition.name)) or {}
    members = [
        observed.ordinal_of(f"{member.get('pod', '')}.")
        for member in observed.partition.status.get("members", [])
    ]
    end = max([int((live.get("spec") or {}).get("replicas", 0)), *(n + 1 for n in members)])
    return [
        claim
        for claim in observed.claims
        if claim.ordinal < end and cluster_id and claim.cluster_id == cluster_id
    ]


def _less(one: str, other: str) -> bool:
    first, second = parse_quantity(one), parse_quantity(other)
    return first is not None and second is not None and first < second


def template_differs(observed: ObservedPartition, spec: PartitionSpec) -> bool:
    """Whether the live StatefulSet would make other claims than the spec asks for."""
    template = _template(observed)
    if template is None:
        return False
    wanted = claim_spec(spec)
    same_class = template.get("storageClassName") == wanted.get("storageClassName")
    # An API server that does not know the field drops it. Then no template would ever be right.
    if spec.attributes_class is not None and not observed.attributes_problem:
        same_class &= template.get("volumeAttributesClassName") == spec.attributes_class
    return not same_class or not _same_size(_size(template), spec.storage_size)


def recorded(observed: ObservedPartition) -> schema.StorageStatus:
    """Returns status.storage: the size and the class of the bound claims. While a bootstrapped
    group has no bound claims, the recorded values stay."""
    bound = [claim for claim in _own(observed) if claim.bound and parse_quantity(claim.size)]
    status = observed.partition.status
    if not bound:
        return (status.get("storage") or {}) if status.get("bootstrapped") else {}
    largest = max(bound, key=lambda claim: parse_quantity(claim.size) or 0)
    found: schema.StorageStatus = {"size": largest.size}
    if len(attributes := {claim.attributes_now for claim in bound}) == 1 and "" not in attributes:
        found["volumeAttributesClassName"] = attributes.pop()
    classes = [claim.storage_class for claim in bound if claim.storage_class]
    if classes:
        found["className"] = classes[0]
    asked = observed.partition.asked
    if asked is not None:
        found["specSize"] = spec_size(observed, asked)
    elif kept := status.get("storage", {}).get("specSize"):
        found["specSize"] = kept
    return found


def not_followed(observed: ObservedPartition, spec: PartitionSpec) -> str:
    """Returns which part of a valid spec the volumes don't follow; "" if they follow it."""
    has = recorded(observed).get("className", "")
    if spec.replace_volumes:
        return ""
    if has and spec.storage_class not in (None, has):
        return (
            f"volumes have storage class {has}, which can't change: set spec.storage.className to "
            f"{has} again, or set spec.storage.replacement to Rolling to replace the volumes"
        )
    return ""


def _own(observed: ObservedPartition) -> list[ObservedClaim]:
    """Returns the claims with our labels or our cluster-ID annotation. Other claims with our names
    are not deleted, and their sizes do not count."""
    cluster_id = observed.partition.status.get("clusterID")
    return [
        c for c in observed.claims if c.labelled or (c.cluster_id and c.cluster_id == cluster_id)
    ]


def _template(observed: ObservedPartition) -> dict[str, Any] | None:
    live = observed.objects.get(("StatefulSet", observed.partition.name)) or {}
    for template in (live.get("spec") or {}).get("volumeClaimTemplates") or []:
        if template["metadata"]["name"] == names.VOLUME:
            found: dict[str, Any] = template["spec"]
            return found
    return None


def _size(claim: dict[str, Any]) -> str:
    return str(claim["resources"]["requests"]["storage"])


def _same_size(one: str, other: str) -> bool:
    return parse_quantity(one) == parse_quantity(other)


def _claim_differs(claim: ObservedClaim, spec: PartitionSpec) -> bool:
    # If the spec has no class, the claim has the cluster's default class, which is unknown here.
    other_class = spec.storage_class is not None and claim.storage_class != spec.storage_class
    return bool(claim.size) and (other_class or not _same_size(claim.size, spec.storage_size))
