"""The store in a directory: hard links, full disks, symbolic links, what dead writers left."""

import asyncio
import errno
import fcntl
import hashlib
import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from partition_snapshots import directory_store
from partition_snapshots.directory_store import DirectoryStore
from partition_snapshots.errors import (
    InvalidDestination,
    SnapshotDamaged,
    SnapshotNotFound,
    SourceDamaged,
    StoreFull,
    StoreRefused,
    StoreUnavailable,
)
from partition_snapshots.store import object_name

from tests.support.object_store import QUICK

CONTENT = b"content" * 1000
NAME = object_name(hashlib.sha256(CONTENT).hexdigest())


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "store", QUICK)


@pytest.fixture
def blob(tmp_path: Path) -> Path:
    path = tmp_path / "blob"
    path.write_bytes(CONTENT)
    return path


def files(store: DirectoryStore, tmp_path: Path) -> list[str]:
    root = tmp_path / "store"
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())


async def test_a_blob_is_linked_and_costs_nothing(
    store: DirectoryStore, blob: Path, tmp_path: Path
) -> None:
    for _ in range(2):
        assert await store.put_file(NAME, blob, len(CONTENT)) == 0
        assert (tmp_path / "store" / NAME).samefile(blob)
    assert files(store, tmp_path) == [NAME]
    # What is there and another file is replaced, in one step.
    (tmp_path / "store" / NAME).unlink()
    (tmp_path / "store" / NAME).write_bytes(b"damaged")
    await store.put_file(NAME, blob, len(CONTENT))
    assert (tmp_path / "store" / NAME).samefile(blob)
    assert files(store, tmp_path) == [NAME]


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EMLINK, errno.EPERM])
async def test_a_copy_where_no_link_can_be(
    store: DirectoryStore, blob: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(code, "no")

    monkeypatch.setattr(os, "link", refuse)
    assert await store.put_file(NAME, blob, len(CONTENT)) == len(CONTENT)
    assert (tmp_path / "store" / NAME).read_bytes() == CONTENT
    assert not (tmp_path / "store" / NAME).samefile(blob)
    blob.write_bytes(b"x" * len(CONTENT))
    with pytest.raises(SourceDamaged, match="the volume is damaged"):
        await store.put_file(NAME, blob, len(CONTENT))
    assert files(store, tmp_path) == [NAME]


@pytest.mark.parametrize("call", ["write", "fsync", "rename"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
async def test_a_full_disk_leaves_nothing(
    store: DirectoryStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    code: int,
) -> None:
    await store.put_bytes(NAME, b"")
    before = files(store, tmp_path)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(StoreFull, match="free space"):
        await store.put_bytes(NAME, CONTENT)
    monkeypatch.undo()
    assert files(store, tmp_path) == before
    assert await store.get(NAME) == b""


async def test_everything_is_synced_before_it_counts(
    store: DirectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The content before the name, the name's directory afterwards."""
    events: list[str] = []
    sync, rename, link = os.fsync, os.rename, os.link

    def name_of(descriptor: int) -> str:
        return str(Path(os.readlink(f"/proc/self/fd/{descriptor}")).relative_to(tmp_path))

    def synced(descriptor: int) -> None:
        events.append(f"sync {name_of(descriptor).partition('-')[0]}")
        sync(descriptor)

    def renamed(*names: Any, **folders: Any) -> None:
        events.append("rename")
        rename(*names, **folders)

    def linked(*names: Any, **folders: Any) -> None:
        events.append("link")
        link(*names, **folders)

    await store.put_bytes("snapshots/a.json", b"")
    await store.put_bytes(NAME, b"")
    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", renamed)
    monkeypatch.setattr(os, "link", linked)
    staged = f"sync store/staging/{store._token}"
    await store.put_bytes("snapshots/a.json", b"1")
    assert events == [staged, "rename", "sync store/snapshots"]
    events.clear()
    assert await store.put_bytes("snapshots/b.json", b"1", create=True)
    assert events == [staged, "link", "sync store/snapshots"]
    events.clear()
    await store.put_bytes(NAME, b"1")
    await store.flush()
    assert events == [
        staged,
        "rename",
        f"sync store/{NAME[:10]}",
        "sync store/objects",
        "sync store/snapshots",
        "sync store",
    ]
    events.clear()
    # What a writer that was killed made is as durable as what this one makes.
    assert not await store.put_bytes("snapshots/b.json", b"1", create=True)
    assert events == [staged, "link", "sync store/snapshots"]
    await store.close()
    other = DirectoryStore(tmp_path / "store", QUICK)
    events.clear()
    await other.put_bytes("snapshots/c.json", b"")
    assert events[:2] == ["sync .", "sync store"]
    events.clear()
    await store.delete(["snapshots/a.json", "snapshots/b.json"])
    assert events == ["sync store/snapshots"]


async def test_create_leaves_what_is_there(store: DirectoryStore, tmp_path: Path) -> None:
    assert await store.put_bytes("format.json", b"1", create=True)
    assert not await store.put_bytes("format.json", b"2", create=True)
    assert await store.get("format.json") == b"1"
    assert files(store, tmp_path) == ["format.json"]


async def test_no_symbolic_link_leads_out(store: DirectoryStore, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    root = tmp_path / "store"
    root.mkdir()
    (root / "objects").mkdir()
    (root / "objects" / NAME[8:10]).symlink_to(outside)
    (root / "snapshots").symlink_to(outside)
    (root / "format.json").symlink_to(outside / "secret")
    for name in (NAME, "snapshots/secret.json", "format.json"):
        with pytest.raises(SnapshotDamaged, match="symbolic link"):
            await store.get(name)
    for name in (NAME, "snapshots/x.json"):
        with pytest.raises(SnapshotDamaged, match="symbolic link"):
            await store.put_bytes(name, b"x")
    # A link in a file's own place is replaced, not followed.
    await store.put_bytes("format.json", b"x")
    assert (outside / "secret").read_bytes() == b"secret"
    assert sorted(path.name for path in outside.iterdir()) == ["secret"]
    for prefix in ("snapshots/", "objects/"):
        with pytest.raises(SnapshotDamaged):
            _ = [info async for info in store.list(prefix)]


async def test_a_source_that_is_a_symbolic_link_is_refused(
    store: DirectoryStore, blob: Path, tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(blob)
    with pytest.raises(SourceDamaged):
        await store.put_file(NAME, link, len(CONTENT))


async def test_what_the_layout_has_not_is_passed_over(
    store: DirectoryStore, tmp_path: Path
) -> None:
    await store.put_bytes(NAME, b"1")
    folder = (tmp_path / "store" / NAME).parent
    (folder / "README").write_bytes(b"")
    (folder / ("0" * 64)).mkdir()
    assert [info.name async for info in store.list("objects/")] == [NAME]
    os.mkfifo(folder / (folder.name + "1" * 62))
    with pytest.raises(SnapshotDamaged, match="not a regular file"):
        await store.get(object_name(folder.name + "1" * 62))


async def test_a_sweep_removes_what_the_dead_left_and_nothing_else(
    store: DirectoryStore, tmp_path: Path
) -> None:
    await store.put_bytes("format.json", b"1")
    staging = tmp_path / "store" / "staging"
    (staging / "dead-1").write_bytes(b"half")
    with (staging / "alive-1").open("wb") as alive:
        fcntl.flock(alive, fcntl.LOCK_EX)
        assert await store.sweep() == 1
        assert files(store, tmp_path) == ["format.json", "staging/alive-1"]
    assert await store.sweep() == 1


async def test_reading_makes_nothing(store: DirectoryStore, tmp_path: Path) -> None:
    assert [info async for info in store.list("objects/")] == []
    assert await store.head("format.json") is None
    with pytest.raises(SnapshotNotFound):
        await store.get("format.json")
    await store.delete(["format.json"])
    await store.flush()
    assert await store.sweep() == 0
    assert not (tmp_path / "store").exists()


async def test_a_parent_that_is_missing(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "a" / "b", QUICK)
    with pytest.raises(InvalidDestination, match="parent does not exist"):
        await store.put_bytes("format.json", b"")


async def test_permissions(store: DirectoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StoreRefused, match="permission to read and write"):
        await store.put_bytes("format.json", b"")


@pytest.mark.parametrize("code", [errno.EIO, errno.EBADMSG, errno.EUCLEAN])
async def test_content_that_the_disk_holds_no_more_is_damage(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    await store.put_bytes(NAME, CONTENT)
    opened = os.open

    def broken(path: Any, *args: Any, **options: Any) -> int:
        if path == NAME.rpartition("/")[2]:
            raise OSError(code, os.strerror(code))
        return opened(path, *args, **options)

    monkeypatch.setattr(os, "open", broken)
    with pytest.raises(SnapshotDamaged, match="can't be read"):
        await store.get(NAME)
    assert [type(found) for found in await store.get_many([(NAME, 9999)])] == [SnapshotDamaged]
    with pytest.raises(SnapshotDamaged, match="can't be read"):
        _ = [chunk async for chunk in store.stream(NAME, len(CONTENT))]


async def test_a_linked_file_is_read_where_that_is_asked(
    store: DirectoryStore, blob: Path, tmp_path: Path
) -> None:
    done: list[int] = []
    assert await store.put_file(NAME, blob, len(CONTENT), done.append, True) == 0
    assert sum(done) == len(CONTENT)
    blob.write_bytes(b"x" * len(CONTENT))
    with pytest.raises(SourceDamaged, match="volume is damaged"):
        await store.put_file(NAME, blob, len(CONTENT), done.append, True)


async def test_a_copy_says_how_far_it_is(
    store: DirectoryStore, blob: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what it said is durable."""

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EXDEV, "no")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(directory_store, "SYNC_BYTES", 3000)
    store._limits = replace(QUICK, part_bytes=1000)
    done: list[int] = []
    await store.put_file(NAME, blob, len(CONTENT), done.append)
    assert done == [3000, 3000, 1000]


async def test_a_deletion_asks_before_each_step(store: DirectoryStore, tmp_path: Path) -> None:
    names = [f"snapshots/{letter}.json" for letter in "abc"]
    for name in names:
        await store.put_bytes(name, b"")
    asked: list[int] = []

    def may() -> None:
        asked.append(1)
        if len(asked) == 2:
            raise StoreUnavailable("stood still")

    with pytest.raises(StoreUnavailable):
        await store.delete(names, may)
    assert files(store, tmp_path) == names[1:]


async def test_a_cancelled_read_keeps_its_descriptor_until_its_thread_is_done(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.put_bytes(NAME, CONTENT)
    loop = asyncio.get_running_loop()
    begun, go_on = asyncio.Event(), threading.Event()
    read, close, order = os.read, os.close, list[str]()

    def slow(descriptor: int, size: int) -> bytes:
        loop.call_soon_threadsafe(begun.set)
        assert go_on.wait(30)
        found = read(descriptor, size)
        order.append("read")
        return found

    def closed(descriptor: int) -> None:
        order.append("close")
        close(descriptor)

    monkeypatch.setattr(os, "read", slow)

    async def take() -> None:
        async for _ in store.stream(NAME, len(CONTENT)):
            pass

    task = asyncio.ensure_future(take())
    await begun.wait()
    monkeypatch.setattr(os, "close", closed)
    for _ in range(3):
        task.cancel()
        await asyncio.wait([task], timeout=0.02)
        assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    monkeypatch.undo()
    assert order == ["read", "close"]


async def test_too_large_for_memory(store: DirectoryStore) -> None:
    await store.put_bytes(NAME, b"x" * 11)
    with pytest.raises(SnapshotDamaged, match="more than 10 bytes"):
        await store.get(NAME, 10)
