"""One member's Raft engine. It follows the steps in partition_raft's package docstring."""

import logging

import partition_raft as raft

from partition_replica.core.model import (
    Configuration,
    HardState,
    LogEntry,
    Position,
)
from partition_replica.core.ports import EntryReader
from partition_replica.engine.entries import RecentEntries, to_entry
from partition_replica.engine.port import (
    EngineSettings,
    EngineStatus,
    Ready,
    SnapshotSource,
    TransferHeader,
)
from partition_replica.errors import Compacted
from partition_replica.ids import LSN, MemberID, Term

logger = logging.getLogger(__name__)


class RaftEngine:
    """Implements engine.port.Engine. Created at each start from the durable log."""

    def __init__(
        self,
        member: MemberID,
        log: EntryReader,
        applied: LSN,
        settings: EngineSettings,
        snapshot_source: SnapshotSource,
    ) -> None:
        """Raises partition_raft.InvalidConfig if the data on disk contradicts itself."""
        boundary, last, hard_state = log.boundary, log.last, log.hard_state
        # Applied entries were committed, even if the commit index was not saved since. So was the
        # entry of the saved configuration. It must count: a new voter without which nothing is
        # committed may first need a state transfer, and a state is captured only after this entry.
        commit = max(hard_state.commit, applied, min(log.configuration[0], last.index))
        tail_first = max(int(boundary.index) + 1, min(int(commit) + 1, int(last.index) + 1))
        tail = (
            log.entries(LSN(tail_first), LSN(last.index + 1), None)
            if (tail_first <= last.index)
            else []
        )
        self._recent = RecentEntries(settings.entry_cache_bytes_max)
        timeout = settings.election_timeout_ticks
        self._node = raft.Node(
            raft.Config(
                member,
                election_tick=settings.election_tick,
                heartbeat_tick=settings.heartbeat_tick,
                min_election_tick=timeout,
                max_election_tick=timeout + 1 if timeout else 0,
                max_uncommitted_size=settings.uncommitted_bytes_max,
                mirror_bytes_max=settings.entry_cache_bytes_max,
            ),
            hard_state=raft.HardState(hard_state.term, hard_state.vote, commit),
            conf_state=to_conf_state(log.configuration[1]),
            boundary=(boundary.index, boundary.term),
            last=(last.index, last.term),
            applied=applied,
            entries=[to_entry(entry) for entry in tail],
            storage=_ColdStorage(log, snapshot_source),
            logger=logger,
        )

    def tick(self) -> None:
        self._node.tick()

    def ticks_to_act(self) -> int:
        return self._node.ticks_to_act()

    def only_a_sign_of_life(self, message: raft.Message) -> bool:
        return self._node.only_a_sign_of_life(message)

    def campaign(self) -> None:
        self._node.campaign()

    def step(self, message: raft.Message) -> None:
        self._node.step(message)

    def propose(self, data: list[bytes]) -> tuple[LSN, Term]:
        """Proposes consecutive entries; returns (index of the first, term)."""
        index, term = self._node.propose(data)
        return LSN(index), Term(term)

    def announce_commit(self) -> None:
        self._node.announce_commit()

    def propose_change(
        self, changes: list[tuple[raft.ChangeKind, int]], context: bytes
    ) -> tuple[LSN, Term]:
        index, term = self._node.propose_conf_change(
            [(int(kind), member) for kind, member in changes], False, context
        )
        return LSN(index), Term(term)

    def apply_change(self, entry: LogEntry) -> Configuration:
        return from_conf_state(self._node.apply_conf_change(to_entry(entry)))

    def take_ready(self) -> Ready | None:
        """Returns the next batch and advances the engine past it; None if nothing is to do."""
        if not self._node.has_ready():
            return None
        ready = self._node.ready()
        self._node.advance_append_async()
        soft = ready.soft_state
        if ready.snapshot is not None:
            self._recent.clear()
        return Ready(
            number=ready.number,
            role=soft.role if soft else None,
            leader=soft.leader_id if soft else 0,
            hard_state=_from_hard_state(ready.hard_state),
            entries=self._recent.convert(ready.entries),
            snapshot=_from_snapshot(ready.snapshot),
            messages=ready.messages,
            persisted_messages=ready.persisted_messages,
            committed=self._recent.committed(ready.committed_entries),
            read_states=ready.read_states,
            must_sync=ready.must_sync,
            hold_messages=ready.term_or_vote_changed,
        )

    def persisted(self, number: int) -> None:
        """Reports that everything up to Ready `number` is durable."""
        self._node.on_persist_ready(number)

    def applied_to(self, index: LSN) -> None:
        self._node.advance_apply_to(index)

    def read_index(self, context: bytes) -> None:
        self._node.read_index(context)

    def transfer_leader(self, member: int) -> None:
        self._node.transfer_leader(member)

    def report_unreachable(self, member: int) -> None:
        self._node.report_unreachable(member)

    def report_snapshot(self, member: int, succeeded: bool) -> None:
        self._node.report_snapshot(member, succeeded)

    def compact(self, boundary: Position) -> None:
        """Drops the log up to and including `boundary`, which must be applied."""
        self._node.compact(boundary.index, boundary.term)

    def committed_in_term(self) -> bool:
        return self._node.committed_to_current_term()

    def may_serve(self, applied: Position) -> bool:
        return applied.term == self._node.status().term

    def status(self) -> EngineStatus:
        return self._node.status()

    def configuration(self) -> Configuration:
        return from_conf_state(self._node.conf_state())


class _ColdStorage:
    """Gives the engine those entries of the log that its entry cache doesn't have."""

    def __init__(self, log: EntryReader, snapshot_source: SnapshotSource) -> None:
        self._log = log
        self._snapshot_source = snapshot_source

    def entries(self, lo: int, hi: int, max_bytes: int) -> list[raft.Entry]:
        try:
            found = self._log.entries(LSN(lo), LSN(hi), max_bytes)
        except Compacted as error:
            raise raft.Compacted(str(error)) from error
        return [to_entry(entry) for entry in found]

    def term(self, index: int) -> int:
        try:
            return self._log.term(LSN(index))
        except Compacted as error:
            raise raft.Compacted(str(error)) from error

    def snapshot(self, request_index: int, to: int) -> raft.Snapshot | None:
        header = self._snapshot_source(request_index, to)
        if header is None:
            return None
        return raft.Snapshot(
            header.position.index,
            header.position.term,
            to_conf_state(header.configuration),
            header.manifest,
        )


def to_conf_state(configuration: Configuration) -> raft.ConfState:
    return raft.ConfState(
        list(configuration.voters),
        list(configuration.learners),
        list(configuration.voters_outgoing),
        list(configuration.learners_next),
        configuration.auto_leave,
    )


def from_conf_state(conf: raft.ConfState) -> Configuration:
    return Configuration(
        tuple(conf.voters),
        tuple(conf.learners),
        tuple(conf.voters_outgoing),
        tuple(conf.learners_next),
        conf.auto_leave,
    )


def _from_hard_state(state: raft.HardState | None) -> HardState | None:
    if state is None:
        return None
    return HardState(Term(state.term), MemberID(state.vote), LSN(state.commit))


def _from_snapshot(snapshot: raft.Snapshot | None) -> TransferHeader | None:
    if snapshot is None:
        return None
    return TransferHeader(
        Position(LSN(snapshot.index), Term(snapshot.term)),
        from_conf_state(snapshot.conf_state),
        snapshot.data,
    )
