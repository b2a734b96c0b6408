"""Takes the order to recover a lost quorum while the replica runs. The next start carries it out:
the log of a running member is in use by engine and applier."""

import asyncio
import logging
from collections.abc import Callable

from partition_replica.errors import RecoveryRefused
from partition_replica.ids import ClusterID
from partition_replica.recovery import steps
from partition_replica.recovery.finding import Finding
from partition_replica.runtime.current_member import CurrentMember
from partition_replica.storage.volume import Volume
from partition_replica.threads import run_to_end

logger = logging.getLogger(__name__)


class QuorumRecoveries:
    """Implements core.services.RecoveryService. On the event loop."""

    def __init__(self, volume: Volume, current: CurrentMember, restart: Callable[[], None]) -> None:
        """restart: ends the process once its answers are sent, so that it starts again."""
        self._volume = volume
        self._current = current
        self._restart = restart
        self._one = asyncio.Lock()

    async def recover(self, member_id: int, cluster: str, accept_loss: str) -> bool:
        async with self._one:
            log = self._volume.log
            done = log.recovery
            if done is not None and done.cluster_id == cluster and not done.pending:
                return True
            own = log.identity.member_id
            if member_id != own:
                raise RecoveryRefused(
                    f"this is member {own:x}, not {member_id:x}: another volume has its address now"
                )
            self._check_leaderless()
            finding: Finding = await asyncio.to_thread(steps.survey, self._volume)
            order = steps.accepted(finding, ClusterID(cluster), accept_loss)
            self._check_leaderless()
            # To its end, even if the caller is cancelled: the process ends behind it.
            await run_to_end(lambda: log.accept_recovery(order))
            logger.warning(
                "the loss of the quorum of cluster %s is accepted: this process ends, and the next "
                "start makes the replica the only voter of cluster %s",
                finding.cluster,
                cluster,
            )
            self._restart()
            return False

    def _check_leaderless(self) -> None:
        """Raises RecoveryRefused if the member leads, or has heard of a leader lately. Otherwise no
        promise to a leader's lease is left either."""
        member = self._current.running()
        if member.loop.role == "leader" or not member.leaderless_s:
            leader, address = member.leader
            known = f"member {leader:x} at {address} leads" if leader else "a leader was here"
            raise RecoveryRefused(
                f"the quorum is not lost: {known} within the last two election time-outs. Wait, or "
                "stop the other members for good first"
            )
