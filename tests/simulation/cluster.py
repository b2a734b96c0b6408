"""A run: a group, its clients and its operator, while things fail; then everything heals, and it
is looked whether all of it came right."""

import asyncio
import gc
import itertools
import logging
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from partition_common import backoff

from tests.simulation import restores
from tests.simulation.callers import make_process
from tests.simulation.checks import Checks, Verdict, Violation
from tests.simulation.clients import Client
from tests.simulation.consumers import Consumer, Inspector
from tests.simulation.disk import Disks
from tests.simulation.faults import Faults
from tests.simulation.history import History, check_volumes
from tests.simulation.loop import START_S, Deadlock, SimulatedCrash, VirtualLoop, run
from tests.simulation.network import Network
from tests.simulation.node import CLUSTER, Node
from tests.simulation.operator import Operator
from tests.simulation.pipelines import Pipeline
from tests.simulation.restores import Restores
from tests.simulation.settings import draw_more, draw_settings
from tests.simulation.tails import Tail
from tests.simulation.trace import Trace

ACTIVE_S = 25.0
SETTLE_S = 90.0
"""Within this, once everything is healed, the group makes progress and everybody is level."""

BLOBS_CHECKED_EVERY_S = 0.5

MEMORY_DIRECTORY = Path("/dev/shm")


@dataclass(slots=True)
class Report:
    """What came of a seed. `digest`: of the trace."""

    seed: int
    digest: str
    virtual_s: float
    cpu_s: float
    counts: Counter[str]
    last: list[str] = field(default_factory=list)
    violation: Violation | None = None

    def explain(self) -> str:
        lines = [*self.last[-60:], ""]
        lines.append(f"seed {self.seed} failed after {self.virtual_s:.3f} s: {self.violation}")
        lines.append(f"replay: python -m tests.simulation --seed {self.seed} --trace")
        return "\n".join(lines)


class Cluster:
    """Nodes, and those who use them."""

    def __init__(self, seed: int, loop: VirtualLoop, disks: Disks, trace: Trace) -> None:
        self.seed = seed
        self.loop = loop
        self.trace = trace
        self.rng = random.Random(f"{seed}/cluster")
        settings = draw_settings(self.rng, ACTIVE_S)
        self.settings = draw_more(random.Random(f"{seed}/more"), settings)
        self.verdict = Verdict(loop, trace)
        self.histories = [Checks(self.verdict, trace, history=CLUSTER, cluster=CLUSTER)]
        self.network = Network(loop, random.Random(f"{seed}/network"), self.settings, trace)
        self.quiescing = False
        self.nodes: list[Node] = []
        self.clients: list[Client] = []
        self.pipelines: list[Pipeline] = []
        self.tails: list[Tail] = []
        self.restores = Restores(self, disks)
        self._disks = disks
        self._serial = itertools.count(1)
        self._names = itertools.count(1)
        self._writing: list[asyncio.Task[None]] = []
        self._background: list[asyncio.Task[None]] = []

    @property
    def checks(self) -> Checks:
        """Of the group's history now."""
        return self.histories[-1]

    @property
    def current(self) -> list[Node]:
        """The nodes of the group, without those of a group before it."""
        return [node for node in self.nodes if node.checks is self.checks]

    def history_of(self, history: str) -> Checks:
        return next(line for line in self.histories if line.history == history)

    def begin_history(self, line: Checks, member: int) -> Node:
        """The restored group, whose nodes take the names of the old one's, and its first node."""
        for node in self.current:
            if not node.left_behind and not node.retired:
                node.retire()
        self.checks.over = True
        self.histories.append(line)
        self._names = itertools.count(1)
        return self._add_node(member)

    def add_newcomers(self) -> None:
        """Applications that have never heard of a history before."""
        name = f"client{len(self.clients) + 1}"
        client = Client(name, make_process(self, name), self, names_histories=True)
        self.clients.append(client)
        self._writing.append(client.process.spawn(client.run()))
        if self.pipelines:
            pipeline = Pipeline(f"pipeline{len(self.pipelines)}", self)
            self.pipelines.append(pipeline)
            self._writing.append(pipeline.process.spawn(pipeline.run()))

    def draw_member(self) -> int:
        """A member ID that no other volume has."""
        return 100 + next(self._serial)

    def add_node(self) -> Node:
        """A new volume, with the next name."""
        return self._add_node(self.draw_member())

    def _add_node(self, member: int) -> Node:
        node = Node(
            name=f"m{next(self._names)}",
            member=member,
            loop=self.loop,
            disks=self._disks,
            network=self.network,
            checks=self.checks,
            settings=self.settings,
            trace=self.trace,
            rng=random.Random(f"{self.seed}/node/{member - 100}"),
        )
        self.nodes.append(node)
        self.network.nodes[node.address] = node
        return node

    def background(self, body: Coroutine[Any, Any, None]) -> None:
        self._background.append(asyncio.ensure_future(body))

    async def live(self, scratch: Path, faults_max: int | None) -> None:
        for _ in range(self.settings.voters):
            self.add_node().start()
        operator = Operator(self)
        operating = operator.process.spawn(operator.run())
        self.clients = [
            Client(
                f"client{n}",
                make_process(self, f"client{n}"),
                self,
                names_histories=self.restores.draw_names_histories(),
            )
            for n in range(1, self.settings.clients + 1)
        ]
        self.pipelines = [Pipeline(f"pipeline{n}", self) for n in range(self.settings.pipelines)]
        self.tails = [Tail(f"tail{n}", self) for n in range(self.settings.tails)]
        applications = [*self.clients, *self.pipelines]
        self._writing = [one.process.spawn(one.run()) for one in applications]
        for tail in self.tails:
            tail.process.spawn(tail.run())
        self.background(self.restores.run())
        for number in range(self.settings.consumers):
            consumer = Consumer(f"consumer{number}", self)
            consumer.process.spawn(consumer.run())
        inspector = Inspector(self)
        inspector.process.spawn(inspector.run())
        self.background(self._look_at_blobs())
        faults = Faults(self, random.Random(f"{self.seed}/faults"), faults_max)
        self.background(faults.run())
        await asyncio.sleep(self.settings.active_s)
        self._heal()
        try:
            async with asyncio.timeout(SETTLE_S):
                await asyncio.wait([operating])
                await asyncio.gather(operating, *self._writing)
                members = await self._settle(operator)
                for tail in self.tails:
                    await tail.catch_up()
        except TimeoutError:
            self.checks.violated("liveness", f"not settled {SETTLE_S} s after all was healed")
            return
        self.trace.event("cluster", "settled", f"{len(members)} members")
        self._check_end(members, scratch)

    def _heal(self) -> None:
        self.trace.event("cluster", "heals")
        self.quiescing = True
        self.network.heal()
        self.network.perfect = True
        for node in self.nodes:
            node.crash_at_operation(0, lambda: None)
            node.set_slow(False)
            if node.left_behind and not node.retired:
                node.retire()
            if node.process is None and not node.retired and not node.ended:
                node.start()

    async def _settle(self, operator: Operator) -> list[Node]:
        """Until the operator has nothing to do, and all members are level; who they are."""
        while True:
            await asyncio.sleep(0.5)
            for node in self.nodes:
                if node.process is None and not node.retired and not node.ended:
                    node.start()  # its stop was under way when all was healed
            await operator.step()
            found = operator.configuration
            if not found.voters or found.learners or found.joint:
                continue
            members = [node for node in self.current if node.member in found.members]
            outside = [n for n in self.current if n not in members and not n.retired]
            if outside or len(members) < len(found.members):
                continue
            if self._level(members):
                return members

    def _level(self, members: list[Node]) -> bool:
        applied = {n.volume.state.applied.index for n in members if n.volume is not None}
        ends = {n.volume.log.last.index for n in members if n.volume is not None}
        return all(n.up for n in members) and len(applied) == 1 and applied == ends

    def _check_end(self, members: list[Node], scratch: Path) -> None:
        for line in self.histories:
            history = History(line)
            history.check_acknowledged()
        slots = [slot for pipeline in self.pipelines for slot in pipeline.slots]
        for application in [*self.clients, *slots]:
            history.check_expected(application.name, application.expected.of(self.checks))
        for node in members:
            assert node.volume is not None
            history.check_state(node.name, node.volume.state)
        check_volumes(self.checks, members, scratch)

    async def _look_at_blobs(self) -> None:
        while True:
            await asyncio.sleep(BLOBS_CHECKED_EVERY_S)
            for node in self.nodes:
                self.checks.check_blobs(node)


