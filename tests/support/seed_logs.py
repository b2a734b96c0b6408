"""Logs of directories as the seed writes them, damaged ones too; imports and exports in a few
words."""

import gzip
import os
import random
import shutil
import stat
import subprocess
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from partition_proto.v1 import seed_pb2 as seed
from partition_replica.core.model import VerifyReport
from partition_replica.ids import LSN, ClusterID
from partition_replica.offline.seed.layout import entry_name
from partition_replica.offline.seed.log_export import ExportReport, export_log
from partition_replica.offline.seed.log_import import ImportReport, import_log
from partition_replica.offline.stopped import open_stopped
from partition_replica.storage.failpoints import ENVIRONMENT, EXIT_CODE
from partition_replica.storage.files import VolumeLock
from partition_replica.storage.verification import Verification
from partition_replica.storage.volume import Volume

CLUSTER = ClusterID(str(uuid.UUID(int=7)))
WHILE_IMPORTING = (
    "import.staged",
    "import.blobs_moved",
    "import.state_moved",
    "import.log_moved",
)
WHILE_WRITING_A_BASE = ("import.base_written",)
"""Failpoints of an import: of each, and of one with a snapshot or a tree as its base."""

LARGE = random.Random(5).randbytes(100_000)
"""What seed_log's only blob holds."""


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


def take(source: Path, data: Path, *, replicated: bool = False, **options: Any) -> ImportReport:
    return import_log(source, data, cluster=CLUSTER, replicated=replicated, **options)


def export(
    data: Path, target: Path, *, with_base: bool = False, snapshot_of: int | None = None
) -> ExportReport:
    with open_stopped(data) as volume:
        return export_log(
            volume.log,
            volume.state,
            volume.root / "blobs",
            target,
            with_base=with_base,
            snapshot_of=snapshot_of,
        )


def verify(data: Path, scratch: Path) -> VerifyReport:
    """Verifies a stopped volume."""
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
    return report


def check(data: Path, scratch: Path) -> list[str]:
    """Verifies a volume; what could not be checked."""
    report = verify(data, scratch)
    assert report.findings == [], report.findings
    return report.unchecked


