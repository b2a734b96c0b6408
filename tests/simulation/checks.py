"""What must hold, whatever fails. Each check has a name; the first violation ends the run.

- `term`: one leader a term, one vote a member and term.
- `durable term`: no message of a term, and no vote, leaves before it is durable.
- `log matching`: entries with equal index and term are equal, and so are those before them.
- `committed`: what one replica applied at an LSN is what every replica applies there.
- `leader completeness`: a new leader has everything that was committed before its term.
- `durable`: what was acknowledged is durable on a quorum; a log that was closed by a crash opens
  with everything that was committed to it.
- `state`: states at equal LSNs are equal, row by row, but for the table `unapplied`.
- `blob`: what a log or a state names is on that replica's disk; its content is read at each start.
- `snapshot`: what a snapshot on its way names is on the sender's disk until it has arrived.
- `hello`: no replica is taken for one that was rolled back.
- `fatal`, `start`, `exception`: no replica ends itself, refuses to start, or fails unseen.
- `history`: nobody is served in another history than the one named (clients.py, consumers.py,
  wire.py), and no session is used in a history that it was not opened in.
- `tail`: who follows the log is given the entries of one history, in order (tails.py).
- `client`, `final`, `liveness`: in clients.py and history.py, and at the end of a run.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import partition_raft as raft
from partition_replica.core.model import Configuration, LogBatch, LogEntry, Position
from partition_replica.ids import DIGEST_BYTES, Digest
from partition_replica.storage.memory import MemoryView
from partition_replica.storage.state import LmdbState
from partition_replica.storage.state_tables import TABLES
from partition_replica.storage.volume import Volume

from tests.simulation.loop import Process, VirtualLoop
from tests.simulation.trace import Trace

if TYPE_CHECKING:
    from tests.simulation.node import Node

REPLICATED = tuple(name for name in TABLES if name != "unapplied")

# eraftpb's numbers.
APPEND, VOTE_RESPONSE, HEARTBEAT, HEARTBEAT_RESPONSE = 3, 6, 8, 9
KINDS = {
    APPEND: "append",
    4: "append response",
    5: "vote request",
    VOTE_RESPONSE: "vote",
    7: "snapshot",
    HEARTBEAT: "heartbeat",
    HEARTBEAT_RESPONSE: "heartbeat response",
    14: "timeout now",
    17: "pre-vote request",
    18: "pre-vote",
}

PRE_VOTES = (17, 18)

CONFIGURATIONS_KEPT = 4


class Violation(Exception):
    """A check failed."""

    def __init__(self, check: str, text: str) -> None:
        super().__init__(check, text)  # as it is made anew in another process
        self.check = check
        self.text = text

    def __str__(self) -> str:
        return f"{self.check}: {self.text}"


@dataclass(slots=True)
class StoredLog:
    """What is durable of one member's log, since its volume is new; nothing is compacted here."""

    boundary: tuple[int, int] = (1, 1)
    entries: dict[int, LogEntry] = field(default_factory=dict)
    last: int = 1

    def term(self, index: int) -> int | None:
        if index == self.boundary[0]:
            return self.boundary[1]
        entry = self.entries.get(index)
        return None if entry is None else entry.term

    def has(self, index: int, term: int) -> bool:
        return index <= self.boundary[0] or self.term(index) == term

    def reaches(self, index: int) -> bool:
        return index <= self.last


