"""Volumes whose keys and paths are longer than LMDB's keys: logs of the seed imported and exported,
verified, stored as snapshots and restored, and damaged."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from partition_proto.v1 import storage_pb2 as rows
from partition_proto.v1 import types_pb2 as types
from partition_replica.core.model import Position
from partition_replica.errors import Damaged, RowsRefused
from partition_replica.ids import LSN, Term
from partition_replica.storage import codec
from partition_replica.storage.environment import Transaction
from partition_replica.storage.state_loading import StateLoader
from partition_replica.storage.state_tables import Tables

from tests.support.long_names import FILE, KEYS, PATHS, SHARED, TERM, TREE, bodies
from tests.support.proposals import (
    body,
    delete_key,
    opening,
    proposal,
    remove,
    set_key,
)
from tests.support.seed_logs import (
    check,
    contents,
    export,
    open_volume,
    put_entry,
    s_link,
    s_mkdir,
    s_remove,
    s_set,
    take,
    tree,
    verify,
)
from tests.support.stored import Stored, append, make_volume, rows_digest


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    return Stored(tmp_path)


def write_on(data: Path, *found: types.EntryBody) -> None:
    volume = open_volume(data)
    append(volume, list(found), TERM, blobs=[])
    volume.close()


# --- import, export ---------------------------------------------------------------------------


def test_a_seed_s_log_with_long_keys_and_paths(tmp_path: Path) -> None:
    """Keys of 903 and 65,000 bytes, paths of 536 and 4,086: imported, applied, verified, and
    exported to the same bytes."""
    log = tmp_path / "log"
    path = b"r" * 255 + b"/" + b"h" * 255 + b"/" + b"m" * 24
    assert len(path) == 536
    put_entry(log, 1, [s_set(b"k" * 903, b"v"), s_set(b"k" * 480, b"w"), s_set(b"u" * 65_000, b"")])
    put_entry(log, 2, [s_mkdir(path[:255]), s_mkdir(path[:511]), s_link(path)], [b"sha"])
    put_entry(log, 3, [s_mkdir(one) for one in TREE])
    put_entry(log, 4, [s_set(b"k" * 903, b"x"), s_remove(TREE[-1])])
    data = tmp_path / "data"
    take(log, data)
    keys = {b"k" * 903: b"x", b"k" * 480: b"w", b"u" * 65_000: b""}
    paths = {path[:255]: None, path[:511]: None, path: b"sha"} | dict.fromkeys(TREE[:-1])
    assert contents(data) == (keys, paths)
    assert check(data, tmp_path / "scratch") == []
    export(data, tmp_path / "out", with_base=True)
    assert tree(tmp_path / "out" / "log") == tree(log)
    take(tmp_path / "out" / "log", tmp_path / "based", base=tmp_path / "out" / "base")
    assert contents(tmp_path / "based") == (keys, paths)
    # Where entries before the base are not replayed, what later ones wrote last is compared.
    assert len(check(tmp_path / "based", tmp_path / "scratch")) == 1


# --- stored snapshots -------------------------------------------------------------------------


def test_a_stored_snapshot_holds_whole_keys_and_comes_back(stored: Stored) -> None:
    source = make_volume(stored.root / "source", found=bodies())
    assert contents(source) == (KEYS, PATHS)
    assert check(source, stored.root / "scratch") == []
    published = stored.publish(source)
    assert (published["keys"], published["files"]) == (len(KEYS), 2)
    assert published["digest"] == rows_digest(source)
    stored.done("verify", "--snapshot", "s1", "--restore")
    data = stored.root / "data"
    stored.restore(data)
    assert contents(data) == (KEYS, PATHS)
    # Nodes were numbered in another order, and the rows are the same.
    assert rows_digest(data) == published["digest"]
    # The sessions of the snapshot are over.
    write = [set_key(SHARED + b"more", b"8"), remove(b"copy")]
    write_on(data, opening(), body(proposal(published["lsn"] + 1, 1, write)))
    assert contents(data)[0] == KEYS | {SHARED + b"more": b"8"}
    check(data, stored.root / "scratch")


def test_a_second_snapshot_says_what_changed_of_long_keys(stored: Stored) -> None:
    source = make_volume(stored.root / "source", found=bodies())
    filler = [set_key(b"filler%04d" % n, b"x" * 1000) for n in range(500)]
    write_on(source, body(proposal(2, 4, filler)))
    stored.publish(source)
    changes = [
        set_key(SHARED + b"long", b"changed"),
        set_key(SHARED * 2 + b"between", b"new"),
        delete_key(SHARED * 2 + b"longer"),
        delete_key(b"u" * 65_000),
        remove(FILE),
        remove(TREE[-1]),
    ]
    write_on(source, body(proposal(2, 5, changes)))
    second = stored.publish(source, "s2")
    assert second["incremental"]
    stored.done("verify", "--snapshot", "s2", "--restore")
    stored.restore(stored.root / "data", "s2")
    assert contents(stored.root / "data") == contents(source)
    assert rows_digest(stored.root / "data") == second["digest"]


def test_a_restored_state_s_short_keys_lie_close_together(tmp_path: Path) -> None:
    """Long keys between them do not keep the loader from filling pages."""

    def loaded(name: str, keys: list[bytes]) -> int:
        loader = StateLoader(tmp_path / name, ("value",))
        loader.put_rows("value", [(key, codec.seal(key, b"v" * 50)) for key in keys])
        loader.finish(Position(LSN(1), Term(1)), time_ms=0, clock_ms=0, history="h")
        loader.close()
        return (tmp_path / name / "data.mdb").stat().st_size

    short = [b"k%05d" % number for number in range(20_000)]
    mixed = sorted([*short, *(b"k%05d" % number + b"x" * 500 for number in range(0, 20_000, 4000))])
    assert loaded("mixed", mixed) < loaded("short", short) * 1.2


@pytest.mark.parametrize(
    ("table", "length", "why"),
    [
        ("value", 65_001, "table value has a key of 65001 bytes; allowed are 1 to 65000"),
        ("payload", 512, "table payload has a key of 512 bytes; allowed are 1 to 511"),
    ],
)
def test_a_loader_refuses_keys_that_no_table_takes(
    tmp_path: Path, table: str, length: int, why: str
) -> None:
    loader = StateLoader(tmp_path / "state", ("value", "payload"))
    key = b"k" * length
    with pytest.raises(RowsRefused, match=why):
        loader.put_rows(table, [(key, codec.seal(key, b""))])
    loader.close()


# --- damage -----------------------------------------------------------------------------------

MARK = SHARED + b"\0"


def flip(txn: Transaction, tables: Tables) -> None:
    row = txn.get(MARK, db=tables.value)
    assert row is not None
    txn.put(MARK, row[:-1] + bytes([row[-1] ^ 1]), db=tables.value)


def drop_mark(txn: Transaction, tables: Tables) -> None:
    assert txn.delete(MARK, db=tables.value)


def drop_row(txn: Transaction, tables: Tables) -> None:
    row = tables.values.get(txn, SHARED + b"long")
    assert row is not None
    tables.values.delete(txn, SHARED + b"long")


def change_row(txn: Transaction, tables: Tables) -> None:
    tables.values.put(txn, SHARED + b"long", b"1234damaged")


def add_row(txn: Transaction, tables: Tables) -> None:
    key = SHARED * 3
    tables.values.put(txn, key, codec.seal(key, b"nobody wrote it"))


def drop_path(txn: Transaction, tables: Tables) -> None:
    tables.nodes.delete(txn, TREE[40])


DAMAGES: dict[str, tuple[Callable[[Transaction, Tables], None], str]] = {
    "a mark": (flip, "the mark of keys of table value that begin with b'sss"),
    "no mark": (drop_mark, "found .* rows and .* marks"),
    "no row": (drop_row, "in a replay of the log, not in the state"),
    "a row": (change_row, "of table value fails its checksum"),
    "one more": (add_row, "in the state, not in a replay of the log"),
    "no parent": (drop_path, "has no parent directory"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_verification_finds_what_is_wrong_with_long_keys(tmp_path: Path, damage: str) -> None:
    data = make_volume(tmp_path / "data", found=bodies())
    change, what = DAMAGES[damage]
    volume = open_volume(data)
    with volume.state.environment.begin(write=True) as txn:
        change(txn, volume.state.tables)
    volume.close()
    report = verify(data, tmp_path / "scratch")
    assert any(re.search(what, found) for found in report.findings), report.findings
    assert all(len(found) < 1000 for found in report.findings)


# --- formats ----------------------------------------------------------------------------------


def test_a_state_of_a_later_format_is_refused_by_name(tmp_path: Path) -> None:
    data = make_volume(tmp_path / "data", found=bodies())
    volume = open_volume(data)
    with volume.state.environment.begin(write=True) as txn:
        row = txn.get(b"applied", db=volume.state.tables.meta)
        assert row is not None
        applied = codec.unseal_message("meta", b"applied", row, rows.AppliedRow)
        assert applied.format_version == 2
        applied.format_version = 3
        txn.put(b"applied", codec.seal_message(b"applied", applied), db=volume.state.tables.meta)
    volume.close()
    with pytest.raises(Damaged, match="the state has format 3; this version reads 1 to 2"):
        open_volume(data)
