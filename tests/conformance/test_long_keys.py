"""Keys longer than LMDB's own: in order, whole, and gone when they are deleted; hypothesis with a
sorted dictionary as the model, and what damage does."""

import random
import tracemalloc
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from partition_replica.core.limits import KEY_BYTES_MAX
from partition_replica.errors import Damaged
from partition_replica.storage import codec
from partition_replica.storage.environment import Transaction
from partition_replica.storage.key_table import MARK, NODE_BYTES, SHORT_BYTES, KeyTable

BORDERS = [0, 1, 480, 509, 510, 511, 520, 1009, 1010, 1011, 1510, 1511, 2000]
"""Lengths about where a chunk ends."""


def beginnings() -> st.SearchStrategy[bytes]:
    return st.builds(
        lambda fill, length: fill * length, st.sampled_from([b"a", b"\0"]), st.sampled_from(BORDERS)
    )


ENDS = st.lists(st.sampled_from([b"\0", b"/", b"a", b"b", b"\xff", b"a" * 500]), max_size=3)
KEYS = st.builds(lambda beginning, end: (beginning + b"".join(end)) or b"k", beginnings(), ENDS)


class Table:
    """A KeyTable in an environment of its own; keys of any length."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.environment = lmdb.Environment(str(folder), map_size=1 << 30, max_dbs=2, sync=False)
        self.keys = KeyTable(
            "value", self.environment.open_db(b"short"), self.environment.open_db(b"long")
        )

    def put(self, txn: Transaction, key: bytes, value: bytes) -> None:
        row = codec.seal(key, value)
        if len(key) <= SHORT_BYTES:
            txn.put(key, row, db=self.keys.short)
        else:
            self.keys.put(txn, key, row)

    def delete(self, txn: Transaction, key: bytes) -> None:
        if len(key) <= SHORT_BYTES:
            txn.delete(key, db=self.keys.short)
        else:
            self.keys.delete(txn, key)

    def get(self, txn: Transaction, key: bytes) -> bytes | None:
        row = self.keys.get_any(txn, key)
        return None if row is None else codec.unseal("value", key, row)

    def listed(self, txn: Transaction, start: bytes = b"") -> list[tuple[bytes, bytes]]:
        rows = self.keys.rows(txn, start)
        return [(key, codec.unseal("value", key, row)) for key, row in rows]


@contextmanager
def opened(folder: Path) -> Iterator[Table]:
    table = Table(folder)
    try:
        yield table
    finally:
        table.environment.close()


class LongKeysMachine(RuleBasedStateMachine):
    """Puts, deletes and reads; a dictionary says what comes out."""

    folder: Path

    @initialize()
    def begin(self) -> None:
        self.table = Table(self.folder)
        self.model: dict[bytes, bytes] = {}
        with self.table.environment.begin(write=True) as txn:
            for table in (self.table.keys.short, self.table.keys.long):
                txn.drop(table, delete=False)

    def teardown(self) -> None:
        self.table.environment.close()

    @rule(keys=st.lists(KEYS, min_size=1, max_size=6), value=st.binary(max_size=3))
    def put(self, keys: list[bytes], value: bytes) -> None:
        with self.table.environment.begin(write=True) as txn:
            for key in keys:
                self.table.put(txn, key, value)
        self.model.update(dict.fromkeys(keys, value))

    @rule(key=KEYS)
    def delete(self, key: bytes) -> None:
        with self.table.environment.begin(write=True) as txn:
            self.table.delete(txn, key)
        self.model.pop(key, None)

    @rule(data=st.data())
    def delete_one_that_is_there(self, data: st.DataObject) -> None:
        if self.model:
            self.delete(data.draw(st.sampled_from(sorted(self.model))))

    @rule()
    def delete_all(self) -> None:
        with self.table.environment.begin(write=True) as txn:
            for key in self.model:
                self.table.delete(txn, key)
            assert self.table.keys.stored(txn) == 0
        self.model.clear()

    @rule(key=KEYS)
    def get(self, key: bytes) -> None:
        with self.table.environment.begin() as txn:
            assert self.table.get(txn, key) == self.model.get(key)

    @rule(start=KEYS)
    def list_from(self, start: bytes) -> None:
        expected = sorted(item for item in self.model.items() if item[0] >= start)
        with self.table.environment.begin() as txn:
            assert self.table.listed(txn, start) == expected
            first = expected[0][0] if expected else None
            assert self.table.keys.first_from(txn, start) == first

    @invariant()
    def everything_is_there_once(self) -> None:
        with self.table.environment.begin() as txn:
            assert self.table.listed(txn) == sorted(self.model.items())
            assert self.table.keys.count(txn) == len(self.model)


def test_long_keys_are_a_sorted_dictionary(tmp_path: Path) -> None:
    class Here(LongKeysMachine):
        folder = tmp_path / "table"

    test = Here.TestCase
    test.settings = settings(
        max_examples=60,
        stateful_step_count=30,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    test().runTest()


def test_the_longest_keys_side_by_side(tmp_path: Path) -> None:
    """They differ in their last byte, 129 nodes deep; one is a beginning of the others."""
    shared = random.Random(1).randbytes(KEY_BYTES_MAX - 1)
    keys = [shared, *(shared + bytes([end]) for end in range(256))]
    with opened(tmp_path / "table") as table:
        with table.environment.begin(write=True) as txn:
            for key in random.Random(2).sample(keys, len(keys)):
                table.put(txn, key, key[-1:])
            assert table.keys.node_count(txn) == 129
        with table.environment.begin() as txn:
            assert [key for key, _ in table.listed(txn)] == keys
            assert [key for key, _ in table.listed(txn, keys[100] + b"\0")] == keys[101:]
        with table.environment.begin(write=True) as txn:
            for key in keys:
                table.delete(txn, key)
            assert table.keys.stored(txn) == 0


def test_a_page_of_many_keys_that_begin_alike_takes_no_memory_for_the_others(
    tmp_path: Path,
) -> None:
    shared = b"s" * SHORT_BYTES
    keys = [shared + b"%06d" % number for number in range(20_000)]
    with opened(tmp_path / "table") as table:
        with table.environment.begin(write=True) as txn:
            for key in random.Random(3).sample(keys, len(keys)):
                table.put(txn, key, b"v")
        with table.environment.begin() as txn:
            tracemalloc.start()
            try:
                rows = table.keys.rows(txn, keys[12_345])
                page = [next(rows)[0] for _ in range(10)]
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
            assert page == keys[12_345:12_355]
            assert peak < 100_000  # all keys would be 10 MB
            assert [key for key, _ in table.listed(txn)] == keys


def test_a_state_without_the_table_has_no_long_keys(tmp_path: Path) -> None:
    """As one of format 1 that is only read."""
    with opened(tmp_path / "table") as table:
        keys = KeyTable("value", table.keys.short, None)
        with table.environment.begin(write=True) as txn:
            table.put(txn, b"k", b"v")
            assert [key for key, _ in keys.rows(txn)] == [b"k"]
            assert keys.get(txn, b"k" * 511) is None
            assert list(keys.rows(txn, b"k" * 511)) == []
            assert keys.count(txn) == 1


# --- damage -----------------------------------------------------------------------------------

HEAD, LOWER = b"x" * 510, b"x" * 1010
LONG = [HEAD + b"1", LOWER + b"2", LOWER + b"3", b"y" * 510 + b"4"]
SHORT = [b"a", b"x", HEAD, b"z"]
ROOT_MARK, INNER_MARK = HEAD + MARK, codec.u64(1) + b"x" * 500 + MARK


@pytest.fixture
def filled(tmp_path: Path) -> Iterator[Table]:
    with opened(tmp_path / "table") as table:
        with table.environment.begin(write=True) as txn:
            for key in LONG + SHORT:
                table.put(txn, key, b"v")
            assert txn.get(ROOT_MARK, db=table.keys.short) is not None
            assert txn.get(INNER_MARK, db=table.keys.long) is not None
        yield table


def test_a_mark_of_another_place_is_damage(filled: Table) -> None:
    with filled.environment.begin(write=True) as txn:
        other = txn.get(b"y" * 510 + MARK, db=filled.keys.short)
        assert other is not None
        txn.put(ROOT_MARK, other, db=filled.keys.short)
        for key in LONG[:3]:
            with pytest.raises(Damaged, match="mark of keys of table value that begin with b'xxx"):
                filled.keys.get(txn, key)
        with pytest.raises(Damaged, match="mark"):
            list(filled.keys.rows(txn))
        told: list[Damaged] = []
        found = [key for key, _ in filled.keys.rows(txn, b"", told.append)]
        assert found == sorted(SHORT + LONG[3:])
        assert len(told) == 1
        assert len(str(told[0])) < 500


def test_a_circle_of_marks_is_damage(filled: Table) -> None:
    """Even one whose checksums are right, which nobody writes."""
    with filled.environment.begin(write=True) as txn:
        crc = zlib.crc32(LOWER + b"\0mark")
        txn.put(INNER_MARK, codec.seal_with(crc, codec.u64(1)), db=filled.keys.long)
        with pytest.raises(Damaged, match="mark"):
            list(filled.keys.rows(txn))


def test_a_node_with_the_highest_number_is_damage(filled: Table) -> None:
    with filled.environment.begin(write=True) as txn:
        txn.put(codec.u64(codec.U64_MAX) + b"k", b"", db=filled.keys.long)
        with pytest.raises(Damaged, match="has a node with number"):
            filled.put(txn, b"z" * 600, b"v")
        assert filled.keys.node_count(txn) == 4


def test_a_mark_alone_is_never_read_as_a_key(filled: Table) -> None:
    """Where the other table is empty, nobody looks for marks."""
    with filled.environment.begin(write=True) as txn:
        txn.drop(filled.keys.long, delete=False)
        with pytest.raises(Damaged):
            filled.listed(txn)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_damage_is_an_error_or_leaves_keys_in_order(filled: Table, data: st.DataObject) -> None:
    """Rows that are changed, moved or gone: reading ends, and in order."""
    with filled.environment.begin(write=True) as txn:
        for table in (filled.keys.short, filled.keys.long):
            for key, row in list(txn.cursor(table)):
                change = data.draw(st.sampled_from(["keep", "keep", "flip", "drop", "move"]))
                if change == "flip":
                    at = data.draw(st.integers(0, len(row) - 1))
                    changed = row[:at] + bytes([row[at] ^ 1]) + row[at + 1 :]
                    txn.put(key, changed, db=table)
                elif change == "drop":
                    txn.delete(key, db=table)
                elif change == "move":
                    number = codec.u64(data.draw(st.integers(0, 5)))
                    txn.put(number + key[NODE_BYTES:][:501] + b"m", row, db=filled.keys.long)
        told: list[Damaged] = []
        found = [key for key, _ in filled.keys.rows(txn, b"", told.append)]
        assert found == sorted(set(found))
        try:
            listed = filled.listed(txn)
        except Damaged:
            listed = []
        assert not set(listed) - {(key, b"v") for key in SHORT + LONG}
        txn.abort()
