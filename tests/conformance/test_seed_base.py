"""A pruned log of the seed, with the state that it goes on from: a snapshot of the seed, or a tree
with its keys. The archives are made byte by byte (tests/support/seed_logs.py)."""

import argparse
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from partition_replica.core.model import HardState, Position
from partition_replica.errors import ImportRefused, InvalidArgument, StorageFailed
from partition_replica.ids import LSN, MemberID, Term
from partition_replica.offline import commands
from partition_replica.offline.seed import log_import
from partition_replica.offline.seed.layout import entry_name
from partition_replica.offline.seed.log_survey import BaseTree
from partition_replica.offline.seed.state_files import encode_hard_state
from partition_replica.offline.stopped import open_stopped
from partition_replica.storage import files

from tests.support.one_replica import OneReplica
from tests.support.proposals import remove, set_key
from tests.support.seed_logs import (
    CLUSTER,
    LARGE,
    WHILE_WRITING_A_BASE,
    base_members,
    check,
    contents,
    cut_off,
    export,
    kv_pair,
    open_volume,
    pruned_log,
    put_entry,
    put_snap,
    put_tree,
    s_set,
    snap_name,
    take,
    write,
)

LONG = b"\xff" + b"long" * 40
KEYS = {b"k\xff": b"w", b"empty": b""}
PATHS = {
    b"pack": LARGE,
    b"refs": None,
    b"refs/copy": LARGE,
    b"refs/heads": None,
    b"refs/heads/main": b"sha",
    b"refs/heads/" + LONG: b"\0",
    b"sticky": None,
}
"""What the base and entries 6 to 9 of seed_log leave."""

MODES = {
    b"pack": 0o440,
    b"refs": 0o750,
    b"refs/copy": 0o440,
    b"refs/heads": 0o700,
    b"refs/heads/main": 0o600,
    b"refs/heads/" + LONG: 0o755,
    b"sticky": 0o700,
}


def modes(data: Path) -> dict[bytes, int]:
    with open_stopped(data) as volume:
        nodes, _ = volume.state.list_tree_entries(b"", b"", True, 100)
        return {path: node.mode for path, node in nodes}


# --- what is taken ----------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["plain", "gzip", "tree"])
@pytest.mark.parametrize("replicated", [False, True])
def test_a_pruned_log_goes_on_from_its_base(tmp_path: Path, form: str, replicated: bool) -> None:
    log = pruned_log(tmp_path / "log", 6)
    members = base_members()
    base: Path | BaseTree
    if form == "tree":
        base = BaseTree(*put_tree(tmp_path, members))
    else:
        base = put_snap(tmp_path, 5, members, term=2, packed=form == "gzip")
    told: list[tuple[int, int]] = []
    report = log_import.import_log(
        log,
        tmp_path / "data",
        cluster=CLUSTER,
        replicated=replicated,
        base=base,
        base_progress=lambda done, total: told.append((done, total)),
    )
    assert (report.first, report.last, report.base, report.blobs) == (6, 9, 5, 1)
    said = " ".join(report.unverified)
    assert ("as of entry 5" if form == "tree" else "partition 2") in said
    assert contents(tmp_path / "data") == (KEYS, PATHS)
    assert modes(tmp_path / "data") == MODES
    unchecked = check(tmp_path / "data", tmp_path / "scratch")
    assert len(unchecked) == 1
    with open_stopped(tmp_path / "data") as volume:
        log_, state = volume.log, volume.state
        assert (log_.base, log_.first_stored, log_.last.index) == (5, 6, 9)
        assert state.applied.index == log_.committed == 9
        terms = [row.term for row in log_.read(LSN(6), LSN(10), None)]
        assert terms == ([2, 3, 3, 3] if replicated else [2, 0, 0, 0])
    # Both passes are told of, and they never go back.
    done = [found for found, _ in told]
    assert done == sorted(done)
    total = 2 * 6 if isinstance(base, BaseTree) else 2 * base.stat().st_size
    assert told[-1][1] == total
    assert total // 2 < told[-1][0] <= total


