"""What a Partition must come to once nothing goes wrong any more, and stay at."""

from typing import Any

from partition_operator.api import names
from partition_operator.reconcile.partition.plan import Plan

from tests.support.partition_world.errors import Violation
from tests.support.partition_world.kubernetes import (
    BAD_IMAGE,
    DEFAULT_CLASS,
    FAR_IMAGE,
    LOCAL,
    STATEFUL_SET,
    Node,
    number,
    revision_of,
)
from tests.support.partition_world.operator import Operator
from tests.support.partition_world.replicas import majority
from tests.support.partition_world.truths import truth_of
from tests.support.partition_world.world import World

TURNS_MAX = 500
WHOLE_TURNS, HOPELESS_TURNS, PATIENT_TURNS = 3, 14, 8
"""Turns without a step, after which it is at its end. After the last number they are minutes
apart, because a deadline may be what is waited for."""
IDLE_PAUSES_S = (1, 1, 10, 60, 700, 1)
"""Seconds between turns that must change nothing."""
WHOLE = dict.fromkeys(
    (
        "Accepted",
        "Bootstrapped",
        "CertificatesReady",
        "ObjectsApplied",
        "QuorumAvailable",
        "Ready",
        "RolledOut",
        "StorageReady",
    ),
    "True",
) | dict.fromkeys(("Fenced", "Hibernated", "Paused", "Progressing"), "False")
"""What the conditions of a whole group say."""


def calm(world: World) -> None:
    """Ends every fault, and what a user has to end. What is lost stays lost."""
    kube = world.kube
    for node in kube.nodes.values():
        node.up, node.cordoned, node.out_of_service, node.down_since = True, False, False, None
    for n in range(4):
        kube.nodes.setdefault(f"node-{n}-new", Node(f"node-{n}-new"))
    world.refusing.clear()
    world.fails = world.spoils = 0
    kube.slow_starts.clear()
    kube.used, world.rate = 0, 1
    for disk in kube.disks.values():
        disk.volume.slow = 0
    world.annotate(names.ANNOTATION_FENCE, "")
    if any(claim.storage_class in LOCAL for claim in kube.claims.values()):
        world.edit_storage(autogrow=None)  # its class has to let volumes grow
    image = world.spec.get("image")
    world.edit(paused=None, image=None if image in (BAD_IMAGE, FAR_IMAGE) else image)
    world.edit_storage(replacement="Rolling")


def settle(operator: Operator) -> None:
    """Takes turns until nothing is left to do. Raises Violation if it is not what it must be."""
    world, quiet = operator.world, 0
    for _ in range(TURNS_MAX):
        step = operator.turn()
        if step is None:
            if world.status["state"] == "DeletionBlocked" and world.snapshots:
                world.snapshots.popitem()  # a user deletes it, so that it is taken again
            world.pass_tick()
            if world.gone:
                return
            continue
        _help(world, step)
        quiet = 0 if step.action is not None else quiet + 1
        whole = step.settled and not explain(world)
        if (quiet > WHOLE_TURNS and whole) or (quiet > HOPELESS_TURNS and is_hopeless(world)):
            _check_end(operator, step)
            return
        if quiet > HOPELESS_TURNS and is_hopeless(world, without_deleted=True):
            return  # a user has deleted claims, and the group serves as long as their pods
        world.pass_tick(1 if quiet < PATIENT_TURNS else 200)
    last, state = operator.trail[-12:], _conditions(world)
    why = explain(world) or "the plan is never settled"
    raise Violation(f"not settled: {why}; last steps {last}; {state}")


def _help(world: World, step: Plan) -> None:
    """What the messages ask a user to do."""
    told = _conditions(world).get("RolledOut", ("", "", ""))
    pods, truth = world.kube.pods, truth_of(world)
    whole = all(pod.ready and pod.ends is None for pod in pods.values())
    if told[1] == "WaitingForApproval":
        world.annotate(names.ANNOTATION_APPROVE, world.status["revision"])
    elif told[1] == "OnDelete" and step.action is None:
        behind = [p for p in pods.values() if p.revision != world.status["revision"]]
        bad = [p for p in behind if not p.ready]
        if behind and (whole or bad):
            world.kube.delete_pod((bad or behind)[0])
    for ordinal, claim in world.kube.claims.items():
        pod, member = pods.get(ordinal), truth.member_at.get(ordinal, 0)
        if claim.deleting and not claim.given_up and pod and step.action is None:
            if truth.is_quorum(truth.sound - {member}) or member not in truth.voters:
                world.kube.delete_pod(pod)
                break


def is_hopeless(world: World, *, without_deleted: bool = False) -> bool:
    """Whether so much was lost that the group can't come back by itself. The first volume is not
    replaced before the group exists: a user deletes its claim, or the Partition.
    without_deleted: whether it is so without the claims that are being deleted."""
    group, kube = world.group, world.kube
    if world.gone:
        return False
    if group is None:
        return 0 in kube.claims and kube.claims[0].bound and not kube.is_reachable(0)
    reached = set()
    for ordinal, claim in kube.claims.items():
        volume = kube.volume_of(ordinal)
        deleted = claim.deleting and without_deleted
        if volume is None or deleted or not kube.is_reachable(ordinal):
            continue
        if group.view(volume) is not None:
            reached.add(volume.member)
    voters = group.configuration.voters
    return len(voters & reached) < majority(len(voters))


