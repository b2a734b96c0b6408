"""Imports a log of directories into a new volume.

The first of two passes (`log_survey`) reads and checks everything and writes nothing. The second
writes, and fails if the source has changed since the first. The volume is staged completely and
moved into place at the end (`new_volume`). Every entry counts as committed and is applied, so the
volume is ready to serve.
"""

import hashlib
import itertools
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from partition_proto.v1 import storage_pb2 as rows
from partition_proto.v1 import types_pb2 as types

from partition_replica.core.model import Applied, LogEntry, Position
from partition_replica.core.payloads import blob_digests, decode_body
from partition_replica.core.ports import NOTHING
from partition_replica.errors import ImportRefused
from partition_replica.ids import LSN, ClusterID, Digest, Term
from partition_replica.offline.new_volume import (
    BLOBS,
    GENERATION,
    LOG,
    STATE,
    NewVolume,
)
from partition_replica.offline.seed import layout
from partition_replica.offline.seed.base_state import write_base
from partition_replica.offline.seed.layout import place
from partition_replica.offline.seed.log_source import SourceEntry, SourceLog
from partition_replica.offline.seed.log_survey import (
    BaseTree,
    ImportBase,
    Progress,
    Survey,
    Tally,
    survey,
    translate,
)
from partition_replica.offline.seed.source_files import (
    CHUNK_BYTES,
    changed,
    open_regular,
    refused_on_failure,
)
from partition_replica.storage.blobs import BlobStore
from partition_replica.storage.environment import lmdb_failures, open_environment
from partition_replica.storage.files import (
    create_file,
    make_directory,
    remove_file,
    sync_directory,
    sync_file,
    write_file,
)
from partition_replica.storage.log import LmdbLog
from partition_replica.storage.log.tables import BASE, BOUNDARY, HARD_STATE
from partition_replica.storage.state import LmdbState
from partition_replica.storage.state_copy import inspect_copy
from partition_replica.storage.state_tables import TABLES, Tables

BATCH_ENTRIES = 1024
BATCH_BYTES = 8 * 1024**2
"""The maximum entries and bytes per transaction of the log, and of the state."""

