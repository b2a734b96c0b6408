"""Restores in place: the group is ended and made anew of an earlier snapshot of itself, at the same
addresses, while its clients go on.

As the operator and its pods do it (docs/runbooks/restore.md): a replica takes a snapshot of its
state while it serves; later all replicas end and their volumes go; one volume is made of the
snapshot, in a new cluster, and its replica is the sole voter; the others join anew. The product's
own code takes the snapshot and restores it. Not the product's are:

- who runs it: a snapshot job is a process of its own, and here a task of the replica's process;
- how the thread that reads rows gets a segment: there it asks the event loop and waits
  (`Segments`);
- the power, which does not fail while a volume is restored: tests/conformance has that
  (test_new_volume_power_loss.py). The restoring process is killed, and begun again.

Now and then one old replica is missed, and runs on at an address of its own.
"""

import argparse
import asyncio
import random
import shutil
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from partition_replica.core.model import Position
from partition_replica.core.payloads import blob_digests
from partition_replica.errors import ReplicaError
from partition_replica.ids import ClusterID, MemberID
from partition_replica.offline.snapshots.actions import _Taking
from partition_replica.offline.snapshots.child import CapturedState
from partition_replica.offline.snapshots.restore import completed, restore
from partition_replica.storage.log import LmdbLog
from partition_replica.storage.state import LmdbState
from partition_snapshots import read
from partition_snapshots.destination import DirectoryDestination
from partition_snapshots.directory_store import DirectoryStore
from partition_snapshots.limits import SnapshotLimits
from partition_snapshots.model import ObjectName
from partition_snapshots.read import load
from partition_snapshots.store import object_name

from tests.simulation.checks import Checks, Origin
from tests.simulation.disk import Disks
from tests.simulation.history import History
from tests.simulation.loop import Process
from tests.simulation.network import Unreachable
from tests.simulation.node import Node

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster

FIRST_S, LATER_S = (2.0, 9.0), (3.0, 8.0)
"""Until a snapshot is taken; and from then until it is restored."""

NAMES_HISTORIES = 0.75
"""How many clients name the history that they know; the others are of an earlier version."""

AGAIN_S = 0.5
LEFT_BEHIND = 0.6
STOPPED = 0.5
"""How many replicas end as by SIGTERM; the others are killed."""

KILLED = 0.4
KILLED_AFTER_S = (0.0, 0.06)
POD_S = (0.1, 3.0)
"""How long it takes until the pod runs that restores, and then until the replica's does."""


class Nobody:
    """Who is told how far it is."""

    def progress(self, phase: str, done: int, total: int) -> None:
        """It is done in a moment."""


class Segments(read.StoreSegments):
    """Segments of a directory, read on the thread that wants them."""

    def __call__(self, segment: ObjectName) -> bytes:
        store: Any = self._store
        return bytes((store._path / object_name(segment.digest)).read_bytes())


@dataclass(frozen=True, slots=True)
class Stored:
    """A snapshot in a store of its own."""

    store: Path
    snapshot: str
    line: Checks


