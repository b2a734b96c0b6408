"""Whose volumes are these? A group is bootstrapped on provably new volumes only; what holds
somebody's data is adopted when a user says so, and never by name alone."""

from dataclasses import dataclass

from partition_operator.reconcile.observed.partition import ObservedPartition


@dataclass(frozen=True, slots=True)
class Finding:
    """clusters: the IDs that existing volumes belong to. suspicious: ordinals of volumes that are
    older than the Partition, that nobody has marked, and that have not said whose they are."""

    clusters: frozenset[str]
    suspicious: tuple[int, ...]

    @property
    def clean(self) -> bool:
        return not self.clusters and not self.suspicious


def inspect(observed: ObservedPartition) -> Finding:
    """What marks on claims, their age, and the replicas themselves say."""
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
    """The cluster that the volumes belong to, where `cluster_id` was drawn because they had not
    said it yet: nothing was done with it, and they are to be adopted. "" elsewhere."""
    status = observed.partition.status
    held = {replica.cluster_id for replica in observed.replicas if replica.belongs}
    if status.get("bootstrapped") or status.get("members") or cluster_id in held:
        return ""
    if observed.replica(0) is None:
        return ""  # the one that may have been bootstrapped with it
    return held.pop() if observed.partition.spec().adopt and len(held) == 1 else ""


def mismarked(observed: ObservedPartition, cluster_id: str) -> list[int]:
    """Ordinals of claims that carry another cluster's mark, whose volumes say that they are of this
    one, or of none."""
    found = []
    for claim in observed.claims:
        replica = observed.replica(claim.ordinal)
        ours = replica is not None and replica.cluster_id in ("", cluster_id)
        if ours and claim.cluster_id not in ("", cluster_id) and observed.partition.spec().adopt:
            found.append(claim.ordinal)
    return found


def refusal(finding: Finding, partition: str, *, restores: bool) -> str:
    """Why nothing was bootstrapped, and the way out. restores: the spec names a snapshot, beside
    which adopt can't be set."""
    what = (
        "hold data of cluster " + ", ".join(sorted(finding.clusters))
        if finding.clusters
        else "are older than this Partition"
    )
    found = f"volumes named data-{partition}-* exist and {what}"
    if restores:
        return (
            f"{found}: to go on with that data delete this Partition and apply it with "
            "spec.bootstrap {adopt: true} in place of the snapshot; to restore the snapshot again "
            "delete the PersistentVolumeClaims"
        )
    return (
        f"{found}: set spec.bootstrap.adopt to true to go on with that data, or delete the "
        "PersistentVolumeClaims to begin empty"
    )
