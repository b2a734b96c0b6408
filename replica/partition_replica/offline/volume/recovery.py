"""Recovers a lost quorum from the volume of a stopped survivor."""

from pathlib import Path

from partition_replica.core.model import QuorumRecovery
from partition_replica.ids import ClusterID
from partition_replica.offline.stopped import StoppedVolume, open_stopped
from partition_replica.offline.volume.replication import open_volume
from partition_replica.recovery import steps
from partition_replica.recovery.finding import Finding, look


def survey(root: Path) -> Finding:
    """Looks at a survivor's volume, read-only. Raises InvalidArgument, Damaged, StorageFailed."""
    with open_stopped(root) as volume:
        return _look(volume)


def recover(root: Path, cluster: ClusterID, token: str) -> QuorumRecovery:
    """Makes the survivor the only voter of `cluster`, durably. If a recovery with this token was
    interrupted or is complete, it is carried to its end, or nothing is left to do, and `cluster`
    says nothing. Raises RecoveryRefused, which changes nothing; InvalidArgument, Damaged,
    StorageFailed."""
    with open_stopped(root) as volume:  # read-only: a refusal does not even empty staging/
        if not _is_of(volume.log.recovery, token):
            steps.accepted(_look(volume), cluster, token)
    with open_volume(root) as opened:
        if not _is_of(opened.log.recovery, token):
            opened.log.accept_recovery(steps.accepted(steps.survey(opened), cluster, token))
        return steps.recover(opened)


def _is_of(recovery: QuorumRecovery | None, token: str) -> bool:
    return recovery is not None and recovery.token == token


def _look(volume: StoppedVolume) -> Finding:
    return look(volume.log, volume.state.applied.index, volume.blob_size)