@pytest.mark.parametrize("term", [0, 4])
@pytest.mark.parametrize("replicated", [False, True])
def test_a_log_that_was_pruned_whole_is_its_base_alone(
    tmp_path: Path, term: int, replicated: bool
) -> None:
    """The seed prunes what is applied: a volume at rest has no entry left."""
    log = tmp_path / "log"
    log.mkdir()
    base = put_snap(tmp_path, 40, base_members(), term=term)
    with pytest.raises(ImportRefused, match=r"no entry.* as the base"):
        take(log, tmp_path / "data")
    write(tmp_path / "hard", encode_hard_state(HardState(Term(9), MemberID(1), LSN(41))))
    with pytest.raises(ImportRefused, match="commit index 41, and the log ends at 40"):
        take(log, tmp_path / "data", base=base, hard_state=tmp_path / "hard")
    report = take(log, tmp_path / "data", base=base, replicated=replicated)
    assert (report.first, report.last, report.entries, report.base) == (41, 40, 0, 40)
    assert contents(tmp_path / "data")[0] == {b"k\xff": b"v", b"empty": b""}
    check(tmp_path / "data", tmp_path / "scratch")
    with open_stopped(tmp_path / "data") as volume:
        expected = max(term, 1) if replicated else term
        assert volume.log.boundary == volume.log.last == Position(LSN(40), Term(expected))
        assert volume.state.applied == Position(LSN(40), Term(expected))
    if not replicated:
        volume_ = open_volume(tmp_path / "data")
        assert volume_.log.append(LSN(41), [b""]) == 41
        volume_.close()


def test_a_tree_is_as_of_the_entry_that_is_said(tmp_path: Path) -> None:
    """Entries up to it are stored and not applied again."""
    log = pruned_log(tmp_path / "log", 3)
    folder, keys = put_tree(tmp_path, base_members())
    take(log, tmp_path / "data", base=BaseTree(folder, keys, LSN(5)))
    assert contents(tmp_path / "data") == (KEYS, PATHS)
    for index, says in (
        (LSN(1), "state as of entry 1, and the log has entries 3 to 9; the base must be"),
        (LSN(10), "state as of entry 10, and the log has entries 3 to 9; the base must be"),
        (LSN(0), "allowed are entries 1 to"),
    ):
        with pytest.raises(ImportRefused, match=says):
            take(log, tmp_path / "refused", base=BaseTree(folder, keys, index))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ImportRefused, match="--base-index"):
        take(empty, tmp_path / "refused", base=BaseTree(folder, keys))
    assert not (tmp_path / "refused").exists()


def test_what_other_programs_write_is_taken(tmp_path: Path) -> None:
    """Python's and, if it is there, the system's tar write headers of other kinds."""
    folder, keys = put_tree(tmp_path, base_members())
    stage = tmp_path / "stage"
    stage.mkdir()
    shutil.copytree(folder, stage / "fs")
    shutil.copy(keys, stage / "kv-state")
    log = pruned_log(tmp_path / "log", 6)
    for number, layout in enumerate((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)):
        base = tmp_path / snap_name(5, 0, number)
        with tarfile.open(base, "w:gz", format=layout) as archive:
            archive.add(stage / "kv-state", "kv-state")
            archive.add(stage / "fs", "fs")
        take(log, tmp_path / f"data-{number}", base=base)
        assert contents(tmp_path / f"data-{number}") == (KEYS, PATHS)
    if shutil.which("tar"):
        base = tmp_path / snap_name(5, 0, 9)
        subprocess.run(["tar", "-C", stage, "-cf", base, "kv-state", "fs"], check=True)
        take(log, tmp_path / "data-9", base=base)
        assert contents(tmp_path / "data-9") == (KEYS, PATHS)


