"""A stored snapshot of a stopped volume, and what is made of it: a new volume that holds the same
and goes on behind its LSN; or none, where anything is wrong or it is cut off."""

import os
import shutil
from pathlib import Path

import pytest
from partition_replica.core.model import Configuration, Position
from partition_replica.errors import RowsRefused
from partition_replica.ids import LSN, SessionID, Term
from partition_replica.offline.snapshots import reports as snapshot_reports
from partition_replica.offline.stopped import open_stopped
from partition_replica.storage import codec
from partition_replica.storage.files import VolumeLock, disk
from partition_replica.storage.state_loading import StateLoader

from tests.support.proposals import body, opening, proposal, set_key
from tests.support.seed_logs import CLUSTER, check, contents, open_volume
from tests.support.stored import (
    DAMAGE,
    NEW_CLUSTER,
    Stored,
    append,
    bodies,
    make_volume,
    modes,
    rows_digest,
)
from tests.support.stored import published as published  # a fixture
from tests.support.stored import stored as stored  # a fixture

# --- what comes back --------------------------------------------------------------------------


@pytest.mark.parametrize("to_raft", [True, False])
@pytest.mark.parametrize("from_raft", [True, False])
def test_a_restored_volume_holds_the_same_and_goes_on(
    stored: Stored, from_raft: bool, to_raft: bool
) -> None:
    source = make_volume(stored.root / "source", replicated=from_raft)
    published = stored.publish(source)
    lsn, term = (7, 3) if from_raft else (6, 0)
    assert (published["lsn"], published["term"]) == (lsn, term)
    assert (published["keys"], published["files"]) == (2, 9)
    assert published["digest"] == rows_digest(source)
    data = stored.root / "data"
    report = stored.restore(data, "s1", *([] if to_raft else ["--standalone"]))
    term = max(term, 1) if to_raft else term
    assert (report["lsn"], report["term"], report["existed"]) == (lsn, term, False)
    assert (report["sourceClusterID"], report["clusterID"]) == (CLUSTER, NEW_CLUSTER)
    assert contents(data) == contents(source)
    assert modes(data) == modes(source)
    assert rows_digest(data) == published["digest"]
    unchecked = check(data, stored.root / "scratch")
    assert [text for text in unchecked if "has no entry up to" not in text] == []
    start = Position(LSN(lsn), Term(term))
    with open_stopped(data) as volume:
        log = volume.log
        assert (log.identity.cluster_id, log.identity.standalone) == (NEW_CLUSTER, not to_raft)
        assert log.boundary == log.last == volume.state.applied == start
        assert log.configuration == (lsn, Configuration((log.identity.member_id,)))
        assert volume.state.time_ms == 1000
        # Its sessions are there and over: nobody of the new history owns them.
        session, _ = volume.state.get_session(SessionID(lsn - 5), 1)
        assert session is not None
        assert session.expired(volume.state.clock_ms)
        assert volume.state.history not in ("", NEW_CLUSTER, CLUSTER)
        assert volume.state.members() == {}
    # A replica's start finds it whole, and it is written on.
    opened = open_volume(data)
    assert opened.log.low_water_mark == lsn + 1
    write = [set_key(b"more", b"v")]
    append(opened, [body(proposal(lsn - 5, 5, write))], term if to_raft else 0)
    assert opened.state.get_value(b"more")[0] is None, "its session is over"
    append(opened, [opening(), body(proposal(lsn + 2, 1, write))], term if to_raft else 0)
    opened.close()
    assert contents(data)[0][b"more"] == b"v"
    assert check(data, stored.root / "scratch") != []


