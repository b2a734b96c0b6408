"""A new leader after the death of one, and the same leader after connections broke."""

import asyncio
import statistics
from collections.abc import Callable
from dataclasses import replace

import pytest
from partition_replica.runtime.consensus import ticker

from tests.simulation import peers
from tests.simulation.cluster import Cluster
from tests.simulation.node import ELECTION_TICKS, TICK_S, Node
from tests.simulation.quiet import leader, quietly

SEEDS = range(1, 11)
ELECTION_S = ELECTION_TICKS * TICK_S
ELECTED_S = 30.0
SPLIT_VOTES_MAX = 3
LATENCY_S = (0.0005, 0.003)


async def settled_leader(cluster: Cluster) -> Node:
    """The leader of a group in one place. Everybody has heard of it."""
    cluster.network.settings = replace(cluster.network.settings, latency_s=LATENCY_S)
    leading = await leader(cluster)
    await asyncio.sleep(ELECTION_S)
    return leading


def term(node: Node) -> int:
    assert node.running is not None
    return node.running.loop.status().term


async def successor(cluster: Cluster, lost: Node) -> Node:
    async with asyncio.timeout(ELECTED_S):
        while True:
            for node in cluster.nodes:
                if node is not lost and node.running is not None and node.running.serving:
                    return node
            await asyncio.sleep(0.001)


def heard_at(node: Node, sender: Node) -> float:
    assert node.running is not None
    return node.running.loop._contacts.heard_at(sender.member)


def running_beside(cluster: Cluster, lost: Node) -> list[Node]:
    """Without a node that the operator has prepared and not started yet."""
    return [node for node in cluster.nodes if node is not lost and node.running is not None]


def failover_s(seed: int, *, silent: bool = False) -> float:
    """Seconds from the death of a leader's process until another one serves. silent: the node dies
    with it, and closes no connection."""
    took: list[float] = []

    async def body(cluster: Cluster) -> None:
        lost = await settled_leader(cluster)
        lost.settings = replace(lost.settings, power_loss=1.0 if silent else 0.0)
        # Deaths at all moments between two heartbeats.
        await asyncio.sleep(TICK_S * seed / len(SEEDS))
        began = cluster.loop.time()
        lost.crash()
        others = running_beside(cluster, lost)
        await successor(cluster, lost)
        now = cluster.loop.time()
        took.append(now - began)
        # Both others voted. The bound of a lease holds for the last that heard of the leader.
        heard = max(heard_at(node, lost) for node in others)
        assert now - heard >= ticker.vote_refused_s(TICK_S, ELECTION_TICKS)

    quietly(body, seed=seed)
    return took[0]


def test_the_fast_clock_finds_a_leader_several_times_sooner(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fast = [failover_s(seed) for seed in SEEDS]
    silent = failover_s(SEEDS[0], silent=True)
    monkeypatch.setattr(ticker, "FAST_TICKS_A_TICK", 1)
    slow = [failover_s(seed) for seed in SEEDS]
    assert statistics.median(slow) > 4 * statistics.median(fast), (fast, slow)
    assert max(fast) < ELECTION_S / 2
    assert silent > 0.9 * ELECTION_S, "without an end of the connection no clock is fast"


def test_a_new_leader_serves_without_waiting_for_a_tick() -> None:
    """It proposes, commits and applies the first entry of its term in a few round trips."""
    took: list[float] = []

    async def body(cluster: Cluster) -> None:
        lost = await settled_leader(cluster)
        others = running_beside(cluster, lost)
        lost.crash()
        async with asyncio.timeout(ELECTED_S):
            while not any(
                n.running is not None and n.running.loop.role == "leader" for n in others
            ):
                await asyncio.sleep(0.001)
        elected = cluster.loop.time()
        await successor(cluster, lost)
        took.append(cluster.loop.time() - elected)

    for seed in SEEDS:
        quietly(body, seed=seed)
    assert statistics.median(took) < TICK_S / 4, took


def both(one: str, other: str) -> list[tuple[str, str]]:
    return [(one, other), (other, one)]


def from_leader(cluster: Cluster, leading: Node) -> list[tuple[str, str]]:
    return [(leading.name, node.name) for node in running_beside(cluster, leading)]


def all_of_leader(cluster: Cluster, leading: Node) -> list[tuple[str, str]]:
    return [pair for one, other in from_leader(cluster, leading) for pair in both(one, other)]


def one_of_leader(cluster: Cluster, leading: Node) -> list[tuple[str, str]]:
    return from_leader(cluster, leading)[:1]


Choice = Callable[[Cluster, Node], list[tuple[str, str]]]


@pytest.mark.parametrize("choose", [from_leader, all_of_leader, one_of_leader])
def test_resets_do_not_depose_a_leader_that_lives(choose: Choice) -> None:
    """It connects again before its followers' fast clocks run out."""
    ended = 0

    async def body(cluster: Cluster) -> None:
        nonlocal ended
        leading = await settled_leader(cluster)
        before = term(leading)
        for _ in range(20):
            for source, target in choose(cluster, leading):
                cluster.network.reset(source, target)
            await asyncio.sleep(cluster.rng.uniform(0.02, 0.5))
        await asyncio.sleep(2 * ELECTION_S)
        assert leading.running is not None
        assert leading.running.serving
        assert term(leading) == before
        ended += cluster.trace.counts["streams that ended"]

    for seed in SEEDS:
        quietly(body, seed=seed)
    assert ended >= 20 * len(SEEDS), "followers heard of the ends"


def test_a_follower_that_its_leader_cannot_reach_again_campaigns_in_vain() -> None:
    """Its clock is fast, but the others' are not."""

    async def body(cluster: Cluster) -> None:
        leading = await settled_leader(cluster)
        before = term(leading)
        follower = running_beside(cluster, leading)[0]
        assert follower.running is not None
        cluster.network.reset(leading.name, follower.name)
        await asyncio.sleep(LATENCY_S[1])
        cluster.network.cut(leading.name, follower.name)
        async with asyncio.timeout(ELECTION_S):
            while follower.running.loop.role == "follower":
                await asyncio.sleep(0.01)
        await asyncio.sleep(5 * ELECTION_S)
        assert leading.running is not None
        assert leading.running.serving
        assert term(leading) == before
        cluster.network.heal()
        await asyncio.sleep(2 * ELECTION_S)
        assert term(leading) == before
        assert follower.running.loop.leader == leading.member

    quietly(body)


def test_a_reset_that_a_leader_is_slow_to_mend_costs_one_election(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All followers elect another one, once: the new leader's connections are whole."""
    monkeypatch.setattr(peers, "RECONNECT_GREETED_S", ELECTION_S / 2)
    deposed = 0

    async def body(cluster: Cluster) -> None:
        nonlocal deposed
        leading = await settled_leader(cluster)
        before = term(leading)
        for source, target in from_leader(cluster, leading):
            cluster.network.reset(source, target)
        await asyncio.sleep(5 * ELECTION_S)
        now = await leader(cluster)
        deposed += now is not leading
        assert term(now) <= before + SPLIT_VOTES_MAX
        assert {term(node) for node in running_beside(cluster, now)} == {term(now)}

    for seed in SEEDS:
        quietly(body, seed=seed)
    assert deposed, "the test is about deposed leaders"