BACKFILL_ROWS = 16_384


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What was imported. first, last: LSNs; entries, with_raft, payloads: counts of entries, of
    entries with a RAFT file and of payloads; blobs: the number of blobs stored, including the
    base's; base: the LSN of the base's state, 0 without a base; highest_term: the highest term of a
    RAFT file, 0 without any.
    unverified: facts that this layout gives no way to check; adjusted: differences from the
    source."""

    first: int
    last: int
    entries: int
    with_raft: int
    payloads: int
    payload_bytes: int
    blobs: int
    base: int
    highest_term: int
    unverified: list[str]
    adjusted: list[str]


def import_log(  # noqa: PLR0913  # one keyword for each option of the command
    source: Path,
    data: Path,
    *,
    cluster: ClusterID,
    replicated: bool,
    hard_state: Path | None = None,
    conf_state: Path | None = None,
    base: Path | BaseTree | None = None,
    progress: Progress = lambda _done, _total: None,
    base_progress: Progress = lambda _done, _total: None,
) -> ImportReport:
    """Imports the log in the directory `source` into the new volume `data`: as a standalone group
    or, if `replicated`, as the sole voter of a group.

    hard_state, conf_state: files in raftpb form. base: the state that the log continues from: the
    directory that an export with the base wrote, a snapshot of the seed, or a tree with its keys.
    It is required if the log begins above LSN 1 or has no entry. Entries up to the base's position
    are stored and not applied again. base_progress: progress over both passes of a base that is not
    from an export, in bytes of the snapshot or in paths of the tree; total 0 means unknown.

    The volume is durable when this returns. If it is interrupted, the volume is still new, or
    complete. Raises ImportRefused, which names entry and file, for damage, for a source that
    changes, and for a volume that is not new; StorageFailed if a write fails. Both leave the volume
    unchanged.
    """
    if not cluster:
        raise ImportRefused("the cluster ID is empty: give a UUID")
    with NewVolume(data) as volume, SourceLog(source) as log:
        found = survey(
            log,
            hard_state=hard_state,
            conf_state=conf_state,
            base=base,
            room_bytes=volume.free_bytes(),
            progress=progress,
            base_progress=base_progress,
        )
        volume.stage()
        writer = _Writer(log, found, volume)
        writer.write_base(base_progress)
        writer.write(cluster, progress)
        if replicated:
            writer.replicate()
        log.check_unchanged()
        volume.move_into_place()
    return _report(log, found, writer, replicated)


@dataclass(slots=True)
class _Effects:
    """Operations without effect in the replay. expected: the seed ignores them, too (creation of
    an existing path, removal of a missing one); unexpected: the seed would have failed."""

    expected: Tally = field(default_factory=Tally)
    unexpected: Tally = field(default_factory=Tally)

    def add(self, entries: list[LogEntry], results: list[Applied]) -> None:
        for entry, applied in zip(entries, results, strict=True):
            if applied.result is None or not applied.result.outcomes:
                continue
            operations = decode_body(entry).imported.operations
            for operation, outcome in zip(operations, applied.result.outcomes, strict=True):
                if outcome == types.OUTCOME_APPLIED:
                    continue
                gone = outcome == types.OUTCOME_SOURCE_NOT_FOUND
                removal = operation.HasField("remove_directory_entry")
                expected = outcome == types.OUTCOME_DESTINATION_EXISTS or (gone and removal)
                (self.expected if expected else self.unexpected).add(place(entry.index))


class _Writer:
    """The second pass: writes everything below volume.staged, durably."""

    def __init__(self, source: SourceLog, found: Survey, volume: NewVolume) -> None:
        self._source = source
        self._found = found
        self._member = volume.member
        self._log_path = volume.staged / LOG
        self._state_path = volume.staged / STATE / GENERATION
        self._uploads = volume.staged / "uploads"
        self._blobs = BlobStore(volume.staged / BLOBS, self._uploads, pins_max=1)
        self._serial = itertools.count(1)
        self.effects = _Effects()
        self.blobs = 0

    def write_base(self, progress: Progress) -> None:
        """Writes the state that the log continues from, if there is one."""
        base = self._found.base
        if isinstance(base, ImportBase):
            self._copy_base(base)
        elif base is not None:
            survey = self._found.seed_base
            assert survey is not None, "the first pass read it"
            paths = survey.files + survey.directories
            total = 2 * (base.total or paths)
            write_base(
                self._state_path,
                base,
                Position(base.position.index, self._found.base_term),
                survey,
                self._store,
                lambda done: progress(total // 2 + done, total),
            )

    def write(self, cluster: ClusterID, progress: Progress) -> None:
        """Writes a standalone log, and its state with all entries applied."""
        base = self._found.base
        log = self._open_log()
        try:
            if base is not None and not len(self._source):
                log.bootstrap_standalone(cluster, base.position)
            else:
                log.bootstrap_standalone(cluster)
            state = LmdbState(self._state_path)
            try:
                self._write_entries(log, state, progress)
                # A new history ID: a client that was connected to another group at the same address
                # must not take these LSNs for that group's.
                state.begin_history(str(uuid.uuid4()))
            finally:
                state.close()
            self._write_meta(log)
        finally:
            log.close()

    def replicate(self) -> None:
        """Backfills the log; the volume becomes a sole voter."""
        log = self._open_log()
        try:
            progress = log.begin_backfill()
            while not progress.complete:
                progress = log.step_backfill(BACKFILL_ROWS)
            state = LmdbState(self._state_path)
            try:
                applied = log.backfilled_position(state.applied.index)
                state.set_term(applied.term)
            finally:
                state.close()
            log.finish_backfill(applied)
        finally:
            log.close()

    def _open_log(self) -> LmdbLog:
        return LmdbLog(self._log_path, self._member, blob_digests)

    # --- log and state ------------------------------------------------------------------------

    def _write_entries(self, log: LmdbLog, state: LmdbState, progress: Progress) -> None:
        done = total = len(self._source)
        for batch in self._batches():
            # Not with `append`: it gives entries no term, and these keep theirs.
            with lmdb_failures("commit of the log"), log.environment.begin(write=True) as txn:
                log.tables.put(txn, batch, Term(0))
            fresh = [entry for entry in batch if entry.index > state.applied.index]
            if fresh:
                results, _ = state.apply(fresh, {})
                self.effects.add(fresh, results)
            done += len(batch)
            progress(done, 2 * total)
        state.sync()

    def _write_meta(self, log: LmdbLog) -> None:
        found = self._found
        with lmdb_failures("commit of the log"), log.environment.begin(write=True) as txn:
            start = found.base.position if found.base is not None else NOTHING
            if self._source.first > 1:
                before = LSN(self._source.first - 1)
                term = found.base_term if start.index == before else Term(0)
                boundary = rows.BoundaryRow(index=before, term=term)
                log.tables.put_meta(txn, BOUNDARY, boundary)
            if found.base is not None:
                log.tables.put_meta(txn, BASE, rows.PositionRow(lsn=start.index))
            saved = found.hard_state.term if found.hard_state else 0
            term = Term(max(saved, found.highest_term, start.term))
            if found.hard_state or term:
                hard = rows.HardStateRow(term=term, commit=self._source.last)
                log.tables.put_meta(txn, HARD_STATE, hard)

    def _batches(self) -> Iterator[list[LogEntry]]:
        batch: list[LogEntry] = []
        size = 0
        for fingerprint, lsn in zip(self._found.fingerprints, self._source.lsns(), strict=True):
            with self._source.entry(lsn) as entry:
                if entry.fingerprint() != fingerprint:
                    raise changed(place(lsn))
                batch.append(self._make(entry))
            size += len(batch[-1].data)
            if len(batch) >= BATCH_ENTRIES or size >= BATCH_BYTES:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    def _make(self, entry: SourceEntry) -> LogEntry:
        _, raft, body = translate(entry)
        for number, inlined in enumerate(layout.inlined(body), 1):
            payload = body.imported.payloads[number - 1]
            chunks = entry.payload(number)
            if inlined:
                payload.data = b"".join(chunks)
                payload.digest = hashlib.sha256(payload.data).digest()
            else:
                payload.digest = self._store(chunks)
        term = Term(0) if raft is None else raft.term
        return LogEntry(entry.lsn, term, 0, body.SerializeToString(deterministic=True))

    # --- blobs and base -----------------------------------------------------------------------

    def _store(self, chunks: Iterator[bytes]) -> Digest:
        """Stores content as a blob, durably."""
        path = self._uploads / f"import-{next(self._serial)}"
        hashed = hashlib.sha256()
        with create_file(path) as file:
            for chunk in chunks:
                hashed.update(chunk)
                write_file(file, chunk, "a blob")
            digest = Digest(hashed.digest())
            new = not self._blobs.has(digest)
            if new:
                sync_file(file.fileno(), "a blob")
        if new:
            self._blobs.adopt(path, digest)
            self.blobs += 1
        else:
            remove_file(path, "a blob that is there already")
        return digest

    def _copy_base(self, base: ImportBase) -> None:
        """Copies the state and its blobs, and checks the blobs' digests. Leaves out the old group's
        members and the old replica's notes of ineffective entries."""
        make_directory(self._state_path)
        what = f"the base's state {base.path / 'state' / 'data.mdb'}"
        with create_file(self._state_path / "data.mdb") as copy:
            for chunk in _content(base.path / "state" / "data.mdb", what):
                write_file(copy, chunk, "a state")
            sync_file(copy.fileno(), "a state")
        sync_directory(self._state_path)
        if inspect_copy(self._state_path) != (base.position, base.blobs):
            raise changed(what)
        for digest, _ in base.blobs:
            what = f"the base's blob {base.blob(digest)}"
            actual = self._store(_content(base.blob(digest), what))
            if actual != digest:
                raise ImportRefused(
                    f"{what} is damaged: its SHA-256 is {actual.hex()}, which differs from its "
                    "name; use another copy of the base"
                )
        environment = open_environment(self._state_path, metasync=True, tables=len(TABLES))
        try:
            tables = Tables(environment, create=True)  # a base of an earlier version lacks some
            with lmdb_failures("commit of the state"), environment.begin(write=True) as txn:
                txn.drop(tables.member, delete=False)
                assert tables.unapplied is not None, "Tables has created it"
                txn.drop(tables.unapplied, delete=False)
        finally:
            environment.close()


