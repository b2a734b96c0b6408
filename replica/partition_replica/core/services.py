"""What the gRPC services ask of the runtime, as Protocols. `ports` is the other side:
what the runtime needs of the outside."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

from partition_proto.v1 import peer_pb2 as peer
from partition_proto.v1 import replica_admin_pb2 as admin
from partition_proto.v1 import types_pb2 as types

from partition_replica.core.model import (
    Applied,
    Ineffective,
    LogEntry,
    OpenedFile,
    Position,
    ReplicaStatus,
    TreeEntry,
    VerifyReport,
)
from partition_replica.errors import ReplicaError
from partition_replica.ids import LSN


class StateReader(Protocol):
    """Reads of applied state; each sees one applied LSN, which it returns."""

    def get_value(self, key: bytes) -> tuple[bytes | None, LSN]: ...
    def list_values(
        self, start: bytes, end: bytes, count: int, bytes_max: int
    ) -> tuple[list[tuple[bytes, bytes]], bytes, LSN]: ...
    def get_tree_entry(self, path: bytes) -> tuple[TreeEntry | None, LSN]: ...
    def list_tree_entries(
        self, path: bytes, after: bytes, recursive: bool, count: int
    ) -> tuple[list[tuple[bytes, TreeEntry]], LSN]:
        """Raises NotFound where `path` is no directory."""
        ...


class PinnedStateService(Protocol):
    """The state at `position`, which stays as it is while others write. The entries behind it stay
    in the log, too."""

    position: Position
    history: str

    def reader(self) -> StateReader:
        """For one use, without an await in between. Raises Overloaded, DiskFull and Stopping if the
        state was given up."""
        ...

    def open_file(self, path: bytes, offset: int) -> OpenedFile:
        """Until `ApplicationService.close_file`. Raises as `reader`, NotFound, InvalidArgument."""
        ...

    def used(self) -> None:
        """The reader asked for something, or took it: the state is kept a while longer. Raises as
        `reader`."""
        ...

    async def over(self) -> ReplicaError:
        """Waits until the state is given up, and returns what `reader` raises from then on."""
        ...


class ConsumerService(Protocol):
    """Named positions in this replica's log. Each write returns (position, low-water mark), and is
    durable then. Raises InvalidArgument, NotFound, Compacted."""

    async def register(self, name: str, lsn: int) -> tuple[int, int]: ...
    async def acknowledge(self, name: str, lsn: int) -> tuple[int, int]: ...
    async def remove(self, name: str) -> None: ...
    def list(self) -> tuple[list[tuple[str, int]], int]:
        """(names and positions, low-water mark)."""
        ...


class ApplicationService(Protocol):
    """What a replica does for applications. Runs on the event loop. Raises what errors.py draws."""

    def history(self) -> str:
        """The ID of the group's history; "" while it is not known here."""
        ...

    def check_history(self, history: str, *, leading: bool = False) -> None:
        """Raises WrongHistory if `history` is another one ("" is any), and NoLeader while it is
        not known here. leading: only a leader that serves may tell; others raise NotLeader or
        NoLeader."""
        ...

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

    def unapplied(self, entries: Sequence[LogEntry]) -> dict[LSN, Ineffective | None]:
        """What of these consecutive entries had no effect, of those that had not all; None where
        that is not known, because the state was imported. Raises Compacted, NoLeader."""
        ...

    async def advanced(self) -> None:
        """Returns when the state has advanced, or may have. Raises NoLeader after two election
        times without a leader: what the others commit is not heard of here."""
        ...

    async def open_file(self, path: bytes, offset: int, *, linearizable: bool) -> OpenedFile:
        """A file of the tree with its content, both of one moment. The content is kept until
        `close_file`. Raises NotFound, InvalidArgument."""
        ...

    def close_file(self, opened: OpenedFile) -> None: ...

    def pinned_state(
        self, *, linearizable: bool, history: str
    ) -> AbstractAsyncContextManager[PinnedStateService]:
        """The state as it is now, pinned until the end of the with-statement. Raises Overloaded for
        one too many, or if it can't be copied now, DiskFull, NoLeader without a state, and
        WrongHistory if the state is of another history than `history` ("" is any)."""
        ...

    async def upload(self, digest: bytes, size: int, chunks: AsyncIterator[bytes]) -> list[int]:
        """At the leader: returns the holders when they are a quorum."""
        ...

    def status(self) -> ReplicaStatus: ...

    @property
    def consumers(self) -> ConsumerService: ...


class PeerRequestService(Protocol):
    """What a replica does for the other members. Runs on the event loop."""

    def status(self) -> ReplicaStatus: ...

    def check_peer(
        self, cluster: str, to_member: int, sender: int = 0, last_index: int = 0
    ) -> None:
        """Raises WrongCluster, NotBootstrapped. to_member 0: any member of the cluster."""
        ...

    def greet(self, member: int, address: str) -> None: ...
    def receive(self, message: bytes, sender: int) -> None: ...
    async def take_payload(
        self, digest: bytes, size: int, chunks: AsyncIterator[bytes]
    ) -> bool: ...
    def payload_file(self, digest: bytes) -> tuple[Path, int]: ...
    async def receive_state(
        self, header: peer.TransferHeader, chunks: AsyncIterator[bytes]
    ) -> int: ...
    def transfer_offset(self, header: peer.TransferHeader) -> int:
        """How much of a snapshot's state file is here, of an attempt that broke off."""
        ...


class InspectionService(Protocol):
    """What `partition-replica verify` calls of a running replica."""

    def verify(self) -> AsyncIterator[tuple[str, int, int] | VerifyReport]:
        """Yields progress (step, done, total), then the report. Raises Overloaded while another
        verification runs, DiskFull if a copy of the state has no room, NotBootstrapped."""
        ...


class SnapshotJobService(Protocol):
    """Snapshot jobs of this replica, one at a time; see replica_admin.proto. What is returned is
    the caller's."""

    def start(self, request: admin.StartSnapshotJobRequest) -> admin.SnapshotJob:
        """Raises InvalidArgument, Overloaded, NotBootstrapped, NoLeader, Stopping."""
        ...

    def get(self, job_id: str) -> admin.SnapshotJob:
        """Raises NotFound."""
        ...

    async def cancel(self, job_id: str) -> admin.SnapshotJob:
        """Returns when it has ended. Raises NotFound."""
        ...


class AdministrationService(Protocol):
    """What the operator's service calls; each command is idempotent."""

    async def check_fencing_token(self, transitions: int, holder: str) -> None: ...
    async def bootstrap(self, cluster: str, *, standalone: bool) -> int: ...
    async def join(self, cluster: str) -> int: ...
    async def add_learner(self, member: int, address: str) -> int: ...
    async def promote_learner(self, member: int) -> int: ...
    async def remove_member(self, member: int) -> int: ...
    async def transfer_leadership(self, member: int) -> tuple[int, str]: ...
    async def enable_replication(self) -> bool:
        """True where the log is Raft's already; else it is on its way."""
        ...
