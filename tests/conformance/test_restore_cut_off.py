"""A restore without room, one that is cut off, and one that meets the files of a dead process: the
result is a whole volume or none."""

import asyncio
import errno
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import lmdb
import pytest
from partition_replica.errors import StorageFailed
from partition_replica.ids import ClusterID
from partition_replica.offline.new_volume import NewVolume
from partition_replica.offline.snapshots import restore as snapshot_restore
from partition_replica.offline.stopped import open_stopped
from partition_replica.storage.failpoints import EXIT_CODE
from partition_replica.storage.files import disk
from partition_replica.storage.space import VolumeSpace
from partition_replica.storage.state_loading import StateLoader
from partition_snapshots.destination import DirectoryDestination, open_store
from partition_snapshots.limits import SnapshotLimits
from partition_snapshots.read import load

from tests.support.crash_points import WHILE_RESTORING
from tests.support.seed_logs import check, contents, open_volume
from tests.support.stored import (
    NEW_CLUSTER,
    Stored,
    ended,
    make_volume,
    rows_digest,
)
from tests.support.stored import published as published  # a fixture
from tests.support.stored import stored as stored  # a fixture

# --- no room ----------------------------------------------------------------------------------


def test_a_full_volume_is_left_as_it_was(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    stored.publish(make_volume(stored.root / "source"))
    data = stored.root / "data"
    with monkeypatch.context() as patched:

        def full(loader: StateLoader) -> None:
            raise StorageFailed("commit of a state: ENOSPC") from lmdb.DiskError("ENOSPC")

        patched.setattr(StateLoader, "_flush", full)
        code, report = stored.run("restore", *stored.restore_arguments(data))
        assert (code, report["reason"]) == (73, "VolumeFull")
        assert not data.exists()
    with monkeypatch.context() as patched:
        patched.setattr(VolumeSpace, "free_bytes", lambda _: (1000, 10**12))
        code, report = stored.run("restore", *stored.restore_arguments(data))
        assert (code, report["reason"]) == (73, "VolumeFull")
        assert "1000 bytes free" in report["message"]
        assert not data.exists()
    stored.restore(data)


# --- cut off ----------------------------------------------------------------------------------


@pytest.mark.parametrize("failpoint", WHILE_RESTORING)
@pytest.mark.parametrize("fresh", [True, False])
def test_a_restore_that_is_cut_off_is_none_or_whole(
    stored: Stored, failpoint: str, fresh: bool
) -> None:
    source, data = make_volume(stored.root / "source"), stored.root / "data"
    stored.publish(source)
    if not fresh:  # a volume that a replica opened once, and that belongs to nobody
        open_volume(data).close()
    arguments = ["restore", *stored.restore_arguments(data), "--directory", stored.store]
    assert ended(failpoint, *arguments) == EXIT_CODE
    kept = stored.root / "kept"
    shutil.copytree(data, kept)
    complete = failpoint == "import.log_moved"
    for again, opened_between in ((data, True), (kept, False)):
        if opened_between:  # a replica's start finds a new volume, or the complete one
            opened = open_volume(again)
            assert opened.log.identity.cluster_id == (NEW_CLUSTER if complete else "")
            assert len(list(opened.blobs.digests())) == (6 if complete else 0)
            opened.close()
        report = stored.restore(again)
        assert report["existed"] == complete
        assert report["lsn"] == 7
        assert contents(again) == contents(source)
        assert rows_digest(again) == rows_digest(source)
        check(again, stored.root / "scratch")
        opened = open_volume(again)
        assert opened.blobs_collected == 0
        assert [path.name for path in opened.staging.iterdir()] == []
        assert [path.name for path in (again / "state").iterdir()] == ["1"]
        opened.close()


@pytest.mark.parametrize("step", ["__init__", "put_rows", "finish"])
async def test_a_restore_that_is_told_to_end_waits_for_its_threads(
    published: Stored, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """LMDB must not be closed below one, nor its directory removed."""
    begun, go = threading.Event(), threading.Event()
    happened: list[str] = []
    work, close = getattr(StateLoader, step), StateLoader.close

    def slowly(loader: StateLoader, *arguments: Any, **named: Any) -> Any:
        begun.set()
        assert go.wait(60)
        found = work(loader, *arguments, **named)
        happened.append("done")
        return found

    def closing(loader: StateLoader) -> None:
        happened.append("closed")
        close(loader)

    monkeypatch.setattr(StateLoader, step, slowly)
    monkeypatch.setattr(StateLoader, "close", closing)
    limits = SnapshotLimits()
    store = open_store(DirectoryDestination(published.store), limits)
    data = published.root / "data"
    restoring = asyncio.create_task(
        snapshot_restore.restore(
            store,
            await load(store, "s1", limits),
            data,
            cluster=ClusterID(NEW_CLUSTER),
            standalone=False,
            limits=limits,
        )
    )
    assert await asyncio.to_thread(begun.wait, 60)
    for _ in range(3):
        restoring.cancel()
        for _ in range(3):
            await asyncio.sleep(0)
        assert not restoring.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await restoring
    # A batch may hold rows of several tables.
    assert happened == ["done"] * (len(happened) - 1) + ["closed"]
    assert len(happened) > 1
    assert not data.exists()
    await store.close()


def test_what_can_not_be_taken_back_does_not_hide_why(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told to end, a pod tries again; it would not for a failed volume."""
    data = stored.root / "data"

    def refuse(_: Path) -> None:
        raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))

    with monkeypatch.context() as patched, pytest.raises(asyncio.CancelledError):
        with NewVolume(data) as volume:
            volume.stage()
            patched.setattr(disk, "remove_tree", refuse)
            raise asyncio.CancelledError
    stored.publish(make_volume(stored.root / "source"))
    stored.restore(data)
    check(data, stored.root / "scratch")


# --- processes --------------------------------------------------------------------------------


def test_what_a_dead_process_of_the_same_replica_left_blocks_nobody(stored: Stored) -> None:
    source = make_volume(stored.root / "source")
    with open_stopped(source) as volume:
        owner = f"{volume.log.identity.member_id:x}"
    publish = ("take", "--data", source, "--directory", stored.store)
    stored.publish(source, "s0")
    assert ended("snapshot.upload.begun", *publish, "--snapshot", "s1") == EXIT_CODE
    prune = ("delete", "--snapshot", "s0", "--owner", owner)
    stored.done(*prune)
    stored.publish(source, "s2")
    assert ended("snapshot.upload.begun", *publish, "--snapshot", "s3") == EXIT_CODE
    stored.publish(source, "s4")  # another ID's
    assert list((stored.store / "uploads").iterdir()) == []
    killed = ended("snapshot.collect.before", *prune, "--directory", stored.store)
    assert killed == EXIT_CODE
    assert len(list((stored.store / "collecting").iterdir())) == 1
    stored.publish(source, "s5", "--limit", "busy_wait_s=0.2")


def test_one_that_is_there_and_not_whole_is_published_again(stored: Stored) -> None:
    """Who wrote its manifest died before it knew of a collection that had come between."""
    source = make_volume(stored.root / "source")
    stored.publish(source)
    names = stored.objects()
    for name in (names[0], names[-1]):
        name.unlink()
    again = stored.publish(source)
    assert not again["existed"]
    assert stored.objects() == names
    stored.done("verify", "--snapshot", "s1")
    assert stored.publish(source)["existed"]
    assert list((stored.store / "uploads").iterdir()) == []


@pytest.mark.parametrize(("action", "code"), [(["ls"], 0), (["verify", "--snapshot", "s1"], 78)])
def test_the_interpreter_is_not_taken_down(stored: Stored, action: list[str], code: int) -> None:
    """An object store's threads might abort it: a pod that succeeded would have failed."""
    program = (
        "import atexit, sys; atexit.register(print, 'taken down'); "
        "from partition_replica.__main__ import main; main()"
    )
    stored.store.mkdir()
    report = stored.root / "report.json"
    done = subprocess.run(
        [
            *(sys.executable, "-c", program, "snapshot", *action),
            *("--directory", stored.store, "--report", report),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert "taken down" not in done.stdout
    assert "SNAPSHOT" in done.stdout or "SnapshotNotFound" in done.stderr
    assert report.exists()
