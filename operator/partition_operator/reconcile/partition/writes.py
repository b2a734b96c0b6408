"""The condition ObjectsApplied: the results of the operator's writes. Pure.

A refused write does not stop the steps that do not need it.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from partition_operator.api import names, schema
from partition_operator.api.events import Event
from partition_operator.api.words import Reason
from partition_operator.reconcile.observed.last_write import CALM, Key, held, pause_s
from partition_operator.reconcile.observed.partition import ObservedPartition
from partition_operator.reconcile.partition import actions
from partition_operator.reconcile.partition.actions import Action
from partition_operator.reconcile.partition.conditions import Condition
from partition_operator.resources.common import content_hash

TYPE: Final = "ObjectsApplied"
UNDONE = "ChangedByOthers"
CERTIFICATE = "certificate"
TRUST = "trust"
CLIENTS = "clients"
"""Used instead of a content hash: each new certificate differs, and so may its authorities."""


@dataclass(frozen=True, slots=True)
class PendingWrites:
    """keys: objects that differ from the wanted ones. altered: objects that the API server stored
    otherwise than applied, each with the path of the difference; an admission webhook may do so."""

    keys: tuple[Key, ...] = ()
    altered: dict[Key, str] = field(default_factory=dict)

    def also(self, action: Action | None, partition: str) -> "PendingWrites":
        """Returns these writes and the one of `action`."""
        found = target(action, partition) if action is not None else None
        if found is None or found[0] in self.keys:
            return self
        return PendingWrites((*self.keys, found[0]), self.altered)


def target(  # noqa: C901, PLR0911, PLR0912  # a flat match over actions
    action: Action, partition: str
) -> tuple[Key, str] | None:
    """Returns the object that the action writes and a hash of the content; None if it writes no
    object."""
    match action:
        case actions.Apply(body) | actions.CreatePod(body) | actions.CreateClaim(body):
            return (body["kind"], body["metadata"]["name"]), content_hash(body)
        case actions.IssueCertificate(secret, _, _):
            return ("Secret", secret), CERTIFICATE
        case actions.TrustAuthority(secret, _):
            return ("Secret", secret), TRUST
        case actions.WriteClients(secret, _):
            return ("Secret", secret), CLIENTS
        case actions.RepairLabels(kind, name, _, labels, owned):
            text = f"{sorted(labels.items())} {owned}"
            return (kind, name), hashlib.sha256(text.encode()).hexdigest()
        case actions.AnnotateClaim(ordinal, cluster_id):
            return ("PersistentVolumeClaim", names.claim(partition, ordinal)), cluster_id
        case actions.GrowClaim(ordinal, _, size):
            return ("PersistentVolumeClaim", names.claim(partition, ordinal)), f"size {size}"
        case actions.ModifyClaim(ordinal, _, attributes_class):
            return (
                ("PersistentVolumeClaim", names.claim(partition, ordinal)),
                f"attributes {attributes_class}",
            )
        case actions.OwnClaim(ordinal, _, owned):
            return ("PersistentVolumeClaim", names.claim(partition, ordinal)), f"owned {owned}"
        case actions.SetFinalizer(present):
            return (names.KIND, partition), f"finalizer {present}"
        case actions.CreateSnapshot(body):
            return (body["kind"], body["metadata"]["name"]), content_hash(body)
        case actions.GiveUpVolume(ordinal, uid, _, _):
            return ("PersistentVolumeClaim", names.claim(partition, ordinal)), f"give up {uid}"
        case actions.OrphanPods(name, uid, _):
            return ("StatefulSet", name), f"orphan {uid}"
        case actions.Delete(kind, name, uid) | actions.DeleteUnchanged(kind, name, uid, _):
            return (kind, name), f"delete {uid}"
    return None


def is_held(observed: ObservedPartition, action: Action) -> bool:
    """Whether the action must wait for its next try."""
    found = target(action, observed.partition.name)
    return found is not None and held(observed.writes.get(found[0]), found[1], observed.now)


def refusal(observed: ObservedPartition, action: Action) -> str:
    """Returns the object and the API server's words if it refused this action the last time; "" if
    it did not."""
    found = target(action, observed.partition.name)
    last = observed.writes.get(found[0]) if found is not None else None
    if found is None or last is None or last.wanted != found[1] or not last.refusal:
        return ""
    return f"{_name(found[0])}: {last.refusal}"


def first_free(observed: ObservedPartition, found: Iterable[Action]) -> Action | None:
    """Returns the first action that need not wait, or None."""
    return next((action for action in found if not is_held(observed, action)), None)


def retry_s(observed: ObservedPartition, pending: PendingWrites) -> float | None:
    """Returns the seconds until the next waiting write is due; None if no write waits."""
    pauses = [
        pause
        for key in pending.keys
        if (write := observed.writes.get(key)) is not None
        and (pause := pause_s(write, observed.now)) is not None
    ]
    return min(pauses, default=None)


def explain(
    found: list[Condition], observed: ObservedPartition, pending: PendingWrites
) -> list[Condition]:
    """Returns the conditions and ObjectsApplied. While the API server refuses an object of the
    spec, the Partition is not Ready, although its replicas may serve."""
    condition = applied(observed, pending)
    if condition.reason != Reason.OBJECT_REFUSED:
        return [*found, condition]
    ready = next(c for c in found if c.type == "Ready")
    if ready.reason in (Reason.VOLUME_LOST, Reason.QUORUM_LOST):
        # No object restores the data. The message of Ready contains what does.
        return [*found, condition]
    serves = f"; meanwhile: {ready.message}" if ready.status else ""
    told = Condition("Ready", False, Reason.OBJECT_REFUSED, condition.message + serves)
    return [*(told if c.type == "Ready" else c for c in found), condition]


def word(found: list[Condition]) -> str:
    """Returns the word for the STATUS column if a write is refused; otherwise ""."""
    return (
        Reason.OBJECT_REFUSED
        if any(c.type == "Ready" and c.reason == Reason.OBJECT_REFUSED for c in found)
        else ""
    )


def event(old: schema.Condition | None, new: schema.Condition) -> Event | None:
    """Returns the event for a change of ObjectsApplied. A new text of a refusal is a new event."""
    if old is not None and _said(old) == _said(new):
        return None
    if new["status"] == "False":
        return Event("Warning", new["reason"], new["message"])
    if old is not None and old["status"] == "False":
        return Event("Normal", TYPE, new["message"])
    return None


def _said(condition: schema.Condition) -> tuple[str, str, str]:
    return condition["status"], condition["reason"], condition["message"]


def applied(observed: ObservedPartition, pending: PendingWrites) -> Condition:
    """Returns the condition ObjectsApplied."""
    refused = {
        key: write.refusal
        for key in pending.keys
        if (write := observed.writes.get(key)) is not None and write.refusal
    }
    if observed.pods_refused:
        refused["pods of StatefulSet", observed.partition.name] = observed.pods_refused
    if refused:
        text = "; ".join(f"{_name(key)}: {words}" for key, words in refused.items())
        message = f"the API server refuses {text} (the operator retries)"
        return Condition(TYPE, False, Reason.OBJECT_REFUSED, message)
    # Also for CALM after the last write, because the other writer is likely to change it again.
    undone = [
        key
        for key, write in sorted(observed.writes.items())
        if write.undone and write.at <= observed.now < write.at + CALM
    ]
    if undone:
        message = (
            f"another writer keeps changing {_names(undone)}: a webhook, a policy or another "
            "controller; the operator writes it again at most every 5 minutes. `kubectl get -o "
            "yaml --show-managed-fields` shows the writers"
        )
        return Condition(TYPE, False, UNDONE, message)
    if pending.altered:
        text = ", ".join(f"{_name(key)} ({path})" for key, path in pending.altered.items())
        message = f"an admission webhook changes applied objects; the operator keeps that: {text}"
        return Condition(TYPE, True, "Altered", message)
    return Condition(TYPE, True, "Applied", "the API server accepted every object")


def _names(keys: list[Key]) -> str:
    return ", ".join(_name(key) for key in keys)


def _name(key: Key) -> str:
    return f"{key[0]} {key[1]}"
