"""Rows: their framing, and the checks when they are read.

A row is crc32(key + payload), 4 bytes big-endian, then the payload. The checksum includes the key,
so a row under another key is detected as damage, too.
"""

import struct
import zlib
from collections.abc import Iterable
from typing import TypeVar

from google.protobuf.message import DecodeError, Message
from partition_proto.v1 import storage_pb2 as rows
from partition_raft import seal_row

from partition_replica.core.model import (
    HardState,
    LogEntry,
    Position,
    QuorumRecovery,
    RecoveryStep,
)
from partition_replica.errors import Damaged
from partition_replica.ids import LSN, ClusterID, MemberID, Term

LOG_FORMAT_VERSION = 1
LOG_FORMAT_JOURNALED = 2
"""The format of a log whose journal may have entries. A clean end makes it version 1 again."""

LOG_FORMATS_READ = (LOG_FORMAT_VERSION, LOG_FORMAT_JOURNALED)

STATE_FORMAT_VERSION = 2
"""The version that is written. Since 2, keys and paths may be longer than an LMDB key."""

STATE_FORMATS_READ = (1, 2)


_CRC = struct.Struct(">I")
CHECKSUM_BYTES = _CRC.size
_U64 = struct.Struct(">Q")
U64_BYTES = _U64.size
U64_MAX = (1 << 64) - 1
_RAFT = struct.Struct(">QBI")

KEY_SHOWN_BYTES = 100
"""The maximum bytes of a key in a message."""

M = TypeVar("M", bound=Message)


def u64(value: int) -> bytes:
    """Big-endian, so that byte order is numeric order."""
    return _U64.pack(value)


def from_u64(data: bytes) -> int:
    """Raises Damaged for anything but 8 bytes."""
    if len(data) != _U64.size:
        raise Damaged(
            f"key {bytes(data).hex()} is not an LSN: it has {len(data)} bytes instead of 8; the "
            "volume is damaged, keep it"
        )
    value: int = _U64.unpack(data)[0]
    return value


def seal_with(crc: int, payload: bytes) -> bytes:
    """As `seal`, with the key's checksum."""
    return _CRC.pack(zlib.crc32(payload, crc)) + payload


def seal(key: bytes, payload: bytes) -> bytes:
    """The row of a payload. In Rust, because every byte of every entry passes here twice."""
    return seal_row(key, payload)


def first_unsealed(rows: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """The key of the first (key, row) whose row fails its checksum; None if all are correct."""
    crc32, read = zlib.crc32, _CRC.unpack_from
    for key, row in rows:
        if len(row) < CHECKSUM_BYTES or read(row)[0] != crc32(row[CHECKSUM_BYTES:], crc32(key)):
            return key
    return None


def unseal(table: str, key: bytes, row: bytes) -> bytes:
    """Returns a row's payload. Raises Damaged, which names table and key."""
    if len(row) >= _CRC.size:
        payload = row[_CRC.size :]
        if _CRC.unpack_from(row)[0] == zlib.crc32(payload, zlib.crc32(key)):
            return payload
    raise Damaged(
        f"row {shown_hex(key)} of table {table} fails its checksum: the volume is damaged; keep "
        "it, and let the operator rebuild this replica from the others"
    )


def seal_message(key: bytes, message: Message) -> bytes:
    return seal(key, message.SerializeToString(deterministic=True))


def unseal_message(table: str, key: bytes, row: bytes, kind: type[M]) -> M:
    message = kind()
    try:
        message.ParseFromString(unseal(table, key, row))
    except DecodeError as error:
        raise Damaged(
            f"row {shown_hex(key)} of table {table} is not a valid {kind.__name__}: {error}; the "
            "volume is damaged, keep it"
        ) from error
    return message


def shown_hex(key: bytes) -> str:
    """A key for messages: all of it, or its beginning and its length."""
    if len(key) <= KEY_SHOWN_BYTES:
        return bytes(key).hex()
    return f"{bytes(key[:KEY_SHOWN_BYTES]).hex()}… ({len(key)} bytes)"


def encode_raft(entry: LogEntry, term: Term) -> bytes:
    """The `raft` row: term, kind, length of the context, context, and the data of a configuration
    change. A normal entry's data is in its `manifest` row."""
    if not entry.kind and not entry.context:
        return _RAFT.pack(term, 0, 0)
    data = entry.data if entry.kind else b""
    return _RAFT.pack(term, entry.kind, len(entry.context)) + entry.context + data


def hard_state_row(state: HardState) -> rows.HardStateRow:
    return rows.HardStateRow(term=state.term, vote=state.vote, commit=state.commit)


def hard_state_of(row: rows.HardStateRow) -> HardState:
    return HardState(Term(row.term), MemberID(row.vote), LSN(row.commit))


_RECOVERY_STEPS = {
    rows.RECOVERY_STEP_ACCEPTED: RecoveryStep.ACCEPTED,
    rows.RECOVERY_STEP_SWITCHED: RecoveryStep.SWITCHED,
    rows.RECOVERY_STEP_COMPLETE: RecoveryStep.COMPLETE,
}
_RECOVERY_NUMBERS = {step: number for number, step in _RECOVERY_STEPS.items()}


def recovery_row(recovery: QuorumRecovery) -> rows.RecoveryRow:
    return rows.RecoveryRow(
        cluster_id=recovery.cluster_id,
        former_cluster_id=recovery.former_cluster_id,
        token=recovery.token,
        step=_RECOVERY_NUMBERS[recovery.step],
        lsn=recovery.last.index,
        term=recovery.last.term,
    )


def recovery_of(row: rows.RecoveryRow) -> QuorumRecovery:
    """Raises Damaged for a step that this version does not know: the volume is half of a cluster
    and half of another one."""
    step = _RECOVERY_STEPS.get(row.step)
    if step is None:
        raise Damaged(
            f"row recovery of table meta has step {row.step}, which this version does not know: "
            "run the version that wrote it"
        )
    return QuorumRecovery(
        ClusterID(row.cluster_id),
        ClusterID(row.former_cluster_id),
        row.token,
        step,
        Position(LSN(row.lsn), Term(row.term)),
    )


def metadata(term: Term) -> bytes:
    """The `raft` row of a normal entry with the term that a backfill gives it."""
    return _RAFT.pack(term, 0, 0)


def decode_raft(index: LSN, payload: bytes, manifest: bytes) -> LogEntry:
    if len(payload) < _RAFT.size:
        raise Damaged(
            f"the raft row of log entry {index} has {len(payload)} bytes, fewer than "
            f"{_RAFT.size}: the volume is damaged; keep it"
        )
    term, kind, context_length = _RAFT.unpack_from(payload)
    context_end = _RAFT.size + context_length
    context = payload[_RAFT.size : context_end]
    if context_end > len(payload):
        raise Damaged(
            f"the raft row of log entry {index} ends inside its context: the volume is damaged; "
            "keep it"
        )
    data = payload[context_end:] if kind else manifest
    return LogEntry(index, Term(term), kind, data, context)


def decode_term(payload: bytes) -> Term:
    if len(payload) < _RAFT.size:
        raise Damaged(
            f"a raft row has {len(payload)} bytes, fewer than {_RAFT.size}: the volume is damaged; "
            "keep it"
        )
    return Term(_RAFT.unpack_from(payload)[0])
