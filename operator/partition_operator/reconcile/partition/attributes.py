"""The VolumeAttributesClass of the volumes, such as their throughput. Pure.

A claim's class of this kind can change in place: the claim names it, and the volume's driver does
it. One claim after the other, the leader's last, so a class that the driver refuses reaches one
volume. Such a volume is replaced if the spec allows it (storage.to_replace).

The StatefulSet's claim template keeps the first class, as it keeps the first size. A later replica
begins with that.
"""

from partition_operator.api import names
from partition_operator.api.partition import PartitionSpec
from partition_operator.api.words import Reason
from partition_operator.reconcile.observed.partition import ObservedClaim, ObservedPartition
from partition_operator.reconcile.partition import storage
from partition_operator.reconcile.partition.actions import ModifyClaim

FIELD = "spec.storage.volumeAttributesClassName"


def modify(observed: ObservedPartition, spec: PartitionSpec) -> list[ModifyClaim]:
    """Returns the claim to change now, or none. Without a class in the spec, volumes keep theirs;
    only a change that the driver refused is taken back."""
    claims = storage.in_use(observed)
    if spec.attributes_class is None:
        return [
            ModifyClaim(claim.ordinal, claim.uid, claim.attributes_now)
            for claim in claims
            if claim.infeasible and claim.attributes != claim.attributes_now
        ]
    # Also one that the driver refused, and that is replaced: the next may be refused, too.
    asked = any(
        claim.attributes == spec.attributes_class and _differs(claim, spec.attributes_class)
        for claim in claims
    )
    differing = [c for c in _kept(observed, spec) if _differs(c, spec.attributes_class)]
    if observed.attributes_problem or asked or not differing:
        return []
    leader = observed.leader
    last = -1 if leader is None else leader.ordinal
    claim = min(differing, key=lambda c: (c.ordinal == last, c.ordinal))
    return [ModifyClaim(claim.ordinal, claim.uid, spec.attributes_class)]


def explain(observed: ObservedPartition, spec: PartitionSpec) -> tuple[Reason, str] | None:
    """Returns reason and message of StorageReady while volumes lack the class of the spec; None if
    they have it. They serve meanwhile."""
    wanted = spec.attributes_class
    differing = [c for c in _kept(observed, spec) if wanted and _differs(c, wanted)]
    if not differing:
        return None
    if observed.attributes_problem:
        message = f"{FIELD}: {observed.attributes_problem}; the volumes stay as they are"
        return Reason.ATTRIBUTES_REFUSED, message
    if refused := [c for c in differing if c.infeasible and c.attributes == wanted]:
        has = refused[0].attributes_now
        back = f"set the field to {has} again" if has else "remove the field"
        message = (
            f"{FIELD}: the driver can't change the volume of {_pods(observed, refused)} to "
            f"{wanted} in place: set spec.storage.replacement to Rolling to replace the volumes, "
            f"or {back}"
        )
        return Reason.ATTRIBUTES_REFUSED, message
    message = (
        f"the volumes of {_pods(observed, differing)} change to VolumeAttributesClass {wanted}"
    )
    return Reason.MODIFYING, message


def _kept(observed: ObservedPartition, spec: PartitionSpec) -> list[ObservedClaim]:
    """Returns the bound claims of the group without those that are replaced anyway."""
    replaced = {wrong.claim.ordinal for wrong in storage.to_replace(observed, spec)}
    return [claim for claim in storage.in_use(observed) if claim.ordinal not in replaced]


def _differs(claim: ObservedClaim, wanted: str) -> bool:
    return claim.attributes != wanted or claim.attributes_now != wanted


def _pods(observed: ObservedPartition, claims: list[ObservedClaim]) -> str:
    return ", ".join(names.pod(observed.partition.name, claim.ordinal) for claim in claims)
