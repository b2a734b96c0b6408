"""Damage to every kind of file of a volume: it is named, or what is read is right.

Rows carry checksums, blobs are their own, and a data file that lost pages is refused before LMDB
maps it. LMDB itself checks nothing of its pages: a flipped bit in a page's header or in a pointer
may end the process by a signal, keep it busy for ever, or hide rows. What is lost that way is
counted below, in a process of its own each, and bounded.
"""

import contextlib
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import pytest
from partition_replica.errors import Damaged, PayloadMismatch
from partition_replica.storage import environment
from partition_replica.storage.blobs import BlobStore
from partition_replica.storage.files import VolumeLock
from partition_replica.storage.log.tables import NAMES as LOG_TABLES
from partition_replica.storage.state_tables import TABLES as STATE_TABLES
from partition_replica.storage.volume import Volume

from tests.support.damaged_volumes import DIGEST, LARGE, Reader
from tests.support.damaged_volumes import folder as folder  # a fixture
from tests.support.damaged_volumes import healthy as healthy  # a fixture
from tests.support.damaged_volumes import reader as reader  # a fixture
from tests.support.damaged_volumes import volume as volume  # a fixture

FLIPS = int(os.environ.get("DAMAGE_FLIPS", "100"))
SEED = int(os.environ.get("DAMAGE_SEED", "1"))


def test_the_volume_has_rows_in_each_table(healthy: Path, reader: Reader) -> None:
    assert reader.read(healthy)[0] == "read"
    for path, tables in (("log", LOG_TABLES), ("state/1", STATE_TABLES)):
        opened = lmdb.open(str(healthy / path), max_dbs=16, lock=False, readonly=True)
        with opened.begin() as txn:
            for name in tables:
                assert txn.stat(opened.open_db(name.encode(), txn))["entries"], name
        opened.close()


# --- rows -------------------------------------------------------------------------------------

ROWS = [("log", n) for n in LOG_TABLES] + [("state/1", n) for n in STATE_TABLES]
WITHOUT_CHECKSUM = ("log", "payload")


