"""The seed's log of directories: `<LSN, 13 base-36 digits>/MANIFEST, RAFT, 1, 2, …`. Pure: checks
names and files, and translates between files and our entries.

MANIFEST is a seed.Manifest, RAFT a bare raftpb.Entry; the other files are payloads, numbered in
base 36. Unknown fields and encodings are kept: an imported entry contains the original bytes if
encoding its operations again would give different ones.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from google.protobuf.message import DecodeError
from partition_proto.v1 import seed_pb2 as seed
from partition_proto.v1 import types_pb2 as types

from partition_replica.core import limits
from partition_replica.core.model import Position
from partition_replica.core.validation import check_operation
from partition_replica.errors import ImportRefused, InvalidArgument
from partition_replica.ids import DIGEST_BYTES, LSN, Term

MANIFEST = "MANIFEST"
RAFT = "RAFT"
DIRECTORY_MODE = 0o700
FILE_MODE = 0o400

LSN_MAX = (1 << 63) - 1
OPERATIONS_MAX = 8192
PAYLOADS_MAX = 8192
RAFT_BYTES_MAX = 64 * 1024
MANIFEST_BYTES_MAX = limits.PROPOSAL_BYTES_MAX + 16 * OPERATIONS_MAX
"""A proposal's 1 MiB, and what its operations may grow by in this layout: up to 7 bytes for a
directory's mode, 2 for a payload's name, 2 for the flag of a path of the tree, 2 for lengths. So
every exported entry can be imported."""

BODY_BYTES_MAX = limits.PROPOSAL_BYTES_MAX
"""Payloads are inline as long as the entry stays within this size."""

_LSN_DIGITS = 13
_GO_MODE_DIRECTORY = 0x80000000
_GO_MODE_BITS = _GO_MODE_DIRECTORY | 0o777
_ENTRY_NAME = re.compile(rf"[0-9a-z]{{{_LSN_DIGITS}}}")
_PAYLOAD_NAME = re.compile(r"[1-9a-z][0-9a-z]{0,3}")
_ENTRY_TYPE_MAX = 2
"""The highest raftpb.EntryType: ConfChangeV2."""
_INLINE_OVERHEAD_BYTES = 16
"""An upper bound of the tags and lengths that inline data adds to an entry."""


# --- names ------------------------------------------------------------------------------------


def base36(number: int) -> str:
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return digits or "0"


def entry_name(lsn: LSN) -> str:
    """The name of an entry's directory."""
    return base36(lsn).rjust(_LSN_DIGITS, "0")


def parse_entry_name(name: str) -> LSN:
    """The LSN in an entry's directory name. Raises ImportRefused for any other name."""
    lsn = int(name, 36) if _ENTRY_NAME.fullmatch(name) else 0
    if not 1 <= lsn <= LSN_MAX:
        raise ImportRefused(
            f"{name!r} in the log's directory is not an entry; allowed are directories whose names "
            f"are an LSN from 1 in {_LSN_DIGITS} lower-case base-36 digits: move everything else "
            "away"
        )
    return LSN(lsn)


def place(lsn: LSN, file: str = "") -> str:
    """The name of an entry, or of a file of it, in messages."""
    return f"entry {int(lsn)} ({entry_name(lsn)}{'/' + file if file else ''})"


def check_names(lsn: LSN, names: Iterable[str]) -> tuple[bool, int]:
    """Checks the file names of an entry's directory. Returns (whether RAFT exists, the number of
    payloads). Raises ImportRefused for missing and for unknown files."""
    rest = set(names)
    if MANIFEST not in rest:
        raise ImportRefused(
            f"{place(lsn, MANIFEST)} is missing; every entry has one, of 0 bytes if it has no "
            "operations: restore the directory from another copy of the log"
        )
    with_raft = RAFT in rest
    rest -= {MANIFEST, RAFT}
    numbers = {int(name, 36) for name in rest if _PAYLOAD_NAME.fullmatch(name)}
    for name in sorted(rest):
        if not _PAYLOAD_NAME.fullmatch(name):
            raise ImportRefused(
                f"{place(lsn)} contains {name!r}; allowed are {MANIFEST}, {RAFT} and payloads 1, "
                "2, … in base 36: move everything else away"
            )
    if len(numbers) > PAYLOADS_MAX:
        raise ImportRefused(
            f"{place(lsn)} has {len(numbers)} payloads; at most {PAYLOADS_MAX} are allowed: this "
            "log cannot be imported"
        )
    for number in range(1, len(numbers) + 1):
        if number not in numbers:
            raise ImportRefused(
                f"{place(lsn, base36(number))} is missing, and the entry has payloads with higher "
                "numbers; payloads are numbered from 1 without a gap: restore the file from "
                "another copy of the log"
            )
    return with_raft, len(numbers)


