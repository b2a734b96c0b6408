"""Names what no retry mends: a replica that refuses our certificate, or the other way round.

gRPC reports both as UNAVAILABLE, which is retried until the deadline.
"""

import asyncio

import grpc
from partition_proto.connection import handshake
from partition_proto.connection.channel import FromFiles, Plain

from partition_client.errors import TlsRefused, detail_of

REFUSED_CODES = frozenset({grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED})
SUSPECT_CODES = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})

KEPT_S = 1.0
"""For so long an address is not tried again, and a caller waits for a trial."""


class Diagnosis:
    """Of the addresses of one group."""

    def __init__(self, credentials: FromFiles | Plain, server_name: str, *, direct: bool) -> None:
        """direct: False if a proxy may be in between, which a trial of our own would go past."""
        self._credentials = credentials
        self._server_name = server_name
        self._direct = direct
        self._trials: dict[str, tuple[float, asyncio.Task[handshake.Refusal | None]]] = {}

    async def of(
        self, address: str, error: grpc.aio.AioRpcError, within_s: float = KEPT_S
    ) -> TlsRefused | None:
        """The refusal behind a failed call; None if the call may succeed later, or the trial is not
        over within `within_s`: the next one then finds its result."""
        if detail_of(error) is not None:
            return None
        if error.code() in REFUSED_CODES:
            return TlsRefused(f"{address}: {error.details()}", error.code().name)
        if error.code() not in SUSPECT_CODES or not self._direct:
            return None
        trial = self._trial(address)
        await asyncio.wait({trial}, timeout=min(KEPT_S, within_s))
        # A trial that fails says nothing about the call.
        failed = not trial.done() or trial.cancelled() or trial.exception() is not None
        found = None if failed else trial.result()
        return (
            None if found is None else TlsRefused(f"{found.reason}: {found.message}", found.reason)
        )

    async def close(self) -> None:
        """Waits a moment for the trials: their threads end by their own time-outs."""
        trials = [trial for _, trial in self._trials.values()]
        if trials:
            await asyncio.wait(trials, timeout=KEPT_S)

    def _trial(self, address: str) -> "asyncio.Task[handshake.Refusal | None]":
        """One at a time for an address."""
        now = asyncio.get_running_loop().time()
        began, trial = self._trials.get(address, (0.0, None))
        if trial is None or (trial.done() and now - began > KEPT_S):
            pem = self._credentials.pem() if isinstance(self._credentials, FromFiles) else None
            trial = asyncio.create_task(
                asyncio.to_thread(handshake.refusal, address, pem, self._server_name)
            )
            self._trials[address] = (now, trial)
        return trial
