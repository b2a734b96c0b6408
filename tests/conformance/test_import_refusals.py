"""What an import refuses: damage, changes, volumes that are not new. It names entry and file, and
leaves nothing behind."""

import functools
import shutil
from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest
from partition_replica.core.model import HardState
from partition_replica.errors import Damaged, ImportRefused, StorageFailed
from partition_replica.ids import LSN, MemberID, Term
from partition_replica.offline.seed.log_import import import_log
from partition_replica.offline.seed.state_files import encode_hard_state
from partition_replica.offline.stopped import open_stopped
from partition_replica.storage import files
from partition_replica.storage.files import VolumeLock
from partition_replica.storage.log.tables import LATER, NAMES
from partition_replica.storage.state_copy import inspect_copy

from tests.support.seed_damage import BLOB, DAMAGE
from tests.support.seed_logs import (
    CLUSTER,
    Change,
    at,
    check,
    contents,
    cut,
    drop,
    export,
    open_volume,
    put_entry,
    raft_entry,
    raft_of,
    replaced,
    s_set,
    seed_log,
    take,
    tree,
    write,
)

LOCK = {"lock": (0o600, b"")}
"""Stays in a directory that was there: somebody may wait for it."""


@pytest.mark.parametrize(
    ("change", "says"), [row[1:] for row in DAMAGE], ids=[r[0] for r in DAMAGE]
)
def test_damage_is_refused_by_name_and_leaves_nothing(
    tmp_path: Path, change: Change, says: str
) -> None:
    source = seed_log(tmp_path / "source")
    change(source)
    existing = tmp_path / "existing"
    (existing / "lost+found").mkdir(parents=True)
    for data in (tmp_path / "absent", existing):
        for replicated in (False, True):
            with pytest.raises(ImportRefused, match=says):
                take(source, data, replicated=replicated)
    assert not (tmp_path / "absent").exists()
    assert tree(existing) == {"lost+found": (0o755, b""), **LOCK}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (cut(at(5, "2"), 70_000), r"entry 5 .* changed"),
        (raft_of(3, raft_entry(3, 1) + b"\x22\x00"), r"entry 3 .* changed"),
        (replaced(9, [s_set(b"k", b"v")], []), r"entry 9 .* changed"),
        (drop(at(6)), r"entry 6 .* cannot be read"),
        (lambda log: put_entry(log, 10, []), r"log's directory .* changed"),
    ],
)
def test_a_source_that_changes_is_refused_and_leaves_nothing(
    tmp_path: Path, change: Change, says: str
) -> None:
    source = seed_log(tmp_path / "source")
    existing = tmp_path / "existing"
    existing.mkdir()

    def progress(done: int, total: int) -> None:
        if (done, total) == (9, 18):  # between the passes
            change(source)

    with pytest.raises(ImportRefused, match=says):
        import_log(source, existing, cluster=CLUSTER, replicated=True, progress=progress)
    assert tree(existing) == LOCK


@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize("calls", range(1, 46))
def test_a_disk_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int, fresh: bool
) -> None:
    """Whichever fsync of a directory, or rename, fails; the very last one is behind the log's."""
    source, data = seed_log(tmp_path / "source"), tmp_path / "data"
    if not fresh:
        open_volume(data).close()
    before = set(tree(data))
    left, renamed = calls, False

    def fail(call: Callable[..., None], *arguments: Path) -> None:
        nonlocal left, renamed
        left -= 1
        if left == 0:
            raise OSError(28, "No space left on device")
        call(*arguments)
        renamed |= arguments == (data / "staging" / "import" / "log", data / "log")

    failed = False
    with monkeypatch.context() as patch:
        for name in ("replace", "sync_directory"):
            call = getattr(files.disk, name)
            patch.setattr(files.disk, name, functools.partial(fail, call))
        try:
            take(source, data)
        except StorageFailed:
            failed = True
    assert failed == (left <= 0)
    if renamed:
        assert contents(data)[0] == {b"k\xff": b"w"}
    elif fresh:
        assert not data.exists()
    else:
        # The old state may be gone, and a blob be there that nothing names: a start sees to both.
        assert set(tree(data)) - before <= {f"blobs/{BLOB[:2]}", f"blobs/{BLOB[:2]}/{BLOB}"}
        volume = open_volume(data)
        assert (volume.log.identity.cluster_id, volume.blobs_collected) in {("", 0), ("", 1)}
        volume.close()


def test_damaged_states_beside_the_log_are_refused(tmp_path: Path) -> None:
    source = seed_log(tmp_path / "source")
    write(tmp_path / "bad", b"\xff\xff\xff")
    write(tmp_path / "far", encode_hard_state(HardState(Term(1), MemberID(0), LSN(10))))
    for options, says in (
        ({"hard_state": tmp_path / "bad"}, "HardState"),
        ({"hard_state": tmp_path / "far"}, "commit index 10"),
        ({"hard_state": tmp_path / "none"}, "none"),
        ({"conf_state": tmp_path / "bad"}, "ConfState"),
        ({"base": tmp_path / "none"}, "base"),
    ):
        with pytest.raises(ImportRefused, match=says):
            take(source, tmp_path / "data", **options)
    assert not (tmp_path / "data").exists()


