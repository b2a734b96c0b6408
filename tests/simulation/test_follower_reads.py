"""Linearizable reads at followers: what the leader confirms, or nothing."""

import asyncio

import pytest
from partition_replica.errors import NoLeader, NotLeader

from tests.simulation.cluster import Cluster
from tests.simulation.node import TICK_S, Node
from tests.simulation.one_key import KEY, elected, write
from tests.simulation.quiet import cut_off, leader, quietly

SEEDS = range(1, 5)
OUT_OF_DATE_S = 6.0
"""Longer than a follower waits for its leader's answer."""


async def read(node: Node, *, at_follower: bool = True) -> bytes | None:
    replica, process = node.replica, node.process
    assert replica is not None and process is not None

    async def serve() -> bytes | None:
        state = await replica.applications.read_point(linearizable=True, at_follower=at_follower)
        return state.get_value(KEY)[0]

    return await process.spawn(serve())


async def parts(cluster: Cluster) -> tuple[Node, list[Node]]:
    """The leader, and the others."""
    found = await leader(cluster)
    return found, [node for node in cluster.nodes if node is not found]


def rounds(node: Node) -> int:
    assert node.running is not None
    return next(node.running._read_indexes._serial)


def test_every_replica_shows_what_was_acknowledged() -> None:
    async def body(cluster: Cluster) -> None:
        leads, others = await parts(cluster)
        for number in range(20):
            value = b"%d" % number
            await write(leads, value)
            assert await read(others[number % 2]) == value
            assert await read(leads) == value
        with pytest.raises(NotLeader):
            await read(others[0], at_follower=False)

    for seed in SEEDS:
        quietly(body, seed=seed)


def test_concurrent_reads_at_a_follower_share_rounds() -> None:
    async def body(cluster: Cluster) -> None:
        leads, others = await parts(cluster)
        await write(leads, b"v")
        before = rounds(others[0])
        found = await asyncio.gather(*(read(others[0]) for _ in range(200)))
        assert set(found) == {b"v"}
        assert rounds(others[0]) - before - 1 <= 3

    quietly(body)


def test_a_follower_that_is_cut_off_shows_nothing() -> None:
    async def body(cluster: Cluster) -> None:
        leads, others = await parts(cluster)
        await write(leads, b"before")
        cut_off(cluster, others[0])
        await write(leads, b"after")
        with pytest.raises(NoLeader):
            await read(others[0])

    for seed in SEEDS:
        quietly(body, seed=seed)


def test_a_leader_that_was_deposed_confirms_nothing() -> None:
    """It and one follower are on the wrong side; the follower still hears of it for a while."""

    async def body(cluster: Cluster) -> None:
        leads, others = await parts(cluster)
        await write(leads, b"before")
        await asyncio.sleep(1.0)
        beside, *rest = others
        for one in (leads, beside):
            for other in rest:
                cluster.network.cut(one.name, other.name)
                cluster.network.cut(other.name, one.name)
        await write(await elected(rest), b"after")
        with pytest.raises((NoLeader, NotLeader)):
            await read(beside)

    for seed in SEEDS:
        quietly(body, voters=5, seed=seed)


def test_a_request_that_is_lost_is_sent_again() -> None:
    async def body(cluster: Cluster) -> None:
        leads, others = await parts(cluster)
        await write(leads, b"v")
        cluster.network.cut(others[0].name, leads.name)
        reading = asyncio.ensure_future(read(others[0]))
        await asyncio.sleep(TICK_S * 2)
        assert not reading.done()
        cluster.network.heal()
        async with asyncio.timeout(TICK_S * 6):
            assert await reading == b"v"

    quietly(body)


def test_a_read_that_began_under_one_leader_ends_under_the_next() -> None:
    async def body(cluster: Cluster) -> None:
        leads, others = await parts(cluster)
        await write(leads, b"v")
        cut_off(cluster, leads)
        readings = [asyncio.ensure_future(read(other)) for other in others]
        async with asyncio.timeout(OUT_OF_DATE_S):
            assert await asyncio.gather(*readings) == [b"v", b"v"]

    for seed in SEEDS:
        quietly(body, seed=seed)