def simulate(seed: int, *, faults_max: int | None = None, echo: bool = False) -> Report:
    """One run. Everything that it does follows from the seed."""
    began = time.process_time()
    base = MEMORY_DIRECTORY if os.access(MEMORY_DIRECTORY, os.W_OK) else None
    loop = VirtualLoop()
    trace = Trace(loop.time, echo=echo)
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    gc.collect()
    gc.disable()  # when it runs, and so what it ends, is no function of the seed
    try:
        with (
            tempfile.TemporaryDirectory(prefix="simulation-", dir=base) as directory,
            pytest.MonkeyPatch.context() as patch,
        ):
            disks = Disks(Path(directory))
            disks.attach(patch)
            restores.attach(patch)
            patch.setattr(backoff, "draw", random.Random(f"{seed}/backoff").random)
            cluster = Cluster(seed, loop, disks, trace)
            scratch = Path(directory) / "scratch"
            try:
                violation = run(loop, _run(cluster, scratch, faults_max))
            finally:
                disks.close()
    finally:
        gc.enable()
        logging.disable(level)
    gc.collect()
    return Report(
        seed,
        trace.digest,
        loop.time() - START_S,
        time.process_time() - began,
        trace.counts,
        list(trace.last),
        violation,
    )


def simulate_apart(seed: int) -> Report:
    """In a process of a pool, which waits for ever for what ends its processes."""
    try:
        return simulate(seed)
    except BaseException as error:
        raise RuntimeError(f"seed {seed}: {error!r}") from error


async def _run(cluster: Cluster, scratch: Path, faults_max: int | None) -> Violation | None:
    verdict = cluster.verdict
    cluster.loop.set_exception_handler(lambda _, context: _unseen(verdict, context))
    life = asyncio.ensure_future(cluster.live(scratch, faults_max))
    await asyncio.wait([life, verdict.failure], return_when=asyncio.FIRST_COMPLETED)
    if verdict.failed is None:
        life.result()
    return verdict.failed


def _unseen(verdict: Verdict, context: dict[str, Any]) -> None:
    """What asyncio would log: of a dead process it means nothing."""
    error = context.get("exception")
    if error is None or isinstance(error, SimulatedCrash | asyncio.CancelledError | Deadlock):
        return
    verdict.violated("exception", f"{context.get('message')}: {error!r}", error)
