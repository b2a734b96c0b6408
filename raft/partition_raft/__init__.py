"""The consensus engine: raft-rs behind a synchronous step machine. No I/O, no clock, no policy.
Beside it, what the storage does with every byte of an entry (`seal_row`, `blob_digests`).

One `Node` is one member of a Raft group. The caller owns clock, network and disk:

1. Feed it: `tick`, `step`, `propose`, `read_index`, …
2. `has_ready()`, then `ready()`: a batch of work. The next call must be `advance_append_async()`.
3. Send `Ready.messages` at once, in parallel with the disk (Raft thesis, 10.2.1). If
   `term_or_vote_changed`, send them in step 5 instead, like `persisted_messages`.
4. `advance_append_async()`: the engine continues. It may read the entries, but does not count them
   as durable yet.
5. Once snapshot, entries and hard state of the Ready are durable, call `on_persist_ready(number)`,
   strictly in the order of `number`. Then send `persisted_messages`.
6. Apply `committed_entries` in order, then call `advance_apply_to(index)`.

A leader may have several Readys in flight. All other members complete step 5 before they feed the
engine again: raft-rs asserts that a new leader has no unpersisted entries.

The exceptions, and what the caller does about each:

    EngineError
    ├── ProposalDropped      retry, at the leader
    ├── PeerNotFound         ignore: the sender was removed
    ├── InvalidMessage       drop the message; the peer is at fault
    ├── InvalidConfig        refuse to start; the stored data contradicts itself
    ├── ConfChangeRefused    wait for the change in progress, or correct the request
    ├── Compacted            raised by a storage for entries that it no longer has
    └── FatalEngineError     end the process: the node must not be used; its cause is chained
        └── EngineMisuse     a defect of the caller: a call out of order
"""

from enum import IntEnum
from typing import Protocol

from partition_raft._engine import (
    Compacted,
    ConfChangeRefused,
    Config,
    ConfState,
    EngineError,
    EngineMisuse,
    Entry,
    FatalEngineError,
    HardState,
    InvalidConfig,
    InvalidMessage,
    Message,
    Node,
    PeerNotFound,
    PeerProgress,
    ProposalDropped,
    Ready,
    Snapshot,
    SoftState,
    Status,
    blob_digests,
    decode_conf_change,
    encode_conf_change,
    seal_row,
)


class EntryKind(IntEnum):
    """The kind of an entry; the numbers are eraftpb's."""

    NORMAL = 0
    CONF_CHANGE = 1
    CONF_CHANGE_V2 = 2


class ChangeKind(IntEnum):
    """The kind of a member's configuration change; the numbers are eraftpb's."""

    ADD_VOTER = 0
    REMOVE = 1
    ADD_LEARNER = 2


class MessageKind(IntEnum):
    """The kinds of messages that a transport treats differently; the numbers are eraftpb's."""

    APPEND = 3
    REQUEST_VOTE = 5
    SNAPSHOT = 7
    HEARTBEAT = 8
    HEARTBEAT_RESPONSE = 9
    REQUEST_PRE_VOTE = 17


class ColdStorage(Protocol):
    """The storage that the engine reads through Python. It is called inside engine calls, so it
    must not call the node.

    Any exception other than `Compacted` is fatal for the node.
    """

    def entries(self, lo: int, hi: int, max_bytes: int) -> list[Entry]:
        """Entries of [lo, hi) from lo on: at least one, up to about max_bytes bytes. Raises
        Compacted."""
        ...

    def term(self, index: int) -> int:
        """The term of a stored entry. Raises Compacted."""
        ...

    def snapshot(self, request_index: int, to: int) -> Snapshot | None:
        """A snapshot at or above request_index for member `to`; None if it is not ready yet."""
        ...


__all__ = [
    "ChangeKind",
    "ColdStorage",
    "Compacted",
    "ConfChangeRefused",
    "ConfState",
    "Config",
    "EngineError",
    "EngineMisuse",
    "Entry",
    "EntryKind",
    "FatalEngineError",
    "HardState",
    "InvalidConfig",
    "InvalidMessage",
    "Message",
    "MessageKind",
    "Node",
    "PeerNotFound",
    "PeerProgress",
    "ProposalDropped",
    "Ready",
    "Snapshot",
    "SoftState",
    "Status",
    "blob_digests",
    "decode_conf_change",
    "encode_conf_change",
    "seal_row",
]
