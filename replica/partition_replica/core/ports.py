"""What the runtime needs of the outside, as Protocols. `storage.memory` is the reference of the
storage ports; the LMDB ones must not be told from it by anything but durability."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

from partition_proto.v1 import peer_pb2 as peer
from partition_proto.v1 import types_pb2 as types

from partition_replica.core.model import (
    Applied,
    Configuration,
    HardState,
    LogBatch,
    LogEntry,
    Node,
    Position,
    ProposalResult,
    ReplicaStatus,
    Session,
)
from partition_replica.ids import LSN, Digest, SessionID, Term


class StateView(Protocol):
    """The state machine's tables inside one transaction, as `core.apply` sees them."""

    def get_value(self, key: bytes) -> bytes | None: ...
    def put_value(self, key: bytes, value: bytes) -> None: ...
    def delete_value(self, key: bytes) -> None: ...

    def get_node(self, path: bytes) -> Node | None: ...
    def put_node(self, path: bytes, node: Node) -> None: ...
    def delete_node(self, path: bytes) -> None: ...
    def has_children(self, path: bytes) -> bool: ...

    def hold_payload(self, digest: Digest, size: int, data: bytes | None) -> None:
        """One more reference from the tree; `data` for an inlined one that may be new here."""
        ...

    def release_payload(self, digest: Digest) -> None:
        """One reference less; the last one forgets the content."""
        ...

    def get_session(self, session: SessionID) -> Session | None: ...
    def put_session(self, session: SessionID, row: Session) -> None: ...
    def delete_session(self, session: SessionID) -> None:
        """With its results."""
        ...

    def list_sessions(self) -> list[tuple[SessionID, Session]]: ...
    def get_result(self, session: SessionID, sequence: int) -> ProposalResult | None: ...
    def put_result(self, session: SessionID, sequence: int, result: ProposalResult) -> None: ...
    def drop_results_below(self, session: SessionID, sequence: int) -> None: ...

    def put_member(self, member: int, address: str) -> None: ...
    def delete_member(self, member: int) -> None: ...

    @property
    def time_ms(self) -> int:
        """The highest time that an applied entry carried."""
        ...

    @time_ms.setter
    def time_ms(self, value: int) -> None: ...


class LogStorage(Protocol):
    """The log beside its hard state, configuration and boundary.

    Reads may come from any thread; writes from one at a time. A write returns when it is durable.
    """

    @property
    def boundary(self) -> Position: ...
    @property
    def last(self) -> Position: ...
    @property
    def hard_state(self) -> HardState: ...
    @property
    def configuration(self) -> tuple[LSN, Configuration]:
        """(index of the entry it is as of, configuration)."""
        ...

    def commit(self, batch: LogBatch) -> list[Digest]:
        """Writes a batch in one durable transaction: all of it or nothing.

        An entry at an existing index deletes everything from there on first. Raises
        `ValueError` for a hole, an index at or below the committed one, a term below the
        previous entry's or of 0, and a hard state whose term or commit falls or whose commit
        passes the last index. Returns the digests whose last reference in the log went.
        """
        ...

    def save_configuration(self, index: LSN, configuration: Configuration) -> None: ...

    def entries(self, lo: LSN, hi: LSN, bytes_max: int | None) -> list[LogEntry]:
        """[lo, hi), from lo on: at least one entry if there is any, then up to bytes_max.

        Raises Compacted for lo at or below the boundary, IndexError for hi above last + 1.
        """
        ...

    def term(self, index: LSN) -> Term:
        """Of the boundary and everything above it. Raises Compacted below, IndexError above."""
        ...


