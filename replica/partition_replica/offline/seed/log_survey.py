"""The first pass of an import: reads and checks everything, writes nothing."""

import stat
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from partition_proto.v1 import types_pb2 as types

from partition_replica.core.model import Configuration, HardState, Position
from partition_replica.errors import Damaged, ImportRefused, StorageFailed
from partition_replica.ids import LSN, Digest, Term
from partition_replica.offline.seed import layout, state_files
from partition_replica.offline.seed.base_source import (
    BaseSurvey,
    SeedBase,
    SnapshotBase,
    TreeBase,
    survey_base,
)
from partition_replica.offline.seed.layout import RAFT, ManifestFile, RaftFile, place
from partition_replica.offline.seed.log_source import SourceEntry, SourceLog
from partition_replica.offline.seed.source_files import read_regular, refused_on_failure
from partition_replica.storage.blobs import blob_path
from partition_replica.storage.state_copy import inspect_copy

STATE_FILE_BYTES_MAX = 64 * 1024

Progress = Callable[[int, int], None]
"""(entries done, total entries), over both passes."""


NO_TERM = Term(0)


@dataclass(frozen=True, slots=True)
class BaseTree:
    """A base: a directory with the tree and a file with the keys. index: the LSN of the last entry
    that they include; None for the LSN before the log's first entry."""

    tree: Path
    keys: Path
    index: LSN | None = None


@dataclass(frozen=True, slots=True)
class ImportBase:
    """An exported state that the log continues from: `path`/state/data.mdb and
    `path`/blobs/xx/<hex>. blobs: the (digest, size) of the blobs that it names."""

    path: Path
    position: Position
    blobs: list[tuple[Digest, int]]

    @property
    def what(self) -> str:
        return f"the base {self.path}"

    def blob(self, digest: Digest) -> Path:
        return blob_path(self.path / "blobs", digest)


@dataclass(slots=True)
class Tally:
    """Counts occurrences, and keeps the place of the first one."""

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
    """The result of the first pass. fingerprints: 64 bits per entry, in the log's order; seed_base:
    the survey of a base that is not from an export; base_term: the term of the base's entry, 0 if
    unknown."""

    base: ImportBase | SeedBase | None = None
    seed_base: BaseSurvey | None = None
    base_term: Term = NO_TERM
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
    """Decodes an entry's files. Returns the files and our entry without the digests and data of its
    payloads. Raises ImportRefused."""
    raft = None if entry.raft is None else layout.parse_raft(entry.lsn, entry.raft)
    manifest = layout.parse_manifest(entry.lsn, entry.manifest, len(entry.payloads))
    payloads = [(payload.size, payload.mode) for payload in entry.payloads]
    body = layout.make_body(manifest, entry.manifest, entry.raft, payloads)
    return manifest, raft, body


def survey(
    log: SourceLog,
    *,
    hard_state: Path | None,
    conf_state: Path | None,
    base: Path | BaseTree | None,
    room_bytes: int,
    progress: Progress,
    base_progress: Progress,
) -> Survey:
    """Checks the whole source. Raises ImportRefused for the first problem. room_bytes: the free
    bytes of the volume, the maximum unpacked size of a base."""
    found = Survey()
    found.base = _look_at_base(log, base)
    if found.base is not None:
        found.base_term = found.base.position.term
        if not len(log):
            log.begin_behind(found.base.position.index)
    if hard_state is not None:
        found.hard_state = _read_hard_state(hard_state, log.last)
    if conf_state is not None:
        name = f"the configuration state {conf_state}"
        content = read_regular(conf_state, name, STATE_FILE_BYTES_MAX)
        found.configuration = state_files.parse_conf_state(name, content)
    if found.base is not None and not isinstance(found.base, ImportBase):
        total = 2 * found.base.total
        found.seed_base = survey_base(
            found.base, room_bytes, lambda done: base_progress(done, total)
        )
        found.mode_bits_dropped.add(found.base.what, found.seed_base.special_bits)
    for done, lsn in enumerate(log.lsns(), 1):
        with log.entry(lsn) as entry:
            _look_at_entry(entry, found)
        progress(done, 2 * len(log))
    return found


def _read_hard_state(path: Path, last: LSN) -> HardState:
    name = f"the hard state {path}"
    state = state_files.parse_hard_state(name, read_regular(path, name, STATE_FILE_BYTES_MAX))
    if state.commit > last:
        raise ImportRefused(
            f"{name} has commit index {int(state.commit)}, and the log ends at {int(last)}: the "
            "log's last entries are missing, or the file is of another log; import the whole log, "
            "or import without the file"
        )
    return state


