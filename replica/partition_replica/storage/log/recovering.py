"""Takes a log over into a new cluster, because the quorum of its own one is lost for good."""

from collections.abc import Sequence
from dataclasses import replace

from partition_replica.core.model import (
    Configuration,
    HardState,
    LogEntry,
    QuorumRecovery,
    RecoveryStep,
)
from partition_replica.ids import MemberID, Term
from partition_replica.storage import codec
from partition_replica.storage.environment import Transaction
from partition_replica.storage.failpoints import reach
from partition_replica.storage.log.checks import check_hard_state, position_after
from partition_replica.storage.log.conversion import ConvertibleLog
from partition_replica.storage.log.tables import RECOVERY


class RecoverableLog(ConvertibleLog):
    """A log that a recovery moves to a new cluster, in steps (RecoveryStep). Each is one durable
    transaction. They raise ValueError for a step that does not follow on the last one."""

    def accept_recovery(self, recovery: QuorumRecovery) -> None:
        """Stores that the loss is accepted. Nothing else changes."""
        with self._writing:
            now = self._recovery
            if now is not None and now.step is RecoveryStep.SWITCHED:
                raise ValueError(
                    f"the recovery to cluster {now.cluster_id} is not complete: finish it first"
                )
            if recovery.step is not RecoveryStep.ACCEPTED:
                raise ValueError(f"a recovery begins accepted, not {recovery.step}")
            self._save_recovery(recovery)
            reach("recovery.accepted")

    def drop_recovery(self) -> None:
        """Forgets a recovery that is accepted and not begun."""
        with self._writing:
            self._pending(RecoveryStep.ACCEPTED)
            with self._transaction() as txn:
                txn.delete(RECOVERY, db=self.tables.meta)
            self._recovery = None

    def switch_cluster(self, entries: Sequence[LogEntry], term: Term) -> None:
        """Makes this member the only voter of the accepted recovery's cluster, in `term`. The log
        keeps every entry, and gets `entries` behind them, all of `term`. All of them count as
        committed, because this member alone is a quorum."""
        with self._writing:
            recovery = self._pending(RecoveryStep.ACCEPTED)
            if self._identity.standalone or self._backfill is not None:
                raise ValueError("the log is standalone, or a backfill is in progress")
            if not self._hard_state.term < term or any(e.term != term for e in entries):
                raise ValueError(f"term {term} is not above {self._hard_state.term}")
            last = position_after(entries, self._last, False, Term(0))
            switched = replace(recovery, step=RecoveryStep.SWITCHED, last=self._last)
            identity = replace(self._identity, cluster_id=recovery.cluster_id)
            configuration = Configuration(voters=(identity.member_id,))
            hard_state = HardState(term, MemberID(0), last.index)
            check_hard_state(hard_state, self._hard_state, last)
            with self._transaction() as txn:
                self.tables.put(txn, list(entries), Term(0))
                self.tables.put_identity(txn, identity)
                self.tables.put_configuration(txn, last.index, configuration)
                self._put_hard_state(txn, hard_state)
                self._put_recovery(txn, switched)
                reach("recovery.switch.before")
            reach("recovery.switch.after")
            self._identity, self._last, self._hard_state = identity, last, hard_state
            self._configuration = (last.index, configuration)
            self._recovery = switched

    def complete_recovery(self) -> None:
        """Stores that nothing is left to do. The state must be durable, with every entry that
        `switch_cluster` wrote and with the new history."""
        with self._writing:
            recovery = self._pending(RecoveryStep.SWITCHED)
            self._save_recovery(replace(recovery, step=RecoveryStep.COMPLETE))
            reach("recovery.complete")

    def _pending(self, step: RecoveryStep) -> QuorumRecovery:
        found = self._recovery
        if found is None or found.step is not step:
            where = "none" if found is None else found.step
            raise ValueError(f"there is no recovery in step {step} (it is: {where})")
        return found

    def _save_recovery(self, recovery: QuorumRecovery) -> None:
        with self._transaction() as txn:
            self._put_recovery(txn, recovery)
        self._recovery = recovery

    def _put_recovery(self, txn: Transaction, recovery: QuorumRecovery) -> None:
        self.tables.put_meta(txn, RECOVERY, codec.recovery_row(recovery))
