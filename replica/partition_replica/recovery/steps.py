"""Carries a recovery out, on a volume that no member runs on. Every step is durable, and a crash
between two of them is harmless: the next call goes on.

1. *accepted*: the order is stored, with the token of the loss that was accepted. Nothing else has
   changed, and the order is dropped if the log has changed until the next step.
2. *switched*: one transaction of the log makes the member the only voter of a new cluster. From
   here on no member of the former cluster is let in, and there is no way back.
3. The entries that are not applied are applied, and the state gets the new history.
4. *complete*.

What the transaction of step 2 writes, and why:

- Every entry stays, also those that are not known to be committed: an acknowledged one may be among
  them. The member alone is a quorum, so all of them are committed now. If they were dropped, an
  acknowledged write could be lost that is here.
- Entries behind them expire all sessions: a client may have been acknowledged a sequence that is
  lost, and must not go on behind it. They move the session clock as any entry does, so a replay of
  the log gives the same state.
- Entries behind them remove the other members, so that the state forgets their addresses, and the
  log tells the story. Nobody evaluates them: the configuration is saved as of the last one, which
  also settles changes of the members that the tail has, and a joint configuration.
- The term rises by TERM_JUMP.
- The cluster ID is new. Members greet each other with it, so old and new ones refuse each other.

LSNs go on behind the survivor's last one. Clients may have seen other entries with these LSNs, from
the lost members. So the history ID is new, too: it is the cluster ID. The pair of both names an
entry, and every reader and consumer sends it.
"""

import logging

from partition_proto.v1 import types_pb2 as types

from partition_replica.core.limits import SESSION_TTL_MS_MAX
from partition_replica.core.model import (
    LogEntry,
    Position,
    QuorumRecovery,
    RecoveryStep,
)
from partition_replica.core.sessions import ELAPSED_MS_MAX
from partition_replica.engine.entries import change_entry, member_changes, until_change
from partition_replica.engine.port import ChangeKind
from partition_replica.errors import RecoveryRefused
from partition_replica.ids import LSN, ClusterID, Term
from partition_replica.recovery.finding import PAGE_BYTES, Finding, look
from partition_replica.storage.failpoints import reach
from partition_replica.storage.volume import Volume

logger = logging.getLogger(__name__)

TERM_JUMP = 1_000_000
"""By how much the term rises. The lost members may have had terms that the survivor never heard of.
A jump that no number of elections makes up for keeps (LSN, term) unique for those who compare it
without the history."""

EXPIRING_ENTRIES = SESSION_TTL_MS_MAX // ELAPSED_MS_MAX + 1
"""Entries that together move the session clock by more than any session lives."""


def survey(volume: Volume) -> Finding:
    """As `look`, of an open volume."""
    return look(volume.log, volume.state.applied.index, volume.blobs.size)


def accepted(finding: Finding, cluster: ClusterID, token: str) -> QuorumRecovery:
    """Returns the recovery to `cluster`, to be stored. Raises RecoveryRefused if `token` is not of
    this finding."""
    finding.check(token)
    if cluster == finding.cluster:
        raise RecoveryRefused(
            f"{cluster} is the ID of the former cluster: draw a new one, which keeps its members "
            "out"
        )
    nothing = Position(LSN(0), Term(0))
    return QuorumRecovery(cluster, finding.cluster, token, RecoveryStep.ACCEPTED, nothing)


def recover(volume: Volume) -> QuorumRecovery:
    """Carries a recovery that is accepted to its end, from the step at which it is. Raises
    RecoveryRefused, which changes nothing, if the volume has changed since it was accepted;
    Damaged, StorageFailed."""
    recovery = volume.log.recovery
    assert recovery is not None, "it is accepted first"
    if recovery.step is RecoveryStep.ACCEPTED:
        finding = survey(volume)
        finding.check(recovery.token)
        _switch(volume, finding)
    if recovery.step is not RecoveryStep.COMPLETE:
        _finish(volume)
    assert volume.log.recovery is not None
    return volume.log.recovery


def resume(volume: Volume) -> None:
    """Called by a starting replica: carries out a recovery that is accepted or begun. If the volume
    has changed since it was accepted, the order is dropped and the replica starts as before."""
    recovery = volume.log.recovery
    if recovery is None or not recovery.pending:
        return
    try:
        done = recover(volume)
    except RecoveryRefused as error:
        logger.error("the recovery to cluster %s is dropped: %s", recovery.cluster_id, error)
        volume.log.drop_recovery()
        return
    logger.warning(
        "the quorum of cluster %s was lost: this replica is the only voter of cluster %s; all "
        "entries up to LSN %d are kept",
        done.former_cluster_id,
        done.cluster_id,
        done.last.index,
    )


def _switch(volume: Volume, finding: Finding) -> None:
    term, own = Term(finding.term + TERM_JUMP), finding.member
    members = volume.state.members()
    others = (finding.configuration.members | finding.changed | set(members)) - {own}
    changes = [(ChangeKind.REMOVE, other, "") for other in sorted(others)]
    if own not in finding.configuration.voters or own in finding.changed:
        changes.insert(0, (ChangeKind.ADD_VOTER, own, members.get(own, "")))
    first = finding.last.index + 1
    expiring = [_expiring(LSN(first + n), term) for n in range(EXPIRING_ENTRIES)]
    first += EXPIRING_ENTRIES
    removing = [change_entry(LSN(first + n), term, *change) for n, change in enumerate(changes)]
    volume.log.switch_cluster([*expiring, *removing], term)


def _finish(volume: Volume) -> None:
    log, state = volume.log, volume.state
    assert log.recovery is not None
    while state.applied.index < log.last.index:
        page = log.read(LSN(state.applied.index + 1), LSN(log.last.index + 1), PAGE_BYTES)
        batch = until_change(page)
        _, released = state.apply(batch, member_changes(batch[0]))
        volume.garbage.collect(released)
    state.sync()
    reach("recovery.applied")
    if state.history:
        state.renew_history(str(log.recovery.cluster_id))  # otherwise it is the cluster ID already
    reach("recovery.history")
    log.complete_recovery()


def _expiring(index: LSN, term: Term) -> LogEntry:
    data = types.EntryBody(elapsed_ms=ELAPSED_MS_MAX).SerializeToString()
    return LogEntry(index, term, 0, data)