def test_threads_that_make_the_same_directory(
    published: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each looks, and one of them is first."""
    make = disk.make_directory

    def made_meanwhile(path: Path) -> None:
        if path.parent.name == "blobs":
            make(path)
        make(path)

    monkeypatch.setattr(disk, "make_directory", made_meanwhile)
    published.restore(published.root / "data")
    assert contents(published.root / "data") == contents(published.root / "source")


def test_a_session_s_retry_takes_no_effect_in_the_new_group(stored: Stored) -> None:
    stored.publish(make_volume(stored.root / "source"))
    stored.restore(stored.root / "data")
    opened = open_volume(stored.root / "data")
    append(opened, [body(proposal(2, 4, [set_key(b"k" * 400, b"once more")]))], 3)
    opened.close()
    assert contents(stored.root / "data")[0][b"k" * 400] == b"x" * 100_000


def test_the_second_snapshot_is_written_against_the_first(stored: Stored) -> None:
    source = make_volume(stored.root / "source")
    opened = open_volume(source)
    append(
        opened,
        [body(proposal(2, 5 + n, [set_key(b"%05d" % n, b"v" * 900)])) for n in range(900)],
        3,
    )
    opened.close()
    first = stored.publish(source)
    opened = open_volume(source)
    append(opened, [body(proposal(2, 905, [set_key(b"00007", b"other")]))], 3)
    opened.close()
    second = stored.publish(source, "s2")
    assert second["incremental"]
    assert second["transferredBytes"] < first["transferredBytes"] // 10
    full = stored.publish(source, "s3", "--full")
    assert not full["incremental"]
    assert second["digest"] == full["digest"] == rows_digest(source)
    for snapshot in ("s1", "s2", "s3"):
        stored.restore(stored.root / snapshot, snapshot)
    assert contents(stored.root / "s2") == contents(stored.root / "s3") == contents(source)
    assert contents(stored.root / "s1")[0][b"00007"] == b"v" * 900
    listed = stored.done("ls")["snapshots"]
    assert sorted(one["snapshotID"] for one in listed) == ["s1", "s2", "s3"]
    latest = stored.restore(stored.root / "latest", "latest")
    assert latest["snapshotID"] in ("s2", "s3")
    removed = stored.done("delete", "--snapshot", "s1", "--snapshot", "s3")
    assert removed["snapshotsDeleted"] == 2
    for figure in ("snapshots", "objects", "bytes"):
        assert removed[f"{figure}Removed"] == removed[f"{figure}Deleted"]
    stored.done("verify", "--snapshot", "s2", "--restore", "--scratch", stored.root)
    assert [p.name for p in stored.root.iterdir() if p.name.startswith("restored-")] == []


@pytest.mark.parametrize("to_raft", [True, False])
@pytest.mark.parametrize("entries", [0, 1])
def test_where_a_log_s_start_is_near(stored: Stored, entries: int, to_raft: bool) -> None:
    """An empty partition, and one with a single entry, which is no empty start."""
    source = make_volume(
        stored.root / "source", replicated=False, found=[opening()] if entries else []
    )
    stored.publish(source)
    data = stored.root / "data"
    stored.restore(data, "s1", *([] if to_raft else ["--standalone"]))
    with open_stopped(data) as volume:
        term = (2 if entries else 1) if to_raft else 0
        assert volume.log.last == Position(LSN(max(entries, int(to_raft))), Term(term))
    check(data, stored.root / "scratch")
    opened = open_volume(data)
    append(opened, bodies(opened.log.last.index + 1), term)
    opened.close()
    check(data, stored.root / "scratch")


# --- what is refused --------------------------------------------------------------------------


def test_only_a_new_volume_is_restored_and_again_is_fine(stored: Stored) -> None:
    source = make_volume(stored.root / "source")
    stored.publish(source)
    data = stored.root / "data"
    (data / "snapshots").mkdir(parents=True)  # stored ones belong to no log
    stored.restore(data)
    shutil.rmtree(stored.store)
    again = stored.restore(data)
    assert (again["existed"], again["lsn"]) == (True, 7)
    for volume, cluster, code, reason in (
        (data, CLUSTER, 78, "VolumeTaken"),
        (source, NEW_CLUSTER, 78, "VolumeTaken"),
        (stored.root / "none" / "data", NEW_CLUSTER, 78, "SnapshotNotFound"),
        (data, "no-uuid", 78, "InvalidArgument"),
    ):
        found = stored.run("restore", "--data", volume, "--snapshot", "s1", "--cluster-id", cluster)
        assert (found[0], found[1]["reason"]) == (code, reason), found
    lock = VolumeLock(data)
    assert lock.try_acquire()
    code, report = stored.run("restore", *stored.restore_arguments(data))
    lock.release()
    assert (code, report["reason"], report["retriable"]) == (69, "VolumeBusy", True)


def test_a_volume_that_waits_for_its_group_s_snapshot_is_taken(stored: Stored) -> None:
    stored.publish(make_volume(stored.root / "source"))
    joined = open_volume(stored.root / "data")
    joined.log.join(NEW_CLUSTER)  # type: ignore[arg-type]
    joined.close()
    code, report = stored.run("restore", *stored.restore_arguments(stored.root / "data"))
    assert (code, report["reason"]) == (78, "VolumeTaken")


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_snapshot_is_refused_and_the_volume_stays_new(
    stored: Stored, damage: str
) -> None:
    """Each object in turn, into a volume that is not there or one that belongs to nobody."""
    stored.publish(make_volume(stored.root / "source"))
    fresh, once = stored.root / "fresh", stored.root / "once"
    open_volume(once).close()
    before = sorted(os.listdir(once))
    kept = stored.root / "kept"
    shutil.copytree(stored.store, kept)
    names = [path.relative_to(stored.store) for path in stored.objects()]
    assert len(names) >= 8
    for number, name in enumerate([*names, Path("snapshots/s1.json")]):
        shutil.rmtree(stored.store)
        shutil.copytree(kept, stored.store)
        DAMAGE[damage](stored.store / name)
        data = fresh if number % 2 else once
        code, report = stored.run("restore", *stored.restore_arguments(data))
        if name.suffix and damage == "gone":
            assert (code, report["reason"]) == (78, "SnapshotNotFound")
        else:
            assert (code, report["reason"]) == (65, "SnapshotDamaged"), (name, report)
            assert not report["retriable"]
            assert name.stem in report["message"], report["message"]
        assert not fresh.exists()
        assert sorted(os.listdir(once)) == before
        code, report = stored.run("verify", "--snapshot", "s1")
        assert code == (78 if name.suffix and damage == "gone" else 65), report
    opened = open_volume(once)
    assert (opened.log.identity.cluster_id, list(opened.blobs.digests())) == ("", [])
    opened.close()
    shutil.rmtree(stored.store)
    shutil.copytree(kept, stored.store)
    stored.restore(fresh)
    stored.restore(once)


def test_verify_by_restoring_finds_what_digests_cannot(stored: Stored) -> None:
    """A state that contradicts itself has right digests all the same."""
    source = make_volume(stored.root / "source")
    opened = open_volume(source)
    with opened.state.environment.begin(write=True) as txn:
        row = txn.get(b"d", db=opened.state.tables.tree)
        assert row is not None
        path = b"in/no/directory"
        txn.put(path, codec.seal(path, row[codec.CHECKSUM_BYTES :]), db=opened.state.tables.tree)
    opened.close()
    stored.publish(source)
    stored.done("verify", "--snapshot", "s1")
    code, report = stored.run("verify", "--snapshot", "s1", "--restore", "--scratch", stored.root)
    assert (code, report["reason"]) == (65, "SnapshotDamaged")
    assert "has no parent directory" in report["message"]
    assert [p.name for p in stored.root.iterdir() if p.name.startswith("restored-")] == []


def test_a_snapshot_of_another_cluster_or_name_is_refused(stored: Stored) -> None:
    source = make_volume(stored.root / "source")
    first = stored.publish(source)
    again = stored.publish(source)
    assert (again["existed"], again["transferredBytes"]) == (True, 0)
    assert again["digest"] == first["digest"]
    arguments = ("--data", source, "--snapshot", "s1", "--uid", "another")
    assert stored.run("take", *arguments)[1]["reason"] == "SnapshotExists"
    assert stored.run("take", "--data", source, "--snapshot", "latest")[0] == 78
    assert stored.run("take", "--data", source, "--snapshot", "No_ID")[0] == 78
    data = stored.root / "data"
    stored.restore(data)
    code, report = stored.run("take", "--data", data, "--snapshot", "s2")
    assert (code, report["reason"]) == (78, "WrongCluster")
    code, report = stored.run("verify", "--snapshot", "s1", "--limit", "streams_max=none")
    assert (code, report["reason"]) == (78, "InvalidArgument")


# --- parts ------------------------------------------------------------------------------------


def test_rows_are_loaded_in_order_and_whole_or_not_at_all(tmp_path: Path) -> None:
    def sealed(key: bytes, payload: bytes = b"v") -> bytes:
        return codec.seal(key, payload)

    loader = StateLoader(tmp_path / "state", ("value", "tree"))
    loader.put_rows("value", [(b"a", sealed(b"a")), (b"b", sealed(b"b"))])
    for table, key, row, why in (
        ("value", b"b", sealed(b"b"), "out of order"),
        ("value", b"aa", sealed(b"aa"), "out of order"),
        ("value", b"", sealed(b""), "out of order"),
        ("value", b"c", sealed(b"d"), "checksum"),
        ("value", b"c", b"abc", "checksum"),
        ("value", b"c" * 65_001, sealed(b"c" * 65_001), "65001 bytes"),
        ("member", b"c", sealed(b"c"), "known are value, tree"),
    ):
        with pytest.raises(RowsRefused, match=why):
            loader.put_rows(table, [(key, row)])
    good = (b"c", sealed(b"c"))
    for second, why in (
        (good, "out of order"),
        ((b"bb", sealed(b"bb")), "out of order"),
        ((b"d", sealed(b"c")), "checksum"),
    ):
        with pytest.raises(RowsRefused, match=f"row {second[0].hex()} .*{why}"):
            loader.put_rows("value", [good, second])
    loader.put_rows("value", [good])  # which was not added with one that was refused
    loader.put_rows("tree", [(b"a", sealed(b"a"))])
    with pytest.raises(RowsRefused, match="out of order"):
        loader.put_rows("value", [(b"z", sealed(b"z"))])
    assert loader.rows == {"value": 3, "tree": 1}
    loader.close()


def test_a_report_is_cut_to_what_a_termination_message_holds() -> None:
    report = {"state": "failed", "message": "ä€𝄞" * 2000, "reason": "X"}
    encoded = snapshot_reports.encode(report)
    assert len(encoded) <= snapshot_reports.REPORT_BYTES_MAX
    assert b"\\u2026" in encoded
