"""What may happen to a world beside the operator: faults, and what users do with kubectl.

A fault takes no more data than the group can spare, unless it is ruthless. Then entries may be lost
by it, and that is not the operator's fault.
"""

from tests.support.partition_world.errors import Failed
from tests.support.partition_world.execution import evict
from tests.support.partition_world.kubernetes import Node
from tests.support.partition_world.replicas import Volume, majority
from tests.support.partition_world.world import World, secret_names

PODS = ("deleted", "crashed", "evicted", "slow to start")
NODES = ("down", "up", "cordoned", "uncordoned", "drained", "deleted", "off", "added")
VOLUMES = ("lost", "wiped", "claim deleted", "slow", "quick")
OTHERS = (
    "unlabelled pod",
    "unlabelled claim",
    "unlabelled secret",
    "expired",
    "untrusting",
    "refusing",
    "accepting",
    "filled",
    "emptied",
    "burst",
    "quiet",
)
KINDS = ("StatefulSet", "PersistentVolumeClaim", "Secret", "PodDisruptionBudget")
FILLED = 900 * 2**20
BURST = 5000
BUSY, SLOW = 500, 100
"""Entries per tick: what clients append, and what a slow follower takes over."""


def spares(world: World, ordinals: set[int]) -> bool:
    """Whether a majority of the voters has every acknowledged entry without these volumes."""
    group, kube = world.group, world.kube
    if group is None:
        return True
    left = 0
    for ordinal, claim in kube.claims.items():
        volume = kube.volume_of(ordinal)
        gone = claim.deleting or ordinal in ordinals or not kube.is_reachable(ordinal)
        if volume is not None and not gone:
            voter = volume.member in group.configuration.voters
            left += voter and volume.matched >= group.acknowledged
    return left >= majority(len(group.configuration.voters))


def _take(world: World, ordinals: set[int], *, ruthless: bool) -> bool:
    """Returns whether a fault may take these volumes, and records what it excuses."""
    if spares(world, ordinals):
        return True
    if ruthless and world.group is not None:
        world.robbed = world.group.robbed = True
    return ruthless


def hurt_pod(world: World, ordinal: int, how: str) -> None:
    pod = world.kube.pods.get(ordinal)
    if how == "slow to start":
        world.kube.slow_starts[ordinal] = 4
    if pod is None:
        return
    if how == "deleted":
        world.kube.delete_pod(pod)
    elif how == "crashed":
        pod.running, pod.starting = False, pod.wait + 1
    elif how == "evicted":
        try:
            evict(world, pod)
        except Failed:
            return


def hurt_node(world: World, number: int, how: str, *, ruthless: bool) -> None:
    kube = world.kube
    name = sorted(kube.nodes)[number % len(kube.nodes)] if kube.nodes else ""
    if how == "added" or not name:
        fresh = kube.fresh("node")
        kube.nodes[fresh] = Node(fresh)
        return
    node = kube.nodes[name]
    if how in ("down", "off"):
        node.up, node.down_since = False, node.down_since or kube.now
    if how in ("off", "deleted"):
        _lose_node(world, node, how, ruthless=ruthless)
    elif how == "up" and not node.out_of_service:
        node.up, node.down_since = True, None
    elif how in ("cordoned", "drained"):
        node.cordoned = True
    elif how == "uncordoned":
        node.cordoned = False
    if how == "drained":
        for ordinal in [p.ordinal for p in kube.pods.values() if p.node == name]:
            hurt_pod(world, ordinal, "evicted")


def _lose_node(world: World, node: Node, how: str, *, ruthless: bool) -> None:
    """Its local disks are out of reach for good."""
    kube = world.kube
    local = {d.name for d in kube.disks.values() if d.node == node.name}
    on_it = {o for o, claim in kube.claims.items() if claim.disk in local}
    if on_it and not _take(world, on_it, ruthless=ruthless):
        return
    if how == "off":
        node.out_of_service = True
    else:
        del kube.nodes[node.name]


def hurt_volume(world: World, ordinal: int, how: str, *, ruthless: bool) -> None:
    claim, disk = world.kube.claims.get(ordinal), world.kube.disk_of(ordinal)
    if claim is None or disk is None:
        return
    if how in ("slow", "quick"):
        disk.volume.slow = SLOW if how == "slow" else 0
        world.rate = BUSY if how == "slow" else world.rate
        return
    if not _take(world, {ordinal}, ruthless=ruthless):
        return
    if how == "claim deleted":
        claim.deleting = True
    elif how == "wiped":
        disk.volume = Volume(next(world.kube.serial))
        hurt_pod(world, ordinal, "crashed")
    else:
        claim.lost = True
        del world.kube.disks[disk.name]


def annoy(world: World, ordinal: int, how: str) -> None:  # noqa: C901  # a flat match over faults
    kube = world.kube
    match how:
        case "unlabelled pod" if ordinal in kube.pods:
            kube.pods[ordinal].labelled = False
        case "unlabelled claim" if ordinal in kube.claims:
            kube.claims[ordinal].labelled = False
        case "unlabelled secret":
            live = kube.objects.get(("Secret", secret_names()[ordinal % 2]))
            if live is not None:
                live["metadata"]["labels"] = {}
        case "expired":
            world.secrets[secret_names()[ordinal % 2]] = False
        case "untrusting":
            world.untrusting.add(secret_names()[ordinal % 2])
        case "refusing":
            world.refusing.add(KINDS[ordinal % len(KINDS)])
        case "accepting":
            world.refusing.clear()
        case "filled":
            kube.used = FILLED
        case "emptied":
            kube.used = 0
        case "burst" | "quiet":
            world.rate = BURST if how == "burst" else 1
