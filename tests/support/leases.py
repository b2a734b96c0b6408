"""A Lease in memory, a clock that a test moves, and operators that want the Lease."""

import asyncio
import copy
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest
from partition_operator.clients import lease as module
from partition_operator.clients.kube import ApiError, Body
from partition_operator.clients.lease import LeaseHolder
from partition_operator.config import OperatorConfig

from tests.support.local_group import eventually

DURATION_S, RETRY_S = 15.0, 0.01


class Clock:
    """The holders' monotonic clock. It stands until a test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=found.monotonic))
    return found


class Kube:
    """An API server with at most one Lease. It refuses writes at an outdated version.

    `tokens`: (holder, token) of each write that was taken. `looks`: how often the Lease was read.
    """

    def __init__(self) -> None:
        self.lease: Body | None = None
        self.tokens: list[tuple[str, int]] = []
        self.looks = 0
        self._version = 0

    async def get(self, kind: str, namespace: str, name: str) -> Body | None:
        self.looks += 1
        found = copy.deepcopy(self.lease)
        await asyncio.sleep(0)  # others have their turn before the answer is there
        return found

    async def create(self, body: Body) -> Body:
        if self.lease is not None:
            raise ApiError(409, "exists")
        return self._keep(body)

    async def replace(self, body: Body) -> Body:
        seen = body["metadata"].get("resourceVersion")
        if self.lease is None or seen != self.lease["metadata"]["resourceVersion"]:
            raise ApiError(409, "changed")
        return self._keep(body)

    def _keep(self, body: Body) -> Body:
        self._version += 1
        self.lease = copy.deepcopy(body)
        self.lease["metadata"]["resourceVersion"] = str(self._version)
        spec = self.lease["spec"]
        self.tokens.append((spec["holderIdentity"], spec["leaseTransitions"]))
        return copy.deepcopy(self.lease)


def never(why: str) -> None:
    raise AssertionError(why)


def holder(kube: Kube, name: str, lost: Callable[[str], None] = never) -> LeaseHolder:
    config = OperatorConfig("ns", name, "image", lease_duration_s=DURATION_S, lease_retry_s=RETRY_S)
    return LeaseHolder(cast("Any", kube), config, lost)


@asynccontextmanager
async def acquiring(lease: LeaseHolder) -> AsyncIterator["asyncio.Task[None]"]:
    task = asyncio.create_task(lease.acquire())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task})


async def looked(kube: Kube) -> None:
    """Returns when the candidate has looked at the Lease as it is now."""
    before = kube.looks

    async def twice() -> bool:
        return kube.looks >= before + 2  # the first look may have begun earlier

    await eventually(twice, "somebody looks at the lease")