class PeerTransport(Protocol):
    """How the runtime reaches other members. Sending never blocks and may lose."""

    def send(self, member: int, messages: list[bytes]) -> None:
        """Queues encoded messages to a member; over the peer's limit they are dropped."""
        ...

    def set_addresses(self, addresses: dict[int, str]) -> None:
        """The members as of the applied configuration; others are disconnected."""
        ...

    def learn_address(self, member: int, address: str) -> None:
        """An address that a member said itself when it connected; the configuration's wins."""
        ...

    async def push_payload(self, member: int, digest: Digest, file: Path, size: int) -> None:
        """Returns when the member holds it durably. Raises PeerFailed."""
        ...

    async def fetch_payload(self, member: int, digest: Digest) -> tuple[int, AsyncIterator[bytes]]:
        """(size, its content in chunks). Raises PeerFailed, the iterator too."""
        ...

    async def install_snapshot(
        self, member: int, message: bytes, file: Path, size: int, digest: bytes
    ) -> int:
        """Returns when the member has installed it: how many payloads it had to fetch.
        Raises PeerFailed."""
        ...


class PeerFailed(Exception):
    """A call to another member failed: unreachable, too slow, or refused. Try another, or later."""


class StateReader(Protocol):
    """Reads of applied state; each sees one applied LSN, which it returns."""

    def get_value(self, key: bytes) -> tuple[bytes | None, LSN]: ...
    def list_values(
        self, start: bytes, end: bytes, count: int, bytes_max: int
    ) -> tuple[list[tuple[bytes, bytes]], bytes, LSN]: ...
    def get_node(self, path: bytes) -> tuple[Node | None, LSN]: ...
    def list_nodes(
        self, path: bytes, after: bytes, recursive: bool, count: int
    ) -> tuple[list[tuple[bytes, Node]], LSN]: ...


class ReplicaService(Protocol):
    """What the services of the transport call: a replica, seen from outside. Runs on the event
    loop. Raises what errors.py draws."""

    async def open_session(self, time_to_live_ms: int) -> tuple[int, int]:
        """(session ID, its time to live)."""
        ...

    async def close_session(self, session: int) -> None: ...

    async def append(self, proposal: types.Proposal, *, retry: bool, wait_applied: bool) -> Applied:
        """Returns when the proposal is committed, or applied where asked."""
        ...

    async def read_point(self, *, linearizable: bool) -> StateReader:
        """A state to read now, without another await, that reflects what was asked for."""
        ...

    def committed_entries(self, lo: int, bytes_max: int) -> tuple[list[LogEntry], int]:
        """(applied entries from LSN lo on, the LSN to go on from). Raises Compacted."""
        ...

    async def advanced(self) -> None:
        """Returns when the state has advanced."""
        ...

    def open_content(self, digest: Digest, size: int) -> bytes | Path:
        """A payload's content: the bytes, or the file, held until `release_content`."""
        ...

    def release_content(self, digest: Digest) -> None: ...

    async def upload(self, digest: bytes, size: int, chunks: AsyncIterator[bytes]) -> list[int]:
        """At the leader: returns the holders when they are a quorum."""
        ...

    def status(self) -> ReplicaStatus: ...

    # For the other members.
    def check_peer(
        self, cluster: str, to_member: int, sender: int = 0, last_index: int = 0
    ) -> None:
        """Raises WrongCluster, NotBootstrapped. to_member 0: whoever is of the cluster."""
        ...

    def greet(self, member: int, address: str) -> None: ...
    def receive(self, message: bytes, sender: int) -> None: ...
    async def take_payload(
        self, digest: bytes, size: int, chunks: AsyncIterator[bytes]
    ) -> bool: ...
    def payload_file(self, digest: bytes) -> tuple[Path, int]: ...
    async def install_snapshot(
        self, header: peer.SnapshotHeader, chunks: AsyncIterator[bytes]
    ) -> int: ...


class AdministrationService(Protocol):
    """What the operator's service calls; each command is idempotent."""

    async def check_lease(self, transitions: int, holder: str) -> None: ...
    async def bootstrap(self, cluster: str) -> int: ...
    async def join(self, cluster: str) -> int: ...
    async def add_learner(self, member: int, address: str) -> int: ...
    async def promote_learner(self, member: int) -> int: ...
    async def remove_member(self, member: int) -> int: ...
    async def transfer_leadership(self, member: int) -> tuple[int, str]: ...
