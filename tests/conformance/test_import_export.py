"""The seed's log of directories, in and out: what goes in comes out byte for byte, what is damaged
is refused by name and leaves nothing behind, and an import that is cut off is none, or whole."""

import os
import random
import shutil
import stat
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from partition_proto.v1 import seed_pb2 as seed
from partition_proto.v1 import types_pb2 as types
from partition_replica.core.model import Configuration, HardState, LogBatch, LogEntry, Position
from partition_replica.core.seed_layout import encode_conf_state, encode_hard_state, entry_name
from partition_replica.errors import ImportRefused, InvalidArgument
from partition_replica.ids import LSN, ClusterID, MemberID, Term
from partition_replica.offline.log_export import export_log
from partition_replica.offline.log_import import ImportReport, import_log
from partition_replica.offline.stopped import open_stopped
from partition_replica.storage.failpoints import ENVIRONMENT, EXIT_CODE
from partition_replica.storage.files import VolumeLock
from partition_replica.storage.verification import Verification
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

WHILE_IMPORTING = (
    "import.staged",
    "import.blobs_moved",
    "import.state_moved",
    "import.log_moved",
)
CLUSTER = ClusterID(str(uuid.UUID(int=7)))
LARGE = random.Random(5).randbytes(100_000)


# --- logs of the seed -------------------------------------------------------------------------


def write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    path.chmod(0o400)


def put_entry(
    log: Path,
    lsn: int,
    operations: list[seed.Operation],
    payloads: list[bytes] | None = None,
    *,
    term: int = 0,
    kind: int = 0,
    extra: bytes = b"",
) -> Path:
    """An entry's directory; `extra` goes behind the MANIFEST's own bytes. Term 0: no RAFT."""
    directory = log / entry_name(LSN(lsn))
    directory.mkdir(mode=0o700, parents=True)
    manifest = seed.Manifest(operations=operations).SerializeToString() + extra
    write(directory / "MANIFEST", manifest)
    for number, content in enumerate(payloads or [], 1):
        write(directory / str(number), content)
    if term:
        data = seed.RaftData(id=lsn, data=seed.LogData(local_path=b"/old/place"))
        raft = seed.RaftEntry(type=kind, term=term, index=lsn, data=data.SerializeToString())
        write(directory / "RAFT", raft.SerializeToString())
    return directory


def s_set(key: bytes, value: bytes) -> seed.Operation:
    return seed.Operation(set_key=seed.SetKey(key=key, value=value))


def s_mkdir(path: bytes, mode: int = 0x80000000 | 0o755) -> seed.Operation:
    return seed.Operation(create_directory=seed.CreateDirectory(path=path, mode=mode))


def s_link(path: bytes, source: bytes = b"1") -> seed.Operation:
    create = seed.CreateHardLink(source_path=source, destination_path=path)
    return seed.Operation(create_hard_link=create)


def s_copy(source: bytes, path: bytes) -> seed.Operation:
    create = seed.CreateHardLink(source_path=source, source_in_storage=True, destination_path=path)
    return seed.Operation(create_hard_link=create)


def s_remove(path: bytes) -> seed.Operation:
    return seed.Operation(remove_directory_entry=seed.RemoveDirectoryEntry(path=path))


def seed_log(log: Path, *, raft: bool = True) -> Path:
    """Nine entries: keys, a tree, files of both sizes, a configuration change; Raft off at the
    end."""
    term = 1 if raft else 0
    put_entry(log, 1, [], term=term)
    put_entry(log, 2, [], term=term, kind=1 if raft else 0)
    put_entry(log, 3, [s_mkdir(b"refs"), s_mkdir(b"refs/heads")], term=term)
    put_entry(log, 4, [s_link(b"refs/heads/main"), s_set(b"k\xff", b"v")], [b"sha"], term=term * 2)
    put_entry(log, 5, [s_link(b"pack", b"2"), s_link(b"idx")], [b"", LARGE], term=term * 2)
    put_entry(log, 6, [s_copy(b"pack", b"refs/copy"), s_remove(b"idx")], term=term * 2)
    put_entry(log, 7, [s_mkdir(b"refs")], extra=b"\x5a\x03abc")  # exists; an unknown field 11
    put_entry(log, 8, [s_set(b"k\xff", b"w"), s_mkdir(b"sticky", 0x80100000 | 0o700)])
    put_entry(log, 9, [])
    return log