# --- RAFT -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RaftFile:
    """A RAFT file. kind: as in model.LogEntry; explained: the entry is a configuration change, or
    its data decodes as that of an application's entry."""

    term: Term
    kind: int
    explained: bool


def parse_raft(lsn: LSN, content: bytes) -> RaftFile:
    """Parses a RAFT file. Raises ImportRefused if it is not a raftpb.Entry, or not of this
    entry."""
    where = place(lsn, RAFT)
    copy = "restore the file from another copy of the log"
    if not content:
        raise ImportRefused(f"{where} has 0 bytes; type, term and index are required: {copy}")
    entry = seed.RaftEntry()
    try:
        entry.ParseFromString(content)
    except DecodeError as error:
        raise ImportRefused(f"{where} does not decode as raftpb.Entry ({error}): {copy}") from error
    for name in ("type", "term", "index"):
        if not entry.HasField(name):
            raise ImportRefused(
                f"{where} lacks its {name}; type, term and index are required: {copy}"
            )
    if entry.type > _ENTRY_TYPE_MAX:
        raise ImportRefused(
            f"{where} has type {entry.type}; allowed are 0 (normal), 1 and 2 (configuration "
            f"changes): {copy}"
        )
    if entry.index != lsn:
        raise ImportRefused(
            f"{where} has index {entry.index}; the index must equal the LSN, {int(lsn)}: the "
            f"directory contains another entry's file; {copy}"
        )
    if not 1 <= entry.term <= LSN_MAX:
        raise ImportRefused(f"{where} has term {entry.term}; allowed are 1 to 2^63 - 1: {copy}")
    return RaftFile(Term(entry.term), entry.type, entry.type > 0 or _explained(entry.data))


def _explained(data: bytes) -> bool:
    try:
        return seed.RaftData.FromString(data).HasField("data")
    except DecodeError:
        return False


def make_raft(lsn: LSN, term: Term) -> bytes:
    """The RAFT of an application's entry that has none, as the seed backfills it."""
    data = seed.RaftData(id=lsn, data=seed.LogData(local_path=entry_name(lsn).encode()))
    return encode_raft(lsn, term, 0, data.SerializeToString(deterministic=True))


def make_empty_raft(position: Position) -> bytes:
    """The RAFT of an entry without operations, such as a new leader's first entry."""
    return encode_raft(position.index, position.term, 0, b"")


def encode_raft(lsn: LSN, term: Term, kind: int, data: bytes) -> bytes:
    entry = seed.RaftEntry(type=kind, term=term, index=lsn, data=data or None)
    return entry.SerializeToString(deterministic=True)


