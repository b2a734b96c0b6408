"""Small payloads come several in a call: durable together, each checked, and what came stays."""

import asyncio
import errno
import hashlib
import os
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from partition_replica.core.limits import (
    PAYLOAD_BATCHED_BYTES_MAX,
)
from partition_replica.core.ports import PeerFailed
from partition_replica.errors import DiskFull, PayloadMismatch, StorageFailed
from partition_replica.ids import Digest
from partition_replica.storage.blobs import BlobGroup, BlobStore
from partition_replica.storage.files import disk
from partition_replica.storage.staging import StagedFile
from partition_snapshots import files

from tests.support.local_group import eventually
from tests.support.snapshot_members import LIMITS, SENDER, Network, Receiver, Sender, assert_equal

FILES = 7


def named(content: bytes) -> tuple[Digest, int]:
    return Digest(hashlib.sha256(content).digest()), len(content)


# --- on the volume ----------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs", tmp_path / "staging", pins_max=2)


def staged(store: BlobStore) -> list[str]:
    return sorted(os.listdir(store.path(Digest(b"x" * 32)).parent.parent.parent / "staging"))


def test_a_group_appears_whole(store: BlobStore) -> None:
    contents = [os.urandom(100 + n) for n in range(20)] + [b""]
    group = store.group()
    for content in contents:
        group.add(*named(content), content)
        assert not store.has(named(content)[0])
    group.finish()
    assert {named(content)[0] for content in contents} == set(store.digests())
    for content in contents:
        assert store.has(named(content)[0])
        assert store.path(named(content)[0]).read_bytes() == content
    assert staged(store) == []
    store.group().finish()  # of nothing


def test_a_group_has_what_matches_only(store: BlobStore) -> None:
    digest, size = named(b"content")
    group = store.group()
    group.add(digest, size, b"content")
    for content in (b"CONTENT", b"content ", b""):
        with pytest.raises(PayloadMismatch):
            group.add(digest, size, content)
    assert len(staged(store)) == 1
    group.abort()
    assert staged(store) == []
    assert list(store.digests()) == []


def test_one_that_came_meanwhile_stays_here(store: BlobStore) -> None:
    """Nobody who asks is told otherwise while the group's syncs run."""
    digest, size = named(b"content")
    group = store.group()
    group.add(digest, size, b"content")
    writer = store.writer(digest, size)
    writer.write(b"content")
    writer.finish()
    seen: list[bool] = []
    real = type(disk).sync_file_system

    def sync(file_system: Any) -> None:
        seen.append(store.has(digest))
        real(disk, file_system)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(disk, "sync_file_system", sync)
        group.finish()
    assert seen == [True, True]
    assert store.path(digest).read_bytes() == b"content"


