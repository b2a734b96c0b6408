"""Holds on the log: entries after a held LSN are not deleted."""

from partition_replica.core.ports import Positions
from partition_replica.ids import LSN


class LogHolds:
    """The LSNs that holders need. They are in memory only: a restart ends all holds. An LSN that is
    further behind than the limit for consumers no longer counts (`core.compaction.holding`)."""

    def __init__(self, log: Positions) -> None:
        self._log = log
        self._held: dict[object, tuple[LSN, ...]] = {}

    def hold(self, holder: object, *lsns: LSN) -> None:
        """Keeps the entries after each of `lsns` for `holder`. Replaces its earlier holds."""
        self._held[holder] = lsns
        self._pass_on()

    def let_go(self, holder: object) -> None:
        """Releases everything that `holder` holds, if anything."""
        self._held.pop(holder, None)
        self._pass_on()

    def _pass_on(self) -> None:
        self._log.hold({lsn for lsns in self._held.values() for lsn in lsns})
