"""The Raft loop: feeds the engine and carries out its Readys in a safe order.

Raft thesis 10.2.1 and partition_raft's docstring describe the order. A leader sends its messages
while its own disk writes, unless term or vote changed. All other messages are sent once the Ready
is durable. A leader may have several Readys in flight to the disk; other roles wait for the disk
before they feed the engine again.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from partition_replica.core.limits import Limits
from partition_replica.core.model import (
    Configuration,
    LogBatch,
    LogEntry,
    Position,
    StateSwitch,
)
from partition_replica.core.ports import EntryWriter, PeerTransport
from partition_replica.core.proposed_entry import Stamp
from partition_replica.engine.port import (
    Engine,
    EngineStatus,
    InvalidMessage,
    Message,
    MessageKind,
    PeerNotFound,
    ProposalDropped,
    Ready,
    TransferHeader,
)
from partition_replica.ids import LSN, Digest
from partition_replica.runtime.consensus.admission import Admission
from partition_replica.runtime.consensus.applier import Applier
from partition_replica.runtime.consensus.changes import Change, Changes
from partition_replica.runtime.consensus.commit_announcements import CommitAnnouncements
from partition_replica.runtime.consensus.contacts import Contacts
from partition_replica.runtime.consensus.inbox import Inbox
from partition_replica.runtime.consensus.log_writer import LogWriter
from partition_replica.runtime.consensus.loop_hooks import LoopHooks
from partition_replica.runtime.consensus.outbox import Outbox
from partition_replica.runtime.consensus.proposals import PendingProposal, Proposals
from partition_replica.runtime.consensus.roster import Roster
from partition_replica.runtime.consensus.ticker import Ticker
from partition_replica.runtime.consensus.unsaved_commit import UnsavedCommit
from partition_replica.runtime.consensus.waits import ReadIndexes
from partition_replica.runtime.metrics import Metrics
from partition_replica.storage.failpoints import reach
from partition_replica.storage.generations import StateGenerations

logger = logging.getLogger(__name__)

T = TypeVar("T")

VOTE_REQUESTS = frozenset({MessageKind.REQUEST_VOTE, MessageKind.REQUEST_PRE_VOTE})

NAP_TICKS_MAX = 4
"""A follower wakes after this time at the latest: later than its leader's next heartbeat, and far
sooner than an election. A delayed loop counts no more than this before it reads its messages."""

WORK_A_ROUND_MAX = 16
"""Readys handled per round, so that other tasks run, too: after a restart the log may be long."""

BATCHES_ON_DISK_MAX = 1
"""Readys of a leader on its disk at which further proposals wait. What waits is proposed together
when the disk is done."""

READ_INDEX_AGAIN_TICKS = 3
"""A follower asks its leader for a read index again after this time without an answer."""


@dataclass(slots=True)
class _InFlight:
    """A Ready in progress: `messages` are sent once it and all earlier Readys are durable."""

    number: int
    on_disk: bool
    messages: list[Message]
    snapshot: TransferHeader | None = None


class RaftLoop:
    """One member's loop. All methods run on the event loop."""

    def __init__(  # noqa: PLR0913  # takes its parts from the assembly
        self,
        log: EntryWriter,
        states: StateGenerations,
        engine: Engine,
        transport: PeerTransport,
        limits: Limits,
        metrics: Metrics,
        *,
        roster: Roster,
        proposals: Proposals,
        reads: ReadIndexes,
        applier: Applier,
        tick_s: float,
        election_ticks: int,
        wall_ms: Callable[[], int],
        failed: Callable[[BaseException], None],
        log_writer: type[LogWriter] = LogWriter,
        voteless_ticks: int = 0,
    ) -> None:
        """`voteless_ticks`: from the start on, for which this member votes for nobody. It may have
        promised a leader so, and has forgotten it (`lease`)."""
        self._voteless_ticks = voteless_ticks
        self._engine = engine
        self._limits = limits
        self._metrics = metrics
        self._roster = roster
        self._proposals = proposals
        self._reads = reads
        self._applier = applier
        self._ask_again_s = READ_INDEX_AGAIN_TICKS * tick_s
        self._wall_ms = wall_ms
        loop = asyncio.get_running_loop()
        self._now = loop.time
        self._outbox = Outbox(transport, election_ticks * tick_s, self._now)
        self._writer = log_writer(
            log,
            loop,
            metrics,
            persisted=self._persisted,
            failed=failed,
        )
        self._inbox = Inbox(limits)
        self._admission = Admission(states, proposals)
        self._held_number = 0
        self._retired_number = 0
        self._changes = Changes()
        self._in_flight: deque[_InFlight] = deque()
        self._on_disk = 0
        self._durable_number = 0
        self._unsaved_commit = UnsavedCommit()
        self._wake = asyncio.Event()
        self._announcements = CommitAnnouncements(limits.commit_delay_s, self._wake.set)
        self._ticker = Ticker(tick_s, election_ticks, self._wake.set)
        self._contacts = Contacts(
            roster, self._ticker, self._now, lambda: self._engine.status().term
        )
        self._given_hooks: LoopHooks | None = None
        self.role = "follower"
        self._after_round: list[Callable[[], None]] = []

    def start(self, hooks: LoopHooks) -> None:
        """Sets the callbacks and starts the writer. Call it before `run`."""
        self._given_hooks = hooks
        self._writer.start()

    @property
    def _hooks(self) -> LoopHooks:
        assert self._given_hooks is not None, "start() is first"
        return self._given_hooks

    @property
    def leader(self) -> int:
        """The leader's member ID; 0 while no leader is known."""
        return self._roster.leader

    # --- what comes in ------------------------------------------------------------------------

    def receive(self, message: Message, size: int) -> None:
        """Queues a peer's message of `size` bytes, whose blobs must be here already. A message
        above the limits is dropped."""
        self._contacts.received(message)
        is_answer = message.kind == MessageKind.HEARTBEAT_RESPONSE
        if is_answer and self._engine.only_a_sign_of_life(message):
            self._inbox.put_sign_of_life(message)  # wakes nobody
        elif self._inbox.put(message, size):
            self._wake.set()
        else:
            self._metrics.messages_dropped.labels("inbox_full").inc()

    def receive_then(self, message: Message, after: Callable[[], None]) -> None:
        """`receive`; calls `after` at the end of the round that steps the message."""
        self.receive(message, 0)
        self._after_round.append(after)

    def peer_disconnected(self, member: int) -> None:
        """The last stream on which `member` sent its Raft messages has ended, by FIN or RST. If the
        member leads, starts the fast clock (`ticker`). Call it after every `receive` of a message
        of that stream.

        A leader's lease relies on followers that count their ticks by the normal clock: with lease
        reads there is no fast clock."""
        may_hurry = self._reads.lease is None and self.role == "follower"
        if may_hurry and self._contacts.disconnected(member):
            self._metrics.fast_clocks.inc()

    def peer_connected(self, member: int) -> None:
        """A stream of `member` has begun."""
        self._contacts.connected(member)

    def heard_from(self, member: int, within_s: float) -> bool:
        """Whether a member sent a message within `within_s`. raft-rs forgets it at elections."""
        return self._now() - self._contacts.heard_at(member) <= within_s

    def leaderless_s(self) -> float:
        """Seconds without a leader (`Contacts.leaderless_s`)."""
        return self._contacts.leaderless_s(leads=self.role == "leader")

    def propose(self, batch: Sequence[PendingProposal]) -> int:
        """Queues proposals, as many as fit; returns how many. Raises Overloaded if none fits."""
        added = self._proposals.add(batch)
        self._wake.set()
        return added

    def change(self, change: Change) -> None:
        self._changes.add(change)
        self._wake.set()

    # --- the engine, for other parts ----------------------------------------------------------

    def status(self) -> EngineStatus:
        """The engine's status at this moment."""
        return self._engine.status()

    def configuration(self) -> Configuration:
        """The engine's configuration. It may include changes that are not applied yet."""
        return self._engine.configuration()

    def campaign(self) -> None:
        self._engine.campaign()
        self.wake()

    def transfer_leader(self, member: int) -> None:
        if self._reads.lease is not None:
            self._reads.lease.forbid()
        self._engine.transfer_leader(member)
        self.wake()

    def apply_change(self, entry: LogEntry) -> Configuration:
        return self._engine.apply_change(entry)

    def applied_to(self, index: LSN) -> None:
        """Reports that the state has applied everything up to `index`."""
        self._engine.applied_to(index)
        self._wake.set()

    def may_serve(self, applied: Position) -> bool:
        return self._engine.may_serve(applied)

    def report_snapshot(self, member: int, succeeded: bool) -> None:
        """Reports the end of a state transfer to `member`: the engine sends it entries again."""
        self._engine.report_snapshot(member, succeeded)
        self._wake.set()

    def compact(self, boundary: Position) -> None:
        self._engine.compact(boundary)

    def report_unreachable(self, member: int) -> None:
        self._engine.report_unreachable(member)
        self._wake.set()

    def wake(self) -> None:
        self._wake.set()

    def propose_nothing(self) -> None:
        """Proposes an entry without operations, as a new leader does. No caller waits for it."""
        self._engine.propose([b""])
        self._wake.set()

    async def call_writer(self, body: Callable[[], T]) -> T:
        """Runs `body` on the log's writer, between commits (`LogWriter.call`)."""
        return await self._writer.call(body)

    @property
    def last_proposed(self) -> LSN:
        """The engine's last entry, durable or not."""
        return LSN(self._engine.status().last_index)

    async def run(self) -> None:
        self._ticker.start()
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                self._round()
        finally:
            self._ticker.stop()

    def close(self) -> None:
        """Saves an unsaved commit index and ends the writer. Cancel the task of `run` first."""
        self._announcements.close()
        if self._unsaved_commit:
            self._save_commit()
        self._writer.close()

    # --- a round ------------------------------------------------------------------------------

    def _round(self) -> None:
        self._retire()
        if self.role != "leader" and self._on_disk:
            return
        self._feed()
        for _ in range(WORK_A_ROUND_MAX):
            work = self._engine.take_ready()
            if work is None:
                break
            self._handle(work)
            if self.role != "leader" and self._on_disk:
                break
        else:
            self._wake.set()
        if self._unsaved_commit.due(self._now()) and not self._on_disk:
            reach("hard_state.before")
            self._save_commit()
        for body in self._after_round:
            body()
        self._after_round.clear()
        self._ticker.nap(self._quiet_ticks())

    def _quiet_ticks(self) -> int:
        """The ticks that this loop can do without, if nothing else happens: 1 while something waits
        that each round looks at, or while there is no leader."""
        waits = self._in_flight or self._unsaved_commit or self._reads.asked
        if waits or not self._roster.leader:
            return 1
        ticks = self._engine.ticks_to_act()
        return ticks if self.role == "leader" else min(ticks, NAP_TICKS_MAX)

    def _feed(self) -> None:
        for message in self._inbox.take_signs_of_life():
            self._step(message)  # first: a tick may ask who lives
        ticks = self._ticker.take()
        for _ in range(ticks):
            self._engine.tick()
        self._voteless_ticks -= min(ticks, self._voteless_ticks)
        for message in self._inbox.take():
            if self._voteless_ticks and message.kind in VOTE_REQUESTS:
                self._metrics.messages_dropped.labels("voteless").inc()
            else:
                self._step(message)
        if self.role == "leader":
            self._changes.propose(self._engine)
            self._feed_proposals()
            if self._announcements.take():
                self._engine.announce_commit()
            if self._reads.wanted and self._engine.committed_in_term():
                self._engine.read_index(self._reads.start())
        elif self.leader and self._reads.wants_leader(self._now(), self._ask_again_s):
            self._engine.read_index(self._reads.start(leading=False))

    def _step(self, message: Message) -> None:
        try:
            self._engine.step(message)
        except PeerNotFound:
            self._metrics.messages_dropped.labels("not_a_member").inc()
        except InvalidMessage as error:
            self._metrics.messages_dropped.labels("invalid").inc()
            logger.warning("a message of member %x is refused: %s", message.sender, error)

    def _feed_proposals(self) -> None:
        """Group commit: while a batch of this leader's own is on its disk, proposals wait. They
        would wait for that disk anyway, and together they cost one round instead of one each.
        One batch per turn of the disk bounds what is sent to the members at once, too."""
        if self._on_disk >= BATCHES_ON_DISK_MAX:
            return
        while batch := self._proposals.take():
            elapsed_ms = self._admission.begin_batch(self._now(), batch)
            batch = [pending for pending in batch if self._admission.admit(pending)]
            if not batch:
                continue
            stamp = Stamp(time_ms=self._wall_ms(), elapsed_ms=elapsed_ms, term=self._admission.term)
            reach("propose.before")
            try:
                first, term = self._engine.propose(
                    stamp.batch([pending.entry for pending in batch])
                )
            except ProposalDropped:
                status = self._engine.status()
                leads = status.role == "leader" and not status.lead_transferee
                self._proposals.dropped(batch, leads=leads)
                return
            self._announcements.carried()
            self._proposals.proposed(first, term, batch)
            self._admission.proposed()
            self._metrics.proposal_batches.observe(len(batch))
            return

    # --- a Ready ------------------------------------------------------------------------------

    def _handle(self, work: Ready) -> None:
        if work.role is not None:
            self._role_changed(work.role, work.leader)
        item = _InFlight(work.number, False, work.persisted_messages, work.snapshot)
        if work.hold_messages:
            self._held_number = work.number
        if self._held_number > self._retired_number:
            # A changed term or vote, of this Ready or an earlier one, is not durable yet.
            item.messages = work.messages + work.persisted_messages
        else:
            self._send(work.messages)

        batch = self._batch(work)
        if not batch.empty:
            item.on_disk = True
            self._on_disk += 1
            self._writer.write(work.number, batch)
        self._in_flight.append(item)
        self._retire()

        for entry in work.committed:
            self._proposals.committed(entry)
        if work.committed:
            self._applier.add(work.committed)
            if self.role == "leader":
                self._announcements.committed()
        for index, context in work.read_states:
            self._reads.confirmed(index, context)
            if self._reads.wanted:
                self._wake.set()

    def _batch(self, work: Ready) -> LogBatch:
        """The batch that a Ready writes to disk. Pauses the applier if the Ready has a snapshot."""
        batch = LogBatch(entries=work.entries)
        if work.snapshot is not None:
            # The applier's queue is older than the snapshot. A configuration change in it must not
            # reach the engine, which has the snapshot's configuration already.
            self._applier.pause()
            generation = self._hooks.staged_state(work.snapshot)
            batch.snapshot = StateSwitch(
                work.snapshot.position, work.snapshot.configuration, generation
            )
        if work.hard_state is not None:
            self._unsaved_commit.note(work.hard_state, self._now())
        if work.must_sync or work.entries or work.snapshot is not None:
            batch.hard_state = self._unsaved_commit.take()
        return batch

    def _save_commit(self) -> None:
        hard_state = self._unsaved_commit.take()
        self._writer.write(self._durable_number, LogBatch(hard_state=hard_state))

    def _persisted(self, number: int, released: list[Digest]) -> None:
        self._durable_number = max(self._durable_number, number)
        if released:
            self._hooks.released(released)
        self._wake.set()

    def _retire(self) -> None:
        """Reports durable Readys to the engine, and sends the messages that waited for them. What
        the engine has to do then is taken in the same round."""
        retired: list[_InFlight] = []
        while self._in_flight:
            item = self._in_flight[0]
            if item.on_disk and item.number > self._durable_number:
                break
            self._in_flight.popleft()
            self._on_disk -= item.on_disk
            retired.append(item)
        if not retired:
            return
        self._retired_number = retired[-1].number
        reach("advance.before")
        self._engine.persisted(self._retired_number)
        for item in retired:
            self._send(item.messages)
            if item.snapshot is not None:
                # The state switches later, but the log has no entries below the snapshot any more.
                # An engine that campaigns meanwhile reads the entries that are not applied.
                self._engine.applied_to(item.snapshot.position.index)
                self._hooks.state_installed(item.snapshot)

    def _send(self, messages: list[Message]) -> None:
        self._outbox.send(messages, self._hooks.send_state)

    def _role_changed(self, role: str, leader: int) -> None:
        was_leader = self.role == "leader"
        if self.role == "follower" and role != "follower":
            self._metrics.elections_started.inc()
        self.leaderless_s()  # notes until when the leader so far was heard
        self.role, self._roster.leader = role, leader
        if self._reads.lease is not None:
            self._reads.lease.role_changed()
        if role == "leader":
            self._ticker.calm()
            self._admission.lead(self._engine.status().term, self._now())
        if was_leader and role != "leader":
            hint = self._roster.leading
            self._proposals.leadership_lost(hint)
            self._reads.fail()
            self._changes.leadership_lost(hint)
        else:
            self._reads.ask_again()  # the round was for another leader
            if self._reads.wanted:
                self._wake.set()
        self._hooks.role_changed(role, leader)
