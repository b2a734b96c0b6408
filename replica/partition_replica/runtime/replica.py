"""One replica, from an empty volume to a member that serves: what the services call.

A volume is unbootstrapped (belongs to no cluster), joining (waits for its first snapshot) or a
member; `_Member` holds what exists only once it belongs to a cluster.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import partition_raft as raft
from partition_proto.v1 import peer_pb2 as peer
from partition_proto.v1 import types_pb2 as types

from partition_replica.config import Config
from partition_replica.core.limits import PAYLOAD_BYTES_MAX, PAYLOAD_INLINE_BYTES_MAX
from partition_replica.core.model import (
    Applied,
    Configuration,
    LogEntry,
    MemberStatus,
    Position,
    ReplicaStatus,
)
from partition_replica.core.ports import PeerTransport, StateReader
from partition_replica.core.validation import (
    check_digest,
    check_proposal,
    only_removes,
    session_time_to_live_ms,
)
from partition_replica.errors import (
    Compacted,
    Deposed,
    DiskFull,
    InvalidArgument,
    MembershipRefused,
    NoLeader,
    NotBootstrapped,
    NotFound,
    NotLeader,
    Overloaded,
    PayloadMissing,
    Stopping,
    WrongCluster,
)
from partition_replica.ids import LSN, ClusterID, Digest, Term
from partition_replica.runtime.disk import DiskWatch
from partition_replica.runtime.failpoints import reach
from partition_replica.runtime.member import Member
from partition_replica.runtime.metrics import Metrics
from partition_replica.runtime.proposals import Pending
from partition_replica.runtime.raft_loop import Change
from partition_replica.storage.volume import Volume

logger = logging.getLogger(__name__)

READ_INDEX_TIMEOUT_S = 5.0
MEMBERSHIP_TIMEOUT_S = 15.0
TRANSFER_TIMEOUT_S = 10.0


class Replica:
    """Implements core.ports.ReplicaService."""

    def __init__(
        self,
        config: Config,
        volume: Volume,
        transport: PeerTransport,
        metrics: Metrics,
        *,
        wall_ms: Callable[[], int],
        failed: Callable[[BaseException], None],
    ) -> None:
        """`failed` is called once with what must end the process."""
        self._config = config
        self._volume = volume
        self._transport = transport
        self._metrics = metrics
        self._wall_ms = wall_ms
        self._failed = failed
        self._disk = DiskWatch(volume, config.limits.disk_reserve_bytes)
        self._member: Member | None = None
        self._stopping = False
        self._starting = asyncio.Lock()
        self.incarnation = secrets.randbits(62) + 1

    # --- life ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Starts the member, where the volume belongs to a cluster."""
        if self._volume.log.identity.cluster_id and self._member is None:
            self._member = Member(
                self._config,
                self._volume,
                self._transport,
                self._metrics,
                disk=self._disk,
                wall_ms=self._wall_ms,
                failed=self._failed,
            )

    async def stop(self) -> None:
        """Hands leadership over, where it leads and somebody can take it; then stops."""
        self._stopping = True
        if self._member is None:
            return
        if self._member.loop.role == "leader" and len(self._member.configuration.voters) > 1:
            try:
                await self._transfer(self._member, 0, self._config.shutdown_s / 2)
            except (NotLeader, NoLeader, MembershipRefused) as error:
                logger.warning("leadership was not handed over before the stop: %s", error)
        await self._member.close()

    @property
    def ready(self) -> bool:
        """Serves: a member that knows its leader."""
        return self._member is not None and not self._stopping and self._member.loop.leader != 0

    # --- for applications ---------------------------------------------------------------------

    async def open_session(self, time_to_live_ms: int) -> tuple[int, int]:
        time_to_live_ms = session_time_to_live_ms(time_to_live_ms)
        member = self._leading()
        body = types.EntryBody(open_session=types.OpenSession(time_to_live_ms=time_to_live_ms))
        applied = await self._propose(member, body, wait_applied=True)
        return applied.index, time_to_live_ms

    async def close_session(self, session: int) -> None:
        member = self._leading()
        body = types.EntryBody(close_session=types.CloseSession(session_id=session))
        await self._propose(member, body, wait_applied=True)

    async def append(self, proposal: types.Proposal, *, retry: bool, wait_applied: bool) -> Applied:
        started = time.perf_counter()
        member = self._leading()
        check_proposal(proposal)
        large = [
            Digest(payload.digest)
            for payload in proposal.payloads
            if payload.size > PAYLOAD_INLINE_BYTES_MAX
        ]
        if large:
            await member.payloads.ensure_quorum(large)
            self._check_sizes(proposal)
        wait_applied = wait_applied or retry or bool(proposal.preconditions)
        body = types.EntryBody(proposal=proposal)
        applied = await self._propose(member, body, wait_applied=wait_applied)
        self._metrics.appends.observe(time.perf_counter() - started)
        return applied

    async def read_point(self, *, linearizable: bool) -> StateReader:
        member = self._running()
        if linearizable:
            if member.loop.role != "leader":
                raise self._not_leader(member)
            if not member.serving:
                raise NoLeader("the leader is not ready to serve yet: retry with back-off")
            index = await member.read_index(READ_INDEX_TIMEOUT_S)
            await member.waits.reach(index)
        return self._volume.state

    def committed_entries(self, lo: int, bytes_max: int) -> tuple[list[LogEntry], int]:
        self._running()
        applied = self._volume.state.applied.index
        first = self._volume.log.boundary.index + 1
        lo = lo or first
        if lo < first:
            raise Compacted(
                f"entries below {first} are compacted; {lo} was asked for: read the state, which "
                f"is at {applied}, and go on at {applied + 1}",
                first,
                applied,
            )
        if lo > applied:
            return [], lo
        found = self._volume.log.entries(LSN(lo), LSN(applied + 1), bytes_max)
        return found, lo + len(found)

    async def advanced(self) -> None:
        await self._running().waits.change()

    def open_content(self, digest: Digest, size: int) -> bytes | Path:
        self._volume.blobs.hold([digest])
        if size <= PAYLOAD_INLINE_BYTES_MAX:
            content = self._volume.state.content(digest)
            if content is not None:
                return content
        elif self._volume.blobs.has(digest):
            return self._volume.blobs.path(digest)
        self._volume.blobs.unhold([digest])
        raise NotFound(f"payload {digest.hex()} is not here")

    def release_content(self, digest: Digest) -> None:
        self._volume.blobs.unhold([digest])

    async def upload(self, digest: bytes, size: int, chunks: AsyncIterator[bytes]) -> list[int]:
        member = self._leading()
        check_digest(digest, "the payload")
        if not PAYLOAD_INLINE_BYTES_MAX < size <= PAYLOAD_BYTES_MAX:
            raise InvalidArgument(
                f"a payload of {size} bytes is not uploaded: up to {PAYLOAD_INLINE_BYTES_MAX} "
                f"bytes travel in the append itself, and {PAYLOAD_BYTES_MAX} is the most"
            )
        name = Digest(digest)
        await member.payloads.receive(name, size, chunks)
        await member.payloads.ensure_quorum([name])
        return member.payloads.holders(name)

    def status(self) -> ReplicaStatus:
        self._disk.full()
        identity, log, state = self._volume.log.identity, self._volume.log, self._volume.state
        member = self._member
        common = {
            "cluster": str(identity.cluster_id),
            "member": int(identity.member_id),
            "incarnation": self.incarnation,
            "first_index": log.boundary.index + 1,
            "last_index": log.last.index,
            "applied": state.applied.index,
            "disk_full": self._disk.full(),
            "disk_free_bytes": self._disk.free_bytes,
            "disk_total_bytes": self._disk.total_bytes,
            "session_count": state.session_count(),
        }
        if member is None:
            return ReplicaStatus(
                role="unbootstrapped",
                term=0,
                leader=(0, ""),
                committed=0,
                members=[],
                configuration_changing=False,
                serving=False,
                **common,  # type: ignore[arg-type]
            )
        status = member.loop.engine.status()
        configuration = member.configuration
        joining = not configuration.members
        return ReplicaStatus(
            role="joining" if joining else status.role,
            term=status.term,
            leader=member.leader,
            committed=status.commit,
            members=self._members(member, status),
            configuration_changing=configuration.joint or member.changing,
            serving=member.serving,
            **common,  # type: ignore[arg-type]
        )

    # --- for the operator ---------------------------------------------------------------------

    async def check_lease(self, transitions: int, holder: str) -> None:
        """Refuses an operator that was deposed; remembers a newer one durably before obeying."""
        if transitions < self._volume.log.lease_transitions:
            seen = self._volume.log.lease_transitions
            raise Deposed(
                f"lease token {transitions} of {holder} is below {seen}: another operator leads",
                seen,
            )
        if transitions > self._volume.log.lease_transitions:
            await self._write_log(lambda: self._volume.log.save_lease(transitions, holder))

    async def bootstrap(self, cluster: str) -> int:
        # To its end, whoever waits: half of it would leave a volume that never starts.
        return await asyncio.shield(asyncio.ensure_future(self._bootstrap(cluster)))

    async def _bootstrap(self, cluster: str) -> int:
        async with self._starting:
            identity = self._volume.log.identity
            if identity.cluster_id:
                self._same_cluster(cluster)
                self.start()
                if not self._volume.log.boundary.index:
                    raise WrongCluster(
                        "this volume joined the cluster as a newcomer: bootstrap another, or none"
                    )
                return identity.member_id
            configuration = Configuration(voters=(identity.member_id,))
            members = {int(identity.member_id): self._config.advertise}
            if self._volume.state.applied.index:
                self._volume.reset_state()
            start = Position(LSN(1), Term(1))
            await asyncio.to_thread(self._volume.state.start, start, members)
            reach("bootstrap.state_started")
            await asyncio.to_thread(self._volume.log.bootstrap, ClusterID(cluster), configuration)
            logger.info("bootstrapped cluster %s as member %x", cluster, identity.member_id)
            self.start()
        return identity.member_id

    async def join(self, cluster: str) -> int:
        return await asyncio.shield(asyncio.ensure_future(self._join(cluster)))

    async def _join(self, cluster: str) -> int:
        async with self._starting:
            identity = self._volume.log.identity
            if identity.cluster_id:
                self._same_cluster(cluster)
                self.start()
                return identity.member_id
            if self._volume.state.applied.index:
                self._volume.reset_state()
            await asyncio.to_thread(self._volume.log.join, ClusterID(cluster))
            logger.info("joined cluster %s as member %x", cluster, identity.member_id)
            self.start()
        return identity.member_id

    async def add_learner(self, member_id: int, address: str) -> int:
        member = self._leading()
        if member_id < 1 or ":" not in address:
            raise InvalidArgument("a member needs an ID of 1 or above and an address host:port")
        if member_id in member.configuration.members:
            return 0
        return await self._change(member, raft.ChangeKind.ADD_LEARNER, member_id, address)

    async def promote_learner(self, member_id: int) -> int:
        member = self._leading()
        if member_id in member.configuration.voters:
            return 0
        if member_id not in member.configuration.learners:
            raise NotFound(f"member {member_id:x} is no learner of this group")
        active_s = 2 * self._config.tick_s * self._config.election_ticks
        if not member.loop.heard_from(member_id, active_s):
            raise MembershipRefused(
                f"learner {member_id:x} was not heard of for {active_s:.1f} s: as a voter it would "
                "cost the group its quorum; wait, or remove it"
            )
        status = member.loop.engine.status()
        matched = next((p.matched for p in status.progress if p.id == member_id), 0)
        lag = status.last_index - matched
        if lag > self._config.limits.learner_lag_max:
            raise MembershipRefused(
                f"learner {member_id:x} is {lag} entries behind; at most "
                f"{self._config.limits.learner_lag_max} are allowed: wait"
            )
        return await self._change(member, raft.ChangeKind.ADD_VOTER, member_id, "")

    async def remove_member(self, member_id: int) -> int:
        member = self._leading()
        if member_id not in member.configuration.members:
            return 0
        if member_id == self._volume.log.identity.member_id:
            raise MembershipRefused("the leader does not remove itself: hand leadership over first")
        self._check_rest(member, member_id)
        return await self._change(member, raft.ChangeKind.REMOVE, member_id, "")

    def _check_rest(self, member: Member, leaving: int) -> None:
        """Refuses to remove a voter where the rest would be without a quorum."""
        active_s = 2 * self._config.tick_s * self._config.election_ticks
        own = self._volume.log.identity.member_id
        voters = member.configuration.voters
        rest = [voter for voter in voters if voter != leaving]
        active = [v for v in rest if v == own or member.loop.heard_from(v, active_s)]
        if leaving in voters and not 2 * len(active) > len(rest):
            raise MembershipRefused(
                f"without member {leaving:x} only {len(active)} of {len(rest)} voters are active, "
                "which is no quorum: bring the others back first"
            )

    async def transfer_leadership(self, member_id: int) -> tuple[int, str]:
        return await self._transfer(self._running(), member_id, TRANSFER_TIMEOUT_S)

    # --- for the other members ----------------------------------------------------------------

    def check_peer(
        self, cluster: str, to_member: int, sender: int = 0, last_index: int = 0
    ) -> None:
        identity = self._volume.log.identity
        if not identity.cluster_id:
            raise NotBootstrapped("this volume belongs to no cluster yet")
        self._same_cluster(cluster)
        if to_member and to_member != identity.member_id:
            raise WrongCluster(
                f"member {to_member:x} was meant; this is {identity.member_id:x}: "
                "another volume answers at that address now"
            )

        self._check_not_rolled_back(sender, last_index)

    def _check_not_rolled_back(self, sender: int, last_index: int) -> None:
        """A member whose log ends below what it once acknowledged to this leader lost durable
        entries: its volume was rolled back or is a clone."""
        member = self._member
        if member is None or not sender or member.loop.role != "leader":
            return
        for progress in member.loop.engine.status().progress:
            if progress.id == sender and progress.matched > last_index:
                raise WrongCluster(
                    f"member {sender:x} has a log up to {last_index} and once acknowledged "
                    f"{progress.matched}: its volume was rolled back; delete it, so that the "
                    "member is rebuilt"
                )

    def greet(self, member: int, address: str) -> None:
        self._transport.learn_address(member, address)

    def unreachable(self, member_id: int) -> None:
        """The stream to a member broke: the engine stops sending it entries until it answers."""
        if self._member is not None:
            self._member.loop.report_unreachable(member_id)

    def receive(self, message: bytes, sender: int) -> None:
        # While it stops, too: handing leadership over needs the others' answers.
        member = self._member
        if member is None:
            return
        try:
            decoded = raft.Message.decode(message)
        except raft.InvalidMessage as error:
            logger.warning("message of member %x refused: %s", sender, error)
            self._metrics.messages_dropped.labels("invalid").inc()
            return
        if decoded.sender != sender or decoded.snapshot is not None:
            # A snapshot's message comes with its data (InstallSnapshot) or not at all.
            self._metrics.messages_dropped.labels("invalid").inc()
            return
        member.payloads.admit(decoded, len(message))

    async def take_payload(self, digest: bytes, size: int, chunks: AsyncIterator[bytes]) -> bool:
        check_digest(digest, "the payload")
        return await self._running().payloads.receive(Digest(digest), size, chunks)

    def payload_file(self, digest: bytes) -> tuple[Path, int]:
        check_digest(digest, "the payload")
        size = self._volume.blobs.size(Digest(digest))
        if size is None:
            raise NotFound(f"payload {digest.hex()} is not here")
        return self._volume.blobs.path(Digest(digest)), size

    async def install_snapshot(
        self, header: peer.SnapshotHeader, chunks: AsyncIterator[bytes]
    ) -> int:
        self.check_peer(header.cluster_id, header.receiver)
        return await self._running().receiver.install(header, chunks)

    # --- inside -------------------------------------------------------------------------------

    def _running(self) -> Member:
        if self._stopping:
            raise Stopping("this replica is stopping: go to another")
        if self._member is None:
            raise NotBootstrapped("this volume belongs to no cluster yet: the operator bootstraps")
        return self._member

    def _leading(self) -> Member:
        member = self._running()
        if member.loop.role != "leader":
            raise self._not_leader(member)
        return member

    def _not_leader(self, member: Member) -> NotLeader:
        leader = member.leader
        if not leader[0]:
            return NotLeader("no leader is known here: retry with back-off, or ask another replica")
        return NotLeader(f"member {leader[0]:x} at {leader[1]} leads: go there", leader)

    async def _propose(
        self, member: Member, body: types.EntryBody, *, wait_applied: bool
    ) -> Applied:
        if not member.serving:
            raise NoLeader("the leader is not ready to serve yet: retry with back-off")
        if self._disk.full() and not only_removes(body):
            raise DiskFull(
                f"the volume has {self._disk.free_bytes} bytes free, below its reserve: writes are "
                "refused, removals and reads go on; make room or grow the volume"
            )
        if member.applier.lag > self._config.limits.apply_lag_max:
            raise Overloaded(
                f"{member.applier.lag} entries are committed and not applied, at most "
                f"{self._config.limits.apply_lag_max} may be: retry with back-off"
            )
        pending = Pending(body, body.ByteSize(), wait_applied)
        member.loop.propose(pending)
        return await pending.future

    def _check_sizes(self, proposal: types.Proposal) -> None:
        for number, payload in enumerate(proposal.payloads, 1):
            if payload.size <= PAYLOAD_INLINE_BYTES_MAX:
                continue
            size = self._volume.blobs.size(Digest(payload.digest))
            if size is None:
                raise PayloadMissing("a payload went while it was disseminated", [payload.digest])
            if size != payload.size:
                raise InvalidArgument(
                    f"payload {number} says {payload.size} bytes; its content has {size}"
                )

    async def _change(
        self, member: Member, kind: raft.ChangeKind, member_id: int, address: str
    ) -> int:
        context = types.MemberChange(member_id=member_id, address=address).SerializeToString()
        change = Change([(kind, member_id)], context)
        member.loop.change(change)
        try:
            async with asyncio.timeout(MEMBERSHIP_TIMEOUT_S):
                index, term = await change.future
                await member.waits.reach(index)
        except TimeoutError as error:
            raise NoLeader(
                f"the change of member {member_id:x} was not applied within "
                f"{MEMBERSHIP_TIMEOUT_S} s; it may still be: read the status"
            ) from error
        if self._volume.log.term(index) != term:
            raise NotLeader("leadership was lost and the change with it; retry at the leader")
        return index

    async def _transfer(self, member: Member, member_id: int, timeout_s: float) -> tuple[int, str]:
        if member.loop.role != "leader":
            raise self._not_leader(member)
        own = self._volume.log.identity.member_id
        if not member_id:
            progress = member.loop.engine.status().progress
            candidates = [
                p for p in progress if p.id != own and p.id in member.configuration.voters
            ]
            candidates.sort(key=lambda p: (p.recent_active, p.matched))
            if not candidates:
                raise MembershipRefused("there is no other voter to hand leadership to")
            member_id = candidates[-1].id
        if member_id == own:
            return member.leader
        if member_id not in member.configuration.voters:
            raise MembershipRefused(f"member {member_id:x} is no voter of this group")
        member.loop.engine.transfer_leader(member_id)
        member.loop.wake()
        try:
            async with asyncio.timeout(timeout_s):
                while member.loop.leader in (0, own):
                    await member.leader_changed()
        except TimeoutError as error:
            raise NoLeader(
                f"member {member_id:x} did not take over within {timeout_s} s"
            ) from error
        return member.leader

    async def _write_log(self, body: Callable[[], None]) -> None:
        """Runs a write of the log in its turn: the log has one writer."""
        if self._member is None:
            async with self._starting:
                if self._member is None:
                    await asyncio.to_thread(body)
                    return
        await self._member.loop.call_writer(body)

    def _same_cluster(self, cluster: str) -> None:
        own = self._volume.log.identity.cluster_id
        if cluster != own:
            raise WrongCluster(
                f"this volume belongs to cluster {own}, not {cluster or '(none)'}: it is not "
                "adopted silently; use a new volume, or adopt this one explicitly"
            )

    def _members(self, member: Member, status: raft.Status) -> list[MemberStatus]:
        configuration = member.configuration
        progress = {p.id: p for p in status.progress}
        active_s = 2 * self._config.tick_s * self._config.election_ticks
        rows = []
        for member_id in sorted(configuration.members):
            known = progress.get(member_id)
            voter = member_id in configuration.voters + configuration.voters_outgoing
            address = member.addresses.get(member_id, "")
            if known is None:
                rows.append(MemberStatus(member_id, address, voter))
            else:
                rows.append(
                    MemberStatus(
                        member_id,
                        address,
                        voter,
                        known.matched,
                        member_id == status.id or member.loop.heard_from(member_id, active_s),
                        known.state,
                    )
                )
        return rows
