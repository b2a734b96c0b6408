"""The consumers of a replica between a real log and stand-ins for the rest."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from partition_replica.core.model import (
    Configuration,
    HardState,
    LogBatch,
    LogEntry,
    Position,
    StateSwitch,
)
from partition_replica.core.payloads import blob_digests
from partition_replica.ids import LSN, ClusterID, MemberID, Term
from partition_replica.runtime.serving.consumers import Consumers
from partition_replica.storage.log import LmdbLog

OWN = MemberID(7)
LAST, SNAPSHOT = 10, 20


class Here:
    """A replica's log and state, whose log's writer works at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log = self._open()
        self.log.bootstrap(ClusterID("c"), Configuration((OWN,)))
        self.log.initialize(LSN(1))
        entries = [LogEntry(LSN(index), Term(1), 0, b"") for index in range(2, LAST + 1)]
        self.log.commit(LogBatch(entries, HardState(Term(1), OWN, LSN(LAST))))
        self.applied = self.committed = LAST
        self.consumers = self._consumers()

    def _open(self) -> LmdbLog:
        return LmdbLog(self.path, OWN, blob_digests)

    def _consumers(self) -> Consumers:
        here = self

        class State:
            @property
            def applied(self) -> Position:
                return Position(LSN(here.applied), Term(1))

        async def call_writer(body: Callable[[], Any]) -> Any:
            return body()

        states: Any = SimpleNamespace(current=State())

        async def reach(index: LSN) -> None:
            here.applied = max(here.applied, index)

        status = SimpleNamespace(commit=self.committed)
        loop = SimpleNamespace(call_writer=call_writer, status=lambda: status)
        member: Any = SimpleNamespace(loop=loop, waits=SimpleNamespace(reach_for_caller=reach))
        return Consumers(self.log, states, lambda: member)

    def adopt(self) -> None:
        """The log's part of a state transfer."""
        position = Position(LSN(SNAPSHOT), Term(2))
        self.log.commit(LogBatch(snapshot=StateSwitch(position, Configuration((OWN,)), 2)))

    def restart(self) -> None:
        self.log.close()
        self.log = self._open()
        self.log.initialize(LSN(self.applied))
        self.consumers = self._consumers()
