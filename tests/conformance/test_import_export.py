"""The seed's log of directories, in and out: what goes in comes out byte for byte, and an import
that is cut off is none, or whole. What is refused: test_import_refusals."""

import os
import shutil
from pathlib import Path

import lmdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from partition_proto.v1 import seed_pb2 as seed
from partition_proto.v1 import types_pb2 as types
from partition_replica.core.model import Configuration, HardState, LogBatch, LogEntry, Position
from partition_replica.errors import Damaged, ImportRefused, InvalidArgument
from partition_replica.ids import LSN, MemberID, SessionID, Term
from partition_replica.offline.seed.layout import base36, entry_name
from partition_replica.offline.seed.state_files import encode_conf_state, encode_hard_state
from partition_replica.offline.stopped import open_stopped
from partition_replica.storage import codec
from partition_replica.storage.files import VolumeLock
from partition_replica.storage.state import LmdbState
from partition_replica.storage.volume import Volume

from tests.support.proposals import (
    body,
    copy,
    link,
    mkdir,
    opening,
    payload,
    proposal,
    remove,
    set_key,
)
from tests.support.seed_logs import (
    CLUSTER,
    LARGE,
    WHILE_IMPORTING,
    check,
    contents,
    cut_off,
    export,
    open_volume,
    put_entry,
    raft_of,
    s_copy,
    s_link,
    s_mkdir,
    s_remove,
    s_set,
    seed_log,
    take,
    tree,
    write,
)
from tests.support.stored import append, make_volume

# --- in and out -------------------------------------------------------------------------------


@pytest.mark.parametrize("raft", [True, False])
def test_an_unreplicated_import_comes_out_byte_for_byte(tmp_path: Path, raft: bool) -> None:
    source = seed_log(tmp_path / "source", raft=raft)
    report = take(source, tmp_path / "data")
    assert (report.first, report.last, report.entries) == (1, 9, 9)
    assert (report.with_raft, report.payloads, report.blobs) == (6 if raft else 0, 3, 1)
    assert report.unverified
    assert report.adjusted
    assert contents(tmp_path / "data") == (
        {b"k\xff": b"w"},
        {
            b"refs": None,
            b"refs/heads": None,
            b"refs/heads/main": b"sha",
            b"pack": LARGE,
            b"refs/copy": LARGE,
            b"sticky": None,
        },
    )
    assert check(tmp_path / "data", tmp_path / "scratch") == []
    with open_stopped(tmp_path / "data") as volume:
        assert volume.log.identity.standalone
        assert volume.state.applied.index == volume.log.committed == 9
        assert volume.log.last == Position(LSN(9), Term(0))
    export(tmp_path / "data", tmp_path / "out")
    assert tree(tmp_path / "out" / "log") == tree(source)


def test_a_replicated_import_is_a_sole_voter(tmp_path: Path) -> None:
    source = seed_log(tmp_path / "source")
    write(tmp_path / "hard", encode_hard_state(HardState(Term(1), MemberID(3), LSN(8))))
    write(tmp_path / "conf", encode_conf_state(Configuration((1, 2, 3))))
    report = take(
        source,
        tmp_path / "data",
        replicated=True,
        hard_state=tmp_path / "hard",
        conf_state=tmp_path / "conf",
    )
    adjusted = "\n".join(report.adjusted)
    for wanted in ("term", "committed", "not imported"):
        assert wanted in adjusted
    with open_stopped(tmp_path / "data") as volume:
        log = volume.log
        assert log.hard_state == HardState(Term(3), MemberID(0), LSN(9))
        assert log.configuration == (9, Configuration((log.identity.member_id,)))
        assert log.boundary == volume.state.applied == Position(LSN(9), Term(3))
        rows = log.read(LSN(1), LSN(10), None)
        assert [row.term for row in rows] == [1, 1, 1, 2, 2, 2, 3, 3, 3]
        assert {row.kind for row in rows} == {0}  # old changes replay as nothing
    assert check(tmp_path / "data", tmp_path / "scratch") == []
    export(tmp_path / "data", tmp_path / "out")
    out, was = tree(tmp_path / "out" / "log"), tree(source)
    assert {name: out[name] for name in was} == was
    # Entries that had no RAFT have one now.
    assert set(out) - set(was) == {f"{entry_name(LSN(n))}/RAFT" for n in (7, 8, 9)}
    # And it goes in again.
    again = take(tmp_path / "out" / "log", tmp_path / "again", replicated=True)
    assert (again.with_raft, again.highest_term) == (9, 3)
    assert contents(tmp_path / "again") == contents(tmp_path / "data")