# --- MANIFEST ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """A MANIFEST. verbatim: encoding the operations again gives different bytes, so the original
    ones are kept; mode_bits_dropped: the number of directories created with more than permission
    bits."""

    operations: list[types.Operation]
    verbatim: bool
    mode_bits_dropped: int


def parse_manifest(lsn: LSN, content: bytes, payload_count: int) -> ManifestFile:
    """Parses a MANIFEST. Raises ImportRefused if it does not decode, has an invalid operation, or
    does not link exactly the payloads 1 to `payload_count`."""
    where = place(lsn, MANIFEST)
    manifest = seed.Manifest()
    try:
        manifest.ParseFromString(content)
    except DecodeError as error:
        raise ImportRefused(
            f"{where} does not decode ({error}): restore the file from another copy of the log"
        ) from error
    if len(manifest.operations) > OPERATIONS_MAX:
        raise ImportRefused(
            f"{where} has {len(manifest.operations)} operations; at most {OPERATIONS_MAX} are "
            "allowed: this log cannot be imported"
        )
    operations = [
        _translate(f"{where}: operation {number}", lsn, operation, payload_count)
        for number, operation in enumerate(manifest.operations, 1)
    ]
    for number, operation in enumerate(operations, 1):
        try:
            check_operation(operation, number, payload_count)
        except InvalidArgument as error:
            raise ImportRefused(f"{where}: {error}; this entry cannot be imported") from error
    _check_all_linked(lsn, operations, payload_count)
    dropped = sum(
        bool(operation.create_directory.mode & ~_GO_MODE_BITS)
        for operation in manifest.operations
        if operation.HasField("create_directory")
    )
    return ManifestFile(operations, encode_manifest(operations) != content, dropped)


def _translate(
    where: str, lsn: LSN, operation: seed.Operation, payload_count: int
) -> types.Operation:
    match operation.WhichOneof("operation"):
        case "set_key":
            key, value = operation.set_key.key, operation.set_key.value
            return types.Operation(set_key=types.SetKey(key=key, value=value))
        case "delete_key":
            return types.Operation(delete_key=types.DeleteKey(key=operation.delete_key.key))
        case "create_directory":
            create = operation.create_directory
            return types.Operation(
                create_directory=types.CreateDirectory(path=create.path, mode=create.mode & 0o777)
            )
        case "remove_directory_entry":
            path = operation.remove_directory_entry.path
            return types.Operation(remove_directory_entry=types.RemoveDirectoryEntry(path=path))
        case "create_hard_link":
            return _translate_link(where, lsn, operation.create_hard_link, payload_count)
        case _:
            raise ImportRefused(
                f"{where} is of a kind that this version does not know; allowed are "
                "create_hard_link, remove_directory_entry, create_directory, set_key and "
                "delete_key: try a newer version"
            )


def _translate_link(
    where: str, lsn: LSN, link: seed.CreateHardLink, payload_count: int
) -> types.Operation:
    ours = types.CreateHardLink(destination_path=link.destination_path)
    if link.source_in_storage:
        ours.source_path = link.source_path
        return types.Operation(create_hard_link=ours)
    name = link.source_path.decode("ascii", "backslashreplace")
    if not _PAYLOAD_NAME.fullmatch(name):
        raise ImportRefused(
            f"{where} links the payload {name!r}; payloads are named 1, 2, … in base 36: restore "
            "the file from another copy of the log"
        )
    ours.payload = int(name, 36)
    if ours.payload > payload_count:
        raise ImportRefused(
            f"{where} links payload {name}, but {place(lsn, name)} is missing: restore the file "
            "from another copy of the log"
        )
    return types.Operation(create_hard_link=ours)


def _check_all_linked(lsn: LSN, operations: list[types.Operation], payload_count: int) -> None:
    linked = {operation.create_hard_link.payload for operation in operations}
    for number in range(1, payload_count + 1):
        if number not in linked:
            raise ImportRefused(
                f"{place(lsn, base36(number))} is a payload that no operation of {MANIFEST} links; "
                f"all payloads must be linked, so the {MANIFEST} may be truncated after an "
                f"operation: restore the {MANIFEST} from another copy of the log"
            )


def encode_manifest(operations: Iterable[types.Operation]) -> bytes:
    """The seed's MANIFEST of our operations; payloads keep their numbers."""
    manifest = seed.Manifest(operations=map(_encode, operations))
    return manifest.SerializeToString(deterministic=True)


def _encode(operation: types.Operation) -> seed.Operation:
    # Fields at their default are left out, as the seed's proto3 writer does.
    match operation.WhichOneof("operation"):
        case "set_key":
            key, value = operation.set_key.key, operation.set_key.value
            return seed.Operation(set_key=seed.SetKey(key=key, value=value or None))
        case "delete_key":
            return seed.Operation(delete_key=seed.DeleteKey(key=operation.delete_key.key))
        case "create_directory":
            create = operation.create_directory
            mode = _GO_MODE_DIRECTORY | create.mode
            return seed.Operation(
                create_directory=seed.CreateDirectory(path=create.path, mode=mode)
            )
        case "remove_directory_entry":
            path = operation.remove_directory_entry.path
            return seed.Operation(remove_directory_entry=seed.RemoveDirectoryEntry(path=path))
    link = operation.create_hard_link
    in_storage = link.WhichOneof("source") == "source_path"
    source = link.source_path if in_storage else base36(link.payload).encode()
    return seed.Operation(
        create_hard_link=seed.CreateHardLink(
            source_path=source,
            source_in_storage=in_storage or None,
            destination_path=link.destination_path,
        )
    )