def explain(world: World) -> str:
    """Returns what is not as the spec asks for; "" if everything is."""
    live = world.kube.objects.get(STATEFUL_SET)
    if live is None:
        return "there is no StatefulSet"
    if world.spec.get("hibernated"):
        return "pods run" if world.kube.pods or live["spec"]["replicas"] else ""
    if world.group is None:
        return "there is no group"
    wanted = _replicas(world)
    if live["spec"]["replicas"] != wanted or set(world.kube.pods) != set(range(wanted)):
        return f"pods {sorted(world.kube.pods)} of {wanted}"
    return _members(world, wanted) or _pods(world, revision_of(live)) or _claims(world, wanted)


def _replicas(world: World) -> int:
    standalone = world.spec.get("replication", {}).get("mode") == "None"
    return 1 if standalone else int(world.spec["replicas"])


def _members(world: World, wanted: int) -> str:
    assert world.group is not None
    found, group = truth_of(world), world.group
    have = {found.member_at.get(ordinal, 0) for ordinal in range(wanted)}
    if group.configuration.voters != have or group.configuration.learners:
        return f"{group.configuration} are not {sorted(have)}"
    if not found.has_quorum or found.sound != found.voters:
        return "not every voter is active and has caught up"
    alone = world.kube.volume_of(0)
    mode = world.spec.get("replication", {}).get("mode", "Raft")
    return "" if alone and alone.standalone == (mode == "None") else "the mode is another one"


def _pods(world: World, revision: str) -> str:
    for ordinal, pod in world.kube.pods.items():
        if not pod.ready or pod.ends is not None or pod.revision != revision or not pod.labelled:
            return f"pod {ordinal} is not as it should be: {pod}"
    return ""


def _claims(world: World, wanted: int) -> str:
    storage = world.spec["storage"]
    for ordinal in range(wanted):
        claim = world.kube.claims[ordinal]
        if claim.deleting or claim.lost or not claim.labelled:
            return f"claim {ordinal} is deleted, lost or without labels"
        if wanted == 1:
            continue  # the only copy is not replaced
        if claim.storage_class != storage.get("className", claim.storage_class or DEFAULT_CLASS):
            return f"claim {ordinal} has class {claim.storage_class}"
        attributes = storage.get("volumeAttributesClassName", claim.attributes)
        if not claim.attributes == claim.attributes_now == attributes:
            return f"claim {ordinal} has attributes {claim.attributes_now} of {claim.attributes}"
        # What has grown in another way than by the spec's size stays larger.
        grown = world.autogrown and number(claim.size) > number(storage["size"])
        if number(claim.size) != number(storage["size"]) and not grown:
            return f"claim {ordinal} has size {claim.size}"
    return ""


def _check_end(operator: Operator, step: Plan) -> None:
    world = operator.world
    hopeless, told = is_hopeless(world), _conditions(world)
    asleep = bool(world.spec.get("hibernated"))
    whole = not asleep and not hopeless
    if asleep and told["Hibernated"][0] != "True":
        raise Violation(f"it sleeps, and Hibernated is {told['Hibernated']}")
    if (told["Ready"][0] == "True") != whole:
        raise Violation(f"Ready is {told['Ready']}, and the group is whole: {whole}")
    if whole and told["Ready"][1] != "Ready":
        raise Violation(f"Ready says {told['Ready']} of a whole group")
    if whole:
        _check_status(world)
    _check_idle(operator)


def _check_status(world: World) -> None:
    """What is said of a whole group."""
    told, group, wanted = _conditions(world), world.group, _replicas(world)
    assert group is not None
    alone = world.spec.get("replication", {}).get("mode") == "None"
    expected = WHOLE | {"Replicated": str(not alone)}
    wrong = {kind: told.get(kind) for kind, value in expected.items() if told[kind][0] != value}
    if wrong:
        raise Violation(f"of a whole group it is said: {wrong}")
    members = {int(m["memberID"], 16) for m in world.status["members"] if m["role"] == "voter"}
    counts = world.status["ready"], world.status["updatedReplicas"]
    if members != group.configuration.voters or counts != (f"{wanted}/{wanted}", wanted):
        raise Violation(f"status of {group.configuration} says {members} and {counts}")


def _check_idle(operator: Operator) -> None:
    world, before = operator.world, operator.world.status
    for pause_s in IDLE_PAUSES_S:
        written = world.writes
        step = operator.turn()
        if step is None or step.action is not None:
            raise Violation(f"an idle Partition gets {step}")
        if world.writes != written:
            raise Violation(f"an idle Partition's status changes: {_changed(before, world.status)}")
        world.pass_tick(pause_s)


def _changed(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    keys = before.keys() | after.keys()
    return {k: (before.get(k), after.get(k)) for k in keys if before.get(k) != after.get(k)}


def _conditions(world: World) -> dict[str, tuple[str, str, str]]:
    found = world.status.get("conditions", [])
    return {c["type"]: (c["status"], c["reason"], c["message"]) for c in found}
