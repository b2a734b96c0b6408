"""The service of a replica for applications: sessions, appends, reads, consumers."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager

from partition_proto.v1 import types_pb2 as types

from partition_replica.core.model import Applied, Ineffective, LogEntry, OpenedFile, ReplicaStatus
from partition_replica.core.payloads import CompletePayloads
from partition_replica.core.services import (
    AppendAnswers,
    AppendFrame,
    PinnedStateService,
    StateReader,
)
from partition_replica.ids import LSN
from partition_replica.runtime.serving.append_frames import AppendFrames
from partition_replica.runtime.serving.appends import Appends
from partition_replica.runtime.serving.consumers import Consumers
from partition_replica.runtime.serving.histories import Histories
from partition_replica.runtime.serving.pinned_states import PinnedStates
from partition_replica.runtime.serving.reads import Reads
from partition_replica.runtime.serving.status import Status


class Applications:
    """Implements core.services.ApplicationService. On the event loop."""

    def __init__(
        self,
        histories: Histories,
        appends: Appends,
        frames: AppendFrames,
        reads: Reads,
        pinned_states: PinnedStates,
        consumers: Consumers,
        status: Status,
    ) -> None:
        self._histories = histories
        self._appends = appends
        self._frames = frames
        self._reads = reads
        self._pinned_states = pinned_states
        self._status = status
        self.consumers = consumers

    def status(self) -> ReplicaStatus:
        return self._status.read()

    def history(self) -> str:
        return self._histories.known()

    def check_history(self, history: str, *, leading: bool = False) -> None:
        self._histories.check(history, leading=leading)

    async def open_session(self, time_to_live_ms: int) -> tuple[int, int]:
        return await self._appends.open_session(time_to_live_ms)

    async def close_session(self, session: int) -> None:
        await self._appends.close_session(session)

    async def append(self, proposal: types.Proposal, *, retry: bool, wait_applied: bool) -> Applied:
        return await self._appends.append(proposal, retry=retry, wait_applied=wait_applied)

    async def append_frame(self, frame: AppendFrame, answers: AppendAnswers) -> None:
        await self._frames.append(frame, answers)

    async def upload(self, digest: bytes, size: int, chunks: AsyncIterator[bytes]) -> list[int]:
        return await self._appends.upload(digest, size, chunks)

    async def upload_together(self, groups: AsyncIterator[CompletePayloads]) -> None:
        await self._appends.upload_together(groups)

    async def read_point(self, *, linearizable: bool, at_follower: bool = False) -> StateReader:
        return await self._reads.point(linearizable=linearizable, at_follower=at_follower)

    def committed_entries(self, lo: int, bytes_max: int) -> tuple[list[LogEntry], int]:
        return self._reads.entries(lo, bytes_max)

    def unapplied(self, entries: Sequence[LogEntry]) -> dict[LSN, Ineffective | None]:
        return self._reads.unapplied(entries)

    async def advanced(self) -> None:
        await self._reads.advanced()

    async def open_file(self, path: bytes, offset: int, *, linearizable: bool) -> OpenedFile:
        return await self._reads.open_file(path, offset, linearizable=linearizable)

    def close_file(self, opened: OpenedFile) -> None:
        self._reads.close_file(opened)

    def pinned_state(
        self, *, linearizable: bool, history: str
    ) -> AbstractAsyncContextManager[PinnedStateService]:
        return self._pinned_states.open(linearizable=linearizable, history=history)
