"""What goes wrong, and when, drawn from the seed."""

import asyncio
import random
from typing import TYPE_CHECKING

from tests.simulation.node import Node

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster

RESTART_S = (0.05, 4.0)
PARTITION_S = (0.3, 5.0)
SLOW_S = (0.5, 4.0)
OPERATIONS_MAX = 40
AGAIN, OPERATIONS_AT_START = 0.25, 8
"""How often one that was started crashes again at one of its first disk operations."""

SKEW_MS_MAX = 8_000


class Faults:
    """Injects one after another until `most` or the end of the active phase."""

    def __init__(self, cluster: "Cluster", rng: random.Random, most: int | None) -> None:
        self._cluster = cluster
        self._rng = rng
        self._most = most

    async def run(self) -> None:
        faults = [
            (5, self._crash),
            (5, self._crash_at_operation),
            (1, self._crash_all),
            (3, self._isolate),
            (2, self._one_way),
            (2, self._split),
            (2, self._slow_disk),
            (1, self._stop),
            (1, self._skew),
        ]
        if self._cluster.settings.resets:
            faults.append((4, self._reset))
        count = 0
        while self._most is None or count < self._most:
            every = self._cluster.settings.faults_every_s
            await asyncio.sleep(self._rng.expovariate(1 / every))
            if self._cluster.quiescing:
                return
            weights = [weight for weight, _ in faults]
            self._rng.choices([fault for _, fault in faults], weights)[0]()
            self._cluster.trace.count("faults")
            count += 1

    def restart_later(self, node: Node) -> None:
        loop = self._cluster.loop
        loop.call_exactly_at(loop.time() + self._rng.uniform(*RESTART_S), self._restart, node)

    def _restart(self, node: Node) -> None:
        if node.process is not None or node.retired or node.ended:
            return
        node.start()
        if node.up and not self._cluster.quiescing and self._rng.random() < AGAIN:
            count = self._rng.randint(1, OPERATIONS_AT_START)
            node.crash_at_operation(count, lambda: self.restart_later(node))

    def _pick(self) -> Node | None:
        """Anybody who runs, and as often as not one that leads."""
        up = [node for node in self._cluster.nodes if node.up]
        leading = [n for n in up if n.running is not None and n.running.loop.role == "leader"]
        some = leading if leading and self._rng.random() < 0.5 else up
        return self._rng.choice(some) if some else None

    def _crash(self) -> None:
        node = self._pick()
        if node is not None:
            node.crash()
            self.restart_later(node)

    def _crash_at_operation(self) -> None:
        node = self._pick()
        if node is not None:
            count = self._rng.randint(1, OPERATIONS_MAX)
            node.crash_at_operation(count, lambda: self.restart_later(node))

    def _crash_all(self) -> None:
        for node in self._cluster.nodes:
            if node.up:
                node.crash()
                self.restart_later(node)
        self._cluster.trace.count("crashes of all")

    def _names(self) -> list[str]:
        return [node.name for node in self._cluster.nodes if not node.retired]

    def _one_and_others(self) -> tuple[str, list[str]]:
        names, node = self._names(), self._pick()
        one = node.name if node is not None else self._rng.choice(names)
        return one, [name for name in names if name != one]

    def _cut_all(self, pairs: list[tuple[str, str]]) -> None:
        network, loop = self._cluster.network, self._cluster.loop
        for one, other in pairs:
            network.cut(one, other)
        self._cluster.trace.event("faults", "cuts", " ".join(f"{a}>{b}" for a, b in pairs))
        self._cluster.trace.count("partitions")
        loop.call_exactly_at(loop.time() + self._rng.uniform(*PARTITION_S), self._heal)

    def _heal(self) -> None:
        self._cluster.trace.event("faults", "heals")
        self._cluster.network.heal()

    def _isolate(self) -> None:
        one, others = self._one_and_others()
        self._cut_all([(one, o) for o in others] + [(o, one) for o in others])

    def _one_way(self) -> None:
        one, others = self._one_and_others()
        inward = self._rng.random() < 0.5
        self._cut_all([(o, one) if inward else (one, o) for o in others])

    def _split(self) -> None:
        names = self._names()
        self._rng.shuffle(names)
        at = self._rng.randint(1, len(names))
        pairs = [(a, b) for a in names[:at] for b in names[at:]]
        self._cut_all(pairs + [(b, a) for a, b in pairs])

    def _reset(self) -> None:
        """Ends the connections of one member, often a leader, to some or all others, to it, or
        both ways. All processes live, and may connect again."""
        one, others = self._one_and_others()
        some = [other for other in others if self._rng.random() < 0.7]
        pairs = [(one, other) for other in some]
        back = [(other, one) for other in some]
        pairs = self._rng.choice([pairs, back, pairs + back])
        self._cluster.trace.event("faults", "resets", " ".join(f"{a}>{b}" for a, b in pairs))
        self._cluster.trace.count("resets")
        for source, target in pairs:
            self._cluster.network.reset(source, target)

    def _slow_disk(self) -> None:
        node = self._pick()
        if node is None:
            return
        self._cluster.trace.count("slow disks")
        node.set_slow(True)
        loop = self._cluster.loop
        loop.call_exactly_at(loop.time() + self._rng.uniform(*SLOW_S), lambda: node.set_slow(False))

    def _stop(self) -> None:
        node = self._pick()
        if node is not None:
            self._cluster.background(self._stop_and_start(node))

    async def _stop_and_start(self, node: Node) -> None:
        await node.stop()
        await asyncio.sleep(self._rng.uniform(*RESTART_S))
        self._restart(node)

    def _skew(self) -> None:
        node = self._pick()
        if node is not None:
            node.clock_skew_ms = self._rng.randint(-SKEW_MS_MAX, SKEW_MS_MAX)