def tree(root: Path) -> dict[str, tuple[int, bytes]]:
    """Every name with its permissions, and a file's bytes."""
    return {
        str(path.relative_to(root)): (
            stat.S_IMODE(path.stat().st_mode),
            path.read_bytes() if path.is_file() else b"",
        )
        for path in sorted(root.rglob("*"))
    }


def take(source: Path, data: Path, *, replicated: bool = False, **options: Path) -> ImportReport:
    return import_log(source, data, cluster=CLUSTER, replicated=replicated, **options)


def export(data: Path, target: Path, *, with_base: bool = False) -> None:
    with open_stopped(data) as volume:
        export_log(volume.log, volume.state, volume.root / "blobs", target, with_base=with_base)


def check(data: Path, scratch: Path) -> list[str]:
    """Verifies a volume; what could not be checked."""
    with open_stopped(data) as volume:
        report = Verification(
            volume.log,
            volume.state,
            volume.blob_path,
            volume.blobs,
            scratch,
            live=False,
            progress=lambda *_: None,
        ).run()
    shutil.rmtree(scratch, ignore_errors=True)
    assert report.findings == []
    return report.unchecked


def contents(data: Path) -> tuple[dict[bytes, bytes], dict[bytes, bytes | None]]:
    """(keys, paths with their bytes; None for a directory)."""
    with open_stopped(data) as volume:
        state = volume.state
        keys = dict(state.list_values(b"", b"", 10**6, 10**9)[0])
        paths: dict[bytes, bytes | None] = {}
        for path, node in state.list_nodes(b"", b"", True, 10**6)[0]:
            if node.directory:
                paths[path] = None
            else:
                carried = state.content(node.digest)
                held = (
                    carried if carried is not None else volume.blob_path(node.digest).read_bytes()
                )
                paths[path] = held
        return keys, paths


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
        assert volume.log.identity.unreplicated
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
    for wanted in ("term", "committed", "not taken over"):
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
    assert "the log begins at 5" in check(tmp_path / "again", tmp_path / "scratch")[0]
    blob = next(path for path in (base / "blobs").rglob("*") if path.is_file())
    blob.chmod(0o600)
    blob.write_bytes(LARGE[:-1] + b"!")
    with pytest.raises(ImportRefused, match=f"{blob.name} is not what its name says"):
        take(later, tmp_path / "refused", base=base)
    assert not (tmp_path / "refused").exists()
    with pytest.raises(ImportRefused, match="allowed are"):
        shutil.rmtree(later / entry_name(LSN(9)))
        take(later, tmp_path / "refused", base=base)


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


# --- damage -----------------------------------------------------------------------------------

Change = Callable[[Path], None]


def at(lsn: int, name: str = "") -> Callable[[Path], Path]:
    return lambda log: log / entry_name(LSN(lsn)) / name if name else log / entry_name(LSN(lsn))


def cut(where: Callable[[Path], Path], size: int) -> Change:
    def change(log: Path) -> None:
        path = where(log)
        path.chmod(0o600)
        os.truncate(path, size)

    return change


def drop(where: Callable[[Path], Path]) -> Change:
    def change(log: Path) -> None:
        path = where(log)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()

    return change


def replaced(lsn: int, operations: list[seed.Operation], payloads: list[bytes]) -> Change:
    def change(log: Path) -> None:
        shutil.rmtree(log / entry_name(LSN(lsn)))
        put_entry(log, lsn, operations, payloads)

    return change


def raft_of(lsn: int, content: bytes) -> Change:
    def change(log: Path) -> None:
        path = log / entry_name(LSN(lsn)) / "RAFT"
        path.unlink(missing_ok=True)
        write(path, content)

    return change


def symlink(where: Callable[[Path], Path], target: str) -> Change:
    def change(log: Path) -> None:
        drop(where)(log)
        where(log).symlink_to(target)

    return change


