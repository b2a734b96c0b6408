"""Decides which cluster existing volumes belong to.

A group is bootstrapped only on volumes that are certainly new. Volumes with data are adopted only
if the user sets spec.bootstrap.adopt; a matching name is not enough.
"""

from dataclasses import dataclass

from partition_operator.reconcile.observed.partition import ObservedPartition


@dataclass(frozen=True, slots=True)
class Finding:
    """clusters: the cluster IDs of existing volumes. suspicious: ordinals of volumes that are older
    than the Partition, have no cluster-ID annotation, and whose replicas have not answered yet."""

    clusters: frozenset[str]
    suspicious: tuple[int, ...]

    @property
    def clean(self) -> bool:
        return not self.clusters and not self.suspicious


def inspect(observed: ObservedPartition) -> Finding:
    """Judges the volumes by the annotations and the age of their claims, and by what their replicas
    report."""
    created = observed.partition.body["metadata"].get("creationTimestamp", "")
    marked = {claim.cluster_id for claim in observed.claims if claim.cluster_id}
    held = {replica.cluster_id for replica in observed.replicas if replica.belongs}
    answered = {replica.ordinal for replica in observed.replicas}
    suspicious = tuple(
        claim.ordinal
        for claim in observed.claims
        # RFC 3339 in UTC sorts as text.
        if not claim.cluster_id
        and created
        and claim.created < created
        and claim.ordinal not in answered
    )
    return Finding(frozenset(marked | held), suspicious)


def mistaken(observed: ObservedPartition, cluster_id: str) -> str:
    """Returns the cluster ID of the volumes to adopt if `cluster_id` was drawn before their
    replicas answered and has not been used yet; otherwise ""."""
    status = observed.partition.status
    held = {replica.cluster_id for replica in observed.replicas if replica.belongs}
    if status.get("bootstrapped") or status.get("members") or cluster_id in held:
        return ""
    if observed.replica(0) is None:
        return ""  # this replica may have been bootstrapped with the drawn ID
    return held.pop() if observed.partition.spec().adopt and len(held) == 1 else ""


def mismarked(observed: ObservedPartition, cluster_id: str) -> list[int]:
    """Returns the ordinals of claims with another cluster's annotation whose volumes belong to this
    cluster or to none, as their replicas report."""
    found = []
    for claim in observed.claims:
        replica = observed.replica(claim.ordinal)
        ours = replica is not None and replica.cluster_id in ("", cluster_id)
        if ours and claim.cluster_id not in ("", cluster_id) and observed.partition.spec().adopt:
            found.append(claim.ordinal)
    return found


def refusal(finding: Finding, partition: str, *, restores: bool) -> str:
    """Returns why no group was bootstrapped and what to do. restores: the spec names a snapshot, so
    adopt can't be set as well."""
    what = (
        "hold data of cluster " + ", ".join(sorted(finding.clusters))
        if finding.clusters
        else "are older than this Partition"
    )
    found = f"volumes named data-{partition}-* exist and {what}"
    if restores:
        return (
            f"{found}: to use that data, delete this Partition and apply it with "
            "spec.bootstrap {adopt: true} instead of the snapshot; to restore the snapshot again, "
            "delete the PersistentVolumeClaims"
        )
    return (
        f"{found}: set spec.bootstrap.adopt to true to use that data, or delete the "
        "PersistentVolumeClaims to start empty"
    )
