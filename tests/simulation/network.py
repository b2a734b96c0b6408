"""The network: delays, loss, duplication, reordering, cut links, calls that break off.

Harsher than the product's, whose streams are ordered and lose nothing while they live.
"""

import asyncio
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from partition_replica.errors import Fatal

from tests.simulation.loop import Process, VirtualLoop
from tests.simulation.settings import Settings
from tests.simulation.trace import Trace

if TYPE_CHECKING:
    from tests.simulation.node import Node

T = TypeVar("T")

NOTICED_S = (0.05, 1.5)
"""How long it takes until one side notices that the other is gone."""


class Unreachable(Exception):
    """Whoever was called is not there, or went, or the answer was lost: it may have happened."""


@dataclass(eq=False)
class _Call:
    source: Process
    target: Process
    source_name: str
    target_name: str
    task: "asyncio.Task[Any]"


class Network:
    """Whom one reaches from where. Names are the nodes' or clients'."""

    def __init__(
        self, loop: VirtualLoop, rng: random.Random, settings: Settings, trace: Trace
    ) -> None:
        self._loop = loop
        self._rng = rng
        self._trace = trace
        self.settings = settings
        self.perfect = False
        self.nodes: dict[str, Node] = {}
        self._cut: dict[tuple[str, str], None] = {}
        self._last_arrival: dict[tuple[str, str], float] = {}
        self._calls: dict[_Call, None] = {}
        self._watchers: dict[Callable[[Process | None], None], None] = {}
        self._resets: dict[Callable[[str, str], None], None] = {}

    # --- faults -------------------------------------------------------------------------------

    def cut(self, source: str, target: str) -> None:
        """Nothing gets from one to the other any more; what is under way breaks soon."""
        self._cut[source, target] = None
        for call in list(self._calls):
            if {call.source_name, call.target_name} == {source, target}:
                self._loop.call_exactly_at(self._notice_at(), self._break, call)
        self._loop.call_exactly_at(self._notice_at(), self._tell_watchers, None)

    def reset(self, source: str, target: str) -> None:
        """The connections from one to the other end now, and their owners hear of it at once, as by
        an RST. Nothing keeps them from connecting again."""
        for reset in list(self._resets):
            reset(source, target)
        for call in list(self._calls):
            if (call.source_name, call.target_name) == (source, target):
                self._break(call)

    def heal(self) -> None:
        self._cut.clear()

    def is_cut(self, source: str, target: str) -> bool:
        return (source, target) in self._cut

    def process_ended(self, process: Process) -> None:
        for call in list(self._calls):
            if process in (call.source, call.target):
                self._loop.call_exactly_at(
                    self._loop.time() if call.source is process else self._notice_at(),
                    self._break,
                    call,
                )
        self._loop.call_exactly_at(self._notice_at(), self._tell_watchers, process)

    def watch(
        self, watcher: Callable[[Process | None], None], reset: Callable[[str, str], None]
    ) -> None:
        """`watcher` hears of processes that ended, and, by None, of links that were cut; `reset` of
        connections that are reset, by source and target."""
        self._watchers[watcher] = None
        self._resets[reset] = None

    def unwatch(
        self, watcher: Callable[[Process | None], None], reset: Callable[[str, str], None]
    ) -> None:
        self._watchers.pop(watcher, None)
        self._resets.pop(reset, None)

    # --- messages -----------------------------------------------------------------------------

    def latency(self) -> float:
        low, high = self.settings.latency_s
        return self._rng.uniform(low, high)

    def deliver(self, source: str, target: str, body: Callable[[], None]) -> None:
        """Runs `body` when a message arrives, if it does, maybe twice."""
        settings = self.settings
        if self.is_cut(source, target):
            self._trace.count("messages cut off")
            return
        copies = 1
        if not self.perfect:
            if self._rng.random() < settings.loss:
                self._trace.count("messages lost")
                return
            if self._rng.random() < settings.duplication:
                self._trace.count("messages duplicated")
                copies = 2
        for _ in range(copies):
            at = self._loop.time() + self.latency()
            if self.perfect or not settings.reordering:
                at = max(at, self._last_arrival.get((source, target), 0.0))
                self._last_arrival[source, target] = at
            self._loop.call_exactly_at(at, self._arrive, source, target, body)

    def _arrive(self, source: str, target: str, body: Callable[[], None]) -> None:
        if not self.is_cut(source, target):
            self._trace.count("messages delivered")
            body()

    # --- calls --------------------------------------------------------------------------------

    async def call(
        self,
        source: tuple[str, Process],
        target: "Node | None",
        serve: Callable[["Node"], Coroutine[Any, Any, T]],
    ) -> T:
        """Runs `serve` at the target, as its process, and returns what it returned or raises what
        it raised; Unreachable where there is no answer."""
        name, process = source
        if target is None:
            raise Unreachable("nobody is there")
        await asyncio.sleep(self.latency())
        serving = target.process
        if serving is None or target.replica is None or self.is_cut(name, target.name):
            await asyncio.sleep(self._rng.uniform(*NOTICED_S))
            raise Unreachable(f"{target.name} does not answer")
        task = serving.spawn(serve(target))
        call = _Call(process, serving, name, target.name, task)
        self._calls[call] = None
        task.add_done_callback(lambda _: self._calls.pop(call, None))
        if not self.perfect and self._rng.random() < self.settings.broken_call:
            self._trace.count("calls broken off")
            after = self._loop.time() + self._rng.uniform(0.0, 0.3)
            self._loop.call_exactly_at(after, self._break, call)
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            task.cancel()
            raise
        if task.cancelled() or not serving.alive:
            raise Unreachable(f"the call of {target.name} broke off")
        error = task.exception()
        if isinstance(error, Fatal):
            # transport/failures.py ends the process.
            target.end_by(serving, error)
            raise Unreachable(f"{target.name} ended itself")
        await asyncio.sleep(self.latency())
        if self.is_cut(target.name, name):
            await asyncio.sleep(self._rng.uniform(*NOTICED_S))
            raise Unreachable(f"the answer of {target.name} was lost")
        if error is not None:
            raise error
        return task.result()

    def _break(self, call: _Call) -> None:
        if not call.task.done():
            call.task.cancel()

    def _notice_at(self) -> float:
        return self._loop.time() + self._rng.uniform(*NOTICED_S)

    def _tell_watchers(self, process: Process | None) -> None:
        for watcher in list(self._watchers):
            watcher(process)