def _content(path: Path, what: str) -> Iterator[bytes]:
    """A regular file's content, in chunks. Raises ImportRefused."""
    descriptor, _ = open_regular(path, what)
    with open(descriptor, "rb", buffering=0) as file, refused_on_failure(what):
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


# --- the report -------------------------------------------------------------------------------


def _report(log: SourceLog, found: Survey, writer: _Writer, replicated: bool) -> ImportReport:
    return ImportReport(
        int(log.first),
        int(log.last),
        len(log),
        found.with_raft,
        found.payloads,
        found.payload_bytes,
        writer.blobs,
        int(found.base.position.index) if found.base is not None else 0,
        int(found.highest_term),
        _unverified(found, writer.effects),
        _adjusted(found, writer.effects, log.last, replicated),
    )


def _unverified(found: Survey, effects: _Effects) -> list[str]:
    notes = [
        "whether a MANIFEST was truncated after an operation: that is visible only if a payload "
        "is left that no operation links"
    ]
    if found.payloads:
        notes.append(
            f"the {found.payloads} payloads: the layout records no sizes and checksums, so "
            "truncated or changed payloads are not visible"
        )
    if found.base is not None and not isinstance(found.base, ImportBase):
        notes += found.base.unverified
    if found.hard_state is None:
        notes.append(
            "whether the log's last entries are missing: without a hard state, the commit index "
            "is unknown"
        )
    if found.unexplained.count:
        notes.append(
            f"RAFT files of {found.unexplained}: the entries have operations, but the file's data "
            "is not an application's; it is kept for an export and not used"
        )
    if found.verbatim.count:
        notes.append(
            f"MANIFEST files of {found.verbatim}: they have fields or encodings that this version "
            "does not know; these are kept for an export and ignored"
        )
    if effects.unexpected.count:
        notes.append(
            "operations without effect, because their source or parent directory is missing or a "
            f"directory is not empty: {effects.unexpected}; check that log and base belong together"
        )
    return notes