def test_where_a_sync_of_all_tells_nothing_each_is_synced(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As before Linux 5.17."""
    group = store.group()
    for content in (b"one", b"two"):
        group.add(*named(content), content)
    synced: list[str] = []
    monkeypatch.setattr(files, "TELLS_FAILURES", False)
    monkeypatch.setattr(files, "sync_file", lambda path: synced.append(path.name))
    expected = staged(store)
    group.finish()
    assert sorted(synced[:2]) == expected
    # And behind the renames the directories.
    assert set(synced[2:]) == {named(content)[0].hex()[:2] for content in (b"one", b"two")}


@pytest.mark.parametrize(
    ("release", "tells"),
    [("5.17.0-1-amd64", True), ("6.1.0", True), ("4.18.0-553.el8", False), ("5.8.19", False)],
)
def test_which_systems_tell(release: str, tells: bool) -> None:
    assert (files._release(release) >= (5, 17)) == tells


@pytest.mark.parametrize("failing", [1, 2])
def test_a_failed_sync_of_a_group_is_fatal(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    digest, size = named(b"content")
    group = store.group()
    group.add(digest, size, b"content")
    calls = 0

    def sync(_: object) -> None:
        nonlocal calls
        calls += 1
        if calls == failing:
            raise OSError("no")

    monkeypatch.setattr(disk, "sync_file_system", sync)
    with pytest.raises(StorageFailed, match="blobs"):
        group.finish()
    assert not store.has(digest)


# --- of a snapshot ----------------------------------------------------------------------------


@pytest.fixture
async def sender(tmp_path: Path) -> AsyncIterator[Sender]:
    found = Sender(tmp_path / "sender")
    for number in range(FILES):
        found.put_file(b"f%d" % number, os.urandom(100_000 + number))
    found.put_file(b"large", os.urandom(PAYLOAD_BATCHED_BYTES_MAX + 1))
    yield found
    found.volume.close()


@pytest.fixture
async def receiver(tmp_path: Path, sender: Sender) -> AsyncIterator[Receiver]:
    limits = replace(LIMITS, fetch_group_bytes_max=350_000)
    found = Receiver(tmp_path / "receiver", Network(sender), limits)
    yield found
    await found.receiver.close()
    await found.payloads.close()
    found.volume.close()


async def test_small_ones_are_asked_for_in_groups(sender: Sender, receiver: Receiver) -> None:
    assert await receiver.install(sender.snapshot()) == FILES + 1
    assert sorted(len(asked) for asked in receiver.network.asked) == [1, 3, 3]
    assert receiver.network.carried == dict(sender.volume.state.blobs())
    assert_equal(receiver, sender)
    assert receiver.metrics.registry.get_sample_value("logstore_state_transfer_payloads_total") == (
        FILES + 1
    )
    await receiver.assert_nothing_left()


async def test_what_came_before_a_break_is_not_asked_for_again(
    sender: Sender, receiver: Receiver
) -> None:
    snapshot = sender.snapshot()
    allowed = iter([1, 0, 2, 1, *[None] * 9])
    receiver.network.allow_whole = lambda: next(allowed)
    breaks = 0
    while True:
        try:
            await receiver.install(snapshot)
            break
        except PeerFailed:
            breaks += 1
            await receiver.fetches_ended()
    assert breaks
    assert receiver.network.carried == dict(sender.volume.state.blobs())
    assert_equal(receiver, sender)
    await receiver.assert_nothing_left()


@pytest.mark.parametrize("how", ["changed", "short", "more", "fewer"])
async def test_a_member_that_sends_something_else(
    sender: Sender, receiver: Receiver, how: str
) -> None:
    """Nothing is kept that is not what the state names, and a later attempt succeeds."""
    snapshot = sender.snapshot()
    real = receiver.network.fetch_payloads

    async def fetch(member: int, digests: Sequence[Digest]) -> AsyncGenerator[list[bytes], None]:
        count = 0
        async for contents in real(member, digests):
            count += 1
            if how == "fewer" and count == len(digests):
                return
            last = count == len(digests)
            changed = {
                "changed": [bytes(len(contents[0]))],
                "short": [contents[0][:-1]],
                "more": [contents[0], contents[0]],
            }
            yield changed[how] if last and how in changed else contents

    receiver.network.fetch_payloads = fetch  # type: ignore[method-assign]
    with pytest.raises(PeerFailed if how == "fewer" else PayloadMismatch):
        await receiver.install(snapshot)
    await receiver.fetches_ended()
    for digest in receiver.volume.blobs.digests():
        content = receiver.volume.blobs.path(digest).read_bytes()
        assert hashlib.sha256(content).digest() == digest
    receiver.network.fetch_payloads = real  # type: ignore[method-assign]
    await receiver.install(snapshot)
    assert_equal(receiver, sender)
    await receiver.assert_nothing_left()


@pytest.mark.parametrize("when", ["before", "in the middle"])
async def test_a_volume_that_gets_full_is_given_back_what_came(
    sender: Sender, receiver: Receiver, when: str
) -> None:
    snapshot = sender.snapshot()
    calls = 0

    def allow() -> None:
        nonlocal calls
        calls += 1
        receiver.full = calls == 2

    if when == "in the middle":
        receiver.network.allow_whole = allow
    else:
        real = receiver.payloads._disk_full
        receiver.payloads._disk_full = lambda: True
    with pytest.raises(DiskFull):
        await receiver.install(snapshot)
    receiver.full = False
    if when == "before":
        receiver.payloads._disk_full = real
    receiver.network.allow_whole = lambda: None
    await receiver.fetches_ended()
    assert list(receiver.volume.staging.iterdir()) == []
    assert receiver.volume.blobs.held_count == 0
    await receiver.install(snapshot)
    assert_equal(receiver, sender)


async def test_one_that_is_fetched_already_is_waited_for(
    sender: Sender, receiver: Receiver
) -> None:
    """By an append, and the other way round: nothing comes twice."""
    blobs = [blob for blob in sender.volume.state.blobs() if blob[1] <= PAYLOAD_BATCHED_BYTES_MAX]
    (first, _), (second, _) = blobs[:2]
    await asyncio.gather(
        receiver.payloads.fetch(first, SENDER),
        receiver.payloads.fetch_together(blobs, SENDER),
        receiver.payloads.fetch(second, SENDER),
        receiver.payloads.fetch_together(blobs[1:3], SENDER),
    )
    assert receiver.network.carried == dict(blobs)
    assert receiver.network.asked == [[digest for digest, _ in blobs[1:]]]
    # Nobody holds them: they stay for a lease.
    assert receiver.volume.blobs.pinned == len(blobs)


async def test_another_members_failure_is_not_this_ones(sender: Sender, receiver: Receiver) -> None:
    """A snapshot of a new leader wants what an earlier one began to send."""
    blobs = list(sender.volume.state.blobs())[:3]
    allowed = iter([1, None])
    receiver.network.allow_whole = lambda: next(allowed)
    first, second = await asyncio.gather(
        receiver.payloads.fetch_together(blobs, SENDER),
        receiver.payloads.fetch_together(blobs, SENDER),
        return_exceptions=True,
    )
    assert isinstance(first, PeerFailed)
    assert second is None
    assert receiver.network.carried == dict(blobs)
    assert [len(asked) for asked in receiver.network.asked] == [3, 2]


async def test_a_write_that_failed_unheard_is_not_gone_on_with(store: BlobStore) -> None:
    digest, size = named(b"content")
    writer = store.writer(digest, size)

    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, "no")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(disk, "write", refuse)
        with pytest.raises(StorageFailed):
            writer.write(b"con")
    assert writer.failed
    writer.abort()


async def test_who_ends_in_the_middle_leaves_nothing_staged(
    sender: Sender, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go, add = threading.Event(), threading.Event(), BlobGroup.add

    def slowly(group: BlobGroup, *arguments: Any) -> None:
        begun.set()
        assert go.wait(60)
        add(group, *arguments)

    monkeypatch.setattr(BlobGroup, "add", slowly)
    blobs = list(sender.volume.state.blobs())[:3]
    fetching = asyncio.create_task(receiver.payloads.fetch_together(blobs, SENDER))
    assert await asyncio.to_thread(begun.wait, 60)
    closing = asyncio.create_task(receiver.payloads.close())
    await asyncio.sleep(0)
    go.set()
    await closing
    with pytest.raises(asyncio.CancelledError):
        await fetching
    assert list(receiver.volume.staging.iterdir()) == []
    assert not receiver.payloads.fetching


async def test_what_nobody_holds_any_more_is_kept_for_a_lease(
    sender: Sender, receiver: Receiver
) -> None:
    """The attempt that asked for it broke off and was given up, and so does its call: nothing that
    came of it may stay for ever."""
    blobs = list(sender.volume.state.blobs())[:3]
    receiver.network.allow_whole = lambda: 2
    with pytest.raises(PeerFailed):
        await receiver.payloads.fetch_together(blobs, SENDER)
    here = set(receiver.volume.blobs.digests())
    assert len(here) == 2
    assert receiver.volume.blobs.pinned == 2


async def test_who_wants_one_of_a_group_does_not_fail_by_another(
    sender: Sender, receiver: Receiver
) -> None:
    blobs = list(sender.volume.state.blobs())[:3]
    receiver.network.allow_whole = lambda: 0
    results = await asyncio.gather(
        receiver.payloads.fetch_together(blobs, SENDER),
        receiver.payloads.fetch(blobs[0][0], SENDER),
        return_exceptions=True,
    )
    assert isinstance(results[0], PeerFailed)
    assert results[1] is None
    assert receiver.volume.blobs.has(blobs[0][0])


@pytest.mark.parametrize("full", [False, True])
async def test_a_failed_sync_of_the_state_is_not_tried_again(
    sender: Sender, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, full: bool
) -> None:
    """The system tells of it once. Another failure, which meets it, does not hide it."""
    snapshot = sender.snapshot()
    failing, real = threading.Event(), disk.sync
    receiver.network.allow_whole = lambda: 0

    def refuse(descriptor: int) -> None:
        if full:
            # Its own error is lost: the fetching failed first.
            assert failing.wait(60)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async def fetch(*_: Any) -> AsyncGenerator[list[bytes], None]:
        asyncio.get_running_loop().call_later(0.05, failing.set)
        raise PeerFailed("the connection was reset")
        yield []

    with monkeypatch.context() as patched:
        patched.setattr(disk, "sync", refuse)
        if full:
            patched.setattr(receiver.network, "fetch_payloads", fetch)
            patched.setattr(receiver.network, "allow", lambda: 0)
        with pytest.raises(PeerFailed if full else (DiskFull, PeerFailed)):
            await receiver.install(snapshot)
        failing.set()
    assert disk.sync == real
    assert receiver.receiver.offset(snapshot.header()) == 0
    assert receiver.stepped == []
    await receiver.fetches_ended()
    receiver.network.allow_whole = lambda: None
    await receiver.install(snapshot)
    assert receiver.counted("in") == 2 * len(snapshot.content)
    assert_equal(receiver, sender)


async def test_a_write_that_failed_unheard_is_not_gone_on_from(
    sender: Sender, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sender goes away while the disk gets full: some of a chunk was written, and where the
    file ends is not what was counted."""
    snapshot = sender.snapshot()
    begun, go, write = threading.Event(), threading.Event(), disk.write

    def short(file: Any, data: memoryview) -> int:
        if begun.is_set():
            assert go.wait(60)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        begun.set()
        return write(file, data[:10])

    with monkeypatch.context() as patched:
        patched.setattr(disk, "write", short)
        installing = asyncio.create_task(receiver.install(snapshot))
        assert await asyncio.to_thread(begun.wait, 60)
        for _ in range(3):
            installing.cancel()
            await asyncio.sleep(0)
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await installing
    assert receiver.receiver.offset(snapshot.header()) == 0
    await receiver.install(snapshot)
    assert_equal(receiver, sender)
    await receiver.assert_nothing_left()


async def test_the_state_is_durable_before_the_engine_hears_of_it(
    sender: Sender, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its sync runs beside the fetching, and is the last to end here."""
    begun, go, real = threading.Event(), threading.Event(), StagedFile.make_durable

    def slowly(file: StagedFile) -> None:
        begun.set()
        assert go.wait(60)
        real(file)

    monkeypatch.setattr(StagedFile, "make_durable", slowly)
    installing = asyncio.create_task(receiver.install(sender.snapshot()))
    assert await asyncio.to_thread(begun.wait, 60)
    wanted = dict(sender.volume.state.blobs())

    async def fetched() -> bool:
        return set(receiver.volume.blobs.digests()) == set(wanted) and not (
            receiver.payloads.fetching
        )

    await eventually(fetched, "everything is fetched")
    assert not installing.done()
    assert receiver.stepped == []
    go.set()
    assert await installing == FILES + 1
    assert len(receiver.stepped) == 1
    assert_equal(receiver, sender)
