"""What the operator does to a group: begins it, adds and removes members, moves leadership. One
change at a time, as the product's operator does, and any of them may fail or go unanswered."""

import asyncio
from collections.abc import Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any

from partition_replica.core.model import Configuration
from partition_replica.errors import ReplicaError

from tests.simulation.callers import Caller, make_process
from tests.simulation.network import Unreachable
from tests.simulation.node import CLUSTER, Node

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster

MEMBERS_MAX = 5
VOLUMES_MAX = 9
ROUND_S = (0.1, 0.8)
TIMEOUT_S = 8.0

FAILURES = (ReplicaError, Unreachable)


class Operator(Caller):
    """Grows the group to as many voters as are wanted, then lets it shrink and grow."""

    def __init__(self, cluster: "Cluster") -> None:
        super().__init__("operator", make_process(cluster, "operator"), cluster)
        self.configuration = Configuration()
        self._as_of = (0, 0)
        self._leaving = 0

    async def run(self) -> None:
        await self._bootstrap(self.cluster.nodes[0])
        while not self.cluster.quiescing:
            await asyncio.sleep(self.rng.uniform(*ROUND_S))
            if self.cluster.restores.due:
                await self._restore()
            await self.step()

    async def _restore(self) -> None:
        """The group in place: everything is deleted, and made anew of a snapshot."""
        self.target = await self.cluster.restores.restore()
        self._as_of, self.configuration, self._leaving = (0, 0), Configuration(), 0

    async def step(self) -> None:
        """Looks, and does one thing."""
        try:
            as_of, configuration, leader = await self.ask(_look)
            if as_of < self._as_of:
                return  # a leader of the past, which does not know yet
            self._as_of, self.configuration = as_of, configuration
            await self._step(leader)
        except FAILURES as error:
            self.trace.remark(self.name, f"{error!r}")

    async def _step(self, leader: int) -> None:
        members, voters = self.configuration.members, self.cluster.settings.voters
        self._retire_removed(members)
        for learner in self.configuration.learners:
            if self.cluster.quiescing or self.rng.random() >= self.cluster.settings.patience:
                await self._change("promote", learner)
            return
        if self._leaving in members and self._leaving != leader:
            await self._change("remove", self._leaving)
            return
        self._leaving = 0
        waiting = [n for n in self.cluster.current if n.member not in members and not n.retired]
        if waiting:
            await self._add(waiting[0])
        elif len(self.configuration.voters) < voters:
            self._new_volume()
        elif self.cluster.quiescing:
            return
        elif self.rng.random() < 0.15 and len(members) < MEMBERS_MAX:
            self._new_volume()
        elif self.rng.random() < 0.25 and len(self.configuration.voters) > 1:
            self._leaving = self.rng.choice([m for m in sorted(members) if m != leader])
        elif self.rng.random() < 0.2:
            await self._transfer(self.rng.choice(self.configuration.voters))

    def _new_volume(self) -> None:
        if len(self.cluster.current) < VOLUMES_MAX:
            self.cluster.add_node().start()

    def _retire_removed(self, members: frozenset[int]) -> None:
        """The pod of a member that is out goes, with its volume."""
        for node in self.cluster.current:
            if node.member in members:
                node.joined = True
            elif node.joined and not node.retired:
                node.retire()

    async def _add(self, node: Node) -> None:
        await self._at(node, partial(_join, node.checks.cluster))
        await self._change("add", node.member)

    async def _change(self, kind: str, member: int) -> None:
        node = next(n for n in self.cluster.nodes if n.member == member)

        async def serve(target: Node) -> int:
            assert target.replica is not None
            administration = target.replica.administration
            match kind:
                case "add":
                    return await administration.add_learner(member, node.address)
                case "promote":
                    return await administration.promote_learner(member)
                case _:
                    return await administration.remove_member(member)

        self.trace.event(self.name, kind, node.name)
        await self.ask(serve, TIMEOUT_S)
        self.trace.count(f"members: {kind}")

    async def _transfer(self, member: int) -> None:
        async def serve(target: Node) -> Any:
            assert target.replica is not None
            return await target.replica.administration.transfer_leadership(member)

        self.trace.event(self.name, "transfers leadership", f"{member}")
        await self.ask(serve, TIMEOUT_S)
        self.trace.count("leadership transfers")

    async def _bootstrap(self, node: Node) -> None:
        while True:
            try:
                await self._at(node, _bootstrap)
                self.target = node
                return
            except FAILURES:
                await self.back_off()

    async def _at(self, node: Node, serve: Any) -> None:
        source = (self.name, self.process)
        call: Coroutine[Any, Any, Any] = self.network.call(source, node, serve)
        try:
            await asyncio.wait_for(call, TIMEOUT_S)
        except TimeoutError as error:
            raise Unreachable("no answer in time") from error


async def _look(node: Node) -> tuple[tuple[int, int], Configuration, int]:
    """What a leader knows that has applied every configuration of the leaders before it. It is as
    of (term, LSN): a member that was caught up by a state transfer has its configuration as of the
    transfer, so LSNs of two leaders can't be compared."""
    assert node.replica is not None and node.volume is not None
    leading = node.replica.current.leading()
    leading.check_serving()
    as_of, configuration = node.volume.log.configuration
    return (leading.loop.status().term, as_of), configuration, node.member


async def _bootstrap(node: Node) -> None:
    assert node.replica is not None
    await node.replica.administration.bootstrap(CLUSTER, standalone=False)


async def _join(cluster: str, node: Node) -> None:
    assert node.replica is not None
    await node.replica.administration.join(cluster)