def raft_entry(index: int, term: int) -> bytes:
    return seed.RaftEntry(type=0, term=term, index=index).SerializeToString()


DAMAGE: list[tuple[str, Change, str]] = [
    ("a hole", drop(at(5)), r"entry 5 .* is missing"),
    ("no MANIFEST", drop(at(4, "MANIFEST")), r"entry 4 .*MANIFEST\) is missing"),
    ("a MANIFEST cut inside", cut(at(4, "MANIFEST"), 5), r"entry 4 .*MANIFEST\) does not decode"),
    ("a MANIFEST cut to nothing", cut(at(4, "MANIFEST"), 0), r"entry 4 .*/1\) is linked by no"),
    ("a payload gone", drop(at(4, "1")), r"entry 4 .*/1\) is missing"),
    ("a payload gone in front", drop(at(5, "1")), r"entry 5 .*/1\) is missing"),
    ("RAFT of nothing", cut(at(3, "RAFT"), 0), r"entry 3 .*RAFT\) has 0 bytes"),
    ("RAFT cut", cut(at(3, "RAFT"), 3), r"entry 3 .*RAFT\)"),
    ("another's RAFT", raft_of(3, raft_entry(4, 1)), r"entry 3 .*has index 4"),
    (
        "a falling term",
        raft_of(8, raft_entry(8, 1)),
        r"entry 8 .*has term 1, .*2; terms never fall",
    ),
    ("term 0", raft_of(3, raft_entry(3, 0)), r"entry 3 .*term 0"),
    ("a link out", symlink(at(4, "1"), "/etc/passwd"), r"entry 4 .*symbolic link"),
    ("an entry as link", symlink(at(5), "../other"), r"entry 5 .*symbolic link"),
    ("a path out", replaced(9, [s_set(b"k", b"v"), s_mkdir(b"../up")], []), r"entry 9.*\.\."),
    ("an absolute path", replaced(9, [s_link(b"/etc/f")], [b"x"]), r"entry 9.*absolute"),
    ("a source out", replaced(9, [s_copy(b"a/../../b", b"c")], []), r"entry 9.*\.\."),
    ("a payload by path", replaced(9, [s_link(b"f", b"../1")], [b"x"]), r"entry 9.*'\.\./1'"),
    ("a key too long", replaced(9, [s_set(b"k" * 481, b"v")], []), r"entry 9.*481 bytes"),
    ("nothing known", replaced(9, [seed.Operation()], []), r"entry 9.*unknown"),
    ("a stranger's file", lambda log: write(log / "notes", b""), r"'notes'"),
    ("a stranger inside", lambda log: write(at(4, "x.tmp")(log), b""), r"entry 4 .*'x.tmp'"),
    ("a pipe", lambda log: os.mkfifo(at(4, "2")(log)), r"entry 4 .*pipe"),
]


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
    assert tree(existing) == {"lost+found": (0o755, b"")}


def test_damaged_states_beside_the_log_are_refused(tmp_path: Path) -> None:
    source = seed_log(tmp_path / "source")
    write(tmp_path / "bad", b"\xff\xff\xff")
    write(tmp_path / "far", encode_hard_state(HardState(Term(1), MemberID(0), LSN(10))))
    for options, says in (
        ({"hard_state": tmp_path / "bad"}, "HardState"),
        ({"hard_state": tmp_path / "far"}, "10 is committed"),
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


def test_an_export_takes_a_new_directory(tmp_path: Path) -> None:
    take(seed_log(tmp_path / "source"), tmp_path / "data")
    (tmp_path / "out").mkdir()
    write(tmp_path / "out" / "mine", b"")
    with pytest.raises(InvalidArgument, match="holds something"):
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
    command = [sys.executable, "-m", "partition_replica", "log", "import", str(source)]
    done = subprocess.run(
        [*command, "--data", str(data), "--replication", "Raft"],
        env={**os.environ, ENVIRONMENT: failpoint},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == EXIT_CODE, done.stderr
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


def open_volume(data: Path) -> Volume:
    data.mkdir(exist_ok=True)
    lock = VolumeLock(data)
    assert lock.try_acquire()
    return Volume(data, lock, pins_max=10)
