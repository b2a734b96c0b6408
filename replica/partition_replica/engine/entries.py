"""Converts entries of the log to the engine's, and back."""

import partition_raft as raft
from google.protobuf.message import DecodeError
from partition_proto.v1 import types_pb2 as types

from partition_replica.core.model import LogEntry
from partition_replica.errors import Damaged
from partition_replica.ids import LSN, Term


def to_entry(entry: LogEntry) -> raft.Entry:
    return raft.Entry(entry.index, entry.term, entry.data, entry.kind, entry.context)


def from_entry(entry: raft.Entry) -> LogEntry:
    return LogEntry(LSN(entry.index), Term(entry.term), entry.kind, entry.data, entry.context)


def member_changes(entry: LogEntry) -> dict[int, str | None]:
    """Returns {member ID: address} of a configuration change; None for a member that it removes."""
    if not entry.kind:
        return {}
    changes: dict[int, str | None] = {}
    try:
        address = types.MemberChange.FromString(entry.context).address
    except DecodeError as error:
        raise Damaged(
            f"the context of log entry {entry.index} is not a valid MemberChange: {error}"
        ) from error
    for kind, member in raft.decode_conf_change(to_entry(entry)):
        if kind == raft.ChangeKind.REMOVE:
            changes[member] = None
        elif address:
            changes[member] = address
    return changes
