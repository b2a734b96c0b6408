"""Who else needs the log: its rows stay behind every LSN that is held here."""

from partition_replica.core.ports import Positions
from partition_replica.ids import LSN


class LogHolds:
    """LSNs that several holders need. In memory: after a restart nothing is held. An LSN further
    behind than the limit for consumers no longer counts; the others do
    (`core.compaction.holding`)."""

    def __init__(self, log: Positions) -> None:
        self._log = log
        self._held: dict[object, tuple[LSN, ...]] = {}

    def hold(self, holder: object, *lsns: LSN) -> None:
        """Keeps the entries behind each of `lsns` for `holder`, instead of what it held before."""
        self._held[holder] = lsns
        self._pass_on()

    def let_go(self, holder: object) -> None:
        """Does nothing if it holds nothing."""
        self._held.pop(holder, None)
        self._pass_on()

    def _pass_on(self) -> None:
        self._log.hold({lsn for lsns in self._held.values() for lsn in lsns})