@pytest.mark.parametrize("replicated", [False, True])
@pytest.mark.parametrize("first", [6, 10])
async def test_what_was_imported_serves(tmp_path: Path, first: int, replicated: bool) -> None:
    """Also a log of which nothing was left."""
    log = tmp_path / "log"
    log.mkdir()
    pruned_log(log, first)
    base = put_snap(tmp_path, first - 1, base_members(), term=3)
    take(log, tmp_path / "data", base=base, replicated=replicated)
    before = contents(tmp_path / "data")
    one = OneReplica(tmp_path / "data")
    one.replica.start()
    await one.serve()
    applied = await one.append(set_key(b"new", b"v"), remove(b"refs/heads/main"))
    assert applied.index > 9
    status = one.replica.status()
    assert (status.role, status.standalone) == ("leader", not replicated)
    await one.stop()
    assert one.failures == []
    keys, paths = contents(tmp_path / "data")
    assert keys == {**before[0], b"new": b"v"}
    assert paths == {p: c for p, c in before[1].items() if p != b"refs/heads/main"}
    check(tmp_path / "data", tmp_path / "scratch")


@pytest.mark.parametrize("index", [5, 6])
def test_a_snapshot_may_be_named_by_a_later_term(tmp_path: Path, index: int) -> None:
    """The seed takes the last term that it knows of, not that of the snapshot's entry."""
    log = pruned_log(tmp_path / "log", 6)
    base = put_snap(tmp_path, index, base_members(), term=7)
    for replicated in (False, True):
        data = tmp_path / f"data-{replicated}"
        take(log, data, base=base, replicated=replicated)
        check(data, tmp_path / "scratch")
        with open_stopped(data) as volume:
            terms = [row.term for row in volume.log.read(LSN(6), LSN(10), None)]
            assert terms == ([2, 8, 8, 8] if replicated else [2, 0, 0, 0])
            assert volume.log.hard_state.term == (8 if replicated else 7)
            if not replicated:
                assert volume.log.boundary == Position(LSN(5), Term(2 if index == 5 else 0))


# --- what is written --------------------------------------------------------------------------


def test_an_export_writes_a_snapshot_that_is_taken_again(tmp_path: Path) -> None:
    take(
        pruned_log(tmp_path / "log", 6),
        tmp_path / "data",
        replicated=True,
        base=put_snap(tmp_path, 5, base_members(), term=2),
    )
    report = export(tmp_path / "data", tmp_path / "out", with_base=True, snapshot_of=7)
    assert report.base == 9
    base = tmp_path / "out" / "base" / snap_name(9, 3, 7)
    assert set(os.listdir(base.parent)) == {base.name}
    with tarfile.open(base, "r:", errors="surrogateescape") as archive:
        names = [member.name.encode(errors="surrogateescape") for member in archive]
        first = archive.extractfile("kv-state")
        assert first is not None
        pairs = first.read()
    assert names == [b"kv-state", b"fs", *(b"fs/" + path for path in sorted(PATHS))]
    assert pairs == kv_pair(b"empty", b"") + kv_pair(b"k\xff", b"w")
    # The log with this base, the end of it alone, and the base alone are all the same state.
    for kept in (6, 9, 10):
        log = tmp_path / f"log-{kept}"
        shutil.copytree(tmp_path / "out" / "log", log)
        for lsn in range(6, kept):
            shutil.rmtree(log / entry_name(LSN(lsn)))
        data = tmp_path / f"data-{kept}"
        take(log, data, base=base)
        assert contents(data) == (KEYS, PATHS)
        assert modes(data) == MODES
    with pytest.raises(InvalidArgument, match="--with-base"):
        export(tmp_path / "data", tmp_path / "other", snapshot_of=7)


