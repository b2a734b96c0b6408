"""Markers: objects that announce a take or a garbage collection to other processes.

One process writes, renews and deletes a marker. It writes the marker first, and then lists the
markers of the other kind. So if a take and a collection begin at the same time, at least one of
them sees the other. If a marker was not renewed for `marker_stale_s`, its process is considered
dead. Only the store's clock decides a marker's age (the time of a marker just written), so the
clocks of machines don't matter. If an owner could not renew its marker for half of that time, by
its own clock since boot, it fails, and never renews the marker again.
"""

import asyncio
import hashlib
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import datetime

from partition_snapshots.errors import SnapshotError, StoreBusy, StoreUnavailable
from partition_snapshots.limits import SnapshotLimits
from partition_snapshots.store import COLLECTING, TAKES, ObjectInfo, Store

RENEWALS = 8
"""Renewals of a marker per `marker_stale_s`."""

CLEANUP_S = 5.0
"""Seconds in which a failed or cancelled process tries to delete its marker."""


def boot_time() -> float:
    """Returns the seconds since boot, including those in which the machine was suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


POLL_FIRST_S, POLL_MAX_S = 0.05, 1.0


class Marker:
    """The marker of one process. Only that process writes `name`. A process with an owner's name
    deletes the markers of the owner's earlier processes at its next start. Other processes wait
    until a marker is stale."""

    def __init__(
        self,
        store: Store,
        name: str,
        limits: SnapshotLimits,
        clock: Callable[[], float] = boot_time,
    ) -> None:
        self.name = name
        self._store = store
        self._limits = limits
        self._clock = clock
        self._renewed = 0.0
        self._turn = asyncio.Lock()
        self._ended = False
        self._content = json.dumps({"startedBy": "partition_snapshots"}).encode() + b"\n"

    async def write(self) -> None:
        """Writes or renews the marker. Raises StoreUnavailable if the last renewal is too old."""
        began = self._clock()
        if self._renewed:
            self.check_age()
        await self._store.put_bytes(self.name, self._content)
        self._renewed = began

    async def now(self) -> datetime:
        """Returns the store's time of the last renewal. Raises StoreBusy if the marker was
        deleted."""
        found = await self._store.head(self.name)
        if found is None:
            raise StoreBusy(
                f"{self._store.description}: another process took over {self.name}; try again"
            )
        return found.modified

    def check_age(self) -> None:
        """Raises StoreUnavailable if the marker was not renewed in time."""
        age = self._clock() - self._renewed
        if age > self._limits.marker_stale_s / 2:
            raise StoreUnavailable(
                f"{self._store.description}: {self.name} could not be renewed for {age:.0f} s, so "
                "other processes may take it over; try again"
            )

    async def check(self) -> None:
        """Raises StoreBusy or StoreUnavailable unless the marker exists and is fresh."""
        await self.now()
        self.check_age()

    async def renewing(self) -> None:
        """Renews the marker until `end`. Ignores failed renewals, which `check_age` detects."""
        while True:
            await asyncio.sleep(self._limits.marker_stale_s / RENEWALS)
            async with self._turn:
                if self._ended:
                    return
                with suppress(SnapshotError):
                    if await self._store.head(self.name) is not None:
                        await self.write()

    async def end(self) -> None:
        """Ends the renewals: none is in flight when this returns, and none follows. A renewal in
        flight would recreate the marker after its deletion."""
        async with self._turn:
            self._ended = True

    async def remove(self) -> None:
        await self.end()
        await self._store.delete([self.name])


def token(owner: str) -> str:
    """Returns the end of the names of an owner's markers; random if `owner` is ""."""
    if not owner:
        return secrets.token_hex(8)
    return hashlib.sha256(owner.encode()).hexdigest()[:16]


async def forget_earlier(store: Store, owner: str) -> None:
    """Deletes the markers of the owner's earlier processes. They are dead, because an owner does
    one thing at a time. Does nothing if `owner` is ""."""
    if not owner:
        return
    end = f".{token(owner)}"
    left = [found.name async for found in store.list(TAKES) if found.name.endswith(end)]
    await store.delete([*left, COLLECTING + token(owner)])


def take_marker(store: Store, snapshot_id: str, owner: str, limits: SnapshotLimits) -> Marker:
    return Marker(store, f"{TAKES}{snapshot_id}.{token(owner)}", limits)


def collection_marker(store: Store, owner: str, limits: SnapshotLimits) -> Marker:
    return Marker(store, COLLECTING + token(owner), limits)


@asynccontextmanager
async def held(marker: Marker) -> AsyncIterator[None]:
    """Writes the marker, and renews it during the body. Deletes it if the body fails; otherwise the
    body deletes it. If the deletion fails, the marker becomes stale."""
    await marker.write()
    renewing = asyncio.ensure_future(marker.renewing())
    try:
        yield
    except BaseException:
        with suppress(SnapshotError, TimeoutError):
            await asyncio.wait_for(asyncio.shield(marker.remove()), CLEANUP_S)
        raise
    finally:
        renewing.cancel()
        await asyncio.gather(renewing, return_exceptions=True)


async def others(
    store: Store, folder: str, now: datetime, limits: SnapshotLimits
) -> tuple[list[ObjectInfo], list[ObjectInfo]]:
    """Returns the (fresh, stale) markers of a directory."""
    fresh: list[ObjectInfo] = []
    stale: list[ObjectInfo] = []
    async for found in store.list(folder):
        age_s = (now - found.modified).total_seconds()
        (stale if age_s > limits.marker_stale_s else fresh).append(found)
    return fresh, stale


async def wait_for_collection(
    store: Store, marker: Marker, limits: SnapshotLimits, waiting: Callable[[], None]
) -> None:
    """Waits until no garbage collection runs. After that, none begins while the marker exists.
    Raises StoreBusy after busy_wait_s."""
    deadline = time.monotonic() + limits.busy_wait_s
    pause = POLL_FIRST_S
    while True:
        fresh, stale = await others(store, COLLECTING, await marker.now(), limits)
        await store.delete([found.name for found in stale])
        if not fresh:
            return
        if time.monotonic() + pause > deadline:
            raise StoreBusy(
                f"{store.description}: a garbage collection is still running after "
                f"{limits.busy_wait_s:.0f} s ({fresh[0].name}); try again"
            )
        waiting()
        await asyncio.sleep(pause)
        pause = min(pause * 2, POLL_MAX_S)
        await marker.write()
