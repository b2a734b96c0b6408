"""What is refused as the base of a pruned log: it is named, and nothing is left behind. What is
taken: test_seed_base."""

import gzip
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from partition_replica.errors import ImportRefused
from partition_replica.offline.seed import log_import
from partition_replica.offline.seed.base_source import SnapshotBase, survey_base
from partition_replica.offline.seed.log_survey import BaseTree
from partition_replica.storage.space import VolumeSpace

from tests.support.seed_damage import NO_KEYS, REFUSED
from tests.support.seed_logs import (
    CLUSTER,
    Member,
    base_members,
    kv_pair,
    pruned_log,
    put_snap,
    put_tree,
    raft_entry,
    raft_of,
    snap_name,
    take,
    tar,
    tree,
)


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
    with pytest.raises(ImportRefused, match=f"tar and gzip: decompress it with `{command}`"):
        take(pruned_log(tmp_path / "log", 6), tmp_path / "data", base=base)


def test_a_bomb_stops_where_the_volume_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what it unpacks to, in the first pass, before anything is written."""
    monkeypatch.setattr(VolumeSpace, "free_bytes", lambda _: (10_000_000, 10**12))
    log = pruned_log(tmp_path / "log", 6)
    bomb = put_snap(tmp_path, 5, [NO_KEYS, Member(b"fs/a", bytes(50_000_000))], packed=True)
    assert bomb.stat().st_size < 100_000
    with pytest.raises(ImportRefused, match="more than the 10000000 bytes that are free"):
        take(log, tmp_path / "data", base=bomb)
    folder, keys = put_tree(tmp_path, base_members())
    with (folder / "hollow").open("wb") as file:
        file.truncate(20_000_000)
    with pytest.raises(ImportRefused, match=r"more than the .* bytes that are free"):
        take(log, tmp_path / "data", base=BaseTree(folder, keys))
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("base.tar", "whose name is not a snapshot's"),
        ("2-0-5.snap", "whose name is not a snapshot's"),
        (snap_name(5) + ".tmp", "whose name is not a snapshot's"),
        (snap_name(0), "allowed are entries 1 to"),
        (
            snap_name(4),
            "state as of entry 4, and the log has entries 6 to 9; the base must be as of entry 5",
        ),
        (snap_name(10), "state as of entry 10, and the log has entries 6 to 9"),
        (snap_name(6, 1), r"entry 6 .*RAFT\) has term 2, and the base is .* 6 in term 1"),
    ],
)
def test_a_base_must_be_of_the_log(tmp_path: Path, name: str, says: str) -> None:
    log = pruned_log(tmp_path / "log", 6)
    (tmp_path / name).write_bytes(tar(*base_members()))
    with pytest.raises(ImportRefused, match=says):
        take(log, tmp_path / "data", base=tmp_path / name)
    assert not (tmp_path / "data").exists()


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

    with pytest.raises(ImportRefused, match="changed during"):
        log_import.import_log(
            log,
            tmp_path / "data",
            cluster=CLUSTER,
            replicated=False,
            base=snap if form == "snapshot" else BaseTree(folder, keys),
            progress=progress,
        )
    assert not (tmp_path / "data").exists()
