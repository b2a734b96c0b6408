"""A member that sends snapshots and one that takes them, without a network between."""

import hashlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import partition_raft as raft
import pytest
from partition_proto.v1 import peer_pb2 as peer
from partition_replica.core.limits import Limits
from partition_replica.core.model import Configuration, LogEntry, Position
from partition_replica.core.ports import PeerFailed
from partition_replica.engine.port import TransferHeader
from partition_replica.ids import LSN, ClusterID, Digest, Term
from partition_replica.runtime.metrics import Metrics
from partition_replica.runtime.transfer import state_receiver as snapshot_receiver
from partition_replica.runtime.transfer.payloads import Payloads
from partition_replica.runtime.transfer.state_receiver import StateReceiver
from partition_replica.storage.codec import STATE_FORMAT_VERSION
from partition_replica.storage.files import VolumeLock
from partition_replica.storage.state import LmdbState
from partition_replica.storage.volume import Volume

from tests.support.captures import all_rows
from tests.support.local_group import eventually
from tests.support.proposals import body, link, opening, payload, proposal, set_key

SENDER, RECEIVER = 8, 9
CLUSTER = ClusterID("c")
LIMITS = replace(Limits(), disk_reserve_bytes=1)


def open_volume(root: Path) -> Volume:
    root.mkdir(exist_ok=True)
    lock = VolumeLock(root)
    assert lock.try_acquire()
    return Volume(root, lock, pins_max=1000)


class Sender:
    """A member with a state and its files, of which it sends copies."""

    def __init__(self, root: Path) -> None:
        self.volume = open_volume(root)
        self.volume.state.start(Position(LSN(1), Term(1)), {SENDER: "here:1"})
        self._copies = 0
        self.apply(opening())

    def apply(self, *bodies: Any) -> None:
        state = self.volume.state
        last = state.applied.index
        state.apply(
            [
                LogEntry(LSN(last + n), Term(1), 0, found.SerializeToString())
                for n, found in enumerate(bodies, 1)
            ],
            {},
        )

    def put_file(self, name: bytes, content: bytes) -> Digest:
        found = payload(content)
        writer = self.volume.blobs.writer(Digest(found.digest), len(content))
        writer.write(content)
        writer.finish()
        sequence = self.volume.state.applied.index
        self.apply(body(proposal(2, sequence, [link(name)], [found])))
        return Digest(found.digest)

    def snapshot(self) -> "Snapshot":
        self._copies += 1
        directory = self.volume.staging / f"outgoing-{self._copies}"
        position = self.volume.state.copy(directory)
        return Snapshot((directory / "data.mdb").read_bytes(), position, directory.name)


class Snapshot:
    """What a sender sends of a state, in a header and chunks."""

    def __init__(self, content: bytes, position: Position, name: str) -> None:
        self.content = content
        self.position = position
        self.manifest = peer.TransferManifest(
            format_version=STATE_FORMAT_VERSION,
            index=position.index,
            term=position.term,
            snapshot_id=name,
            size=len(content),
            digest=hashlib.sha256(content).digest(),
        )

    def header(self, offset: int = 0) -> peer.TransferHeader:
        return peer.TransferHeader(
            cluster_id=CLUSTER,
            sender=SENDER,
            receiver=RECEIVER,
            message=message(self.position, self.manifest.SerializeToString()),
            size=self.manifest.size,
            digest=self.manifest.digest,
            offset=offset,
        )

    @property
    def engine_header(self) -> TransferHeader:
        configuration = Configuration((SENDER, RECEIVER))
        return TransferHeader(self.position, configuration, self.manifest.SerializeToString())


def message(position: Position, data: bytes, kind: int = 7) -> bytes:
    """An eraftpb.Message: MsgSnapshot, as raft-rs writes it."""
    configuration = _varint(1, SENDER) + _varint(1, RECEIVER)
    metadata = _bytes(1, configuration) + _varint(2, position.index) + _varint(3, position.term)
    snapshot = _bytes(1, data) + _bytes(2, metadata)
    head = _varint(1, kind) + _varint(2, RECEIVER) + _varint(3, SENDER) + _varint(4, 1)
    return head + _bytes(9, snapshot)