def test_our_own_log_goes_out_and_in(tmp_path: Path) -> None:
    """Only what had an effect: neither duplicates nor failed preconditions, nor operations that did
    nothing."""
    big, small = payload(LARGE, 0o600), payload(b"small", 0o755)
    absent = types.Precondition(key_absent=b"k")
    bodies = [
        opening(),
        body(proposal(2, 1, [set_key(b"k", b"1"), mkdir(b"d"), link(b"d/f", 2)], [small, big])),
        body(proposal(2, 1, [set_key(b"k", b"again")])),
        body(proposal(2, 2, [set_key(b"k", b"never")], preconditions=[absent])),
        body(proposal(9, 1, [set_key(b"k", b"expired")])),
        body(proposal(2, 3, [link(b"x/y"), link(b"g"), remove(b"d"), copy(b"d/f", b"h")], [small])),
    ]
    data = tmp_path / "data"
    data.mkdir()
    lock = VolumeLock(data)
    assert lock.try_acquire()
    volume = Volume(data, lock, pins_max=10)
    volume.state.start(Position(LSN(1), Term(1)), {})
    volume.log.bootstrap(CLUSTER, Configuration((volume.log.identity.member_id,)))
    writer = volume.blobs.writer(big.digest, big.size)  # type: ignore[arg-type]
    writer.write(LARGE)
    writer.finish()
    entries = [
        LogEntry(LSN(n), Term(1), 0, found.SerializeToString()) for n, found in enumerate(bodies, 2)
    ]
    last = LSN(len(bodies) + 1)
    volume.log.commit(LogBatch(entries, HardState(Term(1), MemberID(0), last)))
    volume.state.apply(entries, {})
    volume.close()
    export(data, tmp_path / "out")
    manifests = [
        len(seed.Manifest.FromString((path / "MANIFEST").read_bytes()).operations)
        for path in sorted((tmp_path / "out" / "log").iterdir())
    ]
    assert manifests == [0, 0, 3, 0, 0, 0, 2]
    for replicated in (False, True):
        target = tmp_path / f"again-{replicated}"
        take(tmp_path / "out" / "log", target, replicated=replicated)
        assert contents(target) == contents(data)
        assert check(target, tmp_path / "scratch") == []


