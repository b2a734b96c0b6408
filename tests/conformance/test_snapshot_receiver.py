"""A snapshot between members may break off anywhere: it goes on from there, and what is given up
leaves nothing behind."""

import asyncio
import errno
import hashlib
import os
import random
import shutil
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import partition_raft as raft
import pytest
from partition_proto.v1 import peer_pb2 as peer
from partition_replica.core.limits import Limits
from partition_replica.core.model import Configuration, LogEntry, Position
from partition_replica.core.ports import PeerFailed
from partition_replica.engine.port import SnapshotHeader
from partition_replica.errors import DiskFull, Overloaded, PayloadMismatch
from partition_replica.ids import LSN, ClusterID, Digest, Term
from partition_replica.runtime.metrics import Metrics
from partition_replica.runtime.transfer import state_receiver as snapshot_receiver
from partition_replica.runtime.transfer.payloads import Payloads
from partition_replica.runtime.transfer.state_receiver import SnapshotReceiver
from partition_replica.storage.codec import STATE_FORMAT_VERSION
from partition_replica.storage.files import VolumeLock, disk
from partition_replica.storage.staging import StagedFile
from partition_replica.storage.state import LmdbState
from partition_replica.storage.volume import Volume

from tests.conformance.test_capture import all_rows
from tests.support.local_group import eventually
from tests.support.proposals import body, link, opening, payload, proposal, remove, set_key

