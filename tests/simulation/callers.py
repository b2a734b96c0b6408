"""Whoever asks a group from outside: one node after another, until one answers."""

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from partition_replica.errors import GoElsewhere, NoLeader, NotBootstrapped, NotLeader, RetryLater

from tests.simulation.checks import Checks
from tests.simulation.loop import Process
from tests.simulation.network import Network, Unreachable
from tests.simulation.node import Node
from tests.simulation.trace import Trace

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster

T = TypeVar("T")

TIMEOUT_S = (0.5, 4.0)
BACKOFF_S = (0.01, 0.3)

AGAIN = (Unreachable, RetryLater, GoElsewhere, NotBootstrapped)


class Caller:
    """Somebody outside of the group, who asks one node after another."""

    def __init__(self, name: str, process: Process, cluster: "Cluster") -> None:
        self.name = name
        self.process = process
        self.rng = process.rng
        self.cluster = cluster
        self.network: Network = cluster.network
        self.checks: Checks = cluster.checks
        self.trace: Trace = cluster.trace
        self.target: Node | None = None

    async def ask(
        self, serve: Callable[[Node], Coroutine[Any, Any, T]], timeout_s: float | None = None
    ) -> T:
        """Of the node that is thought to lead. Raises what it says, and Unreachable."""
        nodes = [node for node in self.cluster.nodes if not node.retired]
        if self.target is None or self.target.retired:
            self.target = self.rng.choice(nodes)
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

    async def back_off(self) -> None:
        await asyncio.sleep(self.rng.uniform(*BACKOFF_S))


def make_process(cluster: "Cluster", name: str) -> Process:
    return Process(cluster.loop, name, random.Random(f"{cluster.seed}/{name}"))
