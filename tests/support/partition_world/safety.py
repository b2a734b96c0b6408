"""What no action may do, whatever has happened before. An action is judged by what was true while
the operator observed, because nobody can know more: it is a violation if it was wrong both when the
observation began and when it ended."""

from partition_operator.api import names
from partition_operator.reconcile.observed.partition import ObservedPartition
from partition_operator.reconcile.partition import actions
from partition_operator.reconcile.partition.actions import Action

from tests.support.partition_world.errors import Violation
from tests.support.partition_world.kubernetes import NAME
from tests.support.partition_world.truths import Truth

WHILE_PAUSED = (actions.IssueCertificate, actions.TrustAuthority, actions.SetFenced)
WHILE_ASLEEP = (
    *WHILE_PAUSED,
    actions.Apply,
    actions.AnnotateClaim,
    actions.GrowClaim,
    actions.ModifyClaim,
    actions.OwnClaim,
    actions.RepairLabels,
    actions.SetFinalizer,
)
"""A sleeping group changes no member, no pod and no volume."""


def check(observed: ObservedPartition, action: Action, truths: tuple[Truth, ...]) -> None:
    """Raises Violation."""
    problems = [_wrong(observed, action, truth) for truth in truths]
    if all(problems):
        raise Violation(f"{_short(action)}: {problems[-1]}")


def _short(action: Action) -> str:
    return f"Apply {action.body['kind']}" if isinstance(action, actions.Apply) else repr(action)


def _wrong(observed: ObservedPartition, action: Action, truth: Truth) -> str:
    """Returns what is wrong; "" for nothing."""
    spec, status = observed.partition.asked, observed.partition.status
    assert spec is not None
    if spec.paused and not _is_harmless(action):
        return "the Partition is paused"
    asleep = spec.hibernated and status.get("bootstrapped") and status.get("mode") != "Backfilling"
    if asleep:
        budget = isinstance(action, actions.Delete) and action.kind == "PodDisruptionBudget"
        known = budget or isinstance(action, WHILE_ASLEEP)
        return "" if known else "the Partition sleeps"
    if spec.hibernated and isinstance(action, actions.Apply):
        return "its pods are ended in a backfill" if truth.backfills and _shrinks(action) else ""
    if isinstance(action, actions.GiveUpVolume) and not action.keep and spec.keep_replaced:
        return "the volume shall be kept"
    return _harm(action, truth)


def _is_harmless(action: Action) -> bool:
    """Whether it may be taken of a paused Partition: certificates, fences, and what keeps the data
    if the Partition is deleted."""
    match action:
        case actions.RepairLabels(kind, _, _, _, _):
            return kind == "Secret"
        case actions.SetFinalizer(present):
            return present
        case actions.OwnClaim(_, _, owned):
            return not owned
    return isinstance(action, WHILE_PAUSED)


def _shrinks(action: actions.Apply) -> bool:
    return action.body["kind"] == "StatefulSet" and not action.body["spec"]["replicas"]


def _harm(action: Action, truth: Truth) -> str:
    match action:
        case actions.GiveUpVolume(ordinal, _, _, _):
            return _of_volume(truth, ordinal)
        case actions.EvictPod(ordinal, _):
            return _of_pod(truth, ordinal)
        case actions.Delete("Pod", name, _) if name != names.restore_pod(NAME):
            return _of_pod(truth, int(name.rpartition("-")[2]))
        case actions.RemoveMember(_, member, _) if member in truth.voters:
            return _of_voters(truth.voters - {member}, truth.up)
        case actions.PromoteLearner(_, member, _):
            return _of_voters(truth.voters | {member}, truth.active)
        case actions.DeleteUnchanged(kind, _, _, _):
            return f"a {kind} with data is deleted" if truth.members else ""
        case actions.Apply(body) if body["kind"] == "StatefulSet":
            return _of_size(truth, int(body["spec"]["replicas"]))
    return ""


def _of_voters(voters: frozenset[int], sound: frozenset[int]) -> str:
    """Of the voters after a change."""
    enough = 2 * len(sound & voters) > len(voters)
    return "" if enough else f"of the voters {sorted(voters)} only {sorted(sound)} run"


def _of_volume(truth: Truth, ordinal: int) -> str:
    """Of a volume that is given up: a copy of the data goes."""
    if truth.leaving:
        return f"claims {sorted(truth.leaving)} are being deleted already"
    member = truth.member_at.get(ordinal, 0)
    if member in truth.voters and not truth.is_quorum(truth.sound - {member}):
        return "the other sound copies are no majority of the voters"
    return ""


def _of_pod(truth: Truth, ordinal: int) -> str:
    """Of a pod that is ended."""
    member = truth.member_at.get(ordinal, 0)
    if member not in truth.active & truth.voters or len(truth.voters) == 1:
        return ""
    for kind, members in (("is active", truth.active), ("has caught up", truth.caught_up)):
        is_last = truth.is_quorum(members) and not truth.is_quorum(members - {member})
        if truth.leader and is_last:
            return f"without it no majority of the voters {kind}"
    if member == truth.leader and truth.sound & truth.voters - {member}:
        return "it leads, and another voter could take over"
    return ""


def _of_size(truth: Truth, size: int) -> str:
    gone = {m for o, m in truth.member_at.items() if size <= o < truth.size}
    return f"members {sorted(gone & truth.members)} lose their pods" if gone & truth.members else ""
