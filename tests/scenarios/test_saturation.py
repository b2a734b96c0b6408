"""No election that nobody asked for while clients take all of the processors, for a long time."""

import asyncio
import os
import time
from pathlib import Path

import pytest

from tests.support import certificates
from tests.support.local_group import PARTITION, LocalGroup

SECONDS = float(os.environ.get("SATURATION_SECONDS", "60"))
WRITERS = 256
READERS = 32
VALUE_BYTES = 1_000
KEYS = 2_000
"""A writer sets the same keys again and again, so that the volumes do not grow with the time."""
ELECTIONS = "logstore_elections_started_total"

pytestmark = [pytest.mark.long, pytest.mark.timeout(SECONDS + 240)]


async def test_a_leader_stays_the_leader_under_load(tmp_path: Path) -> None:
    """With the settings that a replica has by default."""
    tls, folders = certificates.make(tmp_path, PARTITION, 3)
    group = LocalGroup(tmp_path, tls=tls, tls_directories=folders, tick_ms=None)
    async with group:
        await group.bootstrap()
        leader = await group.leader()
        before = await group.status(leader)
        assert before is not None
        elections = [one.metric(ELECTIONS) for one in group.replicas]
        began = time.monotonic()
        done = {"writes": 0, "reads": 0}
        async with group.client() as client:

            async def write(number: int) -> None:
                count = number
                while time.monotonic() < began + SECONDS:
                    await client.set_key(b"%d" % (count % KEYS), os.urandom(VALUE_BYTES))
                    count += WRITERS
                    done["writes"] += 1

            async def read(number: int) -> None:
                while time.monotonic() < began + SECONDS:
                    await client.get_key(b"%d" % number)
                    done["reads"] += 1

            async with asyncio.TaskGroup() as tasks:
                for number in range(WRITERS):
                    tasks.create_task(write(number))
                for number in range(READERS):
                    tasks.create_task(read(number))
        took = time.monotonic() - began
        after = await group.status(leader)
        assert after is not None
        assert (after.term, after.role) == (before.term, "leader")
        load = os.getloadavg()[0]
        print(
            f"\n{took:.0f} s, load average {load:.1f} on {os.cpu_count()} processors: "
            f"{done['writes'] / took:.0f} writes/s, {done['reads'] / took:.0f} reads/s, "
            f"term {after.term}"
        )
        assert [one.metric(ELECTIONS) for one in group.replicas] == elections
        await group.settled()