def _adjusted(found: Survey, effects: _Effects, last: LSN, replicated: bool) -> list[str]:
    notes: list[str] = []
    hard = found.hard_state
    if effects.expected.count:
        notes.append(
            "operations without effect, which the seed ignores, too: they create an existing path, "
            f"or remove a missing one: {effects.expected}"
        )
    if found.mode_bits_dropped.count:
        notes.append(
            "mode bits other than permissions were dropped from files and directories: "
            f"{found.mode_bits_dropped}; those in a MANIFEST are kept for an export"
        )
    if found.other_modes.count:
        notes.append(
            "files and directories of the log whose modes are not 0400 and 0700: an export writes "
            f"these modes: {found.other_modes}"
        )
    if hard is not None and hard.term < found.highest_term:
        notes.append(
            f"the hard state's term {int(hard.term)} was raised to {int(found.highest_term)}, the "
            "highest term of an imported entry"
        )
    if hard is not None and hard.commit < last:
        notes.append(
            f"entries {hard.commit + 1} to {int(last)} are above the hard state's commit index; "
            "now they are committed"
        )
    if hard is not None and hard.vote:
        notes.append(f"the vote for member {hard.vote:x} was not imported")
    if found.configuration is not None or found.with_raft:
        members = ""
        if found.configuration is not None:
            members = " " + ", ".join(f"{m:x}" for m in sorted(found.configuration.members))
        now = "this volume is the sole voter" if replicated else "this volume is standalone"
        notes.append(f"the old group's members{members} were not imported: {now}")
    return notes
