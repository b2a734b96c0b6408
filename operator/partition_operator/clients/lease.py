"""Who leads: a Lease that one process holds and renews on a monotonic clock.

The holder ends its process when it could not renew in time: work must not outlive the lease.
leaseTransitions rises with every holder; replicas refuse commands that carry a lower one.
"""

import asyncio
import datetime as dt
import logging
import time
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any

from partition_operator.clients.kube import ApiError, Body, Kube
from partition_operator.config import OperatorConfig
from partition_operator.errors import OperatorError, text_of

logger = logging.getLogger(__name__)

REQUEST_TIMEOUT_S = 3.0


async def _within(seconds: float, asking: Coroutine[Any, Any, bool]) -> bool:
    """Raises OperatorError if there is no answer in time: a bare TimeoutError says nothing."""
    try:
        return await asyncio.wait_for(asking, seconds)
    except TimeoutError as error:
        raise OperatorError(f"no answer from the API server within {seconds:.1f} s") from error


class LeaseHolder:
    """Acquires, then renews. `lost` is called once when it could not renew: end the process."""

    def __init__(self, kube: Kube, config: OperatorConfig, lost: Callable[[str], None]) -> None:
        self._kube = kube
        self._config = config
        self._lost = lost
        self._seen: tuple[str, str] = ("", "")
        self._seen_at = 0.0
        self._turn = asyncio.Lock()
        self.transitions = 0

    async def acquire(self) -> None:
        """Returns when this process holds the lease."""
        while True:
            try:
                if await _within(REQUEST_TIMEOUT_S, self._try()):
                    return
            except OperatorError as error:
                logger.info("lease not acquired: %s", text_of(error))
            await asyncio.sleep(self._config.lease_retry_s)

    async def renew(self) -> None:
        """Renews until cancelled; calls `lost` when the deadline passes."""
        renewed, why = time.monotonic(), "the API server was not asked in time"
        while True:
            await asyncio.sleep(self._config.lease_retry_s)
            # The stamp is taken before the request: the lease is never thought younger than it is.
            asked = time.monotonic()
            left = renewed + self._config.lease_renew_deadline_s - asked
            try:
                async with self._turn:
                    held = await _within(max(min(REQUEST_TIMEOUT_S, left), 0.1), self._try())
                if held:
                    renewed = asked
                elif await _within(REQUEST_TIMEOUT_S, self._held_by_other()):
                    self._lost("another process holds the lease")
                    return
                else:
                    why = "the lease was changed by somebody else"
            except Exception as error:  # whatever it is, the deadline decides
                why = text_of(error)
                logger.warning("lease not renewed: %s", why)
            if time.monotonic() - renewed > self._config.lease_renew_deadline_s:
                deadline = self._config.lease_renew_deadline_s
                self._lost(f"the lease could not be renewed within {deadline:.1f} s: {why}")
                return

    async def raise_above(self, seen: int) -> None:
        """Raises the token above one that a replica has seen: the Lease was made anew since. Only
        for the holder; raises OperatorError where the Lease can't be written."""
        async with self._turn:
            self.transitions = max(self.transitions, seen + 1)
            if not await _within(REQUEST_TIMEOUT_S, self._try()):
                raise OperatorError("the lease is not ours any more")

    async def _held_by_other(self) -> bool:
        lease = await self._kube.get("Lease", self._config.namespace, self._config.lease_name)
        holder = ((lease or {}).get("spec") or {}).get("holderIdentity") or ""
        return holder not in ("", self._config.identity)

    async def release(self) -> None:
        """Lets the next one take over at once."""
        lease = await self._kube.get("Lease", self._config.namespace, self._config.lease_name)
        if lease is not None and lease["spec"].get("holderIdentity") == self._config.identity:
            lease["spec"]["holderIdentity"] = ""
            await self._kube.replace(lease)

    async def _try(self) -> bool:
        config = self._config
        lease = await self._kube.get("Lease", config.namespace, config.lease_name)
        if lease is None:
            self.transitions = max(self.transitions, 1)
            try:
                await self._kube.create(self._body(self.transitions))
            except ApiError as error:
                if error.status == HTTPStatus.CONFLICT:
                    return False
                raise
            return True
        spec = lease["spec"]
        holder, stamp = spec.get("holderIdentity") or "", spec.get("renewTime") or ""
        transitions = int(spec.get("leaseTransitions") or 0)
        if holder != config.identity and not self._expired(holder, stamp):
            return False
        if holder != config.identity:
            transitions += 1
        transitions = max(transitions, self.transitions)
        # The metadata that was seen: its version, and labels that somebody else put there.
        body = self._body(transitions) | {"metadata": lease["metadata"]}
        try:
            await self._kube.replace(body)
        except ApiError as error:
            if error.status == HTTPStatus.CONFLICT:
                return False
            raise
        self.transitions = transitions
        return True

    def _expired(self, holder: str, stamp: str) -> bool:
        """By our own clock: since when we see this very renewal."""
        if not holder:
            return True
        if (holder, stamp) != self._seen:
            self._seen, self._seen_at = (holder, stamp), time.monotonic()
        return time.monotonic() - self._seen_at > self._config.lease_duration_s

    def _body(self, transitions: int) -> Body:
        config = self._config
        now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": config.lease_name, "namespace": config.namespace},
            "spec": {
                "holderIdentity": config.identity,
                "leaseDurationSeconds": int(config.lease_duration_s),
                "acquireTime": now,
                "renewTime": now,
                "leaseTransitions": transitions,
            },
        }