def cut_off(failpoint: str, log: Path, data: Path, *options: str) -> None:
    """`log import` in a process that ends at `failpoint`."""
    command = [sys.executable, "-m", "partition_replica", "log", "import", str(log)]
    done = subprocess.run(
        [*command, "--data", str(data), *options],
        env={**os.environ, ENVIRONMENT: failpoint},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == EXIT_CODE, done.stderr


def contents(data: Path) -> tuple[dict[bytes, bytes], dict[bytes, bytes | None]]:
    """(keys, paths with their bytes; None for a directory)."""
    with open_stopped(data) as volume:
        state = volume.state
        keys = dict(state.list_values(b"", b"", 10**6, 10**9)[0])
        paths: dict[bytes, bytes | None] = {}
        for path, node in state.list_tree_entries(b"", b"", True, 10**6)[0]:
            if node.directory:
                paths[path] = None
            else:
                carried = state.content(node.digest)
                held = (
                    carried if carried is not None else volume.blob_path(node.digest).read_bytes()
                )
                paths[path] = held
        return keys, paths


def open_volume(data: Path) -> Volume:
    data.mkdir(exist_ok=True)
    lock = VolumeLock(data)
    assert lock.try_acquire()
    return Volume(data, lock, pins_max=10)


# --- damage


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


# --- a base, as the seed writes it: made here byte by byte, by nothing that is under test


@dataclass(frozen=True)
class Member:
    """A member of a tar. kind: "0" a file, "5" a directory, "1" and "2" links, "3" and "4" devices,
    "6" a pipe; size: what its header says, its content's where None."""

    name: bytes
    content: bytes = b""
    kind: bytes = b"0"
    mode: int = 0o644
    link: bytes = b""
    size: int | None = None


def varint(number: int) -> bytes:
    found = b""
    while number > 127:
        found += bytes([number % 128 + 128])
        number //= 128
    return found + bytes([number])


def kv_pair(key: bytes, value: bytes) -> bytes:
    """Length, then {bytes key = 1; bytes value = 2}; proto3 leaves an empty value out."""
    message = b"\x0a" + varint(len(key)) + key
    if value:
        message += b"\x12" + varint(len(value)) + value
    return varint(len(message)) + message


def tar_header(member: Member) -> bytes:
    """Of ustar, 512 bytes."""
    size = len(member.content) if member.size is None else member.size
    name = member.name[:100]
    fields = [
        name.ljust(100, b"\0"),
        b"%07o\0" % member.mode,
        b"0001750\0",
        b"0001750\0",
        b"%011o\0" % size,
        b"00000000000\0",
        b" " * 8,
        member.kind,
        member.link.ljust(100, b"\0"),
        b"ustar\x0000",
        bytes(247),
    ]
    header = b"".join(fields)
    assert len(header) == 512
    return header[:148] + b"%06o\0 " % sum(header) + header[156:]


def tar_member(member: Member) -> bytes:
    """A name that does not fit stands in a record of its own in front, as POSIX says."""
    found = b""
    if len(member.name) > 100:
        text = b" path=" + member.name + b"\n"
        length = len(text)
        while len(b"%d" % length) + len(text) != length:
            length = len(b"%d" % length) + len(text)
        found += tar_member(Member(b"PaxHeaders/x", b"%d" % length + text, b"x"))
    padding = bytes(-len(member.content) % 512)
    return found + tar_header(member) + member.content + padding


def tar(*members: Member) -> bytes:
    return b"".join(map(tar_member, members)) + bytes(1024)


def kv_state(*pairs: tuple[bytes, bytes]) -> Member:
    return Member(b"kv-state", b"".join(kv_pair(*pair) for pair in pairs), mode=0o600)


def snap_name(index: int, term: int = 0, partition: int = 2) -> str:
    return f"{partition:016d}-{term:016d}-{index:016d}.snap"


def put_snap(
    folder: Path, index: int, members: list[Member], *, term: int = 0, packed: bool = False
) -> Path:
    """A snapshot as of entry `index`."""
    path = folder / snap_name(index, term)
    content = tar(*members)
    path.write_bytes(gzip.compress(content) if packed else content)
    return path


def base_members() -> list[Member]:
    """What seed_log has done at entry 5, with directories of several modes."""
    return [
        kv_state((b"k\xff", b"v"), (b"empty", b"")),
        Member(b"fs", kind=b"5", mode=0o755),
        Member(b"fs/idx", b"", mode=0o400),
        Member(b"fs/pack", LARGE, mode=0o440),
        Member(b"fs/refs", kind=b"5", mode=0o750),
        Member(b"fs/refs/heads/", kind=b"5", mode=0o700),
        Member(b"fs/refs/heads/main", b"sha", mode=0o600),
        Member(b"fs/refs/heads/\xff" + b"long" * 40, b"\0", mode=0o755),
    ]


def put_tree(folder: Path, members: list[Member]) -> tuple[Path, Path]:
    """The same as a directory and a file with keys."""
    tree, keys = folder / "tree", folder / "keys"
    tree.mkdir(mode=0o755)
    keys.write_bytes(members[0].content)
    for member in members[2:]:
        path = Path(os.fsdecode(os.fsencode(tree) + b"/" + member.name[3:]))
        if member.kind == b"5":
            path.mkdir()
        else:
            path.write_bytes(member.content)
        path.chmod(member.mode)
    return tree, keys


def pruned_log(log: Path, first: int) -> Path:
    """seed_log without the entries below `first`."""
    seed_log(log)
    for lsn in range(1, first):
        shutil.rmtree(log / entry_name(LSN(lsn)))
    return log