def test_a_log_that_begins_later_needs_its_base(tmp_path: Path) -> None:
    source = seed_log(tmp_path / "source")
    take(source, tmp_path / "data")
    export(tmp_path / "data", tmp_path / "out", with_base=True)
    later = tmp_path / "out" / "log"
    for lsn in (1, 2, 3, 4):
        shutil.rmtree(later / entry_name(LSN(lsn)))
    with pytest.raises(ImportRefused, match=r"begins at .*5.* base"):
        take(later, tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    base = tmp_path / "out" / "base"
    take(later, tmp_path / "again", replicated=True, base=base)
    assert contents(tmp_path / "again") == contents(tmp_path / "data")
    assert "it was imported" in check(tmp_path / "again", tmp_path / "scratch")[0]
    blob = next(path for path in (base / "blobs").rglob("*") if path.is_file())
    blob.chmod(0o600)
    blob.write_bytes(LARGE[:-1] + b"!")
    with pytest.raises(ImportRefused, match=f"{blob.name} is damaged"):
        take(later, tmp_path / "refused", base=base)
    assert not (tmp_path / "refused").exists()
    with pytest.raises(ImportRefused, match="the base must be as of"):
        shutil.rmtree(later / entry_name(LSN(9)))
        take(later, tmp_path / "refused", base=base)


def test_a_base_in_the_middle_is_gone_on_from(tmp_path: Path) -> None:
    """Entries up to the base's position are stored and not applied again; the old group's members
    and the old replica's notes are not taken over."""
    source, half = seed_log(tmp_path / "source"), seed_log(tmp_path / "half")
    for lsn in (6, 7, 8, 9):
        shutil.rmtree(half / entry_name(LSN(lsn)))
    take(half, tmp_path / "early")
    export(tmp_path / "early", tmp_path / "out", with_base=True)
    state = LmdbState(tmp_path / "early" / "state" / "1")
    state.apply([LogEntry(LSN(6), Term(2), 0, b"")], {5: "elsewhere:1"})
    state.copy(tmp_path / "copied")
    state.close()
    base = tmp_path / "out" / "base"
    shutil.rmtree(base / "state")
    (tmp_path / "copied").rename(base / "state")
    # At 6, as if 6 had been empty: what 7 to 9 do is applied, what 6 does is not.
    for lsn in (1, 2, 3):
        shutil.rmtree(source / entry_name(LSN(lsn)))
    for replicated in (False, True):
        data = tmp_path / f"data-{replicated}"
        report = take(source, data, replicated=replicated, base=base)
        assert (report.first, report.entries, report.blobs) == (4, 6, 1)
        keys, paths = contents(data)
        assert keys == {b"k\xff": b"w"}
        assert set(paths) == {
            b"refs",
            b"refs/heads",
            b"refs/heads/main",
            b"pack",
            b"idx",
            b"sticky",
        }
        with open_stopped(data) as volume:
            assert volume.state.members() == {}
            assert volume.log.first_stored == 4
            assert volume.state.applied.index == 9
    # A base of another history: entry 6 was written in another term.
    raft_of(6, seed.RaftEntry(type=0, term=3, index=6).SerializeToString())(source)
    with pytest.raises(ImportRefused, match=r"entry 6 .*RAFT\) has term 3, and the base"):
        take(source, tmp_path / "refused", base=base)


@pytest.mark.parametrize("to_raft", [False, True])
@pytest.mark.parametrize("from_raft", [False, True])
def test_what_was_gone_on_from_a_base_is_verified(
    tmp_path: Path, from_raft: bool, to_raft: bool
) -> None:
    """Sessions, results and time came with the base, and entries up to it can't be replayed:
    without Raft the log is whole, with it LSN 1 is missing. What came behind is checked."""
    old = make_volume(tmp_path / "old", replicated=from_raft)
    export(old, tmp_path / "out", with_base=True)
    data = tmp_path / "data"
    base = tmp_path / "out" / "base"
    take(tmp_path / "out" / "log", data, base=base, replicated=to_raft)
    assert "it was imported" in check(data, tmp_path / "scratch")[0]
    volume = open_volume(data)
    # The old group's sessions are over: what it acknowledged behind the export is not here.
    session, _ = volume.state.get_session(SessionID(2 if from_raft else 1), 1)
    assert session is not None
    assert session.expired(volume.state.clock_ms)
    first = volume.log.last.index + 1
    found = [opening(time_ms=9000), body(proposal(first, 1, [set_key(b"k\xff", b"new")]), 9000)]
    append(volume, found, volume.log.hard_state.term if to_raft else 0)
    volume.close()
    assert "it was imported" in check(data, tmp_path / "scratch")[0]
    environment = lmdb.open(str(data / "state" / "1"), max_dbs=16, lock=False)
    with environment.begin(write=True) as txn:
        row = codec.seal(b"k\xff", b"other")
        txn.put(b"k\xff", row, db=environment.open_db(b"value", txn))
    environment.close()
    with pytest.raises(AssertionError, match="xff' of the state differs"):
        check(data, tmp_path / "again")


def test_modes_of_payloads_are_the_files_in_the_tree(tmp_path: Path) -> None:
    source = tmp_path / "source"
    payloads = [b"%d" % n for n in range(40)]  # "1" to "14" in base 36
    names = [base36(n) for n in range(1, 41)]
    directory = source / entry_name(LSN(1))
    directory.mkdir(parents=True, mode=0o700)
    operations = [s_link(b"f" + name.encode(), name.encode()) for name in names]
    write(directory / "MANIFEST", seed.Manifest(operations=operations).SerializeToString())
    for name, content in zip(names, payloads, strict=True):
        write(directory / name, content)
    (directory / "2").chmod(0o4755)
    (directory / "z").chmod(0o500)
    report = take(source, tmp_path / "data")
    assert "other than permissions" in "\n".join(report.adjusted)
    with open_stopped(tmp_path / "data") as volume:
        modes = {
            path: node.mode for path, node in volume.state.list_tree_entries(b"", b"", True, 99)[0]
        }
    assert (modes[b"f1"], modes[b"f2"], modes[b"fz"], modes[b"f14"]) == (0o400, 0o755, 0o500, 0o400)
    export(tmp_path / "data", tmp_path / "out")
    (directory / "2").chmod(0o755)
    assert tree(tmp_path / "out" / "log") == tree(source)


def test_an_entry_carries_a_mebibyte_at_most(tmp_path: Path) -> None:
    """Further payloads are blobs, however small; the same content twice is stored once."""
    source = tmp_path / "source"
    payloads = [bytes([n]) * 60_000 for n in range(20)]
    links = [s_link(b"f%d" % n, base36(n).encode()) for n in range(1, 21)]
    directory = put_entry(source, 1, [s_set(b"k", b"v" * 300_000), *links])
    put_entry(source, 2, [s_link(b"again")], [LARGE])
    put_entry(source, 3, [s_link(b"once more")], [LARGE])
    for number, content in enumerate(payloads, 1):
        write(directory / base36(number), content)
    report = take(source, tmp_path / "data")
    assert (report.payloads, report.blobs) == (22, 20 - 12 + 1)
    with open_stopped(tmp_path / "data") as volume:
        assert len(volume.log.read(LSN(1), LSN(2), None)[0].data) < 1024 * 1024
    assert check(tmp_path / "data", tmp_path / "scratch") == []
    assert contents(tmp_path / "data")[1][b"f20"] == payloads[19]
    export(tmp_path / "data", tmp_path / "out")
    assert tree(tmp_path / "out" / "log") == tree(source)


def test_an_export_knows_what_is_committed(tmp_path: Path) -> None:
    """Committed entries are exported with what they did, applied or not; others are not."""
    data = tmp_path / "data"
    volume = open_volume(data)
    volume.state.start(Position(LSN(1), Term(1)), {})
    volume.log.bootstrap(CLUSTER, Configuration((volume.log.identity.member_id,)))
    bodies = [
        opening(),
        body(proposal(2, 1, [set_key(b"k", b"1"), mkdir(b"x/y")])),
        body(proposal(2, 1, [set_key(b"k", b"again")])),
        body(proposal(2, 2, [set_key(b"k", b"tail")])),
    ]
    entries = [
        LogEntry(LSN(n), Term(1), 0, found.SerializeToString()) for n, found in enumerate(bodies, 2)
    ]
    entries.append(LogEntry(LSN(6), Term(1), 1, b"change", b"context"))
    volume.log.commit(LogBatch(entries[:2], HardState(Term(1), MemberID(9), LSN(3))))
    volume.state.apply(entries[:1], {})
    volume.log.commit(LogBatch(entries[2:3], HardState(Term(1), MemberID(9), LSN(4))))
    volume.log.commit(LogBatch(entries[3:]))
    volume.close()
    before = tree(data)
    report = export(data, tmp_path / "out", with_base=True)
    assert {n: v for n, v in tree(data).items() if "lock" not in n} == {
        n: v for n, v in before.items() if "lock" not in n
    }
    assert (report.first, report.last, report.entries, report.uncommitted) == (1, 4, 4, 2)
    assert (report.base, report.left_out) == (4, 2)
    assert "entries 5 to 6 are not committed" in "\n".join(report.notes)
    assert "sessions" in "\n".join(report.notes)
    out = tree(tmp_path / "out")
    assert out["hard_state"] == (
        0o400,
        encode_hard_state(HardState(Term(1), MemberID(9), LSN(4))),
    )
    manifests = [
        seed.Manifest.FromString(content)
        for name, (_, content) in out.items()
        if name.endswith("MANIFEST")
    ]
    wanted = seed.Manifest(operations=[s_set(b"k", b"1")])
    assert manifests == [seed.Manifest(), seed.Manifest(), wanted, seed.Manifest()]
    options = {"hard_state": tmp_path / "out" / "hard_state"}
    options["conf_state"] = tmp_path / "out" / "conf_state"
    take(tmp_path / "out" / "log", tmp_path / "again", **options)
    assert contents(tmp_path / "again") == ({b"k": b"1"}, {})
    with open_stopped(tmp_path / "again") as again:
        assert again.log.hard_state == HardState(Term(1), MemberID(0), LSN(4))


def test_configuration_changes_go_out(tmp_path: Path) -> None:
    volume = open_volume(tmp_path / "data")
    volume.state.start(Position(LSN(1), Term(1)), {})
    volume.log.bootstrap(CLUSTER, Configuration((volume.log.identity.member_id,)))
    change = LogEntry(LSN(2), Term(3), 2, b"change", b"context")
    volume.log.commit(LogBatch([change], HardState(Term(3), MemberID(0), LSN(2))))
    volume.state.apply([change], {})
    volume.close()
    report = export(tmp_path / "data", tmp_path / "out")
    assert "addresses of members" in report.notes[0]
    directory = tmp_path / "out" / "log" / entry_name(LSN(2))
    assert (directory / "MANIFEST").read_bytes() == b""
    raft = seed.RaftEntry.FromString((directory / "RAFT").read_bytes())
    assert raft == seed.RaftEntry(type=2, term=3, index=2, data=b"change")
    assert take(tmp_path / "out" / "log", tmp_path / "again").highest_term == 3
    export(tmp_path / "again", tmp_path / "out-again")
    assert tree(tmp_path / "out-again" / "log") == tree(tmp_path / "out" / "log")


def test_a_damaged_blob_is_not_exported(tmp_path: Path) -> None:
    take(seed_log(tmp_path / "source"), tmp_path / "data")
    blob = next(path for path in (tmp_path / "data" / "blobs").rglob("*") if path.is_file())
    blob.write_bytes(LARGE[:-1] + b"!")
    with pytest.raises(Damaged, match=blob.name):
        export(tmp_path / "data", tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"source", "data"}


def test_a_log_that_begins_later_says_what_an_import_needs(tmp_path: Path) -> None:
    take(seed_log(tmp_path / "source"), tmp_path / "data")
    volume = open_volume(tmp_path / "data")
    volume.log.append(LSN(10), [b""])
    volume.log.compact(LSN(9))
    assert volume.log.prune(100)[0] == 9
    volume.close()
    report = export(tmp_path / "data", tmp_path / "out")
    assert (report.first, report.last, report.entries) == (10, 10, 1)
    assert "begins at LSN 10" in report.notes[0]
    shutil.rmtree(tmp_path / "out")
    assert export(tmp_path / "data", tmp_path / "out", with_base=True).base == 10
    take(tmp_path / "out" / "log", tmp_path / "again", base=tmp_path / "out" / "base")
    assert contents(tmp_path / "again") == contents(tmp_path / "data")


OPERATIONS = st.one_of(
    st.builds(s_set, st.binary(min_size=1, max_size=4), st.binary(max_size=8)),
    st.builds(s_mkdir, st.sampled_from([b"a", b"a/b", b"\xff\xfe"])),
    st.builds(s_copy, st.sampled_from([b"a", b"f"]), st.sampled_from([b"g", b"a/h"])),
    st.builds(s_remove, st.sampled_from([b"a", b"f", b"g"])),
)
ENTRIES = st.lists(
    st.tuples(
        st.lists(OPERATIONS, max_size=4),
        st.lists(st.sampled_from([b"", b"one", b"x" * 66_000]), max_size=3),
        st.integers(0, 2),
        st.binary(max_size=4).map(lambda data: b"\x5a" + bytes([len(data)]) + data) | st.just(b""),
    ),
    min_size=1,
    max_size=6,
)


@settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "25")),
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(entries=ENTRIES)
def test_any_log_comes_out_as_it_went_in(
    tmp_path_factory: pytest.TempPathFactory,
    entries: list[tuple[list[seed.Operation], list[bytes], int, bytes]],
) -> None:
    root = tmp_path_factory.mktemp("round")
    source, term = root / "source", 1
    for lsn, (operations, payloads, more, extra) in enumerate(entries, 1):
        links = [s_link(b"f%d" % n, b"%d" % n) for n in range(1, len(payloads) + 1)]
        term += more == 2
        put_entry(source, lsn, operations + links, payloads, term=term * bool(more), extra=extra)
    take(source, root / "data")
    export(root / "data", root / "out")
    assert tree(root / "out" / "log") == tree(source)


