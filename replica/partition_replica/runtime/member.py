"""A member of a group: engine, Raft loop, applier, payloads, state transfers.

It exists once the volume belongs to a cluster.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from partition_replica.config import ReplicaConfig
from partition_replica.core.compaction import promised_mark
from partition_replica.core.model import Applied, Configuration, LogEntry
from partition_replica.core.ports import PeerTransport
from partition_replica.engine.port import EngineStatus, TransferHeader
from partition_replica.errors import NoLeader
from partition_replica.ids import LSN, Digest
from partition_replica.runtime.consensus.applier import Applier, ApplyHooks
from partition_replica.runtime.consensus.collection import Collection
from partition_replica.runtime.consensus.compactor import Compactor
from partition_replica.runtime.consensus.lease import LeaderLease
from partition_replica.runtime.consensus.loop_hooks import LoopHooks
from partition_replica.runtime.consensus.proposals import Proposals
from partition_replica.runtime.consensus.raft_loop import RaftLoop
from partition_replica.runtime.consensus.roster import Roster
from partition_replica.runtime.consensus.waits import AppliedWaits, ReadIndexes
from partition_replica.runtime.disk import DiskWatch
from partition_replica.runtime.metrics import Metrics
from partition_replica.runtime.transfer.capture import StateCapture
from partition_replica.runtime.transfer.payloads import Payloads
from partition_replica.runtime.transfer.state_receiver import StateReceiver
from partition_replica.runtime.transfer.state_sender import StateSender
from partition_replica.storage.volume import Volume

logger = logging.getLogger(__name__)

HOUSEKEEPING_S = 1.0
LAST_APPLY_S = 5.0
"""The time in which a closing member applies what is committed. Later, the next start does it."""

LEADERLESS_ELECTIONS = 2
"""Election time-outs without a leader after which a member ends the streams that follow its log."""


@dataclass(frozen=True, slots=True)
class MemberParts:
    """The parts of a member, not started (`runtime.assembly` creates them)."""

    roster: Roster
    waits: AppliedWaits
    proposals: Proposals
    read_indexes: ReadIndexes
    loop: RaftLoop
    applier: Applier
    collection: Collection
    payloads: Payloads
    capture: StateCapture
    sender: StateSender
    receiver: StateReceiver
    compactor: Compactor


class Member:
    """One member of the group, from `start` to `close`. On the event loop."""

    def __init__(
        self,
        config: ReplicaConfig,
        volume: Volume,
        transport: PeerTransport,
        metrics: Metrics,
        parts: MemberParts,
        *,
        disk: DiskWatch,
        failed: Callable[[BaseException], None],
    ) -> None:
        self._config = config
        self._volume = volume
        self._transport = transport
        self._metrics = metrics
        self._disk = disk
        self._failed = failed
        self._own = int(volume.log.identity.member_id)
        self._roster = parts.roster
        self._read_indexes = parts.read_indexes
        self._collection = parts.collection
        self._compactor = parts.compactor
        self.waits = parts.waits
        self.proposals = parts.proposals
        self.loop = parts.loop
        self.applier = parts.applier
        self.payloads = parts.payloads
        self.capture = parts.capture
        self.sender = parts.sender
        self.receiver = parts.receiver
        self.serving = False
        self._leader_changed = asyncio.Event()
        self._closing = False
        self._election_s = config.tick_s * config.election_ticks
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Takes part in the group until `close`. Raises StorageFailed."""
        state = self._volume.state
        alone = self.configuration.voters == (self._own,)
        if alone and state.members().get(self._own) != self._config.advertise:
            # The volume was imported or moved. New members receive the address with the state.
            state.save_member(self._own, self._config.advertise)
        self._roster.addresses = state.members()
        self.sender.start(self.loop.report_snapshot)
        self.applier.start(ApplyHooks(change=self._apply_change, done=self._applied))
        self.loop.start(
            LoopHooks(
                role_changed=self._role_changed,
                send_state=self.sender.send,
                staged_state=self.receiver.staged,
                state_installed=self._snapshot_durable,
                released=self._released,
            ),
        )
        self._transport.set_addresses(self.addresses)
        self._tasks = [
            self._spawn(self.loop.run()),
            self._spawn(self.applier.run()),
            self._spawn(self._housekeeping()),
            self._spawn(self._watch_leader()),
        ]
        if self._read_indexes.lease is not None:
            self._tasks.append(self._spawn(self._tick_lease(self._read_indexes.lease)))
        if alone:
            # No other member can lead: there is no time-out to wait for.
            self.loop.campaign()
        self.loop.wake()

    # --- what it is ---------------------------------------------------------------------------

    @property
    def configuration(self) -> Configuration:
        """As of the last configuration change that is applied."""
        return self._volume.log.configuration[1]

    @property
    def leader(self) -> tuple[int, str]:
        """(member ID or 0, address or ""), as far as this member knows."""
        return self._roster.leading

    @property
    def addresses(self) -> dict[int, str]:
        """Addresses by member ID, as of the applied configuration."""
        return self._roster.addresses

    @property
    def changing(self) -> bool:
        """Whether a configuration change is proposed or committed, but not applied."""
        return self.loop.configuration() != self.configuration

    def leader_changed(self) -> Coroutine[Any, Any, object]:
        """Waits for the next change of role or leader after this call. Not an async function: a
        task would miss a change before its first step."""
        return self._leader_changed.wait()

    @property
    def leaderless_s(self) -> float:
        """Seconds without a leader, if at least two election time-outs; otherwise 0. Meanwhile
        other members may commit entries that this member does not receive."""
        found = self.loop.leaderless_s()
        return found if found >= LEADERLESS_ELECTIONS * self._election_s else 0.0

    def leased_index(self) -> LSN | None:
        """The index that a linearizable read has to wait for, if the leader's lease says so without
        a round; else None. Ask again after the wait: see LeaderLease.holds."""
        if not self._read_indexes.leased():
            return None
        if self._read_indexes.wanted:
            self.loop.wake()
        # Read after the lease: it has everything that was acknowledged while the lease held.
        return LSN(self.loop.status().commit)

    async def read_index(self, timeout_s: float) -> LSN:
        self.loop.wake()
        request = asyncio.ensure_future(self._read_indexes.get(timeout_s))
        await asyncio.sleep(0)
        self.loop.wake()
        return await request

    async def close(self) -> None:
        """Applies what is committed, ends the tasks, then waits until the disk's threads have
        finished their work."""
        self._closing = True
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_APPLY_S):
                await self.applier.caught_up()
        for task in self._tasks:
            task.cancel()
        self._leader_changed.set()  # it is no member any more
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.sender.close()
        await self.receiver.close()
        await self.payloads.close()
        self.waits.close()
        await asyncio.to_thread(self.applier.close)
        await asyncio.to_thread(self.loop.close)

    # --- what happens -------------------------------------------------------------------------

    def _spawn(self, body: "asyncio._CoroutineLike[None]") -> "asyncio.Task[None]":
        task = asyncio.create_task(body)
        task.add_done_callback(self._task_ended)
        return task

    def _task_ended(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed(error)

    def _role_changed(self, role: str, leader: int) -> None:
        logger.info("member %x is %s, leader %x", self._own, role, leader)
        self._metrics.elections.inc()
        self.serving = False
        if role == "leader":
            # It serves once an entry of its term is applied: the engine has appended one.
            self.applier.hurry(self.loop.last_proposed)
        self.payloads.dissemination.forget_holders()
        self._update_serving()
        self._leader_changed.set()
        self._leader_changed = asyncio.Event()

    async def _apply_change(self, entry: LogEntry) -> None:
        """Applies a configuration change in the engine and saves the new configuration, before the
        state applies the entry. A change that was saved before a restart is skipped."""
        saved_as_of = self._volume.log.configuration[0]
        if entry.index <= saved_as_of:
            return
        if self._read_indexes.lease is not None:
            self._read_indexes.lease.end()
        configuration = self.loop.apply_change(entry)
        await self.loop.call_writer(
            partial(self._volume.log.save_configuration, entry.index, configuration)
        )
        logger.info("configuration at %d: %s", entry.index, configuration)

    def _applied(self, results: list[Applied]) -> None:
        last = results[-1]
        self.loop.applied_to(last.index)
        for applied in results:
            self.proposals.applied(applied)
            if applied.kind == "configuration":
                self._members_changed()
                self._step_down_if_removed()
        self.waits.advance(last.index)
        self._update_serving()

    def transferee(self) -> int | None:
        """The other voter that should lead next: one that was heard of lately, with the most
        entries. None if there is no other voter."""
        voters = self.configuration.voters
        others = [p for p in self.loop.status().progress if p.id != self._own and p.id in voters]
        # The engine's own flag is reset at each check of the quorum, and set again much later.
        lives = {p.id: self.loop.heard_from(p.id, self._election_s) for p in others}
        best = max(others, key=lambda p: (lives[p.id], p.matched), default=None)
        return None if best is None else int(best.id)

    def _step_down_if_removed(self) -> None:
        """Transfers leadership to a voter if this member leads and is removed.

        A leader does not remove itself. But a member may be elected while its own removal is in its
        log and not committed. It then commits the removal and stays leader: the engine accepts no
        proposals, and its heartbeats prevent an election. Raft thesis 4.2.2 has it step down.
        """
        configuration = self.configuration
        if self.loop.role != "leader" or not configuration.voters:
            return
        if self._own in (*configuration.voters, *configuration.voters_outgoing):
            return
        best = self.transferee()
        if best is not None and not self.loop.status().lead_transferee:
            logger.info(
                "this member is removed and still leads: it transfers leadership to %x", best
            )
            self.loop.transfer_leader(best)

    def check_serving(self) -> None:
        """Raises NoLeader unless this member is a serving leader."""
        if not self.serving:
            raise NoLeader("the leader is not ready to serve yet: retry with backoff")

    def _update_serving(self) -> None:
        """A leader serves once it has applied an entry of its own term: then its state contains
        everything that earlier leaders acknowledged."""
        if self.loop.role != "leader" or self.serving:
            return
        self.serving = self.loop.may_serve(self._volume.state.applied)

    def _members_changed(self) -> None:
        self._roster.addresses = self._volume.state.members()
        self._transport.set_addresses(self.addresses)

    def _released(self, digests: list[Digest]) -> None:
        if self._closing:
            return  # the next member collects them at its start
        task = asyncio.create_task(self._collection.collect(digests))
        task.add_done_callback(self._task_ended)
        self._tasks.append(task)

    def collect_unnamed(self) -> None:
        """Starts to collect every blob that nothing names. A start of the process does the same;
        this call is for blobs that the previous member released while it was closing."""
        self._tasks.append(self._spawn(self._collection.collect(self._volume.blobs.digests())))

    def _snapshot_durable(self, header: TransferHeader) -> None:
        """The log has installed a received state: switches to it once nothing is being applied."""

        async def switch() -> None:
            # Only the event loop and the applier's thread read a state. It is swapped on the one
            # and closed on the other, so neither reads a closed state.
            fresh = await self.applier.call(self._volume.states.open_named)
            old = self._volume.states.replace(fresh)
            await self.applier.call(lambda: self._volume.states.drop(old))
            index = header.position.index
            self.loop.applied_to(index)
            self._members_changed()
            self.waits.advance(index)
            self.receiver.installed(header)

        self.applier.switch(switch, header.position.index)

    async def _watch_leader(self) -> None:
        """While there is no leader, wakes streams that follow the log, so that they end."""
        while True:
            left_s = LEADERLESS_ELECTIONS * self._election_s - self.loop.leaderless_s()
            await asyncio.sleep(max(left_s, self._election_s / 2))
            if self.leaderless_s:
                self.waits.wake()

    async def _tick_lease(self, lease: LeaderLease) -> None:
        while True:
            await asyncio.sleep(self._config.tick_s)
            lease.ticked()

    async def _housekeeping(self) -> None:
        """Compacts the log, releases expired pins and unneeded state transfers. One task for all,
        because an idle process pays for each time it wakes."""
        compaction: asyncio.Task[None] | None = None
        while True:
            await asyncio.sleep(HOUSEKEEPING_S)
            if (compaction is None or compaction.done()) and self._compactor.due():
                compaction = self._spawn(self._compact())
                self._tasks.append(compaction)
            self.sender.expire()
            await self.receiver.expire()
            self.payloads.expire()
            expired = self._volume.blobs.expired_pins()
            if expired:
                self.payloads.dissemination.forget(expired)
                await self._collection.collect(expired)
            await self._collection.collect(self._volume.blobs.take_deferred())
            self._tasks = [task for task in self._tasks if not task.done()]
            self._step_down_if_removed()

    async def _compact(self) -> None:
        await self._compactor.run_once()

    def measure(self) -> None:
        """Sets the gauges. For each scrape: an idle member should not compute them for nobody."""
        put, status = self._metrics.set, self.loop.status()
        self._metrics.role(status.role)
        put("logstore_term", status.term)
        put("logstore_committed_lsn", status.commit)
        put("logstore_entry_cache_bytes", status.mirror_bytes)
        put("logstore_leaderless_seconds", self.leaderless_s)
        self._group_gauges(status)
        log = self._volume.log
        put("logstore_applied_lsn", self._volume.state.applied.index)
        put("logstore_last_lsn", log.last.index)
        put("logstore_first_lsn", log.boundary.index + 1)
        put("logstore_stored_lsn", log.first_stored)
        put("logstore_low_water_mark", promised_mark(log.low_water_mark, log.first_stored))
        put("logstore_consumers", log.consumer_count)
        put("logstore_proposals_queued", self.proposals.queued)
        put("logstore_proposals_waiting", self.proposals.waiting)
        put("logstore_apply_queue_bytes", self.applier.queued_bytes)
        put("logstore_blobs_pinned", self._volume.blobs.pinned)
        put("logstore_disk_full", self._disk.full())  # first: it also reads the bytes anew
        put("logstore_disk_free_bytes", self._disk.free_bytes)
        put("logstore_disk_total_bytes", self._disk.total_bytes)
        put("logstore_disk_reserve_bytes", self._disk.reserve_bytes)
        put("logstore_sessions", self._volume.state.session_count())

    def _group_gauges(self, status: EngineStatus) -> None:
        """The gauges about the group. Only a leader knows the other members."""
        put, configuration = self._metrics.set, self.configuration
        leads = status.role == "leader"
        voters = {*configuration.voters, *configuration.voters_outgoing}
        active_s = 2 * self._election_s
        active = {m for m in voters if m == self._own or self.loop.heard_from(m, active_s)}
        put("logstore_leading", leads)
        put("logstore_serving", leads and self.serving)
        put("logstore_voter", self._own in voters)
        put("logstore_voters", len(voters))
        put("logstore_voters_active", len(active) if leads else 0)
        others = [p for p in status.progress if p.id != self._own] if leads else []
        last = self._volume.log.last.index
        lags = {
            self.addresses.get(p.id) or f"{p.id:016x}": max(0, last - p.matched) for p in others
        }
        self._metrics.lags(lags)