class Restores:
    """Takes snapshots, and says when the operator is to restore one."""

    def __init__(self, cluster: "Cluster", disks: Disks) -> None:
        self.rng = random.Random(f"{cluster.seed}/restores")
        self.due = False
        self._cluster = cluster
        self._disks = disks
        self._stored: list[Stored] = []
        self._serial = 0

    def draw_names_histories(self) -> bool:
        """Whether a client names the history that it knows. Without a restore none does, so that
        such seeds run as before there were histories: to be asked for it costs no message, but a
        leader that does not serve yet draws no session ID then."""
        return self._cluster.settings.restores > 0 and self.rng.random() < NAMES_HISTORIES

    async def run(self) -> None:
        cluster = self._cluster
        process = Process(cluster.loop, "snapshots", random.Random(f"{self.rng.random()}"))
        for _ in range(cluster.settings.restores):
            await asyncio.sleep(self.rng.uniform(*FIRST_S))
            while not cluster.quiescing and not await self._take(process):
                await asyncio.sleep(AGAIN_S)
            await asyncio.sleep(self.rng.uniform(*LATER_S))
            if cluster.quiescing:
                return
            self.due = True
            while self.due:
                await asyncio.sleep(AGAIN_S)

    # --- snapshots ----------------------------------------------------------------------------

    async def _take(self, process: Process) -> bool:
        nodes = [node for node in self._cluster.current if node.up]
        if not nodes:
            return False
        node = self.rng.choice(nodes)
        try:
            stored = await self._cluster.network.call(("snapshots", process), node, self._take_at)
        except (Unreachable, ReplicaError):
            return False
        if stored is None:
            return False
        self._stored.append(stored)
        return True

    async def _take_at(self, node: Node) -> Stored | None:
        """As runtime/jobs/snapshot_jobs.py and the process that it starts."""
        assert node.replica is not None and node.volume is not None
        member, volume = node.replica.current.running(), node.volume
        if not node.replica.applications.history():
            return None  # it waits for its first state
        self._serial += 1
        snapshot = f"s{self._serial}"
        directory = volume.staging / f"snapshot-{snapshot}"
        captured = await member.capture.take(directory)
        if captured is None:
            return None
        voters, learners = captured.configuration.voters, captured.configuration.learners
        state: LmdbState | None = None
        try:
            state = LmdbState(directory, read_only=True)
            members = CapturedState(
                directory, tuple(f"{m:x}" for m in voters), tuple(f"{m:x}" for m in learners)
            )
            path = self._disks.path(f"store-{snapshot}")
            options = argparse.Namespace(
                snapshot=snapshot, uid=snapshot, partition="", data=volume.root, full=False
            )
            store = DirectoryStore(path, SnapshotLimits())
            try:
                taking = _Taking(
                    options, SnapshotLimits(), Nobody(), DirectoryDestination(path), store
                )
                await taking.take(state, node.checks.cluster, members, f"{node.member:x}")
            finally:
                await store.close()
        finally:
            if state is not None:
                state.close()
            captured.release()
            await asyncio.to_thread(lambda: shutil.rmtree(directory, ignore_errors=True))
        self._cluster.trace.event(node.name, "takes a snapshot", f"{captured.position.index}")
        self._cluster.trace.count("snapshots taken")
        return Stored(path, snapshot, node.checks)

    # --- restores -----------------------------------------------------------------------------

    async def restore(self) -> Node:
        """Ends the group and makes it anew; its first node, which runs."""
        cluster, stored = self._cluster, self.rng.choice(self._stored)
        self.due = False
        cluster.trace.event("restore", "begins", f"of {stored.snapshot}")
        cluster.trace.count("restores")
        await self._end(cluster.current)
        await asyncio.sleep(self.rng.uniform(*POD_S))
        member = cluster.draw_member()
        cluster_id = str(uuid.UUID(int=self.rng.getrandbits(128)))
        directory, start = await self._make_volume(stored, member, ClusterID(cluster_id))
        line = self._begin(stored, start, cluster_id, directory)
        node = cluster.begin_history(line, member)
        line.founded(member)
        node.restored(directory.name)
        await asyncio.sleep(self.rng.uniform(*POD_S))
        cluster.trace.event("restore", "ends", f"history {line.number} begins at {line.start}")
        if node.process is None:  # all was healed meanwhile, and everybody started
            node.start()
        cluster.add_newcomers()
        return node

    async def _end(self, nodes: list[Node]) -> None:
        nodes = [node for node in nodes if not node.retired]
        missed = self._draw_missed(nodes)
        if missed is not None:
            self._leave_behind(missed)
        ending = [node for node in nodes if node is not missed]
        for node in ending:
            node.ended = True
        stopping = [node for node in ending if self.rng.random() < STOPPED]
        for node in ending:
            if node not in stopping:
                node.crash()
        await asyncio.gather(*(node.stop() for node in stopping))
        for node in ending:
            node.crash()

    def _draw_missed(self, nodes: list[Node]) -> Node | None:
        """One that can't go on without the others."""
        some = [
            node
            for node in nodes
            if node.volume is not None and len(node.volume.log.configuration[1].voters) > 1
        ]
        if self._cluster.quiescing or not some or self.rng.random() >= LEFT_BEHIND:
            return None
        return self.rng.choice(some)

    def _leave_behind(self, node: Node) -> None:
        network = self._cluster.network
        self._cluster.trace.event("restore", "misses", node.name)
        self._cluster.trace.count("replicas that a restore missed")
        del network.nodes[node.address]
        node.name, node.left_behind = f"old-{node.name}", True
        network.nodes[node.address] = node

    async def _make_volume(
        self, stored: Stored, member: int, cluster: ClusterID
    ) -> tuple[Path, Position]:
        """Until it is whole, however often the process that does it is killed."""
        loop, kills = self._cluster.loop, 0
        root = self._disks.path(f"{member}-restored")
        root.mkdir()
        # The product draws a member's ID from the system's randomness; an empty log keeps its own.
        LmdbLog(root / "log", MemberID(member), blob_digests).close()
        while True:
            process = Process(loop, "restore", random.Random(f"{self.rng.random()}"))
            task = process.spawn(_restore(stored, root, cluster))
            if self.rng.random() < KILLED:
                await asyncio.wait([task], timeout=self.rng.uniform(*KILLED_AFTER_S))
            else:
                await asyncio.wait([task])
            if task.done():
                return root, task.result()
            kills += 1
            self._cluster.trace.event("restore", "is killed")
            self._cluster.trace.count("restores killed half-way")
            kept = root.with_name(f"{member}-restored-{kills}")
            shutil.copytree(root, kept, ignore=lambda _, names: {"lock", "lock.mdb"} & set(names))
            process.kill()
            await asyncio.sleep(self.rng.uniform(*POD_S))
            root = kept

    def _begin(self, stored: Stored, start: Position, cluster: str, directory: Path) -> Checks:
        state = LmdbState(next((directory / "state").iterdir()), read_only=True)
        simulation = self._cluster
        line = Checks(
            simulation.verdict,
            simulation.trace,
            history=state.history,
            cluster=cluster,
            number=len(simulation.histories) + 1,
            origin=Origin(stored.line, start),
        )
        base = History(line)
        base.check_state("the restored volume", state)
        state.close()
        line.base = base.view
        return line


async def _restore(stored: Stored, root: Path, cluster: ClusterID) -> Position:
    """What `partition-replica snapshot restore` does. Where the log goes on."""
    limits = SnapshotLimits()
    store = DirectoryStore(stored.store, limits)
    try:
        manifest = await load(store, stored.snapshot, limits)
        if completed(root, cluster) is None:
            await restore(store, manifest, root, cluster=cluster, standalone=False, limits=limits)
    finally:
        with suppress(asyncio.CancelledError):
            await store.close()
    log = LmdbLog(root / "log", MemberID(1), blob_digests, read_only=True)
    try:
        return log.boundary
    finally:
        log.close()


def attach(patch: pytest.MonkeyPatch) -> None:
    """Puts `Segments` in the place of what waits for the event loop."""
    patch.setattr(read, "StoreSegments", Segments)