# --- entries ----------------------------------------------------------------------------------


def make_body(
    manifest: ManifestFile,
    content: bytes,
    raft: bytes | None,
    payloads: Sequence[tuple[int, int]],
) -> types.EntryBody:
    """The entry with the given (size, mode) payloads. The caller fills in their digests and data.
    The digests are 32 zeros until then, so the entry has its final size except for the data."""
    imported = types.ImportedEntry(
        payloads=[
            types.Payload(digest=bytes(DIGEST_BYTES), size=size, mode=mode)
            for size, mode in payloads
        ],
        operations=manifest.operations,
        manifest=content if manifest.verbatim else None,
        raft=raft,
    )
    return types.EntryBody(imported=imported)


def inlined(body: types.EntryBody) -> list[bool]:
    """Which payloads of `make_body`'s entry are inline; the others are blobs. In order, each small
    payload is inline if the entry stays within BODY_BYTES_MAX."""
    room = BODY_BYTES_MAX - body.ByteSize() - _INLINE_OVERHEAD_BYTES
    found: list[bool] = []
    for payload in body.imported.payloads:
        cost = payload.size + _INLINE_OVERHEAD_BYTES
        small = payload.size <= limits.PAYLOAD_INLINE_BYTES_MAX and cost <= room
        found.append(small or not payload.size)
        if small:
            room -= cost
    return found


def check_file_size(lsn: LSN, file: str, size: int) -> None:
    """Raises ImportRefused for a file above its limit."""
    most = {MANIFEST: MANIFEST_BYTES_MAX, RAFT: RAFT_BYTES_MAX}.get(file, limits.PAYLOAD_BYTES_MAX)
    if size > most:
        raise ImportRefused(
            f"{place(lsn, file)} has {size} bytes; at most {most} are allowed: this entry cannot "
            "be imported"
        )


@dataclass(frozen=True, slots=True)
class EntryFiles:
    """The files of an entry: payloads in the order of their numbers; raft is None for no file.
    dropped: the number of operations that had no effect and are left out; reduced: parts of the
    entry that this layout cannot store."""

    raft: bytes | None = None
    manifest: bytes = b""
    payloads: Sequence[types.Payload] = ()
    dropped: int = 0
    reduced: frozenset[str] = field(default_factory=frozenset)


def export_normal(
    lsn: LSN, term: Term, body: types.EntryBody, *, whole: bool, outcomes: bytes
) -> EntryFiles:
    """The files of a normal entry.

    `whole`: the entry had no effect at all. `outcomes`: otherwise, one byte (Outcome) per
    operation, or empty if all had an effect. Operations without effect are left out, because the
    seed has no preconditions. Imported entries get their original files. Term 0 stands for an
    entry without Raft.
    """
    raft = make_raft(lsn, term) if term else None
    match body.WhichOneof("body"):
        case "imported":
            entry = body.imported
            kept = entry.HasField("manifest")
            content = entry.manifest if kept else encode_manifest(entry.operations)
            return EntryFiles(entry.raft or raft, content, entry.payloads)
        case "proposal":
            return _export_proposal(body.proposal, raft, whole=whole, outcomes=outcomes)
        case "open_session" | "close_session":
            return EntryFiles(raft, reduced=frozenset({"sessions"}))
        case _:
            return EntryFiles(raft)


def _export_proposal(
    proposal: types.Proposal, raft: bytes | None, *, whole: bool, outcomes: bytes
) -> EntryFiles:
    reduced = frozenset({"preconditions"} if proposal.preconditions else ())
    if whole:
        return EntryFiles(raft, dropped=len(proposal.operations), reduced=reduced)
    operations: list[types.Operation] = []
    renumbered: dict[int, int] = {}
    for number, operation in enumerate(proposal.operations):
        if outcomes and outcomes[number] != types.OUTCOME_APPLIED:
            continue
        link = operation.create_hard_link
        if link.WhichOneof("source") == "payload":
            new = renumbered.setdefault(link.payload, len(renumbered) + 1)
            ours = types.CreateHardLink(payload=new, destination_path=link.destination_path)
            operations.append(types.Operation(create_hard_link=ours))
        else:
            operations.append(operation)
    return EntryFiles(
        raft,
        encode_manifest(operations),
        [proposal.payloads[number - 1] for number in renumbered],
        len(proposal.operations) - len(operations),
        reduced,
    )
