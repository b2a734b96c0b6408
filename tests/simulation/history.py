"""The end of a run: the log that was committed, applied anew to the reference state, against what
the replicas hold and what the clients were told."""

import hashlib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from partition_replica.core.apply import apply_body
from partition_replica.core.payloads import decode_body
from partition_replica.storage.memory import MemoryView
from partition_replica.storage.state import LmdbState
from partition_replica.storage.verification import Verification

from tests.simulation.checks import Checks, state_digest

if TYPE_CHECKING:
    from tests.simulation.clients import Client
    from tests.simulation.node import Node

ITEMS_MAX = 100_000


class History:
    """The committed entries in order, applied to `storage.memory`'s dictionaries."""

    def __init__(self, checks: Checks) -> None:
        self._checks = checks
        self.view = MemoryView()
        self.effects: dict[tuple[int, int], list[int]] = {}
        """Of each (session, sequence): the LSNs at which it took effect."""
        self.last = 1
        for index in sorted(checks.committed):
            if index != self.last + 1:
                checks.violated("final", f"nobody stored entry {self.last + 1}, and all applied it")
                return
            self.last = index
            entry = checks.committed[index]
            body = decode_body(entry) if entry.data and not entry.kind else None
            applied = apply_body(self.view, entry.index, entry.term, body)
            if applied.kind == "proposal" and body is not None:
                key = (body.proposal.session_id, body.proposal.sequence)
                self.effects.setdefault(key, []).append(index)

    def check_acknowledged(self) -> None:
        for (session, sequence), lsns in self.effects.items():
            if len(lsns) > 1:
                self._checks.violated(
                    "final", f"{session}:{sequence} took effect {len(lsns)} times, at {lsns}"
                )
        for lsn, term in self._checks.acknowledged_terms.items():
            found = self._checks.committed[lsn].term
            if found != term:
                self._checks.violated(
                    "final", f"a client was told of entry {lsn} of term {term}; it has {found}"
                )
        for lsn, (client, session, sequence) in self._checks.acknowledged.items():
            if self.effects.get((session, sequence)) != [lsn]:
                self._checks.violated(
                    "final",
                    f"{client} was told that {session}:{sequence} took effect at {lsn}; it did at "
                    f"{self.effects.get((session, sequence))}",
                )

    def check_client(self, client: "Client") -> None:
        for (kind, name), possible in sorted(client.expected.items()):
            if kind == "key":
                found = self.view.values.get(name)
            else:
                node = self.view.nodes.get(name)
                found = node.digest if node is not None else None
            if found not in possible:
                self._checks.violated(
                    "final", f"{client.name} finds {found!r} at {name!r}, not one of {possible!r}"
                )

    def check_state(self, node: "Node", state: LmdbState) -> None:
        if state.applied.index != self.last:
            self._checks.violated(
                "final", f"{node.name} applied {state.applied.index}, others {self.last}"
            )
        values = dict(state.list_values(b"", b"", ITEMS_MAX, 1 << 40)[0])
        nodes = dict(state.list_nodes(b"", b"", True, ITEMS_MAX)[0])
        if values != self.view.values or nodes != self.view.nodes:
            self._checks.violated("final", f"the state of {node.name} is not that of its log")


def check_volumes(checks: Checks, nodes: "list[Node]", scratch: Path) -> None:
    """Each as `partition-replica verify` does, and all against each other."""
    digests: Counter[str] = Counter()
    for node in nodes:
        volume = node.volume
        assert volume is not None, "everybody runs at the end"
        checks.check_blobs(node, read=True)
        digests[state_digest(volume.state)] += 1
        report = Verification(
            volume.log,
            volume.state,
            volume.blobs.path,
            volume.blobs.digests,
            scratch / hashlib.sha256(node.name.encode()).hexdigest()[:8],
            live=True,
            progress=lambda *_: None,
        ).run()
        if report.findings:
            checks.violated("final", f"verify finds at {node.name}: {report.findings[:3]}")
    if len(digests) > 1:
        checks.violated("final", f"{len(digests)} different states at the end")
