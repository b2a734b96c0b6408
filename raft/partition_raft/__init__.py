"""The consensus engine: raft-rs behind a synchronous step machine. No I/O, no clock, no policy.

One `Node` is one member of a Raft group. The caller owns clock, network and disk:

1. feed it: `tick`, `step`, `propose`, `read_index`, …
2. `has_ready()`, then `ready()`: a batch of work. Until `advance_append_async()` nothing but that
   may be called.
3. `Ready.messages` may leave at once, in parallel with the disk (Raft thesis, 10.2.1), unless
   `term_or_vote_changed`: then they wait for step 5 like `persisted_messages`.
4. `advance_append_async()`: the engine goes on; the entries count as readable, not yet as durable.
5. When snapshot, entries and hard state of the Ready are durable, strictly in the order of
   `number`: `on_persist_ready(number)`, then send `persisted_messages`.
6. Apply `committed_entries` in order, then `advance_apply_to(index)`.

A leader may have several Readys in flight. Everybody else waits for step 5 before feeding the
engine again: raft-rs asserts that a new leader has no unpersisted entries behind it.

The exceptions, by the caller's next move:

    EngineError
    ├── ProposalDropped      retry, at the leader
    ├── PeerNotFound         ignore: the sender was removed
    ├── InvalidMessage       drop the message, blame the peer
    ├── InvalidConfig        refuse to start; what is on disk contradicts itself
    ├── ConfChangeRefused    wait for the change in progress, or mend the request
    ├── Compacted            raised by a storage for what it no longer has
    └── FatalEngineError     end the process: the node is poisoned, its cause is chained
        └── EngineMisuse     a programmer's error: a call out of order
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
    decode_conf_change,
    encode_conf_change,
)


class EntryKind(IntEnum):
    """What an entry is for; the numbers are eraftpb's."""

    NORMAL = 0
    CONF_CHANGE = 1
    CONF_CHANGE_V2 = 2


class ChangeKind(IntEnum):
    """What a configuration change does to a member; the numbers are eraftpb's."""

    ADD_VOTER = 0
    REMOVE = 1
    ADD_LEARNER = 2


class MessageKind(IntEnum):
    """The kinds that a transport has to tell apart; the numbers are eraftpb's."""

    APPEND = 3
    SNAPSHOT = 7
    HEARTBEAT = 8


class ColdStorage(Protocol):
    """What the engine asks of Python. Called inside engine calls: must not call the node.

    Anything raised but `Compacted` is fatal to the node.
    """

    def entries(self, lo: int, hi: int, max_bytes: int) -> list[Entry]:
        """Entries of [lo, hi), from lo on, at least one, up to about max_bytes; or `Compacted`."""
        ...

    def term(self, index: int) -> int:
        """The term of a stored entry; or `Compacted`."""
        ...

    def snapshot(self, request_index: int, to: int) -> Snapshot | None:
        """A snapshot at or above request_index for member `to`; None where it isn't ready yet."""
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
    "decode_conf_change",
    "encode_conf_change",
]
