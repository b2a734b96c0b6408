"""Detects TLS failures that a retry can't fix, such as a certificate that one side rejects.

gRPC reports them as UNAVAILABLE, which the client retries until the deadline.
"""

import asyncio

import grpc
from partition_proto.connection import handshake
from partition_proto.connection.channel import FromFiles, Insecure
from partition_proto.connection.pem import Pem

from partition_client.errors import TlsRefused, detail_of

REFUSED_CODES = frozenset({grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED})
SUSPECT_CODES = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})

KEPT_S = 1.0
"""Seconds for which the result of a trial is kept, and for which a caller waits for a trial."""


class Diagnosis:
    """Finds TLS failures behind failed calls to the addresses of one group, by a trial handshake
    per address."""

    def __init__(
        self, credentials: FromFiles | Insecure, server_name: str, *, direct: bool
    ) -> None:
        """direct: False if connections may use a proxy. No trial is made then: it would bypass the
        proxy."""
        self._credentials = credentials
        self._server_name = server_name
        self._direct = direct
        self._trials: dict[str, asyncio.Task[handshake.TlsRefusal | None]] = {}
        self._ended: dict[str, float] = {}

    async def of(
        self, address: str, error: grpc.aio.AioRpcError, within_s: float
    ) -> TlsRefused | None:
        """Returns the TLS failure behind a failed call. Returns None if the call may succeed later,
        or if the trial takes longer than `within_s`; the next failed call then gets its result."""
        if detail_of(error) is not None:
            return None
        if error.code() in REFUSED_CODES:
            return TlsRefused(f"{address}: {error.details()}", error.code().name)
        if error.code() not in SUSPECT_CODES or not self._direct:
            return None
        trial = self._trial(address)
        await asyncio.wait({trial}, timeout=min(KEPT_S, within_s))
        # A trial that fails itself does not explain the call.
        failed = not trial.done() or trial.cancelled() or trial.exception() is not None
        found = None if failed else trial.result()
        return (
            None if found is None else TlsRefused(f"{found.reason}: {found.message}", found.reason)
        )

    async def close(self) -> None:
        """Waits up to KEPT_S for the trials. Their threads end at their own timeouts."""
        if self._trials:
            await asyncio.wait(self._trials.values(), timeout=KEPT_S)

    def _trial(self, address: str) -> "asyncio.Task[handshake.TlsRefusal | None]":
        """Returns the address's trial that runs or ended within KEPT_S, or starts one."""
        trial = self._trials.get(address)
        if trial is None or (trial.done() and self._age_s(address) > KEPT_S):
            pem = self._credentials.pem() if isinstance(self._credentials, FromFiles) else None
            trial = asyncio.create_task(self._try(address, pem))
            self._trials[address] = trial
        return trial

    async def _try(self, address: str, pem: Pem | None) -> handshake.TlsRefusal | None:
        try:
            return await asyncio.to_thread(handshake.refusal, address, pem, self._server_name)
        finally:
            self._ended[address] = asyncio.get_running_loop().time()

    def _age_s(self, address: str) -> float:
        """Seconds since the last trial ended. If we counted from its start, the result of a slow
        trial would expire before its first use."""
        return asyncio.get_running_loop().time() - self._ended.get(address, float("-inf"))
