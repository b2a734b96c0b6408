"""The ports of the runtime that the gRPC services call, as Protocols. `ports` has those that the
runtime calls."""

from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
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
from partition_replica.core.payloads import CompletePayloads, MovedContent
from partition_replica.errors import ReplicaError
from partition_replica.ids import LSN


class StateReader(Protocol):
    """Reads of the applied state. Each is as of one applied LSN, which it returns. See LmdbState
    for arguments and results."""

    def get_value(self, key: bytes) -> tuple[bytes | None, LSN]: ...
    def get_values(
        self, keys: Sequence[bytes], bytes_max: int
    ) -> tuple[list[bytes | None], LSN]: ...
    def list_values(
        self, start: bytes, end: bytes, count: int, bytes_max: int
    ) -> tuple[list[tuple[bytes, bytes]], bytes, LSN]: ...
    def get_tree_entry(self, path: bytes) -> tuple[TreeEntry | None, LSN]: ...
    def list_tree_entries(
        self, path: bytes, after: bytes, recursive: bool, count: int
    ) -> tuple[list[tuple[bytes, TreeEntry]], LSN]:
        """Raises NotFound if `path` is not a directory."""
        ...


class PinnedStateService(Protocol):
    """A pinned state: the state at `position`, which does not change while others write. The
    entries after it stay in the log."""

    position: Position
    history: str

    def reader(self) -> StateReader:
        """A reader that is valid until the caller's next await. Raises Overloaded, DiskFull or
        Stopping if the state has been released."""
        ...

    def open_file(self, path: bytes, offset: int) -> OpenedFile:
        """Opens a file until `ApplicationService.close_file`. Raises NotFound, InvalidArgument, and
        as `reader`."""
        ...

    def used(self) -> None:
        """Reports activity of the reader, which restarts the state's idle time. Raises as
        `reader`."""
        ...

    async def over(self) -> ReplicaError:
        """Waits until the state is released; returns the error that `reader` raises from then
        on."""
        ...


class ConsumerService(Protocol):
    """Consumers: named positions in this replica's log. Each write is durable when it returns
    (position, low-water mark). Raises InvalidArgument, NotFound, Compacted."""

    async def register(self, name: str, lsn: int) -> tuple[int, int]: ...
    async def acknowledge(self, name: str, lsn: int) -> tuple[int, int]: ...
    async def remove(self, name: str) -> None: ...
    def list(self) -> tuple[list[tuple[str, int]], int]:
        """Returns (names and positions, low-water mark)."""
        ...


@dataclass(frozen=True, slots=True)
class AppendFrame:
    """Proposals of one session with consecutive sequences, from `first_sequence` on. `proposals`:
    encoded Proposals, see log_store.proto. `validation.check_sequences` has accepted its
    sequences."""

    session: int
    first_sequence: int
    acknowledged_below: int
    proposals: Sequence[bytes]
    retry: bool
    wait_applied: bool


class AppendAnswers(Protocol):
    """Takes the answers to the proposals of one stream, by their sequences. On the event loop."""

    @property
    def closed(self) -> bool:
        """Whether nobody takes answers any more: the stream is over."""
        ...

    def appended(self, sequence: int, applied: Applied) -> None: ...
    def refused(self, sequence: int, error: ReplicaError) -> None: ...
    def run(self, body: Coroutine[None, None, None]) -> None:
        """Runs `body` as a task that ends with the stream."""
        ...


class ApplicationService(Protocol):
    """The operations of a replica for applications. Runs on the event loop. Raises the errors of
    errors.py."""

    def history(self) -> str:
        """The group's history ID; "" while this replica does not know it."""
        ...

    def check_history(self, history: str, *, leading: bool = False) -> None:
        """Raises WrongHistory if the group's history ID is not `history` ("" matches any), NoLeader
        while this replica does not know it. leading: only a serving leader answers; others raise
        NotLeader or NoLeader."""
        ...

    async def open_session(self, time_to_live_ms: int) -> tuple[int, int]:
        """Returns (session ID, time to live in milliseconds)."""
        ...

    async def close_session(self, session: int) -> None: ...

    async def append(self, proposal: types.Proposal, *, retry: bool, wait_applied: bool) -> Applied:
        """Returns once the proposal is committed or, if `wait_applied`, applied. `retry`: the
        client has sent this sequence before."""
        ...

    async def append_frame(self, frame: AppendFrame, answers: AppendAnswers) -> None:
        """Appends the proposals of a frame; returns once all are checked. Each gets exactly one
        answer, now or later, unless the stream ends before. Raises nothing."""
        ...

    async def read_point(self, *, linearizable: bool, at_follower: bool = False) -> StateReader:
        """Waits until a read has the requested consistency. A replica that does not lead asks its
        leader if `at_follower`; otherwise it raises NotLeader or NoLeader. Returns a reader that is
        valid until the caller's next await."""
        ...

    def committed_entries(self, lo: int, bytes_max: int) -> tuple[list[LogEntry], int]:
        """Returns (applied entries from LSN `lo` on, the LSN to continue from). Raises
        Compacted."""
        ...

    def unapplied(self, entries: Sequence[LogEntry]) -> dict[LSN, Ineffective | None]:
        """Those of these consecutive entries that were, in part, ineffective. None stands for an
        entry for which that is unknown, because the state was imported. Raises Compacted,
        NoLeader."""
        ...

    async def advanced(self) -> None:
        """Returns when the state has advanced; spurious returns are possible. Raises NoLeader after
        two election times without a leader: then this replica does not learn of new commits."""
        ...

    async def open_file(self, path: bytes, offset: int, *, linearizable: bool) -> OpenedFile:
        """Opens a file of the tree: tree entry and content, as of one LSN. The content is kept
        until `close_file`. Raises NotFound, InvalidArgument."""
        ...

    def close_file(self, opened: OpenedFile) -> None: ...

    def pinned_state(
        self, *, linearizable: bool, history: str
    ) -> AbstractAsyncContextManager[PinnedStateService]:
        """Pins the current state until the end of the with-statement. Raises Overloaded above the
        limit or if the state cannot be copied now, DiskFull, NoLeader without a state, and
        WrongHistory if the state's history ID is not `history` ("" matches any)."""
        ...

    async def upload(self, digest: bytes, size: int, chunks: AsyncIterator[bytes]) -> list[int]:
        """Stores a payload, at the leader. Returns the members that have it once they are a
        quorum."""
        ...

    async def upload_together(self, groups: AsyncIterator[CompletePayloads]) -> None:
        """Stores payloads, (digest, content), at the leader. Returns once a quorum has all of
        them."""
        ...

    def status(self) -> ReplicaStatus: ...

    @property
    def consumers(self) -> ConsumerService: ...