def test_a_log_with_a_base_at_its_first_entry_is_not_whole(tmp_path: Path) -> None:
    """At (1, 1) a group's log begins that needs no base; one with a base does."""
    log = tmp_path / "log"
    put_entry(log, 2, [s_set(b"k", b"v")], term=1)
    base = put_snap(tmp_path, 1, base_members(), term=1)
    take(log, tmp_path / "data", base=base, replicated=True)
    assert check(tmp_path / "data", tmp_path / "scratch")
    report = export(tmp_path / "data", tmp_path / "out")
    assert report.first == 2
    assert "--with-base" in report.notes[0]


# --- crashes, disks that fail -----------------------------------------------------------------


@pytest.mark.parametrize("failpoint", WHILE_WRITING_A_BASE)
def test_an_import_with_a_base_that_is_cut_off_begins_again(tmp_path: Path, failpoint: str) -> None:
    log, data = pruned_log(tmp_path / "log", 6), tmp_path / "data"
    base = put_snap(tmp_path, 5, base_members(), term=2, packed=True)
    cut_off(failpoint, log, data, "--base", str(base))
    kept = tmp_path / "kept"
    shutil.copytree(data, kept)
    volume = open_volume(kept)  # a new volume, and what was left is collected
    assert (volume.log.identity.cluster_id, volume.state.applied.index) == ("", 0)
    assert list(volume.blobs.digests()) == []
    volume.close()
    for again in (data, kept):
        take(log, again, base=base)
        assert contents(again) == (KEYS, PATHS)


def test_a_disk_that_fails_while_a_base_is_written_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever file can't be created, written or synced."""
    log = pruned_log(tmp_path / "log", 6)
    base = put_snap(tmp_path, 5, base_members())
    for name in ("create", "write", "sync", "sync_directory", "replace"):
        call = getattr(files.disk, name)
        for number in range(1, 100):
            left = number

            def fail(*arguments: object, call: Callable[..., object] = call) -> object:
                nonlocal left
                left -= 1
                if not left:
                    raise OSError(28, "No space left on device")
                return call(*arguments)

            with monkeypatch.context() as patch:
                patch.setattr(files.disk, name, fail)
                try:
                    take(log, tmp_path / "data", base=base)
                except StorageFailed:
                    if (tmp_path / "data").exists():  # the very last sync is behind the log's move
                        assert contents(tmp_path / "data") == (KEYS, PATHS)
                else:
                    assert contents(tmp_path / "data") == (KEYS, PATHS)
            shutil.rmtree(tmp_path / "data", ignore_errors=True)
            if left > 0:
                break
        assert number > 1, f"{name} was not reached"


# --- the command ------------------------------------------------------------------------------


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    commands.add_commands(parser.add_subparsers(dest="command"))
    return commands.run(parser.parse_args(["log", *map(str, arguments)]))


def test_the_commands_take_and_write_both_forms(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = pruned_log(tmp_path / "log", 6)
    folder, keys = put_tree(tmp_path, base_members())
    first = tmp_path / "first"
    for arguments in (
        ["--base-tree", folder],
        ["--base-keys", keys],
        ["--base-index", 5],
        ["--base", folder, "--base-tree", folder, "--base-keys", keys],
    ):
        assert run("import", log, "--data", first, *arguments) == commands.EXIT_REFUSED
        assert "--base-tree with --base-keys" in capsys.readouterr().err
    assert not first.exists()
    tree_ = ["--base-tree", folder, "--base-keys", keys]
    assert run("import", log, "--data", first, *tree_) == 0
    out = tmp_path / "out"
    assert run("export", out, "--data", first, "--base-form", "seed") == commands.EXIT_REFUSED
    form = ["--with-base", "--base-form", "seed", "--partition", 3]
    assert run("export", out, "--data", first, *form) == 0
    base = out / "base" / snap_name(9, 0, 3)
    assert run("import", out / "log", "--data", tmp_path / "again", "--base", base) == 0
    assert contents(tmp_path / "again") == (KEYS, PATHS)
