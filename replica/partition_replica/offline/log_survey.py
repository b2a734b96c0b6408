"""The first pass of an import: reads and checks everything, writes nothing."""

import stat
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from partition_proto.v1 import types_pb2 as types

from partition_replica.core import seed_layout
from partition_replica.core.model import Configuration, HardState, Position
from partition_replica.core.seed_layout import RAFT, ManifestFile, RaftFile, place
from partition_replica.errors import Damaged, ImportRefused, StorageFailed
from partition_replica.ids import LSN, Digest, Term
from partition_replica.offline.log_source import (
    SourceEntry,
    SourceLog,
    read_regular,
    refused_on_failure,
)
from partition_replica.storage.blobs import blob_path
from partition_replica.storage.state_copy import inspect_copy

STATE_FILE_BYTES_MAX = 64 * 1024

Progress = Callable[[int, int], None]
"""(entries done, of how many), over both passes."""


NO_TERM = Term(0)


@dataclass(frozen=True, slots=True)
class Base:
    """A copied state that the log goes on from: `path`/state/data.mdb and `path`/blobs/xx/<hex>.
    blobs: (digest, size) of those it names."""

    path: Path
    position: Position
    blobs: list[tuple[Digest, int]]

    def blob(self, digest: Digest) -> Path:
        return blob_path(self.path / "blobs", digest)


@dataclass(slots=True)
class Tally:
    """How often something was met, and where first."""

    count: int = 0
    first: str = ""

    def add(self, where: str, count: int = 1) -> None:
        if count and not self.count:
            self.first = where
        self.count += count

    def __str__(self) -> str:
        return f"{self.count} (first: {self.first})"


@dataclass(slots=True)
class Survey:
    """What the first pass found. fingerprints: 64 bits an entry, in the log's order."""

    base: Base | None = None
    hard_state: HardState | None = None
    configuration: Configuration | None = None
    fingerprints: "array[int]" = field(default_factory=lambda: array("Q"))
    with_raft: int = 0
    payloads: int = 0
    payload_bytes: int = 0
    highest_term: Term = NO_TERM
    mode_bits_dropped: Tally = field(default_factory=Tally)
    other_modes: Tally = field(default_factory=Tally)
    unexplained: Tally = field(default_factory=Tally)
    verbatim: Tally = field(default_factory=Tally)


def translate(entry: SourceEntry) -> tuple[ManifestFile, RaftFile | None, types.EntryBody]:
    """An entry's files, decoded, and the entry that they become but for its payloads' digests and
    data. Raises ImportRefused."""
    raft = None if entry.raft is None else seed_layout.parse_raft(entry.lsn, entry.raft)
    manifest = seed_layout.parse_manifest(entry.lsn, entry.manifest, len(entry.payloads))
    payloads = [(payload.size, payload.mode) for payload in entry.payloads]
    body = seed_layout.make_body(manifest, entry.manifest, entry.raft, payloads)
    return manifest, raft, body


def survey(
    log: SourceLog,
    *,
    hard_state: Path | None,
    conf_state: Path | None,
    base: Path | None,
    progress: Progress,
) -> Survey:
    """Raises ImportRefused for the first thing that is wrong."""
    found = Survey()
    if hard_state is not None:
        found.hard_state = _read_hard_state(hard_state, log.last)
    if conf_state is not None:
        name = f"the configuration state {conf_state}"
        content = read_regular(conf_state, name, STATE_FILE_BYTES_MAX)
        found.configuration = seed_layout.parse_conf_state(name, content)
    found.base = _look_at_base(log, base)
    for done, lsn in enumerate(log.lsns(), 1):
        with log.entry(lsn) as entry:
            _look_at_entry(entry, found)
        progress(done, 2 * len(log))
    return found


def _read_hard_state(path: Path, last: LSN) -> HardState:
    name = f"the hard state {path}"
    state = seed_layout.parse_hard_state(name, read_regular(path, name, STATE_FILE_BYTES_MAX))
    if state.commit > last:
        raise ImportRefused(
            f"{name} says that {int(state.commit)} is committed, and the log ends at {int(last)}: "
            "entries are missing at its end, or the file is of another log; import the whole log, "
            "or import without the file"
        )
    return state


def _look_at_base(log: SourceLog, path: Path | None) -> Base | None:
    if path is None:
        if log.first > 1:
            raise ImportRefused(
                f"the log begins at entry {int(log.first)}, so what entries 1 to {log.first - 1} "
                "did is not in it; give the state that it goes on from as the base, a directory "
                f"with state/ and blobs/ at {log.first - 1} to {int(log.last)}, as an export with "
                "the base writes it"
            )
        return None
    try:
        position, blobs = inspect_copy(path / "state")
    except (Damaged, StorageFailed) as error:
        raise ImportRefused(
            f"the base's state {path / 'state'} cannot be read ({error}): use another copy of it"
        ) from error
    if not log.first - 1 <= position.index <= log.last:
        raise ImportRefused(
            f"the base {path} is a state at entry {int(position.index)}; allowed are "
            f"{log.first - 1} to {int(log.last)}, so that the log goes on from there: use the base "
            "that was exported with this log"
        )
    base = Base(path, position, blobs)
    for digest, size in blobs:
        what = f"the base's blob {base.blob(digest)}"
        with refused_on_failure(what):
            status = base.blob(digest).stat(follow_symlinks=False)
        if not stat.S_ISREG(status.st_mode) or status.st_size != size:
            raise ImportRefused(
                f"{what} is no file of {size} bytes, as the base's state says: use another copy of "
                "the base"
            )
    return base


def _look_at_entry(entry: SourceEntry, found: Survey) -> None:
    where = place(entry.lsn)
    manifest, raft, body = translate(entry)
    if raft is not None:
        _check_term(entry.lsn, raft, found)
        found.highest_term = raft.term
        found.with_raft += 1
        found.unexplained.add(where, int(bool(manifest.operations) and not raft.explained))
    dropped = manifest.mode_bits_dropped + sum(payload.special_bits for payload in entry.payloads)
    found.mode_bits_dropped.add(where, dropped)
    found.other_modes.add(where, entry.other_modes)
    found.verbatim.add(where, int(body.imported.HasField("manifest")))
    found.payloads += len(entry.payloads)
    found.payload_bytes += sum(payload.size for payload in entry.payloads)
    found.fingerprints.append(entry.fingerprint())


def _check_term(lsn: LSN, raft: RaftFile, found: Survey) -> None:
    where = place(lsn, RAFT)
    if raft.term < found.highest_term:
        raise ImportRefused(
            f"{where} has term {int(raft.term)}, and an entry before it {int(found.highest_term)}; "
            "terms never fall: one of the two is of another log, restore it from another copy"
        )
    base = found.base
    if base is not None and base.position.index == lsn and base.position.term not in (0, raft.term):
        raise ImportRefused(
            f"{where} has term {int(raft.term)}, and the base is a state at that entry in term "
            f"{int(base.position.term)}: the base is of another log; use the one that was exported "
            "with this log"
        )
