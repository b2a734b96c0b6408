"""The status calls of a client that looks for the leader: at most one per address at a time.

A round of calls ends as soon as the answers suffice. The calls that have no answer yet go on, and
their answers count in the next round. So a replica that does not answer costs nothing, and one that
is far away is heard nevertheless. Callers that look at the same time share the calls.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from partition_proto.v1 import log_store_pb2 as api

from partition_client.errors import ClientError, client_closed

Answer = api.GetStatusResponse | ClientError | None
"""A replica's status; None if it does not answer now, an error if it never will."""

OTHERS_S = 0.05
"""Seconds for which a round waits for other replicas once one has answered. A call that is older
than this when the round begins is not waited for at all."""

KEPT_S = 2.0
"""Seconds after the begin of a call for which its answer counts."""


@dataclass(frozen=True, slots=True)
class _Call:
    task: "asyncio.Task[Answer]"
    began: float


class StatusCalls:
    """On the event loop."""

    def __init__(self, ask: Callable[[str, float], Awaitable[Answer]]) -> None:
        """`ask` asks one address, within so many seconds. It may raise ClientError."""
        self._ask = ask
        self._calls: dict[str, _Call] = {}

    async def round(
        self,
        addresses: Sequence[str],
        timeout_s: float,
        suffices: Callable[[str, api.GetStatusResponse], bool],
        hinted: Callable[[str, api.GetStatusResponse], str],
    ) -> dict[str, Answer]:
        """Asks `addresses`, and what `hinted` makes of an answer: the address of the leader that it
        names, or "". Returns the answers by address as soon as one suffices, or if no further one
        is worth a wait. Raises ClientError if the client is closed."""
        now = asyncio.get_running_loop().time
        began = now()
        ends = began + timeout_s
        found: dict[str, Answer] = {}
        waiting = {self._begin(address, timeout_s): address for address in addresses}
        late = {a for a, call in self._calls.items() if began - call.began > OTHERS_S}
        answered = False
        while waiting:
            # Late ones are not waited for. One that is done by now counts.
            if answered and all(a in late and not task.done() for task, a in waiting.items()):
                break
            done, _ = await asyncio.wait(
                waiting, timeout=ends - now(), return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                break
            for task in done:
                address = waiting.pop(task)
                found[address] = answer = self._take(address, task)
                if not isinstance(answer, api.GetStatusResponse):
                    continue
                answered, ends = True, min(ends, now() + OTHERS_S)
                if suffices(address, answer):
                    return found
                named = hinted(address, answer)
                if named and named not in found and named not in waiting.values():
                    waiting[self._begin(named, timeout_s)] = named
        return found

    def forget_answers(self) -> None:
        """Drops the answers that no round has taken yet: the leader that they name is lost."""
        self._calls = {a: call for a, call in self._calls.items() if not call.task.done()}

    async def close(self) -> None:
        calls, self._calls = self._calls, {}
        for call in calls.values():
            call.task.cancel()
        await asyncio.gather(*(call.task for call in calls.values()), return_exceptions=True)

    def _begin(self, address: str, timeout_s: float) -> "asyncio.Task[Answer]":
        """A call to `address`: the one that is under way or not taken yet, or a new one."""
        now = asyncio.get_running_loop().time()
        call = self._calls.get(address)
        if call is None or (call.task.done() and now - call.began > KEPT_S):
            call = _Call(asyncio.ensure_future(self._ask(address, timeout_s)), now)
            call.task.add_done_callback(_note_failure)
            self._calls[address] = call
        return call.task

    def _take(self, address: str, task: "asyncio.Task[Answer]") -> Answer:
        call = self._calls.get(address)
        if call is not None and call.task is task:
            del self._calls[address]
        if task.cancelled():
            raise client_closed()
        return task.result()


def _note_failure(task: "asyncio.Task[Answer]") -> None:
    """asyncio logs an exception that nobody takes, as of a call that no round waits for."""
    with suppress(asyncio.CancelledError):
        task.exception()
