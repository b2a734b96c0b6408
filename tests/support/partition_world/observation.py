"""What the operator sees of the world, as `clients/observer.py` reads it: first the objects, then
the replicas. In between, time may pass."""

import copy
from collections.abc import Callable
from typing import Any

from partition_operator.api import names
from partition_operator.api.partition import Partition
from partition_operator.api.times import stamp
from partition_operator.reconcile.observed.last_write import Key, Write
from partition_operator.reconcile.observed.partition import (
    Certificates,
    ObservedBackfill,
    ObservedClaim,
    ObservedMember,
    ObservedPartition,
    ObservedPod,
    ObservedReplica,
)
from partition_operator.reconcile.observed.restore import ObservedRestore

from tests.support.partition_world.kubernetes import LOCAL, NAME, NAMESPACE, Claim, Pod, number
from tests.support.partition_world.replicas import Volume
from tests.support.partition_world.world import BACKFILL_TICKS, World


def observe(
    world: World,
    partition: Partition,
    *,
    silent: frozenset[int] = frozenset(),
    between: Callable[[], None] = lambda: None,
    writes: dict[Key, Write] | None = None,
    refused: str = "",
    eviction_refused: str = "",
) -> ObservedPartition:
    """silent: ordinals of replicas that do not answer in time. between: what happens after the
    objects were read and before the replicas are asked."""
    now, objects = world.kube.now, copy.deepcopy(world.kube.objects)
    pods = tuple(_pod(pod) for _, pod in sorted(world.kube.pods.items()))
    claims = tuple(_claim(world, partition, c) for _, c in sorted(world.kube.claims.items()))
    lost = _lost(world)
    cordoned = frozenset(
        p.node for p in pods if p.node in world.kube.nodes and world.kube.nodes[p.node].cordoned
    )
    restore = _restore(world, partition)
    between()
    asked = [p.ordinal for p in pods if p.ip and not p.deleting and p.ordinal not in silent]
    found = [replica for n in asked if (replica := _replica(world, n)) is not None]
    return ObservedPartition(
        partition,
        now,
        objects,
        pods,
        claims,
        tuple(r for r in found if r.role != "fenced"),
        certificates_good=dict(world.secrets),
        writes=writes or {},
        restore=restore,
        refused=refused,
        certificates=Certificates(untrusting=frozenset(world.untrusting)),
        fenced=tuple(r for r in found if r.role == "fenced"),
        lost=lost,
        cordoned=cordoned,
        eviction_refused=eviction_refused,
    )


def _pod(pod: Pod) -> ObservedPod:
    return ObservedPod(
        pod.ordinal,
        f"10.0.0.{pod.ordinal}" if pod.node else "",
        pod.ready,
        pod.ends is not None,
        node=pod.node,
        ends=stamp(pod.ends) if pod.ends else "",
        uid=pod.uid,
        labelled=pod.labelled,
        since=pod.since,
        revision=pod.revision,
        broken="" if pod.ready else pod.broken,
    )


def _claim(world: World, partition: Partition, claim: Claim) -> ObservedClaim:
    disk = world.kube.disks.get(claim.disk)
    asked = partition.asked
    small = asked is not None and number(claim.size) < number(asked.storage_size)
    replaces = asked is not None and asked.replace_volumes
    return ObservedClaim(
        claim.ordinal,
        claim.created,
        claim.cluster_id,
        uid=claim.uid,
        labelled=claim.labelled,
        bound=claim.bound,
        size=claim.size,
        capacity=disk.capacity if disk else "",
        storage_class=claim.storage_class,
        deleting=claim.deleting,
        version=str(claim.version),
        volume=claim.disk,
        owned=claim.owned,
        given_up=claim.given_up,
        lost=claim.lost,
        attributes=claim.attributes,
        attributes_now=claim.attributes_now,
        infeasible=claim.storage_class in LOCAL and claim.attributes != claim.attributes_now,
        fixed=replaces and small and claim.storage_class in LOCAL,
    )


def _lost(world: World) -> dict[int, str]:
    """As `clients/volumes.py` finds it out."""
    found = {}
    unplaced = {p.ordinal for p in world.kube.pods.values() if not p.node and p.ends is None}
    for claim in world.kube.claims.values():
        disk = world.kube.disks.get(claim.disk)
        if claim.lost:
            found[claim.ordinal] = f"PersistentVolume {claim.disk} is gone"
        elif disk is not None and claim.ordinal in unplaced and disk.node:
            node = world.kube.nodes.get(disk.node)
            if node is None:
                found[claim.ordinal] = f"is local to node {disk.node}, which was deleted"
            elif node.out_of_service:
                found[claim.ordinal] = f"is local to node {disk.node}, which is out of service"
    return found


def _replica(world: World, ordinal: int) -> ObservedReplica | None:
    if not world.kube.runs(ordinal):
        return None
    volume = world.kube.volume_of(ordinal)
    if volume is None:
        return None
    group = world.group
    ours = group is not None and volume.cluster == group.cluster and bool(volume.cluster)
    leads = ours and not volume.fenced and group is not None and group.leader == volume.member
    size = number(world.kube.claims[ordinal].size)
    knows = group.leader if ours and group is not None and volume.member in world.up() else 0
    return ObservedReplica(
        ordinal,
        volume.cluster,
        volume.member,
        _role(volume, knows=bool(knows), leads=leads),
        group.term if ours and group else 0,
        knows,
        volume.matched,
        min(volume.matched, group.acknowledged) if ours and group else 0,
        min(volume.matched, group.acknowledged) if ours and group else 0,
        serving=bool(leads and group and group.serving and not volume.switching),
        changing=bool(leads and group and group.pending is not None),
        disk_full=size - world.kube.used < size // 20,
        members=_members(world, volume, leads=leads) if ours and not volume.fenced else (),
        standalone=volume.standalone,
        backfill=_backfill(volume),
        disk_free=max(size - world.kube.used, 0),
        disk_total=size,
        version=f"0.{world.kube.pods[ordinal].image.removeprefix('image:')}.0",
    )


def _role(volume: Volume, *, knows: bool, leads: bool) -> str:
    if volume.fenced:
        return "fenced"
    if volume.switching:
        return "switching"
    if not volume.cluster:
        return "unbootstrapped"
    if not volume.matched:
        return "joining"
    if leads:
        return "leader"
    return "follower" if knows else "candidate"


def _members(world: World, volume: Volume, *, leads: bool) -> tuple[ObservedMember, ...]:
    """A leader's, with its progress; another replica's as it knows them."""
    group = world.group
    assert group is not None
    view = group.configuration if leads else group.view(volume)
    if view is None or volume.switching:
        return ()
    volumes, found = world.volumes, []
    for member in sorted(view.members):
        matched = volumes[member].matched if leads and member in volumes else 0
        found.append(
            ObservedMember(
                member,
                names.address(NAME, NAMESPACE, group.addresses[member]),
                member in view.voters,
                matched,
                leads and group.active(member),
                "" if not leads else "replicate" if matched else "snapshot",
            )
        )
    return tuple(found)


def _backfill(volume: Volume) -> ObservedBackfill | None:
    if volume.backfilled is None:
        return None
    done = volume.matched * volume.backfilled // BACKFILL_TICKS
    return ObservedBackfill(1, min(done, volume.matched) + 1, volume.matched)


def _restore(world: World, partition: Partition) -> ObservedRestore | None:
    asked: Any = partition.asked
    if asked is None or asked.restore is None or partition.status.get("bootstrapped"):
        return None
    return ObservedRestore(pod=copy.deepcopy(world.restore_pod), claimed=0 in world.kube.claims)
