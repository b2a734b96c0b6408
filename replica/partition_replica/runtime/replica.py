"""The life of a replica: from an empty volume to a member that serves, and to its end.

A replica is unbootstrapped (its volume belongs to no cluster), joining (it waits for its first
state) or a member. `Member` exists only once the volume belongs to a cluster. `runtime.assembly`
puts the parts together.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from partition_replica.config import ReplicaConfig
from partition_replica.core.model import ReplicaStatus
from partition_replica.errors import MembershipRefused, NoLeader, NotLeader
from partition_replica.runtime.administration import Administration
from partition_replica.runtime.backfill import Backfiller, check_room
from partition_replica.runtime.current_member import CurrentMember
from partition_replica.runtime.disk import DiskWatch
from partition_replica.runtime.jobs.inspection import Inspection
from partition_replica.runtime.jobs.snapshot_jobs import SnapshotJobRunner
from partition_replica.runtime.member import Member
from partition_replica.runtime.metrics import Metrics
from partition_replica.runtime.peer_requests import PeerRequests
from partition_replica.runtime.serving.applications import Applications
from partition_replica.runtime.serving.pinned_states import PinnedStates
from partition_replica.runtime.serving.status import Status
from partition_replica.storage.volume import Volume
from partition_replica.threads import all_ended

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReplicaParts:
    """The parts of a replica that exist whether or not a member runs (`runtime.assembly`)."""

    current: CurrentMember
    disk: DiskWatch
    status: Status
    applications: Applications
    peer_requests: PeerRequests
    pinned_states: PinnedStates
    inspection: Inspection
    snapshot_jobs: SnapshotJobRunner


class Replica:
    """One replica. The transport's services call applications, peer_requests, inspection,
    snapshot_jobs and administration. On the event loop."""

    def __init__(
        self,
        config: ReplicaConfig,
        volume: Volume,
        metrics: Metrics,
        parts: ReplicaParts,
        *,
        make_member: Callable[[], Member],
        incarnation: int,
        failed: Callable[[BaseException], None],
    ) -> None:
        """`make_member` returns a member that is not started. `failed` is called with an error that
        must end the process."""
        self._config = config
        self._volume = volume
        self._metrics = metrics
        self._make_member = make_member
        self._failed = failed
        self.current = parts.current
        self._disk = parts.disk
        self._status = parts.status
        self._pinned_states = parts.pinned_states
        self.applications = parts.applications
        self.peer_requests = parts.peer_requests
        self.inspection = parts.inspection
        self.snapshot_jobs = parts.snapshot_jobs
        self.administration = Administration(config, volume.log, volume.states, parts.current, self)
        self.incarnation = incarnation
        self._backfill: asyncio.Task[None] | None = None
        self.fence_put = asyncio.Event()
        """Set when the volume was fenced: whoever runs the replica has to stop it."""

    @property
    def member(self) -> Member | None:
        """The member that runs, if any."""
        return self.current.member

    def status(self) -> ReplicaStatus:
        return self._status.read()

    def measure(self) -> None:
        """Sets the gauges of the member, if one runs."""
        if self.member is not None:
            self.member.measure()

    def fenced(self) -> None:
        """Called once the fence is durable."""
        self.fence_put.set()

    def start(self) -> None:
        """Starts the member, if the volume belongs to a cluster. Does nothing once `stop` was
        called: nothing would close a member that a late bootstrap starts."""
        if not self.current.stopping:
            self._start_member()

    def _start_member(self) -> None:
        if self._volume.log.identity.cluster_id and self.current.member is None:
            member = self._make_member()
            member.start()
            self.current.member = member
            if self._volume.log.backfill is not None:
                self.enable_replication()  # completes a backfill that was interrupted

    def enable_replication(self) -> bool:
        """Starts to enable replication. Returns True if it is enabled already, and False if a
        backfill is in progress. Raises DiskFull."""
        member = self.current.running()
        if not self._volume.log.identity.standalone:
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
        self.current.held = True

    async def _replace_member(self, switch: Callable[[], None]) -> None:
        """Ends the member, runs `switch` on a thread, and starts a new member."""
        member, self.current.member = self.current.member, None
        assert member is not None, "a backfill runs beside a member"
        await member.close()
        await asyncio.to_thread(switch)
        self._start_member()  # also during `stop`, which waits for it and closes it
        self.current.held = False
        if self.current.member is not None:
            self.current.member.collect_unnamed()

    def _backfill_ended(self, task: "asyncio.Task[None]") -> None:
        self._backfill = None
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed(error)

    async def stop(self) -> None:
        """Transfers leadership if this member leads and there is another voter. Meanwhile ends the
        other parts, and the member last, even if it is cancelled. Once all have ended, raises the
        first error of a part that did not end cleanly. A Fatal goes to `failed` at once."""
        self.current.stopping = True
        ending = asyncio.ensure_future(
            all_ended(
                self.inspection.close(),
                self._pinned_states.close(),
                self.snapshot_jobs.close(),
                self._end_backfill(),
                failed=self._failed,
            )
        )
        try:
            try:
                await self._hand_over_until(ending)
            finally:
                await ending
        finally:
            if self.current.member is not None:
                await self.current.member.close()

    async def _hand_over_until(self, ending: "asyncio.Future[None]") -> None:
        """Transfers leadership at once, because clients wait for the next leader and the other
        parts may take long to end. Repeats it if this member becomes the leader before they have
        ended: another leader that stops may choose it."""
        while True:
            over, member = ending.done(), self.current.member
            await self._hand_over(member)
            if over:
                return
            changed: asyncio.Future[Any] = asyncio.create_task(_changed(member))
            try:
                await asyncio.wait({ending, changed}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                changed.cancel()

    async def _hand_over(self, member: Member | None) -> None:
        if member is None or member.loop.role != "leader":
            return
        if len(member.configuration.voters) < 2:  # noqa: PLR2004  # itself, and another one
            return
        try:
            await self.administration.transfer(member, 0, self._config.shutdown_s / 2)
        except (NotLeader, NoLeader, MembershipRefused) as error:
            logger.warning("leadership was not transferred before the stop: %s", error)

    async def _end_backfill(self) -> None:
        if self._backfill is None:
            return
        if self.current.held:
            await asyncio.wait([self._backfill])  # it takes only a moment from here on
        else:
            self._backfill.cancel()

    @property
    def ready(self) -> bool:
        """Whether the member runs, knows its leader, and does not stop."""
        member = self.current.member
        return member is not None and not self.current.stopping and member.loop.leader != 0


def _changed(member: Member | None) -> Coroutine[Any, Any, object]:
    """Waits for the member's next change of role or leader; forever if there is no member."""
    return asyncio.Event().wait() if member is None else member.leader_changed()
