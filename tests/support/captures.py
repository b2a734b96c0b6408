"""A volume whose entries are applied without a log in front, and copies of its state held up."""

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from partition_proto.v1 import types_pb2 as types
from partition_replica.core.limits import Limits
from partition_replica.core.model import Applied, Configuration, LogEntry, Position
from partition_replica.ids import LSN, ClusterID, Digest, Term
from partition_replica.runtime.consensus.applier import Applier, ApplyHooks
from partition_replica.runtime.metrics import Metrics
from partition_replica.runtime.transfer.capture import Copy, StateCapture, copy_state
from partition_replica.storage.files import VolumeLock
from partition_replica.storage.state import LmdbState
from partition_replica.storage.state_copy import CopiedFile, FrozenState
from partition_replica.storage.state_tables import TABLES
from partition_replica.storage.volume import Volume

from tests.support.local_group import eventually
from tests.support.proposals import body, link, opening, proposal

SESSION = 2
LIMITS = replace(Limits(), disk_reserve_bytes=1)


class Subject:
    """A volume whose entries are applied by an applier, without a log in front."""

    def __init__(self, root: Path) -> None:
        lock = VolumeLock(root)
        assert lock.try_acquire()
        self.volume = Volume(root, lock, pins_max=1000)
        member = self.volume.log.identity.member_id
        self.volume.state.start(Position(LSN(1), Term(1)), {int(member): "here:1"})
        self.volume.log.bootstrap(ClusterID("c"), Configuration((member,)))
        self.applier = Applier(
            self.volume.log,
            self.volume.states,
            self.volume.garbage,
            LIMITS,
            Metrics(),
        )
        self.applier.start(ApplyHooks(change=self._change, done=self._done))
        self.running = asyncio.create_task(self.applier.run())
        self.last = self.applied = 1

    def _done(self, results: list[Applied]) -> None:
        self.applied = results[-1].index

    async def _change(self, entry: LogEntry) -> None:
        raise AssertionError(f"{entry} is no configuration change")

    async def apply(self, *bodies: types.EntryBody) -> None:
        """Returns when they are applied, and what they dropped was offered to the collection."""
        entries = []
        for found in bodies:
            self.last += 1
            entries.append(LogEntry(LSN(self.last), Term(1), 0, found.SerializeToString()))
        self.applier.add(entries)

        async def applied() -> bool:
            return self.applied == self.last

        await eventually(applied, f"{self.last} is applied")
        await self.applier.call(lambda: None)  # behind the collection, which follows at once

    async def collect_deferred(self) -> int:
        candidates = list(self.volume.blobs.take_deferred())
        return await self.applier.call(lambda: self.volume.garbage.collect(candidates))

    def propose(self, *operations: types.Operation, large: bytes = b"") -> types.EntryBody:
        payloads = []
        if large:
            digest = hashlib.sha256(large).digest()
            payloads = [types.Payload(digest=digest, size=len(large), mode=0o644)]
            writer = self.volume.blobs.writer(Digest(digest), len(large))
            writer.write(large)
            writer.finish()
        return body(proposal(SESSION, self.last, list(operations), payloads))

    async def put_file(self, name: bytes, content: bytes) -> Digest:
        await self.apply(self.propose(link(name), large=content))
        return Digest(hashlib.sha256(content).digest())

    async def close(self) -> None:
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)
        await asyncio.to_thread(self.applier.close)
        self.volume.close()


@pytest.fixture
async def subject(tmp_path: Path) -> AsyncIterator[Subject]:
    found = Subject(tmp_path)
    await found.apply(opening())
    yield found
    await found.close()


class HeldUp:
    """A copy that waits until it is let go, and then copies or raises."""

    def __init__(self, error: Exception | None = None) -> None:
        self.begun = threading.Event()
        self.go = threading.Event()
        self.error = error

    def __call__(self, frozen: FrozenState, directory: Path) -> CopiedFile:
        self.begun.set()
        assert self.go.wait(60)
        if self.error is not None:
            directory.mkdir()
            (directory / "data.mdb").write_bytes(b"half")
            raise self.error
        return copy_state(frozen, directory)


def all_rows(state: LmdbState) -> dict[str, list[tuple[bytes, bytes]]]:
    with state.environment.begin() as txn:
        return {
            name: [(bytes(k), bytes(v)) for k, v in txn.cursor(getattr(state.tables, name))]
            for name in TABLES
        }


def capturing(subject: Subject, copy: Copy) -> StateCapture:
    return state_capture(subject.volume, subject.applier, LIMITS, copy=copy)


def state_capture(
    volume: Volume, applier: Applier, limits: Limits, *, copy: Copy = copy_state
) -> StateCapture:
    return StateCapture(
        volume.log, volume.states, volume.blobs, volume.space, applier, limits, copy=copy
    )
