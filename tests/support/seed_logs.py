"""Logs of directories as the seed writes them, damaged ones too; imports and exports in a few
words."""

import os
import random
import shutil
import stat
import uuid
from collections.abc import Callable
from pathlib import Path

from partition_proto.v1 import seed_pb2 as seed
from partition_replica.core.seed_layout import entry_name
from partition_replica.ids import LSN, ClusterID
from partition_replica.offline.log_export import ExportReport, export_log
from partition_replica.offline.log_import import ImportReport, import_log
from partition_replica.offline.stopped import open_stopped
from partition_replica.storage.files import VolumeLock
from partition_replica.storage.verification import Verification
from partition_replica.storage.volume import Volume

CLUSTER = ClusterID(str(uuid.UUID(int=7)))
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


def take(source: Path, data: Path, *, replicated: bool = False, **options: Path) -> ImportReport:
    return import_log(source, data, cluster=CLUSTER, replicated=replicated, **options)


def export(data: Path, target: Path, *, with_base: bool = False) -> ExportReport:
    with open_stopped(data) as volume:
        blobs = volume.root / "blobs"
        return export_log(volume.log, volume.state, blobs, target, with_base=with_base)


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
    assert report.findings == [], report.findings
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
