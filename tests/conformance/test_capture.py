"""A capture is the state at one position, whatever is applied, removed or collected meanwhile."""

import asyncio
import errno
import hashlib
import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lmdb
import pytest
from partition_replica.core.limits import Limits
from partition_replica.errors import Damaged, DiskFull, Overloaded, StorageFailed
from partition_replica.ids import LSN, Digest
from partition_replica.runtime.transfer import capture as capture_module
from partition_replica.runtime.transfer.capture import capture_in_time, copy_state
from partition_replica.storage.files import disk
from partition_replica.storage.state import LmdbState
from partition_replica.storage.state_copy import CopiedFile, FrozenState

from tests.support.captures import HeldUp, Subject, all_rows, capturing, state_capture
from tests.support.captures import subject as subject  # a fixture
from tests.support.proposals import remove, set_key


async def test_entries_are_applied_while_the_copy_runs(subject: Subject) -> None:
    first = await subject.put_file(b"kept", b"kept" * 30_000)
    second = await subject.put_file(b"dropped", b"dropped" * 30_000)
    await subject.apply(subject.propose(set_key(b"k", b"before")))
    before, position = all_rows(subject.volume.state), subject.volume.state.applied
    slow = HeldUp()
    target = subject.volume.staging / "captured"
    taking = asyncio.create_task(capturing(subject, slow).take(target))
    await asyncio.to_thread(slow.begun.wait)
    # Each returns when it is applied, and the copy has not even begun to write.
    await subject.apply(subject.propose(set_key(b"k", b"after")))
    await subject.apply(subject.propose(remove(b"dropped")))
    third = await subject.put_file(b"later", b"later" * 30_000)
    await subject.apply(subject.propose(remove(b"later")))
    blobs = subject.volume.blobs
    assert blobs.has(second)
    assert blobs.has(third)
    assert await subject.collect_deferred() == 0
    slow.go.set()
    captured = await taking
    assert captured is not None
    assert (captured.position, captured.directory) == (position, target)
    assert captured.time_ms == 1000  # the proposals'
    assert captured.configuration == subject.volume.log.configuration[1]
    assert sorted(captured.blobs) == sorted([(first, 120_000), (second, 210_000)])
    copied = LmdbState(target, read_only=True)
    assert all_rows(copied) == before
    copied.close()
    # What no copy names goes now, what this one names when it is released.
    assert await subject.collect_deferred() == 1
    assert [blobs.has(d) for d in (first, second, third)] == [True, True, False]
    captured.release()
    captured.release()
    assert await subject.collect_deferred() == 1
    assert [blobs.has(d) for d in (first, second, third)] == [True, False, False]
    assert blobs.held_count == 0


async def test_two_captures_come_one_after_the_other(subject: Subject) -> None:
    slow = HeldUp()
    capture = capturing(subject, slow)
    both = [
        asyncio.create_task(capture.take(subject.volume.staging / name)) for name in ("one", "two")
    ]
    await asyncio.to_thread(slow.begun.wait)
    assert not (subject.volume.staging / "two").exists()
    slow.go.set()
    assert None not in await asyncio.gather(*both)


async def test_no_capture_between_a_configuration_and_its_entry(subject: Subject) -> None:
    log = subject.volume.log
    log.save_configuration(LSN(subject.last + 1), log.configuration[1])
    capture = capturing(subject, copy_state)
    assert await capture.take(subject.volume.staging / "captured") is None
    await subject.apply(subject.propose(set_key(b"k", b"v")))
    assert await capture.take(subject.volume.staging / "captured") is not None


async def test_no_capture_without_room(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject.volume.space, "free_bytes", lambda: (1000, 10**9))
    assert await capturing(subject, copy_state).take(subject.volume.staging / "captured") is None
    assert list(subject.volume.staging.iterdir()) == []


