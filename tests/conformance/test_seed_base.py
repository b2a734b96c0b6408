"""A pruned log of the seed, with the state that it goes on from: a snapshot of the seed, or a tree
with its keys. The archives are made byte by byte (tests/support/seed_logs.py)."""

import argparse
import gzip
import os
import random
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from partition_replica.core import limits
from partition_replica.core.model import HardState, Position
from partition_replica.core.seed_layout import encode_hard_state, entry_name
from partition_replica.errors import ImportRefused, InvalidArgument, StorageFailed
from partition_replica.ids import LSN, MemberID, Term
from partition_replica.offline import commands, log_import
from partition_replica.offline.log_survey import BaseTree
from partition_replica.offline.seed_base import SnapshotBase, survey_base
from partition_replica.offline.stopped import open_stopped
from partition_replica.storage import files
from partition_replica.storage.failpoints import ENVIRONMENT, EXIT_CODE

from tests.support.one_replica import OneReplica
from tests.support.proposals import remove, set_key
from tests.support.seed_logs import (
    CLUSTER,
    LARGE,
    WHILE_WRITING_A_BASE,
    Member,
    base_members,
    check,
    contents,
    export,
    kv_pair,
    kv_state,
    open_volume,
    pruned_log,
    put_entry,
    put_snap,
    put_tree,
    raft_entry,
    raft_of,
    s_set,
    snap_name,
    take,
    tar,
    tar_header,
    tar_member,
    tree,
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
        nodes, _ = volume.state.list_nodes(b"", b"", True, 100)
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
    with pytest.raises(ImportRefused, match="41 is committed, and the log ends at 40"):
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
        (LSN(1), "state at entry 1, and the log holds entries 3 to 9; allowed are 2 to 9"),
        (LSN(10), "state at entry 10, and the log holds entries 3 to 9; allowed are 2 to 9"),
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
    assert (status.role, status.unreplicated) == ("leader", not replicated)
    await one.stop()
    assert one.failures == []
    keys, paths = contents(tmp_path / "data")
    assert keys == {**before[0], b"new": b"v"}
    assert paths == {p: c for p, c in before[1].items() if p != b"refs/heads/main"}
    check(tmp_path / "data", tmp_path / "scratch")


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


# --- what is refused --------------------------------------------------------------------------

FS = Member(b"fs", kind=b"5", mode=0o755)
NO_KEYS = kv_state()
TOO_LONG = (b"d/" * limits.PATH_BYTES_MAX)[: limits.PATH_BYTES_MAX] + b"x"


def damaged(content: bytes) -> bytes:
    """The third member's header, changed: its checksum is wrong."""
    at = 3 * 512
    return content[:at] + b"X" + content[at + 1 :]


REFUSED: list[tuple[str, bytes, str]] = [
    ("no member", bytes(1024), "begins with nothing|cut or damaged"),
    ("nothing at all", b"", "cut or damaged"),
    ("no archive", b"what is this" * 100, "cut or damaged"),
    ("no keys", tar(FS), "begins with 'fs'; the first member"),
    ("keys later", tar(FS, NO_KEYS), "begins with 'fs'"),
    ("keys twice", tar(NO_KEYS, NO_KEYS), "holds b'kv-state'"),
    ("a stranger", tar(NO_KEYS, FS, Member(b"other", b"x")), "holds b'other'"),
    ("the tree a file", tar(NO_KEYS, Member(b"fs", b"x")), "b'fs' .*is a file"),
    ("a path out", tar(NO_KEYS, FS, Member(b"fs/../up", b"x")), r"component '\.\.'"),
    ("a path out of the root", tar(NO_KEYS, Member(b"../fs", b"x")), r"holds b'\.\./fs'"),
    ("an absolute path", tar(NO_KEYS, Member(b"/fs/x", b"x")), "holds b'/fs/x'"),
    ("a dot", tar(NO_KEYS, FS, Member(b"fs/./a", b"x")), r"component '\.'"),
    ("two slashes", tar(NO_KEYS, FS, Member(b"fs//a", b"x")), "component ''|absolute"),
    (
        "a path too long",
        tar(NO_KEYS, FS, Member(b"fs/" + TOO_LONG, b"x")),
        f"has {limits.PATH_BYTES_MAX + 1} bytes",
    ),
    (
        "a symbolic link",
        tar(NO_KEYS, FS, Member(b"fs/l", kind=b"2", link=b"/etc/passwd")),
        "b'fs/l' .*symbolic link to '/etc/passwd'",
    ),
    ("a hard link", tar(NO_KEYS, FS, Member(b"fs/l", kind=b"1", link=b"fs/x")), "hard link"),
    ("a device", tar(NO_KEYS, FS, Member(b"fs/d", kind=b"3")), "b'fs/d' .*a device"),
    ("a block device", tar(NO_KEYS, FS, Member(b"fs/d", kind=b"4")), "b'fs/d' .*a device"),
    ("a pipe", tar(NO_KEYS, FS, Member(b"fs/p", kind=b"6")), "b'fs/p' .*a pipe"),
    ("of no known kind", tar(NO_KEYS, FS, Member(b"fs/p", kind=b"Q")), "b'fs/p' "),
    ("a sparse file", tar(NO_KEYS, FS, Member(b"fs/p", kind=b"S")), "b'fs/p' .*sparse"),
    (
        "a path twice",
        tar(NO_KEYS, FS, Member(b"fs/a", b"1"), Member(b"fs/a", b"2")),
        "b'a' .*there twice",
    ),
    (
        "a file and a directory",
        tar(NO_KEYS, FS, Member(b"fs/a", b"1"), Member(b"fs/a/", kind=b"5")),
        "b'a' .*there twice",
    ),
    ("no directory", tar(NO_KEYS, FS, Member(b"fs/a/b", b"1")), "b'a/b' .*in no directory"),
    (
        "below a file",
        tar(NO_KEYS, FS, Member(b"fs/a", b"1"), Member(b"fs/a/b", b"1")),
        "b'a/b' .*in no directory",
    ),
    ("a key twice", tar(kv_state((b"k", b"1"), (b"k", b"2"))), "the key b'k' twice"),
    ("an empty key", tar(kv_state((b"", b"1"))), "pair 1 of kv-state .*0 bytes"),
    (
        "a key too long",
        tar(kv_state((b"k", b""), (b"k" * (limits.KEY_BYTES_MAX + 1), b"1"))),
        f"pair 2 of kv-state .*{limits.KEY_BYTES_MAX + 1} bytes",
    ),
    (
        "a value too long",
        tar(kv_state((b"k", bytes(limits.VALUE_BYTES_MAX + 1)))),
        f"pair 1 .*{limits.VALUE_BYTES_MAX + 1} bytes",
    ),
    ("a pair too long", tar(Member(b"kv-state", b"\xff\xff\xff\x7f")), "268435455 bytes"),
    ("a length without an end", tar(Member(b"kv-state", b"\xff" * 9)), "length of more than"),
    ("a length cut", tar(Member(b"kv-state", b"\xff")), "ends in its length"),
    ("a pair cut", tar(Member(b"kv-state", kv_pair(b"k", b"v")[:-1])), "and 5 are left"),
    ("no pair", tar(Member(b"kv-state", b"\x02\xff\xff")), "does not decode"),
    ("an unknown field", tar(Member(b"kv-state", b"\x05\x0a\x01k\x18\x01")), "unknown here"),
    ("cut in a member", tar(*base_members())[:3000], "early: it is cut|cut or damaged"),
    ("cut between members", tar_member(NO_KEYS) + tar_member(FS), "cut or damaged"),
    ("cut in its end", tar(NO_KEYS, FS)[:-512], "lacks its end"),
    ("cut in a header", (tar_member(NO_KEYS) + tar_member(FS))[:-100], "cut or damaged"),
    ("a damaged header", damaged(tar(NO_KEYS, FS, Member(b"fs/a"), Member(b"fs/b"))), "damaged at"),
    ("something behind", tar(NO_KEYS, FS) + bytes(512) + b"x" * 512, "goes on behind"),
    (
        "a size that is not there",
        tar_member(NO_KEYS) + tar_member(Member(b"fs/a", b"x", size=10**9)),
        "too early|cut",
    ),
    (
        "a file too large",
        tar(
            NO_KEYS,
            Member(b"fs/a", kind=b"x", content=b"23 size=99999999999999\n"),
            Member(b"fs/a"),
        ),
        r"b'fs/a' .*99999999999999 bytes",
    ),
    (
        "a negative size",
        tar(NO_KEYS, Member(b"PaxHeaders/x", b"17 size=-1048576\n", b"x"), Member(b"fs/a", b"x")),
        "points back|cut or damaged|bytes; allowed",
    ),
    (
        "a long name without a bound",
        tar_member(NO_KEYS) + tar_header(Member(b"x", kind=b"L", size=1 << 31)),
        "header of .* bytes",
    ),
    (
        "records without a bound",
        tar_member(NO_KEYS) + tar_header(Member(b"x", kind=b"x", size=1 << 31)),
        "header of .* bytes",
    ),
    (
        "records in front of records",
        tar(NO_KEYS, *[Member(b"x", b"6 a=b\n", b"x")] * 5000),
        "cut or damaged",
    ),
]


@pytest.mark.parametrize(
    ("content", "says"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
def test_a_base_that_is_not_one_is_refused_by_name_and_leaves_nothing(
    tmp_path: Path, content: bytes, says: str
) -> None:
    log = pruned_log(tmp_path / "log", 6)
    base = tmp_path / snap_name(5)
    existing = tmp_path / "existing"
    existing.mkdir()
    for packed in (content, gzip.compress(content)):
        base.write_bytes(packed)
        for data in (tmp_path / "absent", existing):
            with pytest.raises(ImportRefused, match=says) as refused:
                take(log, data, base=base)
            assert base.name in str(refused.value)
    assert not (tmp_path / "absent").exists()
    assert set(tree(existing)) == {"lock"}


def test_a_compressed_base_that_is_cut_or_changed_is_refused(tmp_path: Path) -> None:
    """Wherever it is cut, and whichever bit of it is another."""
    log = pruned_log(tmp_path / "log", 6)
    whole = gzip.compress(tar(*base_members()), mtime=0)
    base = tmp_path / snap_name(5)
    seed = int(os.environ.get("SEED", "1"))
    print(f"SEED={seed}")
    rng = random.Random(seed)
    taken = 0
    for number in range(60):
        content = bytearray(whole[: rng.randrange(2, len(whole))])
        if number % 2:
            content = bytearray(whole)
            content[rng.randrange(10, len(whole))] ^= 1 << rng.randrange(8)
        base.write_bytes(bytes(content))
        try:
            take(log, tmp_path / "data", base=base)
        except ImportRefused as error:
            assert base.name in str(error)
        else:
            taken += 1
        assert not (tmp_path / "data").exists()
    assert taken == 0


def test_any_change_of_a_plain_base_is_refused_or_read(tmp_path: Path) -> None:
    """By whichever byte it differs, of headers above all: nothing but a refusal comes of it."""
    whole = tar(*base_members())
    base = tmp_path / snap_name(5)
    seed = int(os.environ.get("SEED", "1"))
    print(f"SEED={seed}")
    rng = random.Random(seed)
    headers = [n for n in range(0, len(whole), 512) if whole[n + 257 : n + 262] == b"ustar"]
    refused = 0
    for _ in range(400):
        content = bytearray(whole)
        for _ in range(rng.randrange(1, 4)):
            start = rng.choice(headers)
            content[start + rng.randrange(512)] = rng.choice(b"\0 07/.\xff")
            if rng.random() < 0.7:  # with a checksum that is right
                header = bytes(content[start : start + 512])
                total = sum(header[:148]) + 8 * 32 + sum(header[156:])
                content[start + 148 : start + 156] = b"%06o\0 " % total
        base.write_bytes(content[: rng.choice([len(whole), rng.randrange(len(whole))])])
        try:
            survey_base(SnapshotBase(base), 10**9, lambda _: None)
        except ImportRefused:
            refused += 1
    assert 100 < refused < 400


@pytest.mark.parametrize(
    ("magic", "command"),
    [(b"\x28\xb5\x2f\xfd", "zstd -d"), (b"\xfd7zXZ\0", "xz -d"), (b"BZh9", "bzip2 -d")],
)
def test_other_compressions_are_refused_with_the_way_out(
    tmp_path: Path, magic: bytes, command: str
) -> None:
    base = tmp_path / snap_name(5)
    base.write_bytes(magic + bytes(100))
    with pytest.raises(ImportRefused, match=f"plain tar and gzip: unpack it with `{command}`"):
        take(pruned_log(tmp_path / "log", 6), tmp_path / "data", base=base)


def test_a_bomb_stops_where_the_volume_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what it unpacks to, in the first pass, before anything is written."""
    monkeypatch.setattr(log_import, "free_bytes", lambda _: 10_000_000)
    log = pruned_log(tmp_path / "log", 6)
    bomb = put_snap(tmp_path, 5, [NO_KEYS, Member(b"fs/a", bytes(50_000_000))], packed=True)
    assert bomb.stat().st_size < 100_000
    with pytest.raises(ImportRefused, match="more than the 10000000 bytes that the volume has"):
        take(log, tmp_path / "data", base=bomb)
    folder, keys = put_tree(tmp_path, base_members())
    with (folder / "hollow").open("wb") as file:
        file.truncate(20_000_000)
    with pytest.raises(ImportRefused, match=r"more than the .* bytes that the volume has"):
        take(log, tmp_path / "data", base=BaseTree(folder, keys))
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("base.tar", "its name is not a snapshot's"),
        ("2-0-5.snap", "its name is not a snapshot's"),
        (snap_name(5) + ".tmp", "its name is not a snapshot's"),
        (snap_name(0), "allowed are entries 1 to"),
        (snap_name(4), "state at entry 4, and the log holds entries 6 to 9; allowed are 5 to 9"),
        (snap_name(10), "state at entry 10, and the log holds entries 6 to 9"),
        (snap_name(6, 1), r"entry 6 .*RAFT\) has term 2, and the base is .* 6 in term 1"),
    ],
)
def test_a_base_must_be_of_the_log(tmp_path: Path, name: str, says: str) -> None:
    log = pruned_log(tmp_path / "log", 6)
    (tmp_path / name).write_bytes(tar(*base_members()))
    with pytest.raises(ImportRefused, match=says):
        take(log, tmp_path / "data", base=tmp_path / name)
    assert not (tmp_path / "data").exists()


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


def test_what_is_no_base_is_refused_with_what_is_one(tmp_path: Path) -> None:
    log = pruned_log(tmp_path / "log", 6)
    folder, _ = put_tree(tmp_path, base_members())
    (tmp_path / snap_name(5)).symlink_to("elsewhere")
    for base, says in (
        (folder, r"a directory without state/.*--base-tree"),
        (tmp_path / "none", "none cannot be read"),
        (tmp_path / snap_name(5), "symbolic link"),
    ):
        with pytest.raises(ImportRefused, match=says):
            take(log, tmp_path / "data", base=base)
    with pytest.raises(ImportRefused, match=r"the base's keys .*none cannot be read"):
        take(log, tmp_path / "data", base=BaseTree(folder, tmp_path / "none"))
    with pytest.raises(ImportRefused, match=r"the base .*none cannot be read"):
        take(log, tmp_path / "data", base=BaseTree(tmp_path / "none", tmp_path / "keys"))


def test_entries_in_front_of_a_base_have_no_later_term(tmp_path: Path) -> None:
    log = pruned_log(tmp_path / "log", 3)
    raft_of(3, raft_entry(3, 2))(log)
    base = put_snap(tmp_path, 7, base_members(), term=1)
    with pytest.raises(ImportRefused, match=r"entry 3 .*has term 2, and the base .* 7 in term 1"):
        take(log, tmp_path / "data", base=base)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: path.symlink_to("/etc/passwd"), "symbolic link"),
        (lambda path: path.symlink_to("refs"), "symbolic link"),
        (lambda path: os.mkfifo(path), "a pipe"),
    ],
)
def test_a_tree_of_other_things_is_refused_by_name(
    tmp_path: Path, make: Callable[[Path], None], says: str
) -> None:
    folder, keys = put_tree(tmp_path, base_members())
    make(folder / "refs" / "odd")
    log = pruned_log(tmp_path / "log", 6)
    with pytest.raises(ImportRefused, match=f"b'refs/odd' .*{says}"):
        take(log, tmp_path / "data", base=BaseTree(folder, keys))
    assert not (tmp_path / "data").exists()


CHANGES: list[tuple[str, Callable[[Path, Path, Path], None]]] = [
    ("snapshot", lambda snap, _tree, _keys: os.utime(snap, ns=(1, 1))),
    ("snapshot", lambda snap, _tree, _keys: snap.write_bytes(tar(NO_KEYS))),
    ("tree", lambda _snap, _tree, keys: keys.write_bytes(kv_pair(b"k", b"v"))),
    ("tree", lambda _snap, tree, _keys: (tree / "refs" / "new").write_bytes(b"")),
    ("tree", lambda _snap, tree, _keys: (tree / "refs" / "heads" / "main").unlink()),
    ("tree", lambda _snap, tree, _keys: (tree / "pack").chmod(0o700)),
]


@pytest.mark.parametrize(("form", "change"), CHANGES)
def test_a_base_that_changes_between_the_passes_is_refused(
    tmp_path: Path, form: str, change: Callable[[Path, Path, Path], None]
) -> None:
    log = pruned_log(tmp_path / "log", 6)
    snap = put_snap(tmp_path, 5, base_members())
    folder, keys = put_tree(tmp_path, base_members())

    def progress(done: int, total: int) -> None:
        if (done, total) == (4, 8):
            change(snap, folder, keys)

    with pytest.raises(ImportRefused, match="changed while"):
        log_import.import_log(
            log,
            tmp_path / "data",
            cluster=CLUSTER,
            replicated=False,
            base=snap if form == "snapshot" else BaseTree(folder, keys),
            progress=progress,
        )
    assert not (tmp_path / "data").exists()


# --- crashes, disks that fail -----------------------------------------------------------------


@pytest.mark.parametrize("failpoint", WHILE_WRITING_A_BASE)
def test_an_import_with_a_base_that_is_cut_off_begins_again(tmp_path: Path, failpoint: str) -> None:
    log, data = pruned_log(tmp_path / "log", 6), tmp_path / "data"
    base = put_snap(tmp_path, 5, base_members(), term=2, packed=True)
    command = [sys.executable, "-m", "partition_replica", "log", "import", str(log)]
    done = subprocess.run(
        [*command, "--data", str(data), "--base", str(base)],
        env={**os.environ, ENVIRONMENT: failpoint},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == EXIT_CODE, done.stderr
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