class PeerRequestService(Protocol):
    """The operations of a replica for the other members. Runs on the event loop."""

    def status(self) -> ReplicaStatus: ...

    def check_peer(
        self, cluster: str, to_member: int, sender: int = 0, last_index: int = 0
    ) -> None:
        """Raises WrongCluster, NotBootstrapped. to_member 0: any member of the group."""
        ...

    def greet(self, member: int, address: str) -> None:
        """A Raft stream of `member`, which `check_peer` has accepted, begins."""
        ...

    def disconnected(self, member: int) -> None:
        """A Raft stream of `member` that was greeted has ended, and no other one is open. Call it
        once everything that came on the stream has been passed to `receive`."""
        ...

    def receive(self, message: bytes, sender: int) -> None: ...
    async def take_payload(
        self, digest: bytes, size: int, chunks: AsyncIterator[bytes]
    ) -> bool: ...
    async def take_moved(self, digest: bytes, size: int, content: MovedContent) -> bool:
        """As `take_payload`. The content is not asked for if the payload is here already."""
        ...

    async def take_payloads(self, groups: AsyncIterator[CompletePayloads]) -> None: ...
    def payload_file(self, digest: bytes) -> tuple[Path, int]: ...
    async def receive_state(
        self, header: peer.TransferHeader, chunks: AsyncIterator[bytes]
    ) -> int: ...
    def transfer_offset(self, header: peer.TransferHeader) -> int:
        """The number of bytes of the state file that an interrupted transfer has already sent."""
        ...


class InspectionService(Protocol):
    """The verification of a running replica, for `partition-replica verify`."""

    def verify(self) -> AsyncIterator[tuple[str, int, int] | VerifyReport]:
        """Yields progress (step, done, total), then the report. Raises Overloaded while another
        verification runs, DiskFull if a copy of the state does not fit, NotBootstrapped."""
        ...


class SnapshotJobService(Protocol):
    """Snapshot jobs of this replica, one at a time; see replica_admin.proto. The caller owns the
    results."""

    def start(self, request: admin.StartSnapshotJobRequest) -> admin.SnapshotJob:
        """Raises InvalidArgument, Overloaded, NotBootstrapped, NoLeader, Stopping."""
        ...

    def get(self, job_id: str) -> admin.SnapshotJob:
        """Raises NotFound."""
        ...

    async def cancel(self, job_id: str) -> admin.SnapshotJob:
        """Cancels a job; returns once it has ended. Raises NotFound."""
        ...


class AdministrationService(Protocol):
    """The commands of the operator. Each is idempotent."""

    async def check_fencing_token(self, transitions: int, holder: str) -> None: ...
    async def bootstrap(self, cluster: str, *, standalone: bool) -> int: ...
    async def join(self, cluster: str) -> int: ...
    async def add_learner(self, member: int, address: str) -> int: ...
    async def promote_learner(self, member: int) -> int: ...
    async def remove_member(self, member: int) -> int: ...
    async def transfer_leadership(self, member: int) -> tuple[int, str]: ...
    async def fence(self, transitions: int, holder: str) -> None:
        """Fences the volume durably, and has the process close it. transitions, holder: the fencing
        token."""
        ...

    async def enable_replication(self) -> bool:
        """Enables replication. Returns True if the log is already replicated, False while the
        conversion is in progress."""
        ...


class RecoveryService(Protocol):
    """Takes the order to recover a lost quorum."""

    async def recover(self, member_id: int, cluster: str, accept_loss: str) -> bool:
        """Returns whether the volume belongs to the new group `cluster` already. Otherwise stores
        the order durably, and ends the process soon. Raises RecoveryRefused, and the errors of
        `CurrentMember.running`; then nothing has changed."""
        ...
