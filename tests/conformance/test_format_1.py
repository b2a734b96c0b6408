"""Volumes and stored snapshots of format 1, written by the version that had it: they open, are
verified, are written on and restored."""

from pathlib import Path

import pytest
from partition_replica.offline.stopped import open_stopped
from partition_replica.storage.state_tables import read_applied

from tests.support.format_fixtures import KEYS, PATHS, TERM, unpack
from tests.support.proposals import body, opening, proposal, set_key
from tests.support.seed_logs import check, contents, export, open_volume, take
from tests.support.stored import Stored, append, rows_digest

FIXTURES = Path(__file__).parents[1] / "fixtures"
S2_DIGEST = "3d32749bccb03660d38bec4033245ef74ec6a8d2c548f800380e975a55d14930"
"""Of the rows of the volume and of snapshot s2."""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return unpack(FIXTURES / "format_1_volume.tar.xz", tmp_path)


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    unpack(FIXTURES / "format_1_snapshots.tar.xz", tmp_path)
    return Stored(tmp_path)


def write_on(data: Path, sequence: int, key: bytes) -> None:
    volume = open_volume(data)
    append(volume, [body(proposal(2, sequence, [set_key(key, b"more")]), 9000)], TERM, blobs=[])
    volume.close()


def test_a_volume_is_read_and_verified_as_it_is(data: Path, tmp_path: Path) -> None:
    before = (data / "state" / "1" / "data.mdb").read_bytes()
    assert contents(data) == (KEYS, PATHS)
    assert check(data, tmp_path / "scratch") == []
    assert rows_digest(data) == S2_DIGEST
    assert (data / "state" / "1" / "data.mdb").read_bytes() == before


def test_a_volume_is_written_on(data: Path, tmp_path: Path) -> None:
    write_on(data, 5, b"z")
    write_on(data, 6, b"z" * 480)
    assert contents(data) == (KEYS | {b"z": b"more", b"z" * 480: b"more"}, PATHS)
    # The replay of the whole log gives the same rows.
    assert check(data, tmp_path / "scratch") == []


def test_a_volume_takes_long_names(data: Path, tmp_path: Path) -> None:
    assert format_of(data) == 1
    write_on(data, 5, b"z" * 65_000)
    assert format_of(data) == 2
    write_on(data, 6, b"k" * 511)
    assert contents(data)[0] == KEYS | {b"z" * 65_000: b"more", b"k" * 511: b"more"}
    assert check(data, tmp_path / "scratch") == []


def format_of(data: Path) -> int:
    with open_stopped(data) as volume:
        return read_applied(volume.state.environment, volume.state.tables).format_version


def test_a_volume_s_log_is_exported_and_imported(data: Path, tmp_path: Path) -> None:
    export(data, tmp_path / "out", with_base=True)
    take(tmp_path / "out" / "log", tmp_path / "anew")
    assert contents(tmp_path / "anew") == (KEYS, PATHS)
    base = tmp_path / "out" / "base"
    take(tmp_path / "out" / "log", tmp_path / "gone_on", base=base)
    assert contents(tmp_path / "gone_on") == (KEYS, PATHS)
    assert rows_digest(tmp_path / "gone_on") == S2_DIGEST


@pytest.mark.parametrize("snapshot", ["s1", "s2"])
def test_a_stored_snapshot_is_verified_and_restored(stored: Stored, snapshot: str) -> None:
    assert stored.done("verify", "--snapshot", snapshot, "--restore")["restored"]
    data = stored.root / "data"
    report = stored.restore(data, snapshot)
    keys = {key: value for key, value in KEYS.items() if snapshot == "s2" or key != b"later"}
    assert contents(data) == (keys, PATHS)
    if snapshot == "s2":
        assert rows_digest(data) == S2_DIGEST
    assert report["lsn"] == (6 if snapshot == "s2" else 5)
    volume = open_volume(data)
    write = body(proposal(report["lsn"] + 1, 1, [set_key(b"z", b"more")]))
    append(volume, [opening(), write], TERM, blobs=[])  # the snapshot's sessions are over
    volume.close()
    assert contents(data)[0] == keys | {b"z": b"more"}


def test_snapshots_go_on_upon_those_of_format_1(stored: Stored, data: Path, tmp_path: Path) -> None:
    """The new one is incremental, over segments of format 1."""
    write_on(data, 5, b"z")
    report = stored.publish(data, "s3")
    assert (report["incremental"], report["keys"]) == (True, len(KEYS) + 1)
    for snapshot in ("s1", "s2", "s3"):
        stored.done("verify", "--snapshot", snapshot)
    listed = stored.done("ls")["snapshots"]
    assert [one["snapshotID"] for one in listed] == ["s1", "s2", "s3"]
    stored.restore(stored.root / "back", "s3")
    assert contents(stored.root / "back") == contents(data)
    stored.done("delete", "--snapshot", "s1")
    stored.done("verify", "--snapshot", "s3")
