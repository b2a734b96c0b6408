"""A read is of one moment, though entries are applied on another thread meanwhile."""

import hashlib
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from partition_replica.core.model import LogEntry
from partition_replica.errors import Compacted, Damaged, InvalidArgument, NoLeader, NotFound
from partition_replica.ids import LSN, Digest, Term
from partition_replica.storage.files import VolumeLock
from partition_replica.storage.volume import Volume

from tests.support.proposals import link, mkdir, remove
from tests.support.volume_reads import apply, content, meanwhile, reads, store

SECONDS = 1.5
SMALL, LARGE = 2_000, 65_537


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Volume]:
    lock = VolumeLock(tmp_path)
    assert lock.try_acquire()
    opened = Volume(tmp_path, lock, pins_max=1000)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield opened
    sys.setswitchinterval(interval)
    opened.close()


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_a_file_under_replacement_is_always_there(volume: Volume, size: int) -> None:
    """Its entry in the tree and its content are read together."""

    def replace() -> None:
        new = os.urandom(size)
        if size == LARGE:
            store(volume, new)
        apply(volume, remove(b"file"), link(b"file"), files=[new])

    replace()
    found, count, last = reads(volume), 0, 0
    deadline = threading.Event()
    timer = threading.Timer(SECONDS, deadline.set)
    timer.start()
    with meanwhile(replace):
        while not deadline.is_set():
            opened = found.open_here(b"file", 0)
            assert hashlib.sha256(content(opened, found)).digest() == opened.node.digest
            assert opened.applied >= last
            last, count = opened.applied, count + 1
    timer.join()
    assert count > 10
    assert not volume.blobs.held_count


def test_a_blob_is_not_collected_between_its_name_and_its_hold(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = os.urandom(LARGE), os.urandom(LARGE)
    for found in (old, new):
        store(volume, found)
    volume.blobs.pin(Digest(hashlib.sha256(new).digest()), 60.0)
    apply(volume, link(b"file"), files=[old])
    get_file = volume.state.get_file

    def and_replace(path: bytes) -> Any:
        found = get_file(path)
        apply(volume, remove(b"file"), link(b"file"), files=[new])
        return found

    monkeypatch.setattr(volume.state, "get_file", and_replace)
    opened = reads(volume).open_here(b"file", 0)
    assert volume.garbage.collect(volume.blobs.take_deferred()) == 0
    assert content(opened, reads(volume)) == old
    assert volume.garbage.collect(volume.blobs.take_deferred()) == 1


def test_a_directory_that_is_removed_is_never_an_empty_one(volume: Volume) -> None:
    """It always has a file while it is there."""

    def replace() -> None:
        apply(volume, mkdir(b"d"), link(b"d/f"), files=[b"content"])
        apply(volume, remove(b"d/f"), remove(b"d"))

    count = 0
    deadline = threading.Event()
    timer = threading.Timer(SECONDS, deadline.set)
    timer.start()
    with meanwhile(replace):
        while not deadline.is_set():
            try:
                items, _ = volume.state.list_tree_entries(b"d", b"", True, 10)
            except NotFound:
                continue
            assert [path for path, _ in items] == [b"d/f"]
            count += 1
    timer.join()
    assert count


def test_the_applied_position_is_never_torn(volume: Volume) -> None:
    """Index and term of one entry: whether a leader may serve depends on them."""

    def work() -> None:
        index = volume.state.applied.index + 1
        volume.state.apply([LogEntry(LSN(index), Term(index), 0, b"")], {})

    deadline = threading.Event()
    timer = threading.Timer(SECONDS, deadline.set)
    timer.start()
    with meanwhile(work):
        while not deadline.is_set():
            found = volume.state.applied
            assert found.index == found.term
    timer.join()


def test_what_is_not_there_is_said_and_a_lost_blob_is_damage(volume: Volume) -> None:
    found = reads(volume)
    with pytest.raises(NotFound, match="not a file"):
        found.open_here(b"file", 0)
    large = os.urandom(LARGE)
    store(volume, large)
    apply(volume, mkdir(b"d"), link(b"file"), files=[large])
    with pytest.raises(NotFound, match="not a file"):
        found.open_here(b"d", 0)
    with pytest.raises(InvalidArgument, match="offset"):
        found.open_here(b"file", LARGE + 1)
    assert content(found.open_here(b"file", LARGE), found) == large
    volume.blobs.path(Digest(hashlib.sha256(large).digest())).unlink()
    with pytest.raises(Damaged, match="is not on the volume"):
        found.open_here(b"file", 0)
    assert not volume.blobs.held_count


def test_entries_while_a_snapshot_takes_the_state_s_place() -> None:
    """The log begins behind the snapshot, and the state is still the one before: neither "read the
    state and go on" nor "there is nothing" is true."""
    state = SimpleNamespace(applied=SimpleNamespace(index=100))
    log = SimpleNamespace(first_stored=201)
    volume: Any = SimpleNamespace(log=log, states=SimpleNamespace(current=state), blobs=None)
    for lsn in (0, 50, 101, 201):
        with pytest.raises(NoLeader, match="state transfer is being installed"):
            reads(volume).entries(lsn, 1000)
    state.applied.index = 200
    with pytest.raises(Compacted) as raised:
        reads(volume).entries(101, 1000)
    assert (raised.value.first_index, raised.value.applied) == (201, 200)
    assert reads(volume).entries(0, 1000) == ([], 201)