def test_an_export_takes_a_new_directory(tmp_path: Path) -> None:
    take(seed_log(tmp_path / "source"), tmp_path / "data")
    (tmp_path / "out").mkdir()
    write(tmp_path / "out" / "mine", b"")
    with pytest.raises(InvalidArgument, match="is not an empty directory"):
        export(tmp_path / "data", tmp_path / "out")
    assert set(tree(tmp_path / "out")) == {"mine"}


# --- crashes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("failpoint", WHILE_IMPORTING)
@pytest.mark.parametrize("fresh", [True, False])
def test_an_import_that_is_cut_off_is_none_or_whole(
    tmp_path: Path, failpoint: str, fresh: bool
) -> None:
    source, data = seed_log(tmp_path / "source"), tmp_path / "data"
    if not fresh:  # a volume that a replica opened once, and that belongs to nobody
        open_volume(data).close()
    cut_off(failpoint, source, data, "--replication", "Raft")
    kept = tmp_path / "kept"
    shutil.copytree(data, kept)
    if failpoint == "import.log_moved":
        assert contents(data)[0] == {b"k\xff": b"w"}
        assert check(data, tmp_path / "scratch") == []
        return
    # Opened, it is a new volume, and what was left is collected.
    volume = open_volume(data)
    assert volume.log.identity.cluster_id == ""
    assert volume.log.last.index == volume.state.applied.index == 0
    assert list(volume.blobs.digests()) == []
    volume.close()
    for again in (data, kept):
        take(source, again, replicated=True)
        assert contents(again)[0] == {b"k\xff": b"w"}
        assert check(again, tmp_path / "scratch") == []


def test_a_volume_keeps_its_member(tmp_path: Path) -> None:
    volume = open_volume(tmp_path / "data")
    member = volume.log.identity.member_id
    volume.close()
    take(seed_log(tmp_path / "source"), tmp_path / "data")
    with open_stopped(tmp_path / "data") as stopped:
        assert stopped.log.identity.member_id == member
