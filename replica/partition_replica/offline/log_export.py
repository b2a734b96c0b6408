"""A stopped replica's log, written as the seed writes it: one directory an entry.

`target/log/<LSN>/MANIFEST, RAFT, 1, 2, …`, beside it `hard_state` and `conf_state` in raftpb form
where the log has them, and `base/`, the state with its blobs, where asked for. It is staged beside
the target and renamed when everything of it is durable.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from partition_proto.v1 import types_pb2 as types

from partition_replica.core import seed_layout
from partition_replica.core.model import LogEntry
from partition_replica.core.payloads import decode_body, is_blob
from partition_replica.core.seed_layout import (
    DIRECTORY_MODE,
    FILE_MODE,
    MANIFEST,
    RAFT,
    EntryFiles,
    base36,
    entry_name,
)
from partition_replica.errors import Damaged, InvalidArgument
from partition_replica.ids import LSN, Digest
from partition_replica.storage.blobs import blob_path
from partition_replica.storage.files import (
    create_file,
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

Progress = Callable[[int, int], None]
"""(entries done, of how many)."""


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was exported. left_out: operations that had no effect; reduced: what of ours the layout
    has no place for; uncommitted: entries behind the last one that is committed and applied."""

    first: int
    last: int
    entries: int
    payloads: int
    payload_bytes: int
    left_out: int
    uncommitted: int
    base: int
    reduced: list[str]


def export_log(
    log: LmdbLog,
    state: LmdbState,
    blobs: Path,
    target: Path,
    *,
    with_base: bool,
    progress: Progress = lambda _done, _total: None,
) -> ExportReport:
    """Writes the log's stored, applied entries below the new directory `target`, durably.

    base in the report: the LSN of the state that was written, 0 for none. Raises InvalidArgument
    for a target that holds something, Damaged, StorageFailed; no target is left then.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InvalidArgument(f"{target} holds something already: give a new directory")
    if not target.parent.is_dir():
        raise InvalidArgument(f"{target.parent} is no directory: create it first")
    if log.first_stored > 1 and log.boundary.index != 1 and not with_base:
        raise InvalidArgument(
            f"the log begins at {log.first_stored}: without the state that it begins behind it "
            "can't be imported; export with the base (--with-base)"
        )
    partial = target.parent / f".{target.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        make_directory(partial)
        report = _Export(log, state, blobs, partial).run(with_base, progress)
        with fatal_on_failure(f"replacing {target}"):
            if target.exists():
                target.rmdir()
        move_file(partial, target, "an export")
        sync_directory(target.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return report


class _Export:
    """One export into an empty directory."""

    def __init__(self, log: LmdbLog, state: LmdbState, blobs: Path, root: Path) -> None:
        self._log = log
        self._state = state
        self._blobs = blobs
        self._root = root
        self._payloads = 0
        self._payload_bytes = 0
        self._left_out = 0
        self._reduced: set[str] = set()

    def run(self, with_base: bool, progress: Progress) -> ExportReport:
        first, last = self._log.first_stored, self._state.applied.index
        entries = self._root / "log"
        make_directory(entries)
        if first == 2 and self._log.boundary.index == 1:
            # A group's first entry is LSN 2: 1 is where it began, and did nothing.
            raft = seed_layout.make_raft(LSN(1), self._log.boundary.term)
            self._write(entries, LSN(1), EntryFiles(raft=raft))
        total = max(0, last - first + 1)
        for done, entry in enumerate(self._entries(first, last), 1):
            self._write(entries, entry.index, self._files(entry))
            progress(done, total)
        sync_directory(entries)
        self._write_states()
        if with_base:
            self._write_base()
        sync_directory(self._root)
        return ExportReport(
            int(first),
            int(last),
            total,
            self._payloads,
            self._payload_bytes,
            self._left_out,
            int(self._log.last.index - last),
            int(last) if with_base else 0,
            sorted(self._reduced),
        )

    def _entries(self, lo: LSN, last: LSN) -> Iterator[LogEntry]:
        while lo <= last:
            page = self._log.read(lo, LSN(last + 1), PAGE_BYTES)
            yield from page
            lo = LSN(page[-1].index + 1)

    def _files(self, entry: LogEntry) -> EntryFiles:
        if entry.kind:
            raft = seed_layout.encode_raft(entry.index, entry.term, entry.kind, entry.data)
            return EntryFiles(raft=raft)
        body = decode_body(entry) if entry.data else types.EntryBody()
        note = self._state.unapplied(entry.index)
        return seed_layout.export_normal(
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
        _write_file(directory / MANIFEST, [files.manifest])
        if files.raft is not None:
            _write_file(directory / RAFT, [files.raft])
        for number, payload in enumerate(files.payloads, 1):
            _write_file(directory / base36(number), self._content(payload))
            self._payloads += 1
            self._payload_bytes += payload.size
        sync_directory(directory)
        self._left_out += files.dropped
        self._reduced |= files.reduced

    def _content(self, payload: types.Payload) -> Iterator[bytes]:
        if not is_blob(payload):
            yield payload.data
            return
        yield from _read_blob(blob_path(self._blobs, Digest(payload.digest)), payload.size)

    def _write_states(self) -> None:
        state = self._log.hard_state
        if state.term:
            _write_file(self._root / "hard_state", [seed_layout.encode_hard_state(state)])
        _, configuration = self._log.configuration
        if configuration.voters:
            content = seed_layout.encode_conf_state(configuration)
            _write_file(self._root / "conf_state", [content])

    def _write_base(self) -> None:
        """The state as it is, compacted, and the blobs that it names."""
        base = self._root / "base"
        make_directory(base)
        self._state.copy(base / "state")
        root = base / "blobs"
        make_directory(root)
        for digest, size in self._state.blobs():
            path = blob_path(root, digest)
            make_directory(path.parent)
            _write_file(path, _read_blob(blob_path(self._blobs, digest), size))
            sync_directory(path.parent)


def _read_blob(path: Path, size: int) -> Iterator[bytes]:
    try:
        file = path.open("rb", buffering=0)
    except FileNotFoundError as error:
        raise Damaged(f"blob {path.name} is missing: run `verify`") from error
    with file:
        left = size
        while chunk := file.read(CHUNK_BYTES):
            left -= len(chunk)
            yield chunk
    if left:
        raise Damaged(f"blob {path.name} has {size - left} bytes instead of {size}: run `verify`")


def _write_file(path: Path, chunks: list[bytes] | Iterator[bytes]) -> None:
    with create_file(path) as file:
        for chunk in chunks:
            write_file(file, chunk, path.name)
        with fatal_on_failure(f"the permissions of {path.name}"):
            os.fchmod(file.fileno(), FILE_MODE)
        sync_file(file.fileno(), path.name)