SEED = int(os.environ.get("SNAPSHOT_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
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
        self.manifest = peer.SnapshotManifest(
            format_version=STATE_FORMAT_VERSION,
            index=position.index,
            term=position.term,
            snapshot_id=name,
            size=len(content),
            digest=hashlib.sha256(content).digest(),
        )

    def header(self, offset: int = 0) -> peer.SnapshotHeader:
        return peer.SnapshotHeader(
            cluster_id=CLUSTER,
            sender=SENDER,
            receiver=RECEIVER,
            message=message(self.position, self.manifest.SerializeToString()),
            size=self.manifest.size,
            digest=self.manifest.digest,
            offset=offset,
        )

    @property
    def engine_header(self) -> SnapshotHeader:
        configuration = Configuration((SENDER, RECEIVER))
        return SnapshotHeader(self.position, configuration, self.manifest.SerializeToString())


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
            self.volume,
            network,  # type: ignore[arg-type]
            limits,
            self.metrics,
            own_member=RECEIVER,
            configuration=Configuration,
            disk_full=lambda: self.full,
            deliver=lambda *_: None,
            failed=self._failed,
        )
        self.receiver = SnapshotReceiver(
            self.volume,
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
            fresh = LmdbState(self.volume.state_path(generation))
            old, self.volume.state = self.volume.state, fresh
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
        self.volume.collect(self.volume.blobs.take_deferred())
        named = {digest for digest, _ in self.volume.state.blobs()}
        assert set(self.volume.blobs.digests()) == named

    def counted(self, direction: str) -> float:
        labels = {"direction": direction}
        found = self.metrics.registry.get_sample_value(
            "logstore_snapshot_state_bytes_total", labels
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


async def test_a_state_file_goes_on_at_any_byte(sender: Sender, receiver: Receiver) -> None:
    rng = random.Random(SEED)
    print(f"SNAPSHOT_SEED={SEED}")
    snapshot = sender.snapshot()
    size = len(snapshot.content)
    breaks = sorted({0, 1, size - 1, *(rng.randrange(size) for _ in range(8))})
    for at in breaks:
        with pytest.raises(ConnectionResetError):
            await receiver.install(snapshot, at, chunk=rng.randrange(1000, 20_000))
        assert receiver.receiver.offset(snapshot.header()) == at
    assert await receiver.install(snapshot) == 5
    assert_equal(receiver, sender)
    # No byte came twice.
    assert receiver.counted("in") == size
    assert receiver.counted("resumed") == sum(breaks)
    await receiver.assert_nothing_left()


@pytest.mark.parametrize("at", [0, 1, 20_000])
async def test_a_stream_that_ends_too_soon_goes_on(
    sender: Sender, receiver: Receiver, at: int
) -> None:
    """As a lost connection may look to a server."""
    snapshot = sender.snapshot()

    async def chunks() -> AsyncIterator[bytes]:
        if at:
            yield snapshot.content[:at]

    with pytest.raises(PeerFailed, match=f"{len(snapshot.content) - at} bytes"):
        await receiver.receiver.install(snapshot.header(), chunks())
    assert receiver.receiver.offset(snapshot.header()) == at
    await receiver.install(snapshot)
    assert receiver.counted("in") == len(snapshot.content)
    assert_equal(receiver, sender)
    await receiver.assert_nothing_left()


@pytest.mark.usefixtures("one_by_one")
async def test_payloads_go_on_at_any_byte(sender: Sender, receiver: Receiver) -> None:
    rng = random.Random(SEED)
    print(f"SNAPSHOT_SEED={SEED}")
    snapshot = sender.snapshot()
    receiver.network.allow = lambda: rng.choice([0, 1, 5_000, 33_333, 90_000])
    attempts = 0
    while True:
        attempts += 1
        assert attempts < 1000
        with suppress(PeerFailed):
            await receiver.install(snapshot)
            break
        assert receiver.receiver.offset(snapshot.header()) == len(snapshot.content)
    assert attempts > 1
    assert_equal(receiver, sender)
    assert receiver.counted("in") == len(snapshot.content)
    sizes = dict(sender.volume.state.blobs())
    assert receiver.network.carried == sizes
    await receiver.assert_nothing_left()


async def test_only_missing_payloads_are_fetched(sender: Sender, receiver: Receiver) -> None:
    await receiver.install(sender.snapshot())
    receiver.network.carried.clear()
    new = sender.put_file(b"new", os.urandom(100_000))
    assert await receiver.install(sender.snapshot()) == 1
    assert set(receiver.network.carried) == {new}
    assert_equal(receiver, sender)
    await receiver.assert_nothing_left()


def wrong(snapshot: Snapshot, content: bytes) -> Snapshot:
    found = Snapshot(content, snapshot.position, "outgoing-1")
    found.manifest.CopyFrom(snapshot.manifest)
    return found


@pytest.mark.parametrize("how", ["changed", "more", "no state"])
async def test_what_does_not_match_is_not_kept(
    sender: Sender, receiver: Receiver, how: str
) -> None:
    snapshot = sender.snapshot()
    content = snapshot.content
    bad = {
        "changed": lambda: wrong(snapshot, content[:5000] + b"?" + content[5001:]),
        "more": lambda: wrong(snapshot, content + b"?"),
        "no state": lambda: Snapshot(b"?" * 20_000, snapshot.position, "outgoing-1"),
    }[how]()
    with pytest.raises(ConnectionResetError):
        await receiver.install(bad, 10_000)
    with pytest.raises(PayloadMismatch):
        await receiver.install(bad)
    assert receiver.stepped == []
    assert receiver.receiver.offset(snapshot.header()) == 0
    await receiver.assert_nothing_left()
    await receiver.install(snapshot)
    assert_equal(receiver, sender)


@pytest.mark.parametrize("call", ["make_directory", "create", "sync_directory"])
async def test_a_full_disk_at_any_call_gives_back_what_came(
    sender: Sender, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Out of inodes, or over a quota, where there are bytes."""
    snapshot = sender.snapshot()

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(disk, call, refuse)
        with pytest.raises(DiskFull):
            await receiver.install(snapshot)
    await receiver.install(snapshot)
    assert_equal(receiver, sender)
    await receiver.assert_nothing_left()


@pytest.mark.usefixtures("one_by_one")
@pytest.mark.parametrize("during", ["begin", "state", "payloads"])
async def test_a_full_disk_is_given_back_what_came(
    sender: Sender, receiver: Receiver, during: str
) -> None:
    snapshot = sender.snapshot()
    if during == "begin":
        receiver.full = True
    elif during == "state":
        with pytest.raises(ConnectionResetError):
            await receiver.install(snapshot, 10_000)
        receiver.full = True
    else:
        left = [3]

        def allow() -> None:
            left[0] -= 1
            receiver.full = not left[0]

        receiver.network.allow = allow
    with pytest.raises(DiskFull):
        await receiver.install(snapshot)
    receiver.full = False
    await receiver.fetches_ended()
    receiver.network.allow = lambda: None
    assert list(receiver.volume.staging.iterdir()) == []
    assert receiver.volume.blobs.held_count == 0
    await receiver.install(snapshot)
    assert_equal(receiver, sender)


@pytest.mark.usefixtures("one_by_one")
async def test_what_nobody_goes_on_with_is_given_up(tmp_path: Path, sender: Sender) -> None:
    limits = replace(LIMITS, snapshot_partial_keep_s=0.0)
    receiver = Receiver(tmp_path / "receiver", Network(sender), limits)
    snapshot = sender.snapshot()
    calls = iter([None, None, 0, 5000, 0])
    receiver.network.allow = lambda: next(calls)
    with pytest.raises(PeerFailed):
        await receiver.install(snapshot)
    assert receiver.volume.blobs.held_count == 5
    await receiver.fetches_ended()
    await receiver.receiver.expire()
    receiver.payloads.expire()
    assert receiver.receiver.offset(snapshot.header()) == 0
    await receiver.assert_nothing_left()
    assert list(receiver.volume.blobs.digests()) == []
    receiver.volume.close()


async def test_it_is_kept_until_then(sender: Sender, receiver: Receiver) -> None:
    snapshot = sender.snapshot()
    with pytest.raises(ConnectionResetError):
        await receiver.install(snapshot, 10_000)
    await receiver.receiver.expire()
    assert receiver.receiver.offset(snapshot.header()) == 10_000


@pytest.mark.usefixtures("one_by_one")
async def test_another_snapshot_takes_its_place(tmp_path: Path, sender: Sender) -> None:
    """As a new leader's does. What both name is not fetched again."""
    limits = replace(LIMITS, snapshot_partial_keep_s=0.0)
    receiver = Receiver(tmp_path / "receiver", Network(sender), limits)
    first = sender.snapshot()
    gone = sender.volume.state.get_node(b"f0")[0]
    assert gone is not None
    calls = iter([None, None, None, None, 0])
    receiver.network.allow = lambda: next(calls)
    with pytest.raises(PeerFailed):
        await receiver.install(first)
    await receiver.fetches_ended()
    assert sum(receiver.network.carried.values()) > 400_000
    sender.apply(body(proposal(2, 999, [remove(b"f0")])))
    second = sender.snapshot()
    receiver.network.allow = lambda: None
    fetched = await receiver.install(second)
    assert fetched <= 1
    sizes = dict(sender.volume.state.blobs())
    assert {d: n for d, n in receiver.network.carried.items() if d in sizes} == sizes
    assert_equal(receiver, sender)
    receiver.payloads.expire()  # the one that broke off may be the one that the second lacks
    await receiver.assert_nothing_left()
    assert not receiver.volume.blobs.has(gone.digest)
    receiver.volume.close()


async def test_one_that_the_engine_ignores_leaves_nothing(
    sender: Sender, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver.engine_takes = False
    threads: list[threading.Thread] = []
    remove_tree = shutil.rmtree

    def remove_and_tell(path: Path, **options: Any) -> None:
        threads.append(threading.current_thread())
        remove_tree(path, **options)

    monkeypatch.setattr(shutil, "rmtree", remove_and_tell)
    await receiver.install(sender.snapshot())
    # Not on the event loop: gigabytes take a while.
    assert threads
    assert threading.current_thread() not in threads[-1:]
    assert len(receiver.stepped) == 1
    await receiver.assert_nothing_left()
    assert len(list((receiver.volume.root / "state").iterdir())) == 1


@pytest.mark.usefixtures("one_by_one")
async def test_giving_up_is_not_cut_short(
    sender: Sender, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller that goes away meanwhile does not leave payloads held for ever."""
    snapshot = sender.snapshot()
    receiver.network.allow = iter([None, 0, 0, 0, 0]).__next__
    with pytest.raises(PeerFailed):
        await receiver.install(snapshot)
    await receiver.fetches_ended()
    assert receiver.volume.blobs.held_count == 5
    begun, go, remove_staged = threading.Event(), threading.Event(), StagedFile.remove

    def slowly(file: StagedFile) -> None:
        begun.set()
        assert go.wait(60)
        remove_staged(file)

    monkeypatch.setattr(StagedFile, "remove", slowly)
    closing = asyncio.create_task(receiver.receiver.close())
    assert await asyncio.to_thread(begun.wait, 60)
    closing.cancel()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert receiver.volume.blobs.held_count == 0
    assert not (receiver.volume.staging / "incoming").exists()


async def test_a_caller_that_goes_away_is_gone_on_from(sender: Sender, receiver: Receiver) -> None:
    snapshot = sender.snapshot()
    with pytest.raises(asyncio.CancelledError):
        await receiver.install(snapshot, 10_000, error=asyncio.CancelledError())
    assert receiver.receiver.offset(snapshot.header()) == 10_000
    await receiver.install(snapshot)
    assert_equal(receiver, sender)
    await receiver.assert_nothing_left()


async def test_one_at_a_time(sender: Sender, receiver: Receiver) -> None:
    snapshot = sender.snapshot()
    go = asyncio.Event()

    async def chunks() -> AsyncIterator[bytes]:
        yield snapshot.content[:1000]
        await go.wait()
        raise ConnectionResetError

    first = asyncio.create_task(receiver.receiver.install(snapshot.header(), chunks()))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await receiver.install(snapshot)
    go.set()
    with pytest.raises(ConnectionResetError):
        await first
    # An offset that it does not have: the sender asks again.
    with pytest.raises(Overloaded):
        await receiver.receiver.install(snapshot.header(5), chunks())
    await receiver.install(snapshot)


def _headers(snapshot: Snapshot) -> dict[str, peer.SnapshotHeader]:
    data = snapshot.manifest.SerializeToString()
    position = snapshot.position
    found = {name: snapshot.header() for name in ("message", "kind", "data", "sender", "size")}
    found["message"].message = b"\xff"
    found["kind"].message = message(position, data, kind=3)[: -len(data)]
    found["data"].message = message(position, b"\xff")
    found["sender"].sender = 1
    found["size"].size += 1
    found["format"] = snapshot.header()
    other = peer.SnapshotManifest()
    other.CopyFrom(snapshot.manifest)
    other.format_version = 99
    found["format"].message = message(position, other.SerializeToString())
    found["position"] = snapshot.header()
    found["position"].message = message(Position(LSN(1), Term(1)), data)
    return found


@pytest.mark.parametrize(
    "what", ["message", "kind", "data", "sender", "size", "format", "position"]
)
async def test_a_header_that_makes_no_sense_is_refused(
    sender: Sender, receiver: Receiver, what: str
) -> None:
    header = _headers(sender.snapshot())[what]

    async def chunks() -> AsyncIterator[bytes]:
        raise AssertionError("nothing is read")
        yield b""

    with pytest.raises(PayloadMismatch):
        receiver.receiver.offset(header)
    with pytest.raises(PayloadMismatch):
        await receiver.receiver.install(header, chunks())
    await receiver.assert_nothing_left()