def change_row(path: Path, table: str, change: Callable[[Any, bytes, bytes], None]) -> None:
    """`change(table in a transaction, key, row)` for a row in the middle of a table."""
    opened = lmdb.open(str(path), max_dbs=16, lock=False)
    with opened.begin(write=True) as txn:
        database = opened.open_db(table.encode(), txn)
        rows = [(bytes(k), bytes(v)) for k, v in txn.cursor(database)]
        change((txn, database), *rows[len(rows) // 2])
    opened.close()


@pytest.mark.parametrize(("path", "table"), [r for r in ROWS if r != WITHOUT_CHECKSUM])
@pytest.mark.parametrize("attempt", range(3))
def test_a_flipped_bit_of_a_row_is_named(
    volume: Path, reader: Reader, path: str, table: str, attempt: int
) -> None:
    rng = random.Random(f"{SEED} {table} {attempt}")

    def flip(at: tuple[Any, Any], key: bytes, row: bytes) -> None:
        damaged = bytearray(row)
        damaged[rng.randrange(len(row))] ^= 1 << rng.randrange(8)
        at[0].put(key, bytes(damaged), db=at[1])

    change_row(volume / path, table, flip)
    kind, what = reader.read(volume)
    name = table.removesuffix("_long")  # it holds rows of that table
    assert (kind, f"table {name} fails its checksum" in what) == ("named", True), (kind, what)


def flip_key(at: tuple[Any, Any], key: bytes, row: bytes) -> None:
    damaged = bytearray(key)
    damaged[-1] ^= 1
    at[0].delete(key, db=at[1])
    at[0].put(bytes(damaged), row, db=at[1])


@pytest.mark.parametrize(("path", "table"), ROWS)
def test_a_row_under_another_key(volume: Path, reader: Reader, path: str, table: str) -> None:
    """Named where the row is read, which is under its own key: rows that are looked up one by one,
    and never listed, are not there instead. The table of names has no checksum at all."""
    change_row(volume / path, table, flip_key)
    kind, what = reader.read(volume)
    looked_up = [("state/1", "content"), ("state/1", "session")]
    unnoticed = (path, table) in (WITHOUT_CHECKSUM, *looked_up)
    assert kind == ("read" if unnoticed else "named"), what


@pytest.mark.parametrize("table", ["manifest", "raft"])
def test_a_flipped_bit_of_an_lsn_in_the_page_is_named(
    volume: Path, reader: Reader, table: str
) -> None:
    """The row keeps its place among the others, so that their number is right."""
    key = (20).to_bytes(8, "big")
    opened = lmdb.open(str(volume / "log"), max_dbs=16, lock=False)
    with opened.begin() as txn:
        row = bytes(txn.get(key, db=opened.open_db(table.encode(), txn)))
    opened.close()
    file = volume / "log" / "data.mdb"
    content = file.read_bytes()
    assert key + row in content
    file.write_bytes(content.replace(key + row, b"\0" * 6 + b"\1" + key[7:] + row))
    kind, what = reader.read(volume)
    assert kind == "named", what


GONE = {
    ("log", "manifest"): "named",  # a hole
    ("log", "raft"): "named",
    ("log", "identity"): "named",
    ("log", "boundary"): "named",
    ("log", "hard_state"): "named",
    ("log", "conf_state"): "named",
    ("log", "lease"): "read",
    ("log", "payload"): "read",
    ("log", "position"): "read",
    ("state/1", "meta"): "named",
    **{("state/1", n): "read" for n in STATE_TABLES if n != "meta"},
}


def test_rows_that_are_gone(healthy: Path, folder: Path, reader: Reader) -> None:
    """A known limit: checksums are of rows, so a row that is missing as a whole is noticed only
    where rows are numbered, or one of them names what the others must fit."""
    found = {}
    for path, name in GONE:
        root = folder / "damaged"
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(healthy, root)
        table = name if name in LOG_TABLES + STATE_TABLES else "meta"

        def remove(at: tuple[Any, Any], key: bytes, _: bytes, name: str = name) -> None:
            is_meta = name in ("identity", "boundary", "hard_state", "conf_state", "lease")
            assert at[0].delete(name.encode() if is_meta else key, db=at[1])

        change_row(root / path, table, remove)
        found[path, name] = reader.read(root)[0]
    assert found == GONE


def test_a_damaged_name_does_not_cost_the_blob(healthy: Path, folder: Path, reader: Reader) -> None:
    root = folder / "damaged"
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(healthy, root)
    lock = VolumeLock(root)
    assert lock.try_acquire()
    volume = Volume(root, lock, pins_max=1)
    volume.log.unregister("consumer")
    volume.log.compact(volume.state.applied.index)
    volume.log.prune(1000)
    volume.close()

    def flip_blob(at: tuple[Any, Any], *_: bytes) -> None:
        flip_key(at, DIGEST, at[0].get(DIGEST, db=at[1]))

    change_row(root / "state/1", "payload", flip_blob)
    reader.read(root)
    assert (root / "blobs" / DIGEST.hex()[:2] / DIGEST.hex()).exists()


# --- files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["log", "state/1"])
@pytest.mark.parametrize("left", [None, 0, 1, 4095, 4096, 8191, 8192])
def test_a_data_file_that_is_all_but_gone(
    volume: Path, reader: Reader, path: str, left: int | None
) -> None:
    """An empty one, above all, is not taken for a new one."""
    file = volume / path / "data.mdb"
    if left is None:
        file.unlink()
    else:
        os.truncate(file, left)
    kind, what = reader.read(volume)
    assert (kind, what.split(":")[0]) == ("named", "Damaged"), what


def test_a_meta_page_that_claims_too_much_is_named(volume: Path, reader: Reader) -> None:
    """At once: nobody counts up to it."""
    with (volume / "log" / "data.mdb").open("r+b") as file:
        for page in (0, 4096):
            file.seek(page + 16 + 120)
            file.write((1 << 60).to_bytes(8, "little"))
    kind, what = reader.read(volume)
    assert (kind, what.split(":")[0]) == ("named", "Damaged"), what


def test_a_state_that_is_gone_is_named(volume: Path, reader: Reader) -> None:
    shutil.rmtree(volume / "state" / "1")
    assert reader.read(volume)[0] == "named"


def test_a_log_that_is_gone_is_named(volume: Path, reader: Reader) -> None:
    shutil.rmtree(volume / "log")
    assert reader.read(volume)[0] == "named"
    assert (volume / "blobs" / DIGEST.hex()[:2] / DIGEST.hex()).exists()


@pytest.mark.parametrize("file", ["lock", "log/lock.mdb", "state/1/lock.mdb"])
@pytest.mark.parametrize("content", [None, b"", b"\xff" * 100, b"\xff" * 8192])
def test_lock_files_hold_nothing_that_matters(
    volume: Path, healthy: Path, reader: Reader, file: str, content: bytes | None
) -> None:
    expected = reader.read(healthy)
    if content is None:
        (volume / file).unlink(missing_ok=True)
    else:
        (volume / file).write_bytes(content)
    assert reader.read(volume) == expected


def test_a_short_file_whose_missing_pages_are_free_is_healthy(folder: Path) -> None:
    """LMDB doesn't write pages that a transaction took and gave back. At every length, what passes
    the check can be read as a whole, and what is whole passes."""
    passed = refused = short = 0
    for seed in range(12):
        path = folder / f"free-{seed}"
        last = _churn(path, random.Random(f"{SEED} {seed}"))
        content = (path / "data.mdb").read_bytes()
        short += len(content) // 4096 <= last
        for size in range(len(content), 0, -4096):
            os.truncate(path / "data.mdb", size)
            try:
                environment.check_length(path)
            except Damaged:
                assert size < len(content)
                refused += 1
            else:
                passed += 1
                _walk(path)
        shutil.rmtree(path)
    assert (passed > 12, refused > 1000, short > 0) == (True, True, True), (passed, refused, short)


def _churn(path: Path, rng: random.Random) -> int:
    """Makes a file by transactions that grow and shrink it; its last page."""
    opened = lmdb.open(str(path), map_size=1 << 40, max_dbs=2, sync=False)
    tables = [opened.open_db(b"a"), opened.open_db(b"b")]
    for _ in range(40):
        with opened.begin(write=True) as txn:
            added = [rng.randrange(300) for _ in range(rng.randrange(60))]
            for number in added:
                txn.put(b"%d" % number, bytes(rng.choice([10, 500, 9000])), db=rng.choice(tables))
            for number in (*added[:: rng.choice([1, 2, 5])], rng.randrange(300)):
                txn.delete(b"%d" % number, db=rng.choice(tables))
        environment.check_length(path)
    last: int = opened.info()["last_pgno"]
    opened.close()
    return last


def _walk(path: Path) -> None:
    opened = environment.open_read_only(path, 2)
    with opened.begin() as txn:
        for name in (b"a", b"b"):
            with contextlib.closing(txn.cursor(opened.open_db(name, txn, create=False))) as cursor:
                assert (
                    sum(len(row) >= 0 for _, row in cursor)
                    == txn.stat(opened.open_db(name, txn, create=False))["entries"]
                )
    opened.close()


# --- blobs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["flipped", "cut", "longer", "gone"])
def test_a_damaged_blob_is_not_passed_on(volume: Path, folder: Path, kind: str) -> None:
    """A start looks at names only, and who streams a blob to a client does not hash it; whoever
    takes it under its digest does, be it another replica or `verify`."""
    lock = VolumeLock(volume)
    assert lock.try_acquire()
    found = Volume(volume, lock, pins_max=1)
    file = found.blobs.path(DIGEST)
    content = bytearray(file.read_bytes())
    match kind:
        case "flipped":
            content[50_000] ^= 4
        case "cut":
            del content[-1:]
        case "longer":
            content += b"x"
    file.write_bytes(content)
    if kind == "gone":
        file.unlink()
    assert found.blobs.has(DIGEST) == (kind != "gone")
    assert (found.blobs.size(DIGEST) == LARGE.size) == (kind == "flipped")
    receiving = folder / f"receiving-{kind}"
    receiving.mkdir()
    other = BlobStore(receiving / "blobs", receiving / "staging", pins_max=1)
    writer = other.writer(DIGEST, LARGE.size)
    if kind != "gone":
        with pytest.raises(PayloadMismatch):
            writer.write(file.read_bytes())
            writer.finish()
    writer.abort()
    assert not other.has(DIGEST)
    found.close()


# --- pages ------------------------------------------------------------------------------------


def flip_bit(data: bytearray, rng: random.Random) -> None:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def flip_structure(data: bytearray, rng: random.Random) -> None:
    """A bit of a page's header, of its pointers, or of a row's own header."""
    page = rng.randrange(2, len(data) // 4096) * 4096
    lower = int.from_bytes(data[page + 12 : page + 14], "little")
    places = [page + n for n in range(16)]
    for pointer in range(page + 16, page + min(lower, 512), 2):
        node = page + int.from_bytes(data[pointer : pointer + 2], "little") % 4096
        places += [pointer, pointer + 1, *range(node, node + 8)]
    place = min(rng.choice(places), len(data) - 1)
    data[place] ^= 1 << rng.randrange(8)


def lose_page(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data) // 4096) * 4096
    data[start : start + 4096] = bytes(4096)


def misplace_page(data: bytearray, rng: random.Random) -> None:
    source, target = (rng.randrange(len(data) // 4096) * 4096 for _ in range(2))
    data[target : target + 4096] = data[source : source + 4096]


@pytest.mark.parametrize("path", ["log", "state/1"])
@pytest.mark.parametrize(
    ("damage", "wrong_max", "signals_max"),
    [
        (cut, 0.0, 0.0),
        (flip_bit, 0.08, 0.03),
        (flip_structure, 0.3, 0.1),
        (lose_page, 0.0, 0.2),
        (misplace_page, 0.5, 0.1),
    ],
)
def test_damaged_pages(
    healthy: Path,
    folder: Path,
    reader: Reader,
    path: str,
    damage: Callable[[bytearray, random.Random], None],
    wrong_max: float,
    signals_max: float,
) -> None:
    """How often damage of LMDB's own pages goes unnoticed, or ends the process: a known limit, for
    LMDB has no checksums of pages. A file that was cut is always noticed, before it is mapped."""
    expected = reader.read(healthy)[1]
    content = (healthy / path / "data.mdb").read_bytes()
    rng = random.Random(f"{SEED} {path} {damage.__name__}")
    outcomes: Counter[str] = Counter()
    for _ in range(FLIPS):
        root = folder / "damaged"
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(healthy, root)
        damaged = bytearray(content)
        damage(damaged, rng)
        (root / path / "data.mdb").write_bytes(damaged)
        kind, what = reader.read(root)
        if kind == "read":
            outcomes["right" if what == expected else "wrong"] += 1
        else:
            outcomes[f"{kind} {what.split(':')[0]}"] += 1
    print(f"{path} {damage.__name__} DAMAGE_SEED={SEED}: {dict(outcomes.most_common())}")
    signals = sum(count for name, count in outcomes.items() if name.startswith("signal"))
    assert outcomes["wrong"] <= wrong_max * FLIPS
    assert signals <= signals_max * FLIPS
    if damage is cut:
        assert set(outcomes) <= {"right", "named Damaged"}
