"""Blobs: durable under their name or not there at all; kept while anything needs them."""

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest
from partition_replica.core.limits import Limits
from partition_replica.errors import Overloaded, PayloadMismatch
from partition_replica.ids import Digest
from partition_replica.runtime.metrics import Metrics
from partition_replica.runtime.transfer.payloads import Payloads
from partition_replica.storage import blobs
from partition_replica.storage.blobs import PIN_KEPT_S, BlobStore
from partition_replica.storage.files import sync_file

CONTENT = b"content" * 1000
DIGEST = Digest(hashlib.sha256(CONTENT).digest())


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> BlobStore:
    return BlobStore(tmp_path / "blobs", tmp_path / "staging", pins_max=2, clock=clock)


def put(store: BlobStore) -> None:
    writer = store.writer(DIGEST, len(CONTENT))
    writer.write(CONTENT)
    writer.finish()


def test_a_blob_appears_whole(store: BlobStore, tmp_path: Path) -> None:
    writer = store.writer(DIGEST, len(CONTENT))
    writer.write(CONTENT[:10])
    assert not store.has(DIGEST)
    writer.write(CONTENT[10:])
    writer.finish()
    assert store.path(DIGEST).read_bytes() == CONTENT
    assert store.size(DIGEST) == len(CONTENT)
    assert list(store.digests()) == [DIGEST]
    assert list((tmp_path / "staging").iterdir()) == []


@pytest.mark.parametrize("chunks", [[CONTENT + b"x"], [CONTENT[:-1]], [CONTENT[:-1] + b"x"], []])
def test_what_does_not_match_leaves_nothing(
    store: BlobStore, tmp_path: Path, chunks: list[bytes]
) -> None:
    writer = store.writer(DIGEST, len(CONTENT))
    with pytest.raises(PayloadMismatch):
        for chunk in chunks:
            writer.write(chunk)
        writer.finish()
    writer.abort()
    assert not store.has(DIGEST)
    assert list((tmp_path / "staging").iterdir()) == []


def test_a_start_empties_what_was_staged(store: BlobStore, tmp_path: Path) -> None:
    store.writer(DIGEST, 5).write(b"12345")
    BlobStore(tmp_path / "blobs", tmp_path / "staging", pins_max=1)
    assert list((tmp_path / "staging").iterdir()) == []


def test_collection_spares_what_is_named_pinned_or_held(store: BlobStore, clock: Clock) -> None:
    put(store)
    assert store.collect([DIGEST], lambda _: True) == 0
    assert store.pin_present(DIGEST, 10)
    assert store.collect([DIGEST], lambda _: False) == 0
    clock.now = 11
    store.hold([DIGEST])
    assert store.expired_pins() == [DIGEST]
    assert store.collect([DIGEST], lambda _: False) == 0
    store.release_hold([DIGEST])
    assert store.collect([DIGEST, DIGEST], lambda _: False) == 1
    assert not store.pin_present(DIGEST, 10)


def test_pins_are_bounded(store: BlobStore) -> None:
    store.pin(Digest(b"1" * 32), 10)
    store.pin(Digest(b"2" * 32), 10)
    store.pin(Digest(b"1" * 32), 10)
    with pytest.raises(Overloaded):
        store.pin(Digest(b"3" * 32), 10)


def test_the_pin_that_was_renewed_least_recently_makes_room(store: BlobStore, clock: Clock) -> None:
    """Else whoever uploads many files has to wait until the first pins expire."""
    put(store)
    store.pin(DIGEST, 600)
    store.pin(Digest(b"2" * 32), 600)
    clock.now = 1.0
    assert store.pin_present(DIGEST, 600)
    clock.now = PIN_KEPT_S
    store.pin(Digest(b"3" * 32), 600)  # instead of 2
    assert store.expired_pins() == [Digest(b"2" * 32)]
    assert store.collect([DIGEST], lambda _: False) == 0
    with pytest.raises(Overloaded, match="2 payloads are pinned"):
        store.pin(Digest(b"4" * 32), 600)  # the oldest one is younger than 30 s
    clock.now = PIN_KEPT_S + 1.0
    store.pin(Digest(b"4" * 32), 600)
    assert store.expired_pins() == [DIGEST]
    assert store.collect([DIGEST], lambda _: False) == 1


def test_a_renewed_pin_lasts_as_long_as_the_longest(store: BlobStore, clock: Clock) -> None:
    store.pin(DIGEST, 600)
    store.pin(DIGEST, 10)
    clock.now = 599
    assert store.expired_pins() == []


async def test_an_upload_whose_caller_goes_away_is_adopted_whole_or_taken_back(
    store: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its leader died while the disk worked: nothing may be pulled away below the disk's thread,
    and the blob must not stay "arriving" for ever."""
    payloads = Payloads(
        store,
        cast("Any", None),
        Limits(),
        Metrics(),
        own_member=1,
        configuration=cast("Any", None),
        disk_full=lambda: False,
        disk_low=lambda: False,
        deliver=cast("Any", None),
        failed=pytest.fail,
    )
    reached, go_on = threading.Event(), threading.Event()

    def held_up(descriptor: int, what: str) -> None:
        reached.set()
        assert go_on.wait(30)
        sync_file(descriptor, what)

    async def chunks() -> AsyncIterator[bytes]:
        yield CONTENT

    monkeypatch.setattr(blobs, "sync_file", held_up)
    task = asyncio.create_task(payloads.receive(DIGEST, len(CONTENT), chunks()))
    assert await asyncio.to_thread(reached.wait, 30)
    task.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert store.pin_present(DIGEST, 10)
    assert store.path(DIGEST).read_bytes() == CONTENT
    assert list((tmp_path / "staging").iterdir()) == []
    assert await payloads.receive(DIGEST, len(CONTENT), chunks())
