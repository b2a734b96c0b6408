"""Exports a stopped replica's log as the seed's log of directories.

target/log/<LSN>/MANIFEST, RAFT, 1, 2, …; target/hard_state and target/conf_state in raftpb form, if
the log is or was replicated; the state, on request: target/base/state and target/base/blobs, or a
snapshot of the seed, target/base/<partition>-<term>-<index>.snap (`base_snapshot`).
The export is staged beside the target and renamed once all of it is durable.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from partition_proto.v1 import types_pb2 as types

from partition_replica.core.model import LogEntry, TreeEntry
from partition_replica.core.payloads import decode_body, is_blob
from partition_replica.core.ports import FIRST
from partition_replica.errors import Damaged, InvalidArgument
from partition_replica.ids import LSN, Digest
from partition_replica.offline.seed import layout, state_files
from partition_replica.offline.seed.base_format import snapshot_name
from partition_replica.offline.seed.base_snapshot import write_snapshot
from partition_replica.offline.seed.layout import (
    DIRECTORY_MODE,
    FILE_MODE,
    MANIFEST,
    RAFT,
    EntryFiles,
    base36,
    entry_name,
)
from partition_replica.storage.blobs import blob_path
from partition_replica.storage.files import (
    create_file,
    disk,
    fatal_on_failure,
    make_directory,
    move_file,
    sync_directory,
    sync_file,
    write_file,
)
from partition_replica.storage.log import LmdbLog
from partition_replica.storage.state import LmdbState

PAGE_BYTES = 4 * 1024**2
CHUNK_BYTES = 1024 * 1024
APPLY_ENTRIES = 1024
SYNC_FILES = 2048
"""The maximum number of files and directories that wait for their fsync."""

SYNC_THREADS = 16
"""Concurrent fsyncs share the file system's commits."""

Progress = Callable[[int, int], None]
"""(entries done, total entries)."""


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was exported. first, last: LSNs; entries, with_raft, payloads: counts of entries, of
    entries with a RAFT file and of payloads; left_out: the number of operations without effect,
    which are not exported; uncommitted: the number of entries after the last committed one, which
    are not exported; base: the LSN of the exported state, 0 for none; notes: data that this layout
    cannot store, and what an import needs."""

    first: int
    last: int
    entries: int
    with_raft: int
    payloads: int
    payload_bytes: int
    left_out: int
    uncommitted: int
    base: int
    notes: list[str]


def export_log(
    log: LmdbLog,
    state: LmdbState,
    blobs: Path,
    target: Path,
    *,
    with_base: bool,
    snapshot_of: int | None = None,
    progress: Progress = lambda _done, _total: None,
) -> ExportReport:
    """Writes the stored, committed entries of a log to the new or empty directory `target`,
    durably.

    log, state: opened read-only; blobs: the volume's directory of blobs. Committed entries that are
    not applied yet are applied to a copy of the state, because operations without effect are not
    exported. with_base: also writes the state as of the last entry; snapshot_of: writes it as the
    seed's snapshot of the partition with this number. Raises InvalidArgument if the target is not
    empty, Damaged, StorageFailed; then the target does not exist.
    """
    if snapshot_of is not None and not with_base:
        raise InvalidArgument("--base-form needs a base: add --with-base")
    if snapshot_of is not None and not 0 <= snapshot_of < 10**16:
        raise InvalidArgument(
            f"--partition {snapshot_of} is not allowed; give a number of at most 16 decimal digits"
        )
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InvalidArgument(f"{target} is not an empty directory: give a new or empty directory")
    if not target.parent.is_dir():
        raise InvalidArgument(f"{target.parent} is not a directory: create it first")
    applied = state.applied.index
    if not log.boundary.index <= applied <= log.last.index:
        raise Damaged(
            f"the state is at LSN {applied}, outside of the log's range {log.boundary.index} to "
            f"{log.last.index}: state and log are of different replicas, or one of them is "
            "damaged; keep the volume"
        )
    partial = target.with_name(f".{target.name}.partial")
    _remove(partial)
    try:
        make_directory(partial)
        caught_up = _catch_up(log, state, partial / "caught-up")
        try:
            export = _Export(log, caught_up, blobs, partial)
            report = export.run(with_base, snapshot_of, progress)
        finally:
            if caught_up is not state:
                caught_up.close()
        _remove(partial / "caught-up")
        sync_directory(partial)
        move_file(partial, target, "an export")
        sync_directory(target.parent)
    except BaseException:
        _remove(partial)
        raise
    return report


def _remove(path: Path) -> None:
    if path.exists():
        with fatal_on_failure(f"removing {path.name}"):
            disk.remove_tree(path)


def _catch_up(log: LmdbLog, state: LmdbState, scratch: Path) -> LmdbState:
    """The state at the last committed entry: `state`, or a copy with the other entries applied."""
    if state.applied.index >= log.committed:
        return state
    state.copy(scratch)
    copy = LmdbState(scratch)
    try:
        for page in _pages(log, LSN(copy.applied.index + 1), log.committed):
            for start in range(0, len(page), APPLY_ENTRIES):
                copy.apply(page[start : start + APPLY_ENTRIES], {})
    except BaseException:
        copy.close()
        raise
    return copy


def _pages(log: LmdbLog, lo: LSN, last: LSN) -> Iterator[list[LogEntry]]:
    while lo <= last:
        page = log.read(lo, LSN(last + 1), PAGE_BYTES)
        yield page
        lo = LSN(page[-1].index + 1)


class _Syncs:
    """Collects written files and directories, and makes many of them durable at a time."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(SYNC_THREADS, "sync")
        self._files: list[Path] = []
        self._directories: list[Path] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def file(self, path: Path) -> None:
        self._files.append(path)

    def directory(self, path: Path) -> None:
        """Adds a directory, whose files must have been added before."""
        self._directories.append(path)
        if len(self._files) + len(self._directories) >= SYNC_FILES:
            self.flush()

    def flush(self) -> None:
        """Raises StorageFailed."""
        list(self._pool.map(_sync, self._files))
        list(self._pool.map(sync_directory, self._directories))
        self._files.clear()
        self._directories.clear()


