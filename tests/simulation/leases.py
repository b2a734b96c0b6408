"""Leaders that read by their lease while others replace them."""

import asyncio
from collections.abc import Callable

from partition_replica.errors import NoLeader, NotLeader

from tests.simulation.cluster import Cluster
from tests.simulation.node import TICK_S, Node
from tests.simulation.one_key import elected, read, write
from tests.simulation.quiet import cut_off, leader, quietly


def by_lease(node: Node) -> float:
    assert node.replica is not None
    found = node.replica._metrics.registry.get_sample_value(
        "logstore_linearizable_reads_total", {"by": "lease"}
    )
    return found or 0.0


async def read_by_lease(node: Node) -> bytes | None:
    """Reads until the lease answers."""
    replica, process = node.replica, node.process
    assert replica is not None and process is not None
    before = by_lease(node)
    async with asyncio.timeout(30.0):
        while True:
            found = await process.spawn(read(replica))
            if by_lease(node) > before:
                return found
            await asyncio.sleep(TICK_S)


async def value_after(node: Node, others: list[Node]) -> tuple[bytes | None, bool]:
    """What `node` reads right after the others have acknowledged a write without it, None if it
    refuses; and whether it still took itself for the leader."""
    await write(await elected(others), b"after")
    assert node.replica is not None and node.process is not None and node.running is not None
    leads = node.running.loop.role == "leader"
    try:
        return await node.process.spawn(read(node.replica)), leads
    except (NoLeader, NotLeader):
        return None, leads


def deposed(meanwhile: Callable[[Node, list[Node]], None], seed: int) -> tuple[bytes | None, bool]:
    """What a leader reads that had a lease, was cut off, and was replaced; and whether it still
    took itself for the leader. `meanwhile` is called with it and the others when it is cut off."""
    result: list[tuple[bytes | None, bool]] = []

    async def body(cluster: Cluster) -> None:
        old = await leader(cluster)
        others = [node for node in cluster.nodes if node is not old]
        await write(old, b"before")
        assert await read_by_lease(old) == b"before"
        cut_off(cluster, old)
        meanwhile(old, others)
        result.append(await value_after(old, others))

    quietly(body, seed=seed, lease_reads=True)
    return result[0]


def nothing(old: Node, others: list[Node]) -> None:
    """It is only cut off."""


def stopped_clocks(old: Node, others: list[Node]) -> None:
    """For its lease no time passes any more: a machine that was paused, with clocks that do not
    know."""
    old.frozen_clock = old._lease_clock()


def suspended(old: Node, others: list[Node]) -> None:
    """As before, but the clock that counts suspension tells of it."""
    stopped_clocks(old, others)
    assert old.frozen_clock is not None
    old.frozen_clock = (old.frozen_clock[0] + 0.2, old.frozen_clock[1])