async def test_copies_that_fail_count_as_waiting(subject: Subject) -> None:
    """Each may take minutes: a caller that may wait for one is not to wait for hundreds."""
    tries = 0

    def fail(frozen: FrozenState, directory: Path) -> CopiedFile:
        nonlocal tries
        tries += 1
        time.sleep(0.5)  # it works for longer than its caller may wait
        raise DiskFull("no")

    capture = capturing(subject, fail)
    with pytest.raises(Overloaded, match=r"could not be copied within 0\.4 s"):
        await capture_in_time(lambda: capture, subject.volume.staging / "captured", 0.4)
    assert tries == 1


async def test_the_reserve_of_a_small_volume_is_a_part_of_it(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tenth, of which a copy for others may take half, however much is to be reserved."""
    capture = state_capture(subject.volume, subject.applier, Limits(disk_reserve_bytes=2**60))
    total = 10**9
    size, target = subject.volume.state.size_bytes(), subject.volume.staging / "captured"
    for short, possible in ((1, False), (0, True)):
        free = size + total // 20 - short
        monkeypatch.setattr(subject.volume.space, "free_bytes", lambda found=free: (found, total))
        captured = await capture.take(target)
        assert (captured is not None) == possible


async def cancel_again_and_again(task: "asyncio.Task[Any]") -> None:
    for _ in range(4):
        task.cancel()
        for _ in range(3):
            await asyncio.sleep(0)
        assert not task.done()


async def test_one_cancelled_before_it_began_leaves_nothing(subject: Subject) -> None:
    """The applier is busy: the read transaction is begun when nobody wants it any more."""
    dropped = await subject.put_file(b"dropped", b"dropped" * 30_000)
    go = threading.Event()
    busy = asyncio.create_task(subject.applier.call(lambda: go.wait(60)))
    await asyncio.sleep(0)
    capture = capturing(subject, copy_state)
    taking = asyncio.create_task(capture.take(subject.volume.staging / "captured"))
    await asyncio.sleep(0)
    await cancel_again_and_again(taking)
    go.set()
    assert await busy
    with pytest.raises(asyncio.CancelledError):
        await taking
    await subject.apply(subject.propose(remove(b"dropped")))
    assert not subject.volume.blobs.has(dropped)  # nothing is postponed
    assert subject.volume.state._views == 0
    assert await capture.take(subject.volume.staging / "captured") is not None


@pytest.mark.parametrize("where", ["directory", "create", "write", "quota"])
async def test_a_volume_without_room_for_a_copy_is_no_failure(
    subject: Subject, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    code = errno.EDQUOT if where == "quota" else errno.ENOSPC
    no_room = OSError(code, os.strerror(code))

    def refuse(*_: object, **__: object) -> None:
        raise no_room

    def copy(frozen: FrozenState, directory: Path) -> CopiedFile:
        with monkeypatch.context() as patched:
            if where == "directory":
                patched.setattr(Path, "mkdir", refuse)
            else:
                patched.setattr(disk, "write" if where == "quota" else where, refuse)
            return copy_state(frozen, directory)

    # More than a pipe holds: LMDB waits to write on when the copy ends.
    for number in range(8):
        await subject.apply(subject.propose(set_key(b"k%d" % number, os.urandom(500_000))))
    capture = capturing(subject, copy)
    assert await capture.take(subject.volume.staging / "captured") is None
    assert list(subject.volume.staging.iterdir()) == []
    assert await capturing(subject, copy_state).take(subject.volume.staging / "one") is not None


async def test_a_copy_that_is_to_be_durable_is_synced(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(disk, "sync", refuse)
    with pytest.raises(DiskFull):
        subject.volume.state.copy(subject.volume.staging / "copied")


@pytest.mark.parametrize(
    ("error", "raised"), [(lmdb.CorruptedError, Damaged), (lmdb.Error, StorageFailed)]
)
async def test_a_state_that_cannot_be_copied_is_no_copy(
    subject: Subject, error: type[Exception], raised: type[Exception]
) -> None:
    """What LMDB wrote before is not taken for the whole."""

    def copy(frozen: FrozenState, directory: Path) -> CopiedFile:
        real = frozen._environment

        def fail(descriptor: int, **options: Any) -> None:
            os.write(descriptor, b"half")
            raise error("no")

        frozen._environment = SimpleNamespace(copyfd=fail)  # type: ignore[assignment]
        try:
            return frozen.copy(directory)
        finally:
            frozen._environment = real

    with pytest.raises(raised):
        await capturing(subject, copy).take(subject.volume.staging / "captured")
    assert list(subject.volume.staging.iterdir()) == []


@pytest.mark.parametrize("cancel", [False, True])
async def test_a_capture_that_fails_leaves_nothing(subject: Subject, cancel: bool) -> None:
    dropped = await subject.put_file(b"dropped", b"dropped" * 30_000)
    slow = HeldUp(None if cancel else StorageFailed("no"))
    taking = asyncio.create_task(capturing(subject, slow).take(subject.volume.staging / "captured"))
    await asyncio.to_thread(slow.begun.wait)
    await subject.apply(subject.propose(remove(b"dropped")))
    if cancel:
        await cancel_again_and_again(taking)
    slow.go.set()
    with pytest.raises(asyncio.CancelledError if cancel else StorageFailed):
        await taking
    assert list(subject.volume.staging.iterdir()) == []
    assert subject.volume.blobs.held_count == 0
    assert await subject.collect_deferred() == 1
    assert not subject.volume.blobs.has(dropped)


@pytest.mark.parametrize(("moment", "held"), [("copied", 0), ("held", 1)])
async def test_a_capture_that_is_cancelled_ends_soon(
    subject: Subject, monkeypatch: pytest.MonkeyPatch, moment: str, held: int
) -> None:
    """It lists no more payloads, and holds no more of those that it has listed."""
    for number in range(3):
        await subject.put_file(b"f%d" % number, os.urandom(100_000))
    monkeypatch.setattr(capture_module, "HELD_AT_ONCE", 1)
    reached, go = threading.Event(), threading.Event()
    hold, holds = subject.volume.blobs.hold, 0

    def wait(at: str) -> None:
        if at == moment:
            reached.set()
            assert go.wait(60)

    def copy(frozen: FrozenState, directory: Path) -> CopiedFile:
        made = copy_state(frozen, directory)
        wait("copied")
        return made

    def counted(digests: Iterable[Digest]) -> None:
        nonlocal holds
        hold(digests)
        holds += 1
        wait("held")

    monkeypatch.setattr(subject.volume.blobs, "hold", counted)
    taking = asyncio.create_task(capturing(subject, copy).take(subject.volume.staging / "captured"))
    await asyncio.to_thread(reached.wait)
    await cancel_again_and_again(taking)
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await taking
    assert holds == held
    assert subject.volume.blobs.held_count == 0
    assert list(subject.volume.staging.iterdir()) == []


async def test_a_state_that_is_replaced_is_copied_to_its_end(subject: Subject) -> None:
    """A snapshot from the leader may come while a copy runs: LMDB's environment must not be closed
    below it."""
    await subject.apply(subject.propose(set_key(b"k", b"v")))
    slow = HeldUp()
    target = subject.volume.staging / "captured"
    taking = asyncio.create_task(capturing(subject, slow).take(target))
    await asyncio.to_thread(slow.begun.wait)
    old = subject.volume.state
    position = old.applied
    staged = subject.volume.staging / "incoming"
    await subject.applier.call(lambda: old.copy(staged))
    generation = subject.volume.log.identity.state_generation + 1
    subject.volume.states.place(staged, generation)
    fresh = LmdbState(subject.volume.states.path(generation))
    subject.volume.states.replace(fresh)
    await subject.applier.call(old.close)
    slow.go.set()
    captured = await taking
    assert captured is not None
    assert captured.position == position
    content = (target / "data.mdb").read_bytes()
    assert captured.file == CopiedFile(len(content), hashlib.sha256(content).digest())
    copied = LmdbState(target, read_only=True)
    assert copied.get_value(b"k")[0] == b"v"
    copied.close()
    with pytest.raises(Exception, match="closed"):
        old.environment.info()
