"""Converts entries of the log to the engine's, and back."""

import partition_raft as raft
from google.protobuf.message import DecodeError
from partition_proto.v1 import types_pb2 as types

from partition_replica.core.model import LogEntry
from partition_replica.core.payloads import blob_digests
from partition_replica.errors import Damaged
from partition_replica.ids import LSN, Digest, Term


def to_entry(entry: LogEntry) -> raft.Entry:
    return raft.Entry(entry.index, entry.term, entry.data, entry.kind, entry.context)


def from_entry(entry: raft.Entry) -> LogEntry:
    index, term, kind, data, context = entry.row()
    return LogEntry(LSN(index), Term(term), kind, data, context)


def blobs_of(message: raft.Message) -> list[Digest]:
    """The digests of the blobs that a message's entries name. Raises Damaged."""
    found = message.blob_digests()
    if found is not None:
        return [Digest(one) for one in found]
    return [digest for entry in message.entries for digest in blob_digests(from_entry(entry))]


ENTRY_OVERHEAD_BYTES = 300
"""The memory of an entry beside its data, about."""


class RecentEntries:
    """Entries that the engine gave to be written, until it gives them again as committed. So each
    is converted once. Bounded by `bytes_max`; entries that are not here are converted again."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._entries: dict[int, LogEntry] = {}
        self._bytes = 0

    def convert(self, entries: list[raft.Entry]) -> list[LogEntry]:
        """Converts entries to be written. One that overwrites an earlier one takes its place."""
        converted = [from_entry(entry) for entry in entries]
        for entry in converted:
            replaced = self._entries.pop(entry.index, None)
            if replaced is not None:
                self._bytes -= _size(replaced)
            if self._bytes + _size(entry) <= self._bytes_max:
                self._entries[entry.index] = entry
                self._bytes += _size(entry)
        return converted

    def committed(self, entries: list[raft.Entry]) -> list[LogEntry]:
        """The committed entries, which are needed no longer."""
        found = []
        for entry in entries:
            recent = self._entries.pop(entry.index, None)
            if recent is not None:
                self._bytes -= _size(recent)
            if recent is None or recent.term != entry.term:
                recent = from_entry(entry)
            found.append(recent)
        return found

    def clear(self) -> None:
        """Forgets all, because the log begins anew behind a received state."""
        self._entries.clear()
        self._bytes = 0


def _size(entry: LogEntry) -> int:
    return len(entry.data) + ENTRY_OVERHEAD_BYTES


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


CONFIGURATION_V2 = 2
"""`LogEntry.kind` of a ConfChangeV2."""


def change_entry(
    index: LSN, term: Term, kind: raft.ChangeKind, member: int, address: str = ""
) -> LogEntry:
    """Returns an entry that changes one member, as the engine would propose it."""
    data = raft.encode_conf_change([(int(kind), member)], False)
    context = types.MemberChange(member_id=member, address=address).SerializeToString()
    return LogEntry(index, term, CONFIGURATION_V2, data, context)


def until_change(entries: list[LogEntry]) -> list[LogEntry]:
    """Returns the normal entries before the first configuration change, or that change alone."""
    for position, entry in enumerate(entries):
        if entry.kind:
            return entries[: max(position, 1)]
    return entries
