"""The admission of a leader over a state with one open session."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from partition_proto.v1 import types_pb2 as types
from partition_replica.core.limits import Limits
from partition_replica.core.model import LogEntry
from partition_replica.core.proposed_entry import Stamp
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
        self._data: dict[int, bytes] = {}
        session = types.OpenSession(session_id=SESSION, time_to_live_ms=10_000)
        self.apply(types.EntryBody(open_session=session, elapsed_ms=0))
        self.admission.lead(4, 100.0)

    def apply(self, body: types.EntryBody) -> None:
        self.last += 1
        self.proposed = max(self.proposed, self.last)
        entry = LogEntry(LSN(self.last), Term(4), 0, body.SerializeToString())
        for applied in self.state.apply([entry], {})[0]:
            self.proposals.applied(applied)

    def written(self, pending: PendingProposal) -> types.EntryBody:
        """The body in the log; of one that was not offered, as if it had been in time."""
        stamp = Stamp(time_ms=0, elapsed_ms=0, term=4)
        data = self._data.get(id(pending)) or stamp.batch([pending.entry])[0]
        return types.EntryBody.FromString(data)

    def offer(self, now_s: float, *pendings: PendingProposal, dropped: bool = False) -> list[bool]:
        """As the loop does with a batch; what is admitted is proposed, not applied, unless the
        engine drops the batch."""
        elapsed_ms = self.admission.begin_batch(now_s, pendings)
        admitted = [self.admission.admit(pending) for pending in pendings]
        batch = [p for p, yes in zip(pendings, admitted, strict=True) if yes]
        stamp = Stamp(time_ms=0, elapsed_ms=elapsed_ms, term=4)
        data = stamp.batch([pending.entry for pending in batch])
        self._data |= dict(zip(map(id, batch), data, strict=True))
        if batch and not dropped:
            self.proposals.proposed(LSN(self.proposed + 1), Term(4), batch)
            self.proposed += len(batch)
            self.admission.proposed()
        return admitted