def _look_at_base(log: SourceLog, given: Path | BaseTree | None) -> ImportBase | SeedBase | None:
    if given is None:
        if not len(log):
            raise ImportRefused(
                f"{log.what} contains no entry; give the directory that contains the entries' "
                f"directories, {layout.entry_name(LSN(1))} and so on. If all entries were pruned, "
                "give the log's state as the base"
            )
        if log.first > 1:
            raise ImportRefused(
                f"the log begins at entry {int(log.first)}: entries 1 to {log.first - 1} were "
                f"pruned; give a base, a state as of an entry from {log.first - 1} to "
                f"{int(log.last)}: a snapshot of the seed, a tree with its keys, or the directory "
                "base/ of an export"
            )
        return None
    if isinstance(given, BaseTree):
        return _look_at_tree(log, given)
    if given.is_dir():
        return _look_at_volume_base(log, given)
    snapshot = SnapshotBase(given)
    _check_position(log, snapshot)
    return snapshot


def _look_at_tree(log: SourceLog, given: BaseTree) -> TreeBase:
    index = given.index
    if index is None:
        if not len(log):
            raise ImportRefused(
                f"{log.what} contains no entry, so the LSN of the base {given.tree} is unknown: "
                "give it (--base-index)"
            )
        index = LSN(log.first - 1)
    if not 1 <= index <= layout.LSN_MAX:
        raise ImportRefused(
            f"the base {given.tree} is a state as of entry {int(index)}; allowed are entries 1 to "
            "2^63 - 1. If the log begins at entry 1, it needs no base: import it without one"
        )
    tree = TreeBase(given.tree, given.keys, index)
    _check_position(log, tree)
    return tree


def _check_position(log: SourceLog, base: ImportBase | SeedBase) -> None:
    index = base.position.index
    if len(log) and not log.first - 1 <= index <= log.last:
        raise ImportRefused(
            f"{base.what} is a state as of entry {int(index)}, and the log has entries "
            f"{int(log.first)} to {int(log.last)}; the base must be as of entry {log.first - 1} to "
            f"{int(log.last)}: use another base of this log"
        )


def _look_at_volume_base(log: SourceLog, path: Path) -> ImportBase:
    if not (path / "state").exists():
        raise ImportRefused(
            f"the base {path} is a directory without state/; allowed are the directory base/ of an "
            "export, and the file of a snapshot. Give a directory with the tree as --base-tree"
        )
    try:
        position, blobs = inspect_copy(path / "state")
    except (Damaged, StorageFailed) as error:
        raise ImportRefused(
            f"the base's state {path / 'state'} cannot be read ({error}): use another copy of it"
        ) from error
    base = ImportBase(path, position, blobs)
    _check_position(log, base)
    for digest, size in blobs:
        what = f"the base's blob {base.blob(digest)}"
        with refused_on_failure(what):
            status = base.blob(digest).stat(follow_symlinks=False)
        if not stat.S_ISREG(status.st_mode) or status.st_size != size:
            raise ImportRefused(
                f"{what} is not a file of {size} bytes, its size in the base's state: use another "
                "copy of the base"
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
            f"{where} has term {int(raft.term)}, and an entry before it has term "
            f"{int(found.highest_term)}; terms never fall, so one of the two is of another log: "
            "restore it from another copy of the log"
        )
    if found.base is not None:
        _check_base_term(lsn, raft.term, found.base)
        if lsn == found.base.position.index:
            found.base_term = raft.term
        elif lsn > found.base.position.index:
            found.base_term = min(found.base_term, raft.term)


def _check_base_term(lsn: LSN, term: Term, base: ImportBase | SeedBase) -> None:
    """Checks an entry's term against the base's, because terms never fall. Term 0 is unknown."""
    index, known = base.position.index, base.position.term
    # The seed puts its current term into a snapshot's name. It may be higher than the term of the
    # snapshot's entry and of some entries after it.
    exact = isinstance(base, ImportBase)
    low = known if exact and lsn >= index else Term(0)
    high = known if lsn <= index else term
    if known and not low <= term <= high:
        raise ImportRefused(
            f"{place(lsn, RAFT)} has term {int(term)}, and the base is a state as of entry "
            f"{int(index)} in term {int(known)}: the base is of another log; use a base of this log"
        )