def test_only_a_new_volume_is_written_to(tmp_path: Path) -> None:
    source = seed_log(tmp_path / "source")
    take(source, tmp_path / "data")
    before = tree(tmp_path / "data")
    with pytest.raises(ImportRefused, match="belongs to cluster"):
        take(source, tmp_path / "data")
    assert {k: v for k, v in tree(tmp_path / "data").items() if k in before} == before
    other = tmp_path / "other"
    other.mkdir()
    write(other / "mine", b"")
    with pytest.raises(ImportRefused, match="'mine'"):
        take(source, other)
    assert set(tree(other)) == {"mine"}
    busy = tmp_path / "busy"
    busy.mkdir()
    lock = VolumeLock(busy)
    assert lock.try_acquire()
    with pytest.raises(ImportRefused, match="another process"):
        take(source, busy)
    lock.release()


@pytest.mark.parametrize("table", NAMES)
def test_a_volume_without_one_of_its_tables_is_not_new(tmp_path: Path, table: str) -> None:
    """It is damaged, or of an earlier version: `position` came later."""
    source, data = seed_log(tmp_path / "source"), tmp_path / "data"
    take(source, data)
    change_tables(data / "log", lambda name: name == table.encode())
    before = tree(data)
    says = "belongs to cluster" if table in LATER else "may not be new"
    with pytest.raises(ImportRefused, match=says):
        take(source, data)
    after = tree(data)
    assert {name: after[name] for name in before if "lock" not in name} == {
        name: row for name, row in before.items() if "lock" not in name
    }


@pytest.mark.parametrize("kept", range(len(NAMES)))
def test_a_log_that_was_being_made_is_new(tmp_path: Path, kept: int) -> None:
    """It has its first tables, and nothing is in them."""
    source, data = seed_log(tmp_path / "source"), tmp_path / "data"
    open_volume(data).close()
    change_tables(data / "log", lambda name: name not in [n.encode() for n in NAMES[:kept]])
    change_tables(data / "log", lambda _: False, empty=True)
    assert take(source, data).entries == 9
    assert check(data, tmp_path / "scratch") == []


@pytest.mark.parametrize("environment", ["log", "state"])
def test_a_volume_of_an_earlier_version_is_read(tmp_path: Path, environment: str) -> None:
    """Without the table that came later: inspected, verified, exported, gone on from, started."""
    source, data = seed_log(tmp_path / "source"), tmp_path / "data"
    take(source, data)
    folder = data / "log" if environment == "log" else data / "state" / "1"
    change_tables(folder, lambda name: name in {b"position", b"unapplied"})
    assert check(data, tmp_path / "scratch") == []
    with open_stopped(data) as volume:
        assert volume.log.positions == {}
        # Directory `refs` of entry 7 was there already.
        assert (volume.state.unapplied(LSN(7)) is None) == (environment == "state")
    export(data, tmp_path / "out", with_base=True)
    take(tmp_path / "out" / "log", tmp_path / "again", base=tmp_path / "out" / "base")
    assert inspect_copy(data / "state" / "1")[0].index == 9
    volume = open_volume(data)
    volume.log.register("consumer", LSN(9))
    volume.close()


def test_a_state_without_an_old_table_is_damaged(tmp_path: Path) -> None:
    """And not a failure of the disk: it may be a peer's."""
    source, data = seed_log(tmp_path / "source"), tmp_path / "data"
    take(source, data)
    change_tables(data / "state" / "1", lambda name: name == b"content")
    with pytest.raises(Damaged, match="the table content is missing"):
        inspect_copy(data / "state" / "1")
    with pytest.raises(Damaged, match="the table content is missing"), open_stopped(data):
        pass


def change_tables(folder: Path, drop: Callable[[bytes], bool], *, empty: bool = False) -> None:
    """Removes tables, and what the others hold."""
    opened = lmdb.open(str(folder), max_dbs=16, lock=False)
    with opened.begin(write=True) as txn:
        for name in [bytes(key) for key, _ in txn.cursor()]:
            if drop(name) or empty:
                txn.drop(opened.open_db(name, txn), delete=drop(name))
    opened.close()


def test_a_lost_log_is_not_taken_for_a_new_volume(tmp_path: Path) -> None:
    source = seed_log(tmp_path / "source")
    take(source, tmp_path / "data")
    shutil.rmtree(tmp_path / "data" / "log")
    before = tree(tmp_path / "data")
    with pytest.raises(ImportRefused, match="the log is lost"):
        take(source, tmp_path / "data")
    assert tree(tmp_path / "data") == before
