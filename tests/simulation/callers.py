"""Whoever asks a group from outside: one node after another, until one answers."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from partition_replica.errors import GoElsewhere, NoLeader, NotBootstrapped, NotLeader, RetryLater

from tests.simulation.checks import Checks
from tests.simulation.loop import Process
from tests.simulation.network import Network, Unreachable
from tests.simulation.node import Node
from tests.simulation.trace import Trace
from tests.simulation.workload import DIGESTS

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster

T = TypeVar("T")

TIMEOUT_S = (0.5, 4.0)
BACKOFF_S = (0.01, 0.3)

AGAIN = (Unreachable, RetryLater, GoElsewhere, NotBootstrapped)


class Caller:
    """Somebody outside of the group, who asks one node after another."""

    def __init__(
        self, name: str, process: Process, cluster: "Cluster", *, names_histories: bool = False
    ) -> None:
        self.name = name
        self.names_histories = names_histories
        self.process = process
        self.rng = process.rng
        self.cluster = cluster
        self.network: Network = cluster.network
        self.trace: Trace = cluster.trace
        self.target: Node | None = None

    @property
    def checks(self) -> Checks:
        """Of the group's history now."""
        return self.cluster.checks

    @property
    def known_history(self) -> str:
        """What its frames of gets name; "" is any."""
        return ""

    def reachable(self) -> list[Node]:
        """Who may be asked. Who names no history has nothing to tell a replica apart by that a
        restore left behind."""
        return [
            node
            for node in self.cluster.nodes
            if not node.retired and (self.names_histories or not node.left_behind)
        ]

    async def ask(
        self, serve: Callable[[Node], Coroutine[Any, Any, T]], timeout_s: float | None = None
    ) -> T:
        """Of the node that is thought to lead. Raises what it says, and Unreachable."""
        if self.target is None or self.target.retired:
            self.target = self.rng.choice(self.reachable())
        target = self.target
        timeout_s = timeout_s or self.rng.uniform(*TIMEOUT_S)
        try:
            return await asyncio.wait_for(
                self.network.call((self.name, self.process), target, serve), timeout_s
            )
        except NotLeader as error:
            self.target = self.network.nodes.get(error.leader[1])
            raise
        except (TimeoutError, Unreachable, GoElsewhere, NoLeader, NotBootstrapped) as error:
            # NoLeader, too: one that was removed never hears of another leader.
            self.target = None
            if isinstance(error, TimeoutError):
                raise Unreachable("no answer in time") from error
            raise

    async def ask_at(self, node: Node, serve: Callable[[Node], Coroutine[Any, Any, T]]) -> T:
        """Of one node, whether it leads or not. Raises what it says, and Unreachable."""
        call = self.network.call((self.name, self.process), node, serve)
        try:
            return await asyncio.wait_for(call, TIMEOUT_S[1])
        except TimeoutError as error:
            raise Unreachable("no answer in time") from error

    async def upload(self, digests: Iterable[bytes]) -> None:
        """Some of `workload.DIGESTS`, until one is not taken. Half of them travel with the next
        one, which nobody may ever name."""
        order = list(DIGESTS)
        for digest in digests:
            number = order.index(digest)
            if number % 2:
                await self._upload_together([digest, order[(number + 1) % len(order)]])
                continue
            content = DIGESTS[digest]

            async def serve(
                node: Node, digest: bytes = digest, content: bytes = content
            ) -> list[int]:
                assert node.replica is not None, "a call reaches a replica that runs"
                return await node.replica.applications.upload(
                    digest, len(content), self._chunks(content)
                )

            try:
                await self.ask(serve)
            except AGAIN:
                await self.back_off()
                return
            self.trace.count("uploads")

    async def _upload_together(self, digests: list[bytes]) -> None:
        async def groups() -> AsyncIterator[list[tuple[bytes, bytes]]]:
            for digest in digests:
                await asyncio.sleep(self.network.latency())
                yield [(digest, DIGESTS[digest])]

        async def serve(node: Node) -> None:
            assert node.replica is not None, "a call reaches a replica that runs"
            await node.replica.applications.upload_together(groups())

        try:
            await self.ask(serve)
        except AGAIN:
            await self.back_off()
            return
        self.trace.count("uploads together")

    async def _chunks(self, content: bytes) -> AsyncIterator[bytes]:
        chunk_bytes = self.cluster.settings.limits.chunk_bytes
        for start in range(0, len(content), chunk_bytes):
            await asyncio.sleep(self.network.latency())
            yield content[start : start + chunk_bytes]

    async def back_off(self) -> None:
        await asyncio.sleep(self.rng.uniform(*BACKOFF_S))


def make_process(cluster: "Cluster", name: str) -> Process:
    return Process(cluster.loop, name, random.Random(f"{cluster.seed}/{name}"))
