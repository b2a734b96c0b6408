"""The admission of a leader over a state with one open session."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from partition_proto.v1 import types_pb2 as types
from partition_replica.core.limits import Limits
from partition_replica.core.model import LogEntry
from partition_replica.ids import LSN, Term
from partition_replica.runtime.consensus.admission import Admission
from partition_replica.runtime.consensus.proposals import PendingProposal, Proposals
from partition_replica.storage.state import LmdbState

SESSION = 77


class Leader:
    """An admission over a state with one open session; `apply` is the group's log."""

    def __init__(self, folder: Path) -> None:
        self.state = LmdbState(folder)
        self.proposals = Proposals(Limits())
        self.admission = Admission(cast("Any", SimpleNamespace(current=self.state)), self.proposals)
        self.last = self.proposed = 0
        session = types.OpenSession(session_id=SESSION, time_to_live_ms=10_000)
        self.apply(types.EntryBody(open_session=session, elapsed_ms=0))
        self.admission.lead(4, 100.0)

    def apply(self, body: types.EntryBody) -> None:
        self.last += 1
        self.proposed = max(self.proposed, self.last)
        entry = LogEntry(LSN(self.last), Term(4), 0, body.SerializeToString())
        for applied in self.state.apply([entry], {})[0]:
            self.proposals.applied(applied)

    def offer(self, now_s: float, *pendings: PendingProposal, dropped: bool = False) -> list[bool]:
        """As the loop does with a batch; what is admitted is proposed, not applied, unless the
        engine drops the batch."""
        elapsed = self.admission.begin_batch(now_s)
        admitted = [self.admission.admit(pending) for pending in pendings]
        batch = [p for p, yes in zip(pendings, admitted, strict=True) if yes]
        for pending in batch:
            pending.body.elapsed_ms, elapsed = elapsed, 0
        if batch and not dropped:
            self.proposals.proposed(LSN(self.proposed + 1), Term(4), batch)
            self.proposed += len(batch)
            self.admission.proposed()
        return admitted
