"""A snapshot between members may break off anywhere: it goes on from there, and what is given up
leaves nothing behind."""

import asyncio
import errno
import itertools
import os
import random
import shutil
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from partition_proto.v1 import peer_pb2 as peer
from partition_replica.core.model import Position
from partition_replica.core.ports import PeerFailed
from partition_replica.errors import DiskFull, Overloaded, PayloadMismatch
from partition_replica.ids import LSN, Term
from partition_replica.runtime.transfer import state_receiver
from partition_replica.storage import state_copy
from partition_replica.storage.files import disk
from partition_replica.storage.staging import StagedFile
from partition_replica.storage.state_tables import iterate_blobs

from tests.support.proposals import body, proposal, remove
from tests.support.snapshot_members import (
    LIMITS,
    SENDER,
    Network,
    Receiver,
    Sender,
    Snapshot,
    assert_equal,
    message,
)
from tests.support.snapshot_members import one_by_one as one_by_one  # a fixture
from tests.support.snapshot_members import receiver as receiver  # a fixture
from tests.support.snapshot_members import sender as sender  # a fixture

SEED = int(os.environ.get("SNAPSHOT_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)


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


async def test_one_that_is_cancelled_lists_no_more_payloads(
    sender: Sender, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached, go, unwanted = threading.Event(), threading.Event(), threading.Event()
    held: list[object] = []

    def wait() -> None:
        reached.set()
        assert go.wait(60)

    monkeypatch.setattr(state_receiver, "give_way", wait)
    monkeypatch.setattr(state_receiver, "threading", SimpleNamespace(Event=lambda: unwanted))
    monkeypatch.setattr(state_copy, "iterate_blobs", _pausing_twice)
    monkeypatch.setattr(receiver.volume.blobs, "hold", held.append)
    installing = asyncio.create_task(receiver.install(sender.snapshot()))
    await asyncio.to_thread(reached.wait)
    installing.cancel()
    assert await asyncio.to_thread(unwanted.wait, 20), "it is told to give up"
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await installing
    assert held == []
    await receiver.receiver.close()
    await receiver.assert_nothing_left()


def _pausing_twice(txn: Any, tables: Any, pause: Callable[[], None]) -> Any:
    pause()
    yield from iterate_blobs(txn, tables, pause)


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
    breaks = itertools.chain([1], iter(lambda: rng.choice([0, 1, 5_000, 33_333, 90_000]), None))
    receiver.network.allow = breaks.__next__
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
    limits = replace(LIMITS, transfer_partial_keep_s=0.0)
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


async def test_a_break_behind_the_last_byte_loses_nothing(
    sender: Sender, receiver: Receiver
) -> None:
    digest = sender.put_file(b"one", b"v" * 30_000)
    receiver.network.break_behind_the_end = True
    await receiver.payloads.fetch(digest, SENDER)
    assert receiver.volume.blobs.has(digest)
    assert list(receiver.volume.staging.iterdir()) == []
    receiver.network.break_behind_the_end = False


async def test_a_broken_fetch_is_given_up_when_the_payload_came_otherwise(
    sender: Sender, receiver: Receiver
) -> None:
    content = b"v" * 30_000
    digest = sender.put_file(b"one", content)
    calls = iter([20_000, 0])
    receiver.network.allow = lambda: next(calls)
    with pytest.raises(PeerFailed):
        await receiver.payloads.fetch(digest, SENDER)
    receiver.payloads.expire()
    assert len(list(receiver.volume.staging.iterdir())) == 1

    async def uploaded() -> AsyncIterator[bytes]:
        yield content

    assert not await receiver.payloads.receive(digest, len(content), uploaded())
    receiver.payloads.expire()
    assert list(receiver.volume.staging.iterdir()) == []


async def test_it_is_kept_until_then(sender: Sender, receiver: Receiver) -> None:
    snapshot = sender.snapshot()
    with pytest.raises(ConnectionResetError):
        await receiver.install(snapshot, 10_000)
    await receiver.receiver.expire()
    assert receiver.receiver.offset(snapshot.header()) == 10_000


@pytest.mark.usefixtures("one_by_one")
async def test_another_snapshot_takes_its_place(tmp_path: Path, sender: Sender) -> None:
    """As a new leader's does. What both name is not fetched again."""
    limits = replace(LIMITS, transfer_partial_keep_s=0.0)
    receiver = Receiver(tmp_path / "receiver", Network(sender), limits)
    first = sender.snapshot()
    gone = sender.volume.state.get_tree_entry(b"f0")[0]
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


async def test_a_state_that_the_log_does_not_name_yet_is_not_overwritten(
    sender: Sender, receiver: Receiver
) -> None:
    """The log's commit of the first transfer may still be under way when the second one comes."""
    named = receiver.volume.log.identity.state_generation
    await receiver.install(sender.snapshot())
    first = receiver.volume.state.path
    content = (first / "data.mdb").read_bytes()
    sender.put_file(b"new", os.urandom(100_000))
    await receiver.install(sender.snapshot())
    assert receiver.volume.log.identity.state_generation == named, "the log has named neither"
    assert receiver.volume.state.path != first
    assert (first / "data.mdb").read_bytes() == content
    assert_equal(receiver, sender)


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


def _headers(snapshot: Snapshot) -> dict[str, peer.TransferHeader]:
    data = snapshot.manifest.SerializeToString()
    position = snapshot.position
    found = {name: snapshot.header() for name in ("message", "kind", "data", "sender", "size")}
    found["message"].message = b"\xff"
    found["kind"].message = message(position, data, kind=3)[: -len(data)]
    found["data"].message = message(position, b"\xff")
    found["sender"].sender = 1
    found["size"].size += 1
    found["format"] = snapshot.header()
    other = peer.TransferManifest()
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
