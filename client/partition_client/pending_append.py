"""One append that waits for its answer. `appends` sends it."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from partition_proto.v1 import types_pb2 as types

from partition_client.errors import ClientError, OutcomeUnknown, RequestRefused

PROPOSAL_BYTES_MAX = 1024 * 1024
"""Replicas take no larger ones, and a message far above it ends the stream of all others."""


@dataclass(frozen=True, slots=True)
class Appended:
    """The entry of an append. `outcomes` has a types.Outcome per operation, if the append waited
    for the apply and not all operations were APPLIED. Otherwise it is empty."""

    lsn: int
    term: int
    outcomes: tuple[int, ...] = ()


@dataclass(slots=True, eq=False)
class PendingAppend:
    """One append. `allowed_s`: seconds that it may take, counted from the last progress of an
    upload. `upload` brings payloads that the leader lacks. `doubts`: tries that were sent and not
    refused; while there is one, the append may have taken effect. `retry`: whether the last try was
    not the first one. `failure`: why its last try was refused. `paused`: it waits to be sent again.
    `resend`: the task that uploads, and then sends the append again. Created on the event loop."""

    proposal: types.Proposal
    wait_applied: bool
    allowed_s: float
    upload: Callable[[list[bytes]], Awaitable[None]] | None = None
    sequence: int = 0
    doubts: int = 0
    retry: bool = False
    pauses: int = 0
    uploads: int = 0
    failure: str = ""
    paused: bool = False
    resend: asyncio.Task[None] | None = None
    content: bytes = field(init=False)
    """The proposal as it is sent, without session and sequence."""
    future: "asyncio.Future[Appended]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    def __post_init__(self) -> None:
        self.content = self.proposal.SerializeToString(deterministic=True)

    def check_size(self) -> None:
        """Raises RequestRefused."""
        size = len(self.content)
        if size > PROPOSAL_BYTES_MAX:
            raise RequestRefused(
                f"the append encodes to {size} bytes; allowed are {PROPOSAL_BYTES_MAX}: split it, "
                "or store large values as files",
                "INVALID_ARGUMENT",
            )

    def number(self, session: int, sequence: int) -> None:
        self.sequence = self.proposal.sequence = sequence
        self.proposal.session_id = session

    @property
    def held(self) -> bool:
        """Whether something else will send it again."""
        return self.paused or self.resend is not None

    def fail(self, error: ClientError) -> None:
        if not self.future.done():
            self.future.set_exception(error)

    def refuse(self, error: ClientError) -> None:
        """Fails it by a refusal of its last try: an earlier one may have taken effect."""
        if self.doubts:
            error = OutcomeUnknown(f"{error}; an earlier try may have taken effect")
        self.fail(error)
