"""One replica, from an empty volume to a member that serves: what the services call.

A volume is unbootstrapped (belongs to no cluster), joining (waits for its first snapshot) or a
member; `Member` holds what exists only once it belongs to a cluster.
"""

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from partition_proto.v1 import peer_pb2 as peer
from partition_proto.v1 import types_pb2 as types

from partition_replica.config import Config
from partition_replica.core.model import (
    Applied,
    LogEntry,
    MemberStatus,
    OpenedFile,
    ReplicaStatus,
    Unapplied,
)
from partition_replica.core.ports import PeerTransport
from partition_replica.core.services import PinnedState, StateReader
from partition_replica.core.sessions import SESSION_ID_MAX
from partition_replica.core.validation import (
    check_digest,
)
from partition_replica.engine.port import EngineStatus, InvalidMessage, MakeEngine, Message
from partition_replica.errors import (
    MembershipRefused,
    NoLeader,
    NotBootstrapped,
    NotFound,
    NotLeader,
    Stopping,
    WrongCluster,
    no_state_yet,
    not_leading,
    wrong_history,
)
from partition_replica.ids import LSN, Digest
from partition_replica.runtime.administration import Administration
from partition_replica.runtime.backfill import Backfiller, check_room
from partition_replica.runtime.consensus.log_holds import LogHolds
from partition_replica.runtime.consensus.log_writer import LogWriter
from partition_replica.runtime.disk import DiskWatch
from partition_replica.runtime.jobs.inspection import Inspection
from partition_replica.runtime.jobs.snapshot_jobs import SnapshotJobs
from partition_replica.runtime.member import Member
from partition_replica.runtime.metrics import Metrics
from partition_replica.runtime.serving.appends import Appends
from partition_replica.runtime.serving.consumers import Consumers
from partition_replica.runtime.serving.pinned_states import PinnedStates
from partition_replica.runtime.serving.reads import Reads
from partition_replica.storage.volume import Volume

logger = logging.getLogger(__name__)


def draw_session() -> int:
    """A session ID. Random, so that none comes again: not after a restore, nor in another group."""
    return secrets.randbelow(SESSION_ID_MAX) + 1


