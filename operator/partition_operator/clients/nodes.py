"""What the operator knows of nodes: those that are cordoned or out of service, told by a watch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"
"""Kubernetes' taint on a node that an administrator declares to be off."""


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """cordoned: no pod shall be placed on it, as before a drain. out_of_service: it is declared to
    be off, so its pods do not run any more."""

    cordoned: bool = False
    out_of_service: bool = False


SOUND = NodeFacts()


def facts(spec: dict[str, Any]) -> NodeFacts:
    """spec: of a Node."""
    taints = spec.get("taints") or []
    return NodeFacts(
        cordoned=bool(spec.get("unschedulable")),
        out_of_service=any(taint.get("key") == OUT_OF_SERVICE for taint in taints),
    )


class NodeBook:
    """The nodes that are not as usual; so it stays small. On the event loop of the turns.

    changed: called with the name of a node that was cordoned, uncordoned, declared to be off, or
    deleted."""

    def __init__(self, changed: Callable[[str], None]) -> None:
        self._changed = changed
        self._unusual: dict[str, NodeFacts] = {}

    def note(self, name: str, found: NodeFacts | None) -> None:
        """found: None if the node was deleted."""
        before = self._unusual.get(name, SOUND)
        if found is None or found == SOUND:
            self._unusual.pop(name, None)
        else:
            self._unusual[name] = found
        if found != before:
            self._changed(name)

    def is_cordoned(self, name: str) -> bool:
        return self._unusual.get(name, SOUND).cordoned
