"""Who reads a replica's log by a named position, and who verifies a replica while it serves."""

import asyncio
import itertools
import shutil
import tempfile
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from partition_replica.core.model import VerifyReport
from partition_replica.errors import (
    Compacted,
    InvalidArgument,
    NotFound,
    ReplicaError,
    WrongHistory,
)
from partition_replica.storage.state import LmdbState
from partition_replica.storage.verification import Verification
from partition_replica.storage.volume import Volume

from tests.simulation.callers import Caller, make_process
from tests.simulation.network import Unreachable
from tests.simulation.node import Node

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster

Serve = Callable[[Node], Coroutine[Any, Any, int]]

ROUND_S = (0.1, 1.5)
READ_BYTES = 3_000
VERIFY_EVERY_S = 6.0


class Consumer(Caller):
    """Reads everything at one replica, until that is gone or it comes too late; then at another. It
    names the history that it reads, and is to be told where that is over."""

    def __init__(self, name: str, cluster: "Cluster") -> None:
        super().__init__(name, make_process(cluster, name), cluster, names_histories=True)
        self._line = cluster.checks
        self._node: Node | None = None
        self._position = 0
        self._late = 0

    async def run(self) -> None:
        while not self.cluster.quiescing:
            await asyncio.sleep(self.rng.uniform(*ROUND_S))
            try:
                await self._round()
            except Compacted as error:
                # It reads the state, which is at `applied`, and goes on from there.
                self.trace.count("consumers that came too late")
                if error.applied + 1 < error.first_index:
                    self.checks.violated("consumer", f"{self.name} can't go on: {error}", error)
                self._late = max(error.applied, self._position)
            except WrongHistory as error:
                self._learn(error)
            except (Unreachable, TimeoutError, ReplicaError):
                if self._node is not None and (self._node.retired or self.rng.random() < 0.1):
                    self._node = None

    def _learn(self, error: WrongHistory) -> None:
        """It begins anew, unless a replica that was left behind says so."""
        line, self._node = self.cluster.history_of(error.history), None
        if line.number > self._line.number:
            self._line = line
            self.trace.count("consumers told of a new history")

    async def _round(self) -> None:
        if self._node is None:
            node = self.rng.choice(self.reachable())
            self._late = 0
            self._position = await self._at(node, self._register)
            self._node = node
        if self._late > self._position:
            self._position = self._late
            await self._at(self._node, self._acknowledge)
            self.trace.count("consumers that went on from the state")
        self._late = 0
        read = await self._at(self._node, self._read)
        if read > self._position:
            self._position = read
            await self._at(self._node, self._acknowledge)
            self.trace.count("entries that consumers read", read)

    async def _at(self, node: Node, serve: Serve) -> int:
        line = self._line

        async def of_the_history(node: Node) -> int:
            """As the service does first of all."""
            assert node.replica is not None
            if self.cluster.settings.restores:  # other seeds run as before there were histories
                node.replica.applications.check_history(line.history)
            found = await serve(node)
            if node.checks is not line:
                self.checks.violated(
                    "history",
                    f"{self.name} reads history {line.number} and is served by {node.name} of "
                    f"history {node.checks.number}",
                )
            return found

        call = self.network.call((self.name, self.process), node, of_the_history)
        return await asyncio.wait_for(call, 3.0)

    async def _register(self, node: Node) -> int:
        assert node.replica is not None
        for name, position in node.replica.applications.consumers.list()[0]:
            if name == self.name:
                return position
        return (await node.replica.applications.consumers.register(self.name, 0))[0]

    async def _read(self, node: Node) -> int:
        """Up to where it has read."""
        assert node.replica is not None
        entries, after = node.replica.applications.committed_entries(self._position + 1, READ_BYTES)
        for expected, entry in enumerate(entries, self._position + 1):
            if entry.index != expected:
                self.checks.violated("consumer", f"{expected} was to come, {entry.index} came")
            known = node.checks.committed.get(entry.index)
            if known is not None and known != entry:
                self.checks.violated("consumer", f"{node.name} gives another entry {entry.index}")
        return after - 1

    async def _acknowledge(self, node: Node) -> int:
        assert node.replica is not None
        try:
            return (
                await node.replica.applications.consumers.acknowledge(self.name, self._position)
            )[0]
        except (InvalidArgument, NotFound) as error:
            # What was read was applied there, and a registration is durable.
            self.checks.violated("consumer", f"{node.name} at {self._position}: {error}", error)
            return 0


class Inspector(Caller):
    """Verifies one replica after another while it serves, as runtime/jobs/inspection.py does, but
    for the process that does it there."""

    def __init__(self, cluster: "Cluster") -> None:
        super().__init__("inspector", make_process(cluster, "inspector"), cluster)
        self._serial = itertools.count(1)

    async def run(self) -> None:
        while not self.cluster.quiescing:
            await asyncio.sleep(self.rng.expovariate(1 / VERIFY_EVERY_S))
            node = self.rng.choice([n for n in self.cluster.nodes if not n.retired])
            with suppress(Unreachable, ReplicaError):
                await self.network.call((self.name, self.process), node, self._verify)

    async def _verify(self, node: Node) -> None:
        assert node.replica is not None and node.volume is not None
        member, volume = node.replica.current.running(), node.volume
        directory = volume.staging / f"inspected-{next(self._serial)}"
        captured = await member.capture.take(directory)
        if captured is None:
            return
        try:
            report = await asyncio.to_thread(lambda: verify(volume, directory))
            self.trace.count("replicas verified")
            if report.findings:
                self.checks.violated("verify", f"at {node.name}: {report.findings[:3]}")
        finally:
            captured.release()
            await asyncio.to_thread(lambda: shutil.rmtree(directory, ignore_errors=True))


def verify(volume: Volume, copy: Path) -> VerifyReport:
    """A copy of the state, and the log and the blobs as they go on."""
    state = LmdbState(copy, read_only=True)
    try:
        with tempfile.TemporaryDirectory(dir=volume.root.parent) as scratch:
            return Verification(
                volume.log,
                state,
                volume.blobs.path,
                volume.blobs.digests,
                Path(scratch) / "verify",
                live=True,
                progress=lambda *_: None,
            ).run()
    finally:
        state.close()