def _varint(field: int, value: int) -> bytes:
    return _number(field << 3) + _number(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _number(field << 3 | 2) + _number(len(value)) + value


def _number(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


class Network:
    """A transport that reads the sender's blobs; `allow` says after how many bytes a call of it
    breaks off, None for never; `allow_whole` after how many payloads one for several does."""

    def __init__(self, sender: Sender) -> None:
        self.sender = sender
        self.allow: Callable[[], int | None] = lambda: None
        self.allow_whole: Callable[[], int | None] = lambda: None
        self.break_behind_the_end = False
        """Whether a call breaks off when all bytes have come, but not the end of the stream."""

        self.asked: list[list[Digest]] = []
        self.carried: dict[Digest, int] = {}

    async def fetch_payloads(
        self, member: int, digests: Sequence[Digest]
    ) -> AsyncGenerator[list[bytes], None]:
        assert member == SENDER
        self.asked.append(list(digests))
        allowed = self.allow_whole()
        for digest in digests[:allowed]:
            content = self.sender.volume.blobs.path(digest).read_bytes()
            self.carried[digest] = self.carried.get(digest, 0) + len(content)
            yield [content]
        if allowed is not None and allowed < len(digests):
            raise PeerFailed("the connection was reset")

    async def fetch_payload(
        self, member: int, digest: Digest, offset: int = 0
    ) -> tuple[int, AsyncIterator[bytes]]:
        assert member == SENDER
        content = self.sender.volume.blobs.path(digest).read_bytes()
        allowed = self.allow()

        async def chunks() -> AsyncIterator[bytes]:
            left = len(content) - offset if allowed is None else allowed
            for start in range(offset, len(content), 10_000):
                chunk = content[start : start + 10_000][:left]
                left -= len(chunk)
                self.carried[digest] = self.carried.get(digest, 0) + len(chunk)
                if chunk:
                    yield chunk
                if not left and start + len(chunk) < len(content):
                    raise PeerFailed("the connection was reset")
            if self.break_behind_the_end:
                raise PeerFailed("the connection was reset")

        return len(content), chunks()


class Receiver:
    """A newcomer, and an engine that takes every snapshot or none."""

    def __init__(self, root: Path, network: Network, limits: Limits = LIMITS) -> None:
        self.volume = open_volume(root)
        self.volume.log.join(CLUSTER)
        self.network = network
        self.full = False
        self.engine_takes = True
        self.stepped: list[raft.Message] = []
        self.installing: Snapshot | None = None
        self.metrics = Metrics()
        self.payloads = Payloads(
            self.volume.blobs,
            network,  # type: ignore[arg-type]
            limits,
            self.metrics,
            own_member=RECEIVER,
            configuration=Configuration,
            disk_full=lambda: self.full,
            disk_low=lambda: self.full,
            deliver=lambda *_: None,
            failed=self._failed,
        )
        self.receiver = StateReceiver(
            self.volume.states,
            self.volume.blobs,
            self.volume.space,
            self.volume.staging,
            self.payloads,
            limits,
            self.metrics,
            disk_full=lambda: self.full,
            step=self._step,
        )

    async def fetches_ended(self) -> None:
        """Of an attempt that failed some may be under way."""

        async def ended() -> bool:
            return not self.payloads.fetching

        await eventually(ended, "fetches end")

    def _failed(self, error: BaseException) -> None:
        raise AssertionError("fatal") from error

    def _step(self, found: raft.Message, after: Callable[[], None]) -> None:
        self.stepped.append(found)
        assert self.installing is not None
        if self.engine_takes:
            header = self.installing.engine_header
            generation = self.receiver.staged(header)
            fresh = LmdbState(self.volume.states.path(generation))
            old = self.volume.states.replace(fresh)
            old.close()
            self.receiver.installed(header)
        after()

    async def install(
        self,
        snapshot: Snapshot,
        until: int | None = None,
        chunk: int = 7_000,
        error: BaseException | None = None,
    ) -> int:
        """Sends from where it is, and breaks off behind `until` bytes of the whole."""
        self.installing = snapshot
        offset = self.receiver.offset(snapshot.header())
        end = len(snapshot.content) if until is None else max(until, offset)

        async def chunks() -> AsyncIterator[bytes]:
            for start in range(offset, end, chunk):
                yield snapshot.content[start : min(start + chunk, end)]
            if end < len(snapshot.content):
                raise error or ConnectionResetError

        return await self.receiver.install(snapshot.header(offset), chunks())

    async def assert_nothing_left(self) -> None:
        """But for what the state in force names."""
        assert list(self.volume.staging.iterdir()) == []
        assert self.volume.blobs.held_count == 0
        self.volume.garbage.collect(self.volume.blobs.take_deferred())
        named = {digest for digest, _ in self.volume.state.blobs()}
        assert set(self.volume.blobs.digests()) == named

    def counted(self, direction: str) -> float:
        labels = {"direction": direction}
        found = self.metrics.registry.get_sample_value(
            "logstore_state_transfer_bytes_total", labels
        )
        return found or 0.0


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Payloads that are large enough to be fetched alone."""
    monkeypatch.setattr(snapshot_receiver, "PAYLOAD_BATCHED_BYTES_MAX", 65_536)


@pytest.fixture
async def sender(tmp_path: Path) -> AsyncIterator[Sender]:
    found = Sender(tmp_path / "sender")
    for number in range(200):
        found.apply(body(proposal(2, number + 2, [set_key(b"k%d" % number, os.urandom(500))])))
    for number in range(5):
        found.put_file(b"f%d" % number, os.urandom(100_000 + number))
    yield found
    found.volume.close()


@pytest.fixture
async def receiver(tmp_path: Path, sender: Sender) -> AsyncIterator[Receiver]:
    found = Receiver(tmp_path / "receiver", Network(sender))
    yield found
    await found.receiver.close()
    await found.payloads.close()
    found.volume.close()


def assert_equal(receiver: Receiver, sender: Sender) -> None:
    assert all_rows(receiver.volume.state) == all_rows(sender.volume.state)
    for digest, _ in sender.volume.state.blobs():
        content = receiver.volume.blobs.path(digest).read_bytes()
        assert hashlib.sha256(content).digest() == digest
