"""Markers: which process takes a snapshot, and which collects, for each other to see.

A marker is an object that one process writes, renews and removes. Whoever begins writes its marker
first, and then looks for markers of the other kind; so of two that begin at the same time at least
one sees the other. A marker that was not renewed for `marker_stale_s` is nobody's: its process
died. Its age is told by the store's clock alone (that of a marker just written), so machines'
clocks don't matter. An owner that could not renew its marker for half of that time, by a clock of
its own that never stands, gives up, and never renews it again.
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
"""How often a marker is renewed in the time after which it is stale."""

CLEANUP_S = 5.0
"""How long a failed or cancelled process tries to take its marker back, in seconds."""


def boot_time() -> float:
    """Seconds since boot, also those in which the machine was suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


POLL_FIRST_S, POLL_MAX_S = 0.05, 1.0


class Marker:
    """One process's marker. `name` is its own: nobody else writes it. An owner that is named finds
    what its own dead processes left, and removes it at its next start; others wait until it is
    stale."""

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
        """Writes or renews it. Raises StoreUnavailable where the last renewal is too old."""
        began = self._clock()
        if self._renewed:
            self.check_age()
        await self._store.put_bytes(self.name, self._content)
        self._renewed = began

    async def now(self) -> datetime:
        """The store's clock, as of the last renewal. Raises StoreBusy where the marker is gone."""
        found = await self._store.head(self.name)
        if found is None:
            raise StoreBusy(f"{self._store.description}: {self.name} was taken over; try again")
        return found.modified

    def check_age(self) -> None:
        """Raises StoreUnavailable where it was not renewed in time."""
        age = self._clock() - self._renewed
        if age > self._limits.marker_stale_s / 2:
            raise StoreUnavailable(
                f"{self._store.description}: {self.name} could not be renewed for {age:.0f} s: "
                "others may take it for a dead process's; try again"
            )

    async def check(self) -> None:
        """Raises StoreBusy or StoreUnavailable unless it stands, and fresh."""
        await self.now()
        self.check_age()

    async def renewing(self) -> None:
        """Renews it until `end`. That one renewal fails is fine: `check_age` tells."""
        while True:
            await asyncio.sleep(self._limits.marker_stale_s / RENEWALS)
            async with self._turn:
                if self._ended:
                    return
                with suppress(SnapshotError):
                    if await self._store.head(self.name) is not None:
                        await self.write()

    async def end(self) -> None:
        """No renewal is under way when this returns, and none follows: one that is on its way to
        the store would make the marker again after its removal."""
        async with self._turn:
            self._ended = True

    async def remove(self) -> None:
        await self.end()
        await self._store.delete([self.name])


def token(owner: str) -> str:
    """What an owner's markers end in; drawn anew for nobody in particular."""
    if not owner:
        return secrets.token_hex(8)
    return hashlib.sha256(owner.encode()).hexdigest()[:16]


async def forget_earlier(store: Store, owner: str) -> None:
    """Removes what an earlier process of this owner left: it does one thing at a time, so that one
    is dead. Does nothing for nobody in particular."""
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
    """Writes the marker, renews it meanwhile. It is removed where the body fails; where it succeeds
    the body has removed it. Where even that fails, it becomes stale."""
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
    """(fresh, stale) markers of a folder."""
    fresh: list[ObjectInfo] = []
    stale: list[ObjectInfo] = []
    async for found in store.list(folder):
        age_s = (now - found.modified).total_seconds()
        (stale if age_s > limits.marker_stale_s else fresh).append(found)
    return fresh, stale


async def wait_for_collection(
    store: Store, marker: Marker, limits: SnapshotLimits, waiting: Callable[[], None]
) -> None:
    """Returns when nobody collects. No collection begins after that while the marker stands. Raises
    StoreBusy after busy_wait_s."""
    deadline = time.monotonic() + limits.busy_wait_s
    pause = POLL_FIRST_S
    while True:
        fresh, stale = await others(store, COLLECTING, await marker.now(), limits)
        await store.delete([found.name for found in stale])
        if not fresh:
            return
        if time.monotonic() + pause > deadline:
            raise StoreBusy(
                f"{store.description}: a collection has been running for "
                f"{limits.busy_wait_s:.0f} s ({fresh[0].name}); try again"
            )
        waiting()
        await asyncio.sleep(pause)
        pause = min(pause * 2, POLL_MAX_S)
        await marker.write()
