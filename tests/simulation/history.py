"""The end of a run: the log that was committed, applied anew to the reference state, against what
the replicas hold and what the clients were told."""

import hashlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from partition_proto.v1 import types_pb2 as types
from partition_replica.core.apply import apply_body
from partition_replica.core.limits import SESSION_TTL_MS_MAX
from partition_replica.core.payloads import decode_body
from partition_replica.storage.memory import MemoryView
from partition_replica.storage.state import LmdbState
from partition_replica.storage.verification import Verification

from tests.simulation.checks import Checks, state_digest

if TYPE_CHECKING:
    from tests.simulation.node import Node
    from tests.simulation.workload import Items

LSN_MAX = 1 << 63
ITEMS_MAX = 100_000


class History:
    """The committed entries of one history in order, applied to `storage.memory`'s dictionaries: to
    empty ones, or to what a snapshot of another history held."""

    def __init__(self, checks: Checks, until: int = LSN_MAX) -> None:
        """until: the last LSN that is applied."""
        self._checks = checks
        self.view = MemoryView()
        if checks.origin is not None:
            self.view = History(checks.origin.before, checks.start).view
            if self.view.sessions:
                # They are over: whoever they belong to has to hear of the restore.
                self.view.clock_ms += SESSION_TTL_MS_MAX + 1
        self._sessions_before = frozenset(self.view.sessions)
        self.effects: dict[tuple[int, int], list[int]] = {}
        """Of each (session, sequence): the LSNs at which it took effect."""
        self.values: dict[tuple[bytes, bytes], list[int]] = {}
        """Of each key and number that was written there: the LSNs at which it was."""
        self.last = checks.start
        for index in sorted(checks.committed):
            if index > until:
                break
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
                if applied.result is not None and not applied.result.precondition_failed:
                    self._note_values(index, body.proposal.operations)

    def _note_values(self, index: int, operations: Iterable[types.Operation]) -> None:
        for operation in operations:
            key, value = operation.set_key.key, operation.set_key.value
            if value.isdigit():
                self.values.setdefault((key, value), []).append(index)

    def check_acknowledged(self) -> None:  # noqa: C901  # one rule after the other
        for (session, sequence), lsns in self.effects.items():
            if len(lsns) > 1:
                self._checks.violated(
                    "final", f"{session}:{sequence} took effect {len(lsns)} times, at {lsns}"
                )
            if session in self._sessions_before:
                self._checks.violated(
                    "history", f"session {session} is of an earlier history and took effect {lsns}"
                )
        for (key, value), lsns in self.values.items():
            if len(lsns) > 1:  # applications count up
                self._checks.violated(
                    "final", f"the write of {value!r} to {key!r} took effect at {lsns}"
                )
        for lsn, term in self._checks.acknowledged_terms.items():
            if self._ended_before(lsn):
                continue
            found = self._checks.committed[lsn].term
            if found != term:
                self._checks.violated(
                    "final", f"a client was told of entry {lsn} of term {term}; it has {found}"
                )
        for lsn, (client, session, sequence) in self._checks.acknowledged.items():
            if self._ended_before(lsn):
                continue
            if self.effects.get((session, sequence)) != [lsn]:
                self._checks.violated(
                    "final",
                    f"{client} was told that {session}:{sequence} took effect at {lsn}; it did at "
                    f"{self.effects.get((session, sequence))}",
                )

    def _ended_before(self, lsn: int) -> bool:
        """Whether a restore ended the group before anybody applied what was acknowledged."""
        return self._checks.over and lsn > self.last

    def check_expected(self, client: str, expected: "Items") -> None:
        for (kind, name), possible in sorted(expected.items()):
            if kind == "key":
                found = self.view.values.get(name)
            else:
                node = self.view.nodes.get(name)
                found = node.digest if node is not None else None
            if found not in possible:
                self._checks.violated(
                    "final", f"{client} finds {found!r} at {name!r}, not one of {possible!r}"
                )

    def check_state(self, name: str, state: LmdbState) -> None:
        if state.applied.index != self.last:
            self._checks.violated(
                "final", f"{name} applied {state.applied.index}, others {self.last}"
            )
        values = dict(state.list_values(b"", b"", ITEMS_MAX, 1 << 40)[0])
        nodes = dict(state.list_tree_entries(b"", b"", True, ITEMS_MAX)[0])
        if values != self.view.values or nodes != self.view.nodes:
            self._checks.violated("final", f"the state of {name} is not that of its log")


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
