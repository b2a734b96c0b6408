"""Who follows the log by Read, at any replica, and goes on at another where the stream ends: all
that it is given is of the history that it names, in order; it is told where that is over."""

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
from partition_client.errors import detail_of
from partition_proto.v1 import log_store_pb2 as api
from partition_proto.v1 import types_pb2 as types

from tests.simulation.callers import Caller, make_process
from tests.simulation.wire import Stub

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster

SILENCE_S = (2.0, 6.0)
CATCH_UP_S = 30.0


class Tail(Caller):
    """It goes on until the end of the run."""

    def __init__(self, name: str, cluster: "Cluster") -> None:
        super().__init__(name, make_process(cluster, name), cluster, names_histories=True)
        self._line = cluster.checks
        self._position = 1
        """The LSN that is to come."""

    async def run(self) -> None:
        while True:
            node = self.rng.choice(self.reachable())
            request = api.ReadRequest(
                from_lsn=self._position, follow=True, history_id=self._line.history
            )
            try:
                await self._follow(Stub(self, node).Read(request))
            except grpc.aio.AioRpcError as error:
                self._meet(detail_of(error))
            await self.back_off()

    async def catch_up(self) -> None:
        """Nothing fails any more: it hears of the group's history, and of all of it."""
        try:
            async with asyncio.timeout(CATCH_UP_S):
                while self._line is not self.checks or self._position <= max(self.checks.committed):
                    await asyncio.sleep(0.1)
        except TimeoutError:
            self.checks.violated(
                "liveness",
                f"{self.name} is at {self._position} of history {self._line.number}; the group is "
                f"at {max(self.checks.committed)} of history {self.checks.number}",
            )

    async def _follow(self, call: Any) -> None:
        """Until it is silent, or ends."""
        try:
            while True:
                response = await asyncio.wait_for(call.read(), self.rng.uniform(*SILENCE_S))
                if response is grpc.aio.EOF:
                    return
                self._take(response)
        except TimeoutError:
            return
        finally:
            call.cancel()

    def _take(self, response: api.ReadResponse) -> None:
        lsn, line = response.lsn, self._line
        if self._position > 1 and lsn != self._position:
            self.checks.violated("tail", f"{self.name} waits for {self._position}, {lsn} comes")
        entry = line.committed.get(lsn)
        same = entry is not None and entry.term == response.term
        if entry is not None and same and entry.data and not entry.kind:
            body = types.EntryBody.FromString(entry.data)
            same = body.SerializeToString() == response.body.SerializeToString()
        if not same:
            self.checks.violated(
                "tail", f"{self.name} is given an entry {lsn} that history {line.number} lacks"
            )
        self._position = lsn + 1
        self.trace.count("entries that tails were given")

    def _meet(self, error: types.ErrorDetail | None) -> None:
        if error is None:
            return
        if error.reason == types.REASON_COMPACTED:
            # It reads the state, and goes on behind that.
            self._position = max(error.applied + 1, self._position)
            self.trace.count("tails that came too late")
        elif error.reason == types.REASON_WRONG_HISTORY:
            line = self.cluster.history_of(error.history_id)
            if line.number > self._line.number:
                self._line, self._position = line, line.start + 1
                self.trace.event(self.name, "learns of", f"history {line.number}")
                self.trace.count("tails told of a new history")