def _sync(path: Path) -> None:
    with fatal_on_failure(f"opening {path.name}"):
        descriptor = os.open(path, os.O_RDONLY)
    try:
        sync_file(descriptor, path.name)
    finally:
        os.close(descriptor)


class _Export:
    """One export into an empty directory. `state` is at the last entry to export."""

    def __init__(self, log: LmdbLog, state: LmdbState, blobs: Path, root: Path) -> None:
        self._log = log
        self._state = state
        self._blobs = blobs
        self._root = root
        self._reduced: set[str] = set()
        self._syncs = _Syncs()
        last = state.applied.index
        self._report = ExportReport(
            int(log.first_stored), int(last), 0, 0, 0, 0, 0, int(log.last.index - last), 0, []
        )

    def run(self, with_base: bool, snapshot_of: int | None, progress: Progress) -> ExportReport:
        first, last = self._log.first_stored, self._state.applied.index
        entries = self._root / "log"
        with self._syncs:
            make_directory(entries)
            bootstrapped = first == FIRST.index + 1 and self._log.boundary == FIRST
            if bootstrapped and not self._log.base:
                # A group that was replicated from its start never had an entry at LSN 1. With one,
                # the log is complete and needs no base for an import.
                self._write(entries, LSN(1), EntryFiles(layout.make_empty_raft(FIRST)))
                self._report = replace(self._report, first=1)
            total = max(0, last - first + 1)
            done = 0
            for page in _pages(self._log, first, last):
                for entry in page:
                    self._write(entries, entry.index, self._files(entry))
                    done += 1
                    progress(done, total)
            self._syncs.directory(entries)
            self._write_raft_state(last)
            if snapshot_of is not None:
                self._write_snapshot(snapshot_of)
            elif with_base:
                self._write_base()
            self._syncs.flush()
        return replace(
            self._report, base=int(last) if with_base else 0, notes=self._notes(with_base)
        )

    def _files(self, entry: LogEntry) -> EntryFiles:
        if entry.kind:
            raft = layout.encode_raft(entry.index, entry.term, entry.kind, entry.data)
            reduced = frozenset({"addresses of members"} if entry.context else ())
            return EntryFiles(raft, reduced=reduced)
        body = decode_body(entry) if entry.data else types.EntryBody()
        note = self._state.unapplied(entry.index)
        return layout.export_normal(
            entry.index,
            entry.term,
            body,
            whole=note is not None and note.whole,
            outcomes=note.outcomes if note is not None else b"",
        )

    def _write(self, entries: Path, lsn: LSN, files: EntryFiles) -> None:
        directory = entries / entry_name(lsn)
        with fatal_on_failure(f"creating {directory.name}"):
            directory.mkdir(mode=DIRECTORY_MODE)
        self._write_file(directory / MANIFEST, [files.manifest])
        if files.raft is not None:
            self._write_file(directory / RAFT, [files.raft])
        for number, payload in enumerate(files.payloads, 1):
            # The file's mode becomes its mode in the tree, as in the seed.
            self._write_file(directory / base36(number), self._content(payload), payload.mode)
        self._syncs.directory(directory)
        self._reduced |= files.reduced
        report = self._report
        self._report = replace(
            report,
            entries=report.entries + 1,
            with_raft=report.with_raft + (files.raft is not None),
            payloads=report.payloads + len(files.payloads),
            payload_bytes=report.payload_bytes + sum(p.size for p in files.payloads),
            left_out=report.left_out + files.dropped,
        )

    def _write_file(self, path: Path, chunks: Iterable[bytes], mode: int = FILE_MODE) -> None:
        with create_file(path) as file:
            for chunk in chunks:
                write_file(file, chunk, path.name)
            with fatal_on_failure(f"the permissions of {path.name}"):
                os.fchmod(file.fileno(), mode)
            if not mode & 0o400:  # it cannot be opened again
                sync_file(file.fileno(), path.name)
                return
        self._syncs.file(path)

    def _content(self, payload: types.Payload) -> Iterator[bytes]:
        if is_blob(payload):
            return _read_blob(self._blobs, Digest(payload.digest), payload.size)
        return iter([payload.data])

    def _write_raft_state(self, last: LSN) -> None:
        state = self._log.hard_state
        if not state.term:
            return
        content = state_files.encode_hard_state(replace(state, commit=last))
        self._write_file(self._root / "hard_state", [content])
        _, configuration = self._log.configuration
        if configuration.voters:
            content = state_files.encode_conf_state(configuration)
            self._write_file(self._root / "conf_state", [content])

    def _write_base(self) -> None:
        """Writes a copy of the state, and the blobs that it names."""
        base, root = self._root / "base", self._root / "base" / "blobs"
        make_directory(base)
        self._state.copy(base / "state")
        make_directory(root)
        for digest, size in self._state.blobs():
            path = blob_path(root, digest)
            with fatal_on_failure(f"creating {path.parent.name}"):
                path.parent.mkdir(mode=DIRECTORY_MODE, exist_ok=True)
            self._write_file(path, _read_blob(self._blobs, digest, size))
            self._syncs.directory(path.parent)
        self._syncs.directory(root)

    def _write_snapshot(self, partition: int) -> None:
        base = self._root / "base"
        make_directory(base)
        name = snapshot_name(partition, self._state.applied)
        self._write_file(base / name, write_snapshot(self._state, self._node_content))
        self._syncs.directory(base)

    def _node_content(self, node: TreeEntry) -> Iterator[bytes]:
        inlined = self._state.content(node.digest)
        if inlined is not None:
            return iter([inlined])
        return _read_blob(self._blobs, node.digest, node.size)

    def _notes(self, with_base: bool) -> list[str]:
        report = self._report
        notes: list[str] = []
        if self._reduced:
            left_out = ", ".join(sorted(self._reduced))
            notes.append(f"this layout cannot store {left_out}: left out")
        if report.uncommitted:
            notes.append(
                f"entries {report.last + 1} to {report.last + report.uncommitted} are not "
                "committed, so they are not exported"
            )
        if report.first > 1 and not with_base:
            notes.append(
                f"the log begins at LSN {report.first}: an import also needs the state that it "
                "continues from; export again with the base (--with-base)"
            )
        if not report.entries:
            notes.append("the log is empty: no entry is exported")
        return notes


def _read_blob(root: Path, digest: Digest, size: int) -> Iterator[bytes]:
    """A blob's content, in chunks. Raises Damaged if its digest is wrong."""
    hashed = hashlib.sha256()
    try:
        with blob_path(root, digest).open("rb", buffering=0) as file:
            while chunk := file.read(CHUNK_BYTES):
                hashed.update(chunk)
                yield chunk
    except OSError as error:
        raise Damaged(f"blob {digest.hex()} cannot be read ({error}): run `verify`") from error
    if hashed.digest() != digest:
        raise Damaged(
            f"blob {digest.hex()} of {size} bytes has SHA-256 {hashed.hexdigest()}: it is damaged; "
            "run `verify`"
        )