class Replica:
    """Implements core.services.ReplicaService."""

    def __init__(  # noqa: PLR0913  # takes its parts from the assembly
        self,
        config: Config,
        volume: Volume,
        transport: PeerTransport,
        metrics: Metrics,
        *,
        make_engine: MakeEngine,
        wall_ms: Callable[[], int],
        failed: Callable[[BaseException], None],
        log_writer: type[LogWriter] = LogWriter,
        draw_session: Callable[[], int] = draw_session,
    ) -> None:
        """`failed` is called once with what must end the process. `draw_session` gives session IDs
        that nobody has."""
        self._config = config
        self._volume = volume
        self._transport = transport
        self._metrics = metrics
        self._make_engine = make_engine
        self._wall_ms = wall_ms
        self._failed = failed
        self._log_writer = log_writer
        self._disk = DiskWatch(volume.space, config.limits.disk_reserve_bytes)
        self.member: Member | None = None
        self.consumers = Consumers(volume.log, volume.states, self.running)
        self._appends = Appends(
            volume.states,
            volume.blobs,
            config.limits,
            self._disk,
            metrics,
            leading=self.leading,
            held=lambda: self._held,
            draw_session=draw_session,
        )
        self._reads = Reads(volume.log, volume.states, volume.blobs, self.running, self.not_leader)
        self._holds = LogHolds(volume.log)
        self._pinned_states = PinnedStates(
            volume.states,
            volume.blobs,
            volume.space,
            volume.staging,
            config.limits,
            metrics,
            disk=self._disk,
            reads=self._reads,
            running=self.running,
            check_state=self.check_state,
            holds=self._holds,
            failed=failed,
        )
        self.inspection = Inspection(volume, config.limits, self._disk, self.running)
        self.snapshot_jobs = SnapshotJobs(
            config, volume, metrics, running=self.running, wall_ms=wall_ms, failed=failed
        )
        self._stopping = False
        self._held = False
        self._backfill: asyncio.Task[None] | None = None
        self.administration = Administration(config, volume.log, volume.states, self)
        self.incarnation = secrets.randbits(62) + 1

    # --- life ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Starts the member, where the volume belongs to a cluster."""
        if self._volume.log.identity.cluster_id and self.member is None:
            self.member = Member(
                self._config,
                self._volume,
                self._transport,
                self._metrics,
                disk=self._disk,
                holds=self._holds,
                make_engine=self._make_engine,
                wall_ms=self._wall_ms,
                failed=self._failed,
                log_writer=self._log_writer,
            )
            if self._volume.log.backfill is not None:
                self.enable_replication()  # it was begun, and is completed

    def enable_replication(self) -> bool:
        """Begins to switch replication on. Returns True if it is on already, else False: a backfill
        is under way."""
        member = self.running()
        if not self._volume.log.identity.unreplicated:
            return True
        if self._backfill is None:
            if self._volume.log.backfill is None:
                check_room(self._volume.log, self._volume.space, self._config.limits)
            backfiller = Backfiller(
                self._volume.log,
                self._volume.states,
                self._config.limits,
                self._metrics,
                disk=self._disk,
                member=member,
                hold=self._hold,
                replace=self._replace_member,
            )
            self._backfill = asyncio.create_task(backfiller.run())
            self._backfill.add_done_callback(self._backfill_ended)
        return False

    def _hold(self) -> None:
        self._held = True

    async def _replace_member(self, switch: Callable[[], None]) -> None:
        """Ends the member, runs `switch` on a thread, and starts a member anew."""
        member, self.member = self.member, None
        assert member is not None, "a backfill runs beside a member"
        await member.close()
        await asyncio.to_thread(switch)
        self.start()
        self._held = False
        if self.member is not None:
            self.member.collect_unnamed()

    def _backfill_ended(self, task: "asyncio.Task[None]") -> None:
        self._backfill = None
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed(error)

    async def stop(self) -> None:
        """Hands leadership over if this member leads and another voter can take it. Ends everything
        else meanwhile, and the member last. Raises the first error of a part that did not end
        cleanly, once all have ended."""
        self._stopping = True
        ended = await asyncio.gather(
            # First: clients wait for the next leader, and the other parts may take long to end.
            self._hand_over(),
            self.inspection.close(),
            self._pinned_states.close(),
            self.snapshot_jobs.close(),
            self._end_backfill(),
            return_exceptions=True,
        )
        if self.member is not None:
            await self.member.close()
        for result in ended:
            if isinstance(result, BaseException):
                raise result

    async def _hand_over(self) -> None:
        member = self.member
        if member is None or member.loop.role != "leader":
            return
        if len(member.configuration.voters) < 2:  # noqa: PLR2004  # itself, and another one
            return
        try:
            await self.administration.transfer(member, 0, self._config.shutdown_s / 2)
        except (NotLeader, NoLeader, MembershipRefused) as error:
            logger.warning("leadership was not handed over before the stop: %s", error)

    async def _end_backfill(self) -> None:
        if self._backfill is None:
            return
        if self._held:
            await asyncio.wait([self._backfill])  # a moment; half of it would be a restart
        else:
            self._backfill.cancel()

    @property
    def ready(self) -> bool:
        """Serves: a member that knows its leader."""
        return self.member is not None and not self._stopping and self.member.loop.leader != 0

    # --- for applications ---------------------------------------------------------------------

    def history(self) -> str:
        """The ID of the group's history; "" while this replica has none of its state."""
        log, state = self._volume.log, self._volume.state
        if not log.identity.unreplicated and not log.configuration[1].members:
            return ""
        if state.applied.index < log.boundary.index:
            return ""  # the log has adopted a snapshot whose state is about to be opened
        return self._volume.states.history_of(state)

    def check_state(self) -> str:
        """The history's ID. Raises NoLeader while this replica has none of its group's state."""
        own = self.history()
        if not own:
            raise no_state_yet()
        return own

    def check_history(self, history: str, *, leading: bool = False) -> None:
        """Raises WrongHistory, and NoLeader if the history is not known yet. leading: raises
        NotLeader or NoLeader unless this is a leader that serves, so that a replica that was left
        behind cannot tell a client of its old history."""
        if leading:
            self.leading().check_serving()
        if not history:
            return
        own = self.check_state()
        if history != own:
            raise wrong_history(history, own)

    async def open_session(self, time_to_live_ms: int) -> tuple[int, int]:
        return await self._appends.open_session(time_to_live_ms)

    async def close_session(self, session: int) -> None:
        await self._appends.close_session(session)

    async def append(self, proposal: types.Proposal, *, retry: bool, wait_applied: bool) -> Applied:
        return await self._appends.append(proposal, retry=retry, wait_applied=wait_applied)

    async def upload(self, digest: bytes, size: int, chunks: AsyncIterator[bytes]) -> list[int]:
        return await self._appends.upload(digest, size, chunks)

    async def read_point(self, *, linearizable: bool) -> StateReader:
        return await self._reads.point(linearizable=linearizable)

    def committed_entries(self, lo: int, bytes_max: int) -> tuple[list[LogEntry], int]:
        return self._reads.entries(lo, bytes_max)

    def unapplied(self, entries: Sequence[LogEntry]) -> dict[LSN, Unapplied | None]:
        return self._reads.unapplied(entries)

    async def advanced(self) -> None:
        await self._reads.advanced()

    async def open_file(self, path: bytes, offset: int, *, linearizable: bool) -> OpenedFile:
        return await self._reads.open_file(path, offset, linearizable=linearizable)

    def close_file(self, opened: OpenedFile) -> None:
        self._reads.close_file(opened)

    def pinned_state(
        self, *, linearizable: bool, history: str
    ) -> AbstractAsyncContextManager[PinnedState]:
        return self._pinned_states.open(linearizable=linearizable, history=history)

    def status(self) -> ReplicaStatus:
        self._disk.full()
        identity, log, state = self._volume.log.identity, self._volume.log, self._volume.state
        member = self.member
        # The log and the state move on other threads meanwhile. Whatever is never above another
        # number is read before it, so that the answer does not contradict itself.
        stored_from = log.first_stored
        first_index = log.boundary.index + 1
        applied = state.applied.index
        common = {
            "cluster": str(identity.cluster_id),
            "member": int(identity.member_id),
            "incarnation": self.incarnation,
            "first_index": first_index,
            "applied": applied,
            "last_index": log.last.index,
            "disk_full": self._disk.full(),
            "disk_free_bytes": self._disk.free_bytes,
            "disk_total_bytes": self._disk.total_bytes,
            "session_count": state.session_count(),
            "unreplicated": identity.unreplicated,
            "backfill": log.backfill,
            "stored_from": stored_from,
            "low_water_mark": self.consumers.low_water_mark,
            "history": self.history(),
        }
        if member is None:
            return ReplicaStatus(
                role="switching" if self._held else "unbootstrapped",
                term=0,
                leader=(0, ""),
                committed=0,
                members=[],
                configuration_changing=False,
                serving=False,
                **common,  # type: ignore[arg-type]
            )
        status = member.loop.status()
        configuration = member.configuration
        # Until its first state is here; for a moment, too, while a later one is opened.
        joining = not common["history"]
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

    # --- for the other members ----------------------------------------------------------------

    def check_peer(
        self, cluster: str, to_member: int, sender: int = 0, last_index: int = 0
    ) -> None:
        identity = self._volume.log.identity
        if not identity.cluster_id:
            raise NotBootstrapped("this volume belongs to no cluster yet")
        self.same_cluster(cluster)
        if to_member and to_member != identity.member_id:
            raise WrongCluster(
                f"member {to_member:x} was meant; this is {identity.member_id:x}: "
                "another volume answers at that address now"
            )
        self._check_not_rolled_back(sender, last_index)

    def _check_not_rolled_back(self, sender: int, last_index: int) -> None:
        """A member whose log ends below what it once acknowledged to this leader lost durable
        entries: its volume was rolled back or is a clone."""
        member = self.member
        if member is None or not sender or member.loop.role != "leader":
            return
        for progress in member.loop.status().progress:
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
        if self.member is not None:
            self.member.loop.report_unreachable(member_id)

    def receive(self, message: bytes, sender: int) -> None:
        # While it stops, too: handing leadership over needs the others' answers.
        member = self.member
        if member is None:
            return
        try:
            decoded = Message.decode(message)
        except InvalidMessage as error:
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
        return await self.running().payloads.receive(Digest(digest), size, chunks)

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
        return await self.running().receiver.install(header, chunks)

    def snapshot_offset(self, header: peer.SnapshotHeader) -> int:
        self.check_peer(header.cluster_id, header.receiver)
        return self.running().receiver.offset(header)

    # --- inside -------------------------------------------------------------------------------

    def running(self) -> Member:
        if self._stopping:
            raise Stopping("this replica is stopping: go to another")
        if self.member is None and self._held:
            raise NoLeader("replication is being switched on: retry in a moment")
        if self.member is None:
            raise NotBootstrapped("this volume belongs to no cluster yet: the operator bootstraps")
        return self.member

    def leading(self) -> Member:
        member = self.running()
        if member.loop.role != "leader":
            raise self.not_leader(member)
        return member

    def not_leader(self, member: Member) -> NotLeader | NoLeader:
        return not_leading("this replica does not lead", member.leader)

    def same_cluster(self, cluster: str) -> None:
        own = self._volume.log.identity.cluster_id
        if cluster != own:
            raise WrongCluster(
                f"this volume belongs to cluster {own}, not {cluster or '(none)'}: it is not "
                "adopted silently; use a new volume, or adopt this one explicitly"
            )

    def _members(self, member: Member, status: EngineStatus) -> list[MemberStatus]:
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
