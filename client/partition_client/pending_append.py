"""One append that waits for its answer. `appends` sends it."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from partition_proto.v1 import log_store_pb2 as api
from partition_proto.v1 import types_pb2 as types

from partition_client.errors import ClientError, OutcomeUnknown


@dataclass(slots=True, eq=False)
class PendingAppend:
    """One append. `upload` brings payloads that the leader lacks. `doubts`: tries that were sent
    and not refused; while there is one, the append may have taken effect. `failure`: why its last
    try was refused. `resend`: the task that waits or uploads, and then sends the append again."""

    proposal: types.Proposal
    wait_applied: bool
    deadline: float
    upload: Callable[[list[bytes]], Awaitable[None]] | None = None
    doubts: int = 0
    pauses: int = 0
    uploads: int = 0
    failure: str = ""
    timeout: asyncio.Timeout | None = None
    resend: asyncio.Task[None] | None = None
    future: "asyncio.Future[api.AppendResponse]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    allowed_s: float = field(init=False)
    """How long the append may take, counted from the last progress of an upload."""

    def __post_init__(self) -> None:
        self.allowed_s = self.deadline - asyncio.get_running_loop().time()

    def move_deadline(self, deadline: float | None) -> None:
        """None: no deadline. Does nothing once the append has ended, because its timeout may be
        the reason, and a timeout that has passed can't be moved."""
        if self.timeout is not None and not self.future.done():
            self.timeout.reschedule(deadline)

    def fail(self, error: ClientError) -> None:
        if not self.future.done():
            self.future.set_exception(error)

    def refuse(self, error: ClientError) -> None:
        """Fails it by a refusal of its last try: an earlier one may have taken effect."""
        if self.doubts:
            error = OutcomeUnknown(f"{error}; an earlier try may have taken effect")
        self.fail(error)
