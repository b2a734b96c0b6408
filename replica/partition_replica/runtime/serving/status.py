"""The status that a replica reports about itself and its group."""

from partition_replica.config import ReplicaConfig
from partition_replica.core.model import MemberStatus, ReplicaStatus
from partition_replica.core.ports import LogView
from partition_replica.engine.port import EngineStatus
from partition_replica.runtime.current_member import CurrentMember
from partition_replica.runtime.disk import DiskWatch
from partition_replica.runtime.member import Member
from partition_replica.runtime.serving.consumers import Consumers
from partition_replica.runtime.serving.histories import Histories
from partition_replica.storage.generations import StateGenerations


class Status:
    """Reads the status. On the event loop. incarnation: a random number, drawn at process start."""

    def __init__(  # noqa: PLR0913  # takes its parts from the assembly
        self,
        config: ReplicaConfig,
        log: LogView,
        states: StateGenerations,
        current: CurrentMember,
        *,
        disk: DiskWatch,
        consumers: Consumers,
        histories: Histories,
        incarnation: int,
    ) -> None:
        self._config = config
        self._log = log
        self._states = states
        self._current = current
        self._disk = disk
        self._consumers = consumers
        self._histories = histories
        self._incarnation = incarnation

    def read(self) -> ReplicaStatus:
        disk_full = self._disk.full()  # first: it also reads the bytes anew
        identity, log, state = self._log.identity, self._log, self._states.current
        member = self._current.member
        # Other threads move the log and the state meanwhile. Of two numbers, the one that is never
        # above the other is read first, so that the answer does not contradict itself.
        stored_from = log.first_stored
        first_index = log.boundary.index + 1
        applied = state.applied.index
        last = log.last
        common = {
            "cluster": str(identity.cluster_id),
            "member": int(identity.member_id),
            "incarnation": self._incarnation,
            "first_index": first_index,
            "applied": applied,
            "last_index": last.index,
            "last_term": int(last.term),
            "disk_full": disk_full,
            "disk_free_bytes": self._disk.free_bytes,
            "disk_total_bytes": self._disk.total_bytes,
            "session_count": state.session_count(),
            "standalone": identity.standalone,
            "backfill": log.backfill,
            "stored_from": stored_from,
            "low_water_mark": self._consumers.low_water_mark,
            "history": self._histories.known(),
        }
        if member is None:
            return ReplicaStatus(
                role="switching" if self._current.held else "unbootstrapped",
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
        # Until the first state is here, and for a moment while a later one is opened.
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
