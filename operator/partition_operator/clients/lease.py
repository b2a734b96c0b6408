"""Elects the working operator: one process holds the Lease and renews it, on a monotonic clock.

If the holder can't renew in time, it ends its process, because no work may continue without the
Lease. leaseTransitions rises with every new holder; replicas refuse commands with a lower value.
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
    """Waits for an answer. Raises OperatorError after `seconds`, because TimeoutError has no
    text."""
    try:
        return await asyncio.wait_for(asking, seconds)
    except TimeoutError as error:
        raise OperatorError(f"no answer from the API server within {seconds:.1f} s") from error


class LeaseHolder:
    """Acquires the Lease, then renews it. lost: called once if a renewal fails for too long; it
    must end the process."""

    def __init__(self, kube: Kube, config: OperatorConfig, lost: Callable[[str], None]) -> None:
        self._kube = kube
        self._config = config
        self._lost = lost
        self._seen: tuple[str, str] = ("", "")
        self._seen_at = 0.0
        self._turn = asyncio.Lock()
        self.transitions = 0

    async def acquire(self) -> None:
        """Waits until this process holds the Lease."""
        while True:
            try:
                if await _within(REQUEST_TIMEOUT_S, self._try()):
                    return
            except OperatorError as error:
                logger.info("the Lease was not acquired: %s", text_of(error))
            await asyncio.sleep(self._config.lease_retry_s)

    async def renew(self) -> None:
        """Renews until it is cancelled. Calls `lost` if the renewal deadline passes."""
        renewed, why = time.monotonic(), "this process did not send a request in time"
        while True:
            await asyncio.sleep(self._config.lease_retry_s)
            # The time is taken before the request, so the Lease never seems newer than it is.
            asked = time.monotonic()
            left = renewed + self._config.lease_renew_deadline_s - asked
            try:
                async with self._turn:
                    held = await _within(max(min(REQUEST_TIMEOUT_S, left), 0.1), self._try())
                if held:
                    renewed = asked
                elif await _within(REQUEST_TIMEOUT_S, self._held_by_other()):
                    self._lost("another process holds the Lease")
                    return
                else:
                    why = "another writer changed the Lease"
            except Exception as error:  # after any error, only the deadline decides
                why = text_of(error)
                logger.warning("the Lease was not renewed: %s", why)
            if time.monotonic() - renewed > self._config.lease_renew_deadline_s:
                deadline = self._config.lease_renew_deadline_s
                self._lost(f"the Lease could not be renewed within {deadline:.1f} s: {why}")
                return

    async def raise_above(self, seen: int) -> None:
        """Raises the token above one that a replica has seen, after the Lease was recreated. Only
        for the holder. Raises OperatorError if the Lease can't be written."""
        async with self._turn:
            self.transitions = max(self.transitions, seen + 1)
            if not await _within(REQUEST_TIMEOUT_S, self._try()):
                raise OperatorError("this process no longer holds the Lease")

    async def _held_by_other(self) -> bool:
        lease = await self._kube.get("Lease", self._config.namespace, self._config.lease_name)
        holder = ((lease or {}).get("spec") or {}).get("holderIdentity") or ""
        return holder not in ("", self._config.identity)

    async def release(self) -> None:
        """Releases the Lease, so that another process can acquire it at once."""
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
        # The metadata as read: it contains the version, and labels of other writers.
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
        """Whether the Lease has expired. By our own clock: the time since we first read this
        renewal."""
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