class Verdict:
    """The first violation of a run. `failure` is done once there is one."""

    def __init__(self, loop: VirtualLoop, trace: Trace) -> None:
        self._trace = trace
        self.failed: Violation | None = None
        self.failure = loop.create_future()

    def violated(self, check: str, text: str, cause: BaseException | None = None) -> None:
        if self.failed is not None:
            return
        self._trace.remark("checks", f"VIOLATION {check}: {text}")
        self.failed = Violation(check, text)
        self.failed.__cause__ = cause
        self.failure.set_result(None)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a restored history begins: behind `position` of the history `before`."""

    before: "Checks"
    position: Position


class Checks:
    """Of one history of the group, told by everybody. `history` is its ID; `number` its place among
    the histories of a run, for the trace, because IDs differ from run to run."""

    def __init__(
        self,
        verdict: Verdict,
        trace: Trace,
        *,
        history: str,
        cluster: str,
        number: int = 1,
        origin: Origin | None = None,
    ) -> None:
        self._verdict = verdict
        self._trace = trace
        self.history = history
        self.cluster = cluster
        self.number = number
        self.origin = origin
        self.start = 1 if origin is None else int(origin.position.index)
        """The LSN that the history begins behind."""
        self.over = False
        self.base: MemoryView | None = None
        """The state that it begins with, where that is a restored one."""
        self.logs: dict[int, StoredLog] = {}
        self._storing: dict[int, LogBatch] = {}
        self.committed: dict[int, LogEntry] = {}
        self.acknowledged: dict[int, tuple[str, int, int]] = {}
        """By LSN: whose it is, its session and sequence."""
        self.acknowledged_terms: dict[int, int] = {}
        self._by_position: dict[tuple[int, int], tuple[LogEntry, int]] = {}
        self._leaders: dict[int, int] = {}
        self._votes: dict[tuple[int, int], int] = {}
        self._term_seen = 0
        self._committed_in: dict[int, int] = {}
        self._states: dict[int, tuple[str, str]] = {}
        self._applied: dict[str, int] = {}
        self._configurations: list[Configuration] = []
        self._outgoing: dict[str, list[set[Digest]]] = {}

    def violated(self, check: str, text: str, cause: BaseException | None = None) -> None:
        self._verdict.violated(check, text, cause)

    def founded(self, member: int) -> None:
        """A restore made the first member's volume: its log goes on behind the origin."""
        assert self.origin is not None, "a restored history has one"
        index, term = self.origin.position.index, self.origin.position.term
        self.logs[member] = StoredLog(boundary=(index, term), last=index)

    # --- the wire -----------------------------------------------------------------------------

    def sent(self, node: "Node", encoded: bytes) -> None:
        message = raft.Message.decode(encoded)
        kind, term = message.kind, message.term
        self._trace.event(
            node.name,
            "sends",
            f"{KINDS.get(kind, kind)} to {message.to} term {term} at {message.index} "
            f"commit {message.commit} entries {message.entry_count}"
            + (" rejects" if message.reject else ""),
            quiet=kind in (HEARTBEAT, HEARTBEAT_RESPONSE),
        )
        self._check_durable_term(node, message)
        if kind in (APPEND, HEARTBEAT):
            leader = self._leaders.get(term)
            if leader is None:
                self._new_leader(node, term)
            elif leader != node.member:
                self.violated("term", f"members {leader} and {node.member} lead term {term}")
        elif kind == VOTE_RESPONSE and not message.reject:
            voted = self._votes.setdefault((node.member, term), message.to)
            if voted != message.to:
                self.violated(
                    "term", f"{node.name} votes for {voted} and {message.to} in term {term}"
                )

    def _check_durable_term(self, node: "Node", message: raft.Message) -> None:
        """Nothing of a term leaves before that term, and a vote in it, is durable: the sender could
        forget it, and act in the same term again. Pre-votes ask about a term that is not begun."""
        if message.kind in PRE_VOTES or node.volume is None:
            return
        saved = node.volume.log.hard_state
        if message.term > saved.term:
            self.violated(
                "durable term",
                f"{node.name} sends {KINDS.get(message.kind, message.kind)} of term {message.term};"
                f" durable is {saved.term}",
            )
        granted = message.kind == VOTE_RESPONSE and not message.reject
        if granted and (saved.term, saved.vote) != (message.term, message.to):
            self.violated(
                "durable term",
                f"{node.name} votes for {message.to} in term {message.term}; durable is a vote for "
                f"{saved.vote} in {saved.term}",
            )

    def _new_leader(self, node: "Node", term: int) -> None:
        self._leaders[term] = node.member
        self._trace.event(node.name, "leads", f"term {term}")
        self._trace.count("leaders")
        log = self.logs.setdefault(node.member, StoredLog())
        for index, entry in self.committed.items():
            if self._committed_in[index] < term and not log.has(index, entry.term):
                self.violated(
                    "leader completeness",
                    f"{node.name} leads term {term} without entry {index} of term {entry.term}, "
                    f"committed in term {self._committed_in[index]} or before",
                )
        self._term_seen = max(self._term_seen, term)

    # --- the log ------------------------------------------------------------------------------

    def storing(self, node: "Node", batch: LogBatch) -> None:
        """The log begins to write a batch. If it is killed meanwhile, it may have it or not."""
        self._storing[node.member] = batch

    def stored(self, node: "Node", batch: LogBatch) -> None:
        self._storing.pop(node.member, None)
        log = self.logs.setdefault(node.member, StoredLog())
        if batch.snapshot is not None:
            position = batch.snapshot.position
            self._trace.event(node.name, "adopts", f"a snapshot at {position.index}")
            self._trace.count("snapshots adopted")
            log.entries.clear()
            log.boundary, log.last = (position.index, position.term), position.index
            self._check_committed_term(node, position.index, position.term)
        for entry in batch.entries:
            if entry.index <= log.last:
                self._trace.count("entries overwritten", log.last - entry.index + 1)
                for index in range(entry.index, log.last + 1):
                    log.entries.pop(index, None)
            previous = log.term(entry.index - 1)
            log.entries[entry.index] = entry
            log.last = entry.index
            if previous is None:
                self.violated("log matching", f"{node.name} stores {entry.index} behind a hole")
                return
            known = self._by_position.setdefault((entry.index, entry.term), (entry, previous))
            if known != (entry, previous):
                self.violated(
                    "log matching",
                    f"{node.name} stores another entry at index {entry.index}, term {entry.term}",
                )
        if batch.entries:
            first, last = batch.entries[0], batch.entries[-1]
            self._trace.event(node.name, "stores", f"{first.index} to {last.index}")

    def _check_committed_term(self, node: "Node", index: int, term: int) -> None:
        known = self.committed.get(index)
        if known is not None and known.term != term:
            self.violated(
                "committed", f"{node.name} has term {term} at {index}, others {known.term}"
            )

    # --- the state ----------------------------------------------------------------------------

    def configured(self, configuration: Configuration) -> None:
        """An engine or a log has it. A leader's engine acknowledges by it at once, before it is on
        the leader's disk: the entry of the change is, on a quorum of the one before."""
        if configuration not in self._configurations and configuration.voters:
            self._configurations.append(configuration)
            del self._configurations[:-CONFIGURATIONS_KEPT]

    def worked(self, node: "Node", process: Process) -> None:
        """Something was done on one of its threads."""
        volume = node.volume
        if volume is None or not process.alive or node.process is not process:
            return
        self.configured(volume.log.configuration[1])
        applied = volume.state.applied
        before = self._applied.get(process.name)
        if applied.index == before:
            return
        self._applied[process.name] = applied.index
        self._trace.event(node.name, "applied", f"{applied.index}", quiet=True)
        self._note_committed(node, before, applied.index)
        self._check_committed_term(node, applied.index, applied.term)
        digest = state_digest(volume.state)
        name, known = self._states.setdefault(applied.index, (node.name, digest))
        if known != digest:
            self.violated("state", f"{node.name} and {name} differ at {applied.index}")

    def _note_committed(self, node: "Node", before: int | None, applied: int) -> None:
        log = self.logs.setdefault(node.member, StoredLog())
        first = applied if before is None else before + 1
        for index in range(max(first, log.boundary[0] + 1), applied + 1):
            entry = log.entries.get(index)
            if entry is None:
                self.violated("durable", f"{node.name} applied {index}, which its log lacks")
                return
            if index not in self.committed:
                self.committed[index] = entry
                self._committed_in[index] = self._term_seen
                self._check_quorum(index, entry.term)
            elif self.committed[index] != entry:
                self.violated("committed", f"{node.name} applied another entry at {index}")

    def _check_quorum(self, index: int, term: int) -> None:
        """Of one of the last configurations: which one counted is known to the leader alone."""
        holders = {member for member, log in self.logs.items() if log.has(index, term)}
        if self._configurations and not any(c.is_quorum(holders) for c in self._configurations):
            self.violated("durable", f"entry {index} counts, and is on members {holders} only")

    def acknowledge(self, index: int, term: int, append: tuple[str, int, int]) -> None:
        """A client's append was answered: it took effect with that entry."""
        if self.acknowledged_terms.setdefault(index, term) != term:
            self.violated("committed", f"{append} was told of another term at {index}: {term}")
        if self.acknowledged.setdefault(index, append) != append:
            self.violated(
                "committed", f"{append} and {self.acknowledged[index]} were told of LSN {index}"
            )
        configurations = self._configurations
        holders = {member for member, log in self.logs.items() if log.reaches(index)}
        if configurations and not any(c.is_quorum(holders) for c in configurations):
            self.violated("durable", f"{index} is acknowledged, and only {holders} reach it")

    # --- starts and ends ----------------------------------------------------------------------

    def started(self, node: "Node") -> None:
        volume, process = node.volume, node.process
        if volume is None or process is None:
            return
        log = self.logs.setdefault(node.member, StoredLog())
        last = volume.log.last
        storing = self._storing.pop(node.member, None)
        if storing is not None and storing.entries and storing.snapshot is None:
            end = storing.entries[-1]
            if (end.index, end.term) == (last.index, last.term):
                self.stored(node, storing)
        if volume.log.boundary.index and (last.index, last.term) != (log.last, log.term(log.last)):
            self.violated(
                "durable",
                f"{node.name} starts with a log up to {last}, and stored one up to {log.last}",
            )
        self.worked(node, process)
        self.check_blobs(node, read=True)

    def check_blobs(self, node: "Node", *, read: bool = False) -> None:
        volume = node.volume
        if volume is None or volume.log.identity.cluster_id == "":
            return
        sizes = dict(volume.state.blobs())
        for digest in sorted(set(sizes) | log_blobs(volume)):
            path = volume.blobs.path(digest)
            if not path.exists():
                where = "state" if digest in sizes else "log"
                self.violated("blob", f"the {where} of {node.name} names {digest.hex()[:12]}: gone")
            elif digest in sizes and path.stat().st_size != sizes[digest]:
                self.violated("blob", f"{digest.hex()[:12]} at {node.name} has another size")
            elif read and hashlib.sha256(path.read_bytes()).digest() != digest:
                self.violated("blob", f"{digest.hex()[:12]} at {node.name} has another content")

    def blob_removed(self, node: "Node", process: Process, path: Path) -> None:
        volume = node.volume
        digest = Digest(bytes.fromhex(path.name))
        self._trace.count("blobs collected")
        if volume is None or not process.alive or node.process is not process:
            return
        self._trace.event(node.name, "collects", digest.hex()[:12])
        if volume.garbage.names_blob(digest):
            self.violated("blob", f"{node.name} collects {digest.hex()[:12]}, which is named")
        if any(digest in blobs for blobs in self._outgoing.get(process.name, [])):
            self.violated(
                "snapshot",
                f"{node.name} collects {digest.hex()[:12]}, which a snapshot on its way names",
            )

    @contextmanager
    def snapshot_under_way(self, node: "Node", file: Path) -> Iterator[None]:
        """While it is sent."""
        process, volume = node.process, node.volume
        if process is None or volume is None or not file.exists():
            yield
            return
        copy = LmdbState(file.parent, read_only=True)
        blobs = {digest for digest, _ in copy.blobs()}
        copy.close()
        for digest in sorted(blobs):
            if not volume.blobs.path(digest).exists():
                self.violated(
                    "snapshot", f"{node.name} sends a snapshot that names {digest.hex()[:12]}: gone"
                )
        outgoing = self._outgoing.setdefault(process.name, [])
        outgoing.append(blobs)
        try:
            yield
        finally:
            outgoing.remove(blobs)


def state_digest(state: LmdbState) -> str:
    """Of all rows that are the same on every replica at the same LSN."""
    found = hashlib.sha256()
    with state.environment.begin() as txn:
        for name in REPLICATED:
            found.update(b"%d" % len(name))
            for key, row in txn.cursor(getattr(state.tables, name)):
                found.update(b"%d,%d:" % (len(key), len(row)))
                found.update(key)
                found.update(row)
    return found.hexdigest()


def log_blobs(volume: Volume) -> set[Digest]:
    """What the stored entries name."""
    with volume.log.environment.begin() as txn:
        cursor = txn.cursor(volume.log.tables.payload)
        return {
            Digest(bytes(key[:DIGEST_BYTES])) for key in cursor.iternext(keys=True, values=False)
        }
