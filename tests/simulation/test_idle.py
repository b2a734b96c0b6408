"""A group without clients: how often its members wake, and that naps change nothing else."""

import asyncio
from collections import Counter
from dataclasses import replace
from typing import cast

import pytest
from partition_replica.runtime.consensus.raft_loop import RaftLoop

from tests.simulation.cluster import Cluster
from tests.simulation.loop import VirtualLoop
from tests.simulation.node import ELECTION_TICKS, TICK_S, Node
from tests.simulation.quiet import cut_off, leader, quietly

ELECTION_S = ELECTION_TICKS * TICK_S
IDLE_S = 60.0
HEARTBEAT_S = 2 * TICK_S


def running(cluster: Cluster) -> list[Node]:
    return [node for node in cluster.nodes if node.running is not None]


def terms(cluster: Cluster) -> set[int]:
    return {node.running.loop.status().term for node in running(cluster) if node.running}


def test_an_idle_group_wakes_for_heartbeats_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The leader to send them, and a follower to answer. Nobody is deposed."""
    rounds: Counter[int] = Counter()
    go_round = RaftLoop._round

    def counted(loop: RaftLoop) -> None:
        rounds[id(loop)] += 1
        go_round(loop)

    monkeypatch.setattr(RaftLoop, "_round", counted)

    async def body(cluster: Cluster) -> None:
        leading = await leader(cluster)
        await asyncio.sleep(5.0)  # the commit index is saved, the log is acknowledged
        before = terms(cluster)
        rounds.clear()
        await asyncio.sleep(IDLE_S)
        assert terms(cluster) == before
        assert await leader(cluster) is leading
        heartbeats = IDLE_S / HEARTBEAT_S
        assert len(rounds) == len(running(cluster))
        for count in rounds.values():
            assert 0.8 * heartbeats <= count <= 1.2 * heartbeats, rounds

    quietly(body)


def test_silence_of_the_leader_is_noticed_in_time() -> None:
    """Naps do not prolong an election time-out: the one that a follower draws is at most twice
    ELECTION_TICKS, and a timer of the simulation is a little late."""
    took: list[float] = []

    async def body(cluster: Cluster) -> None:
        lost = await leader(cluster)
        await asyncio.sleep(ELECTION_S)
        others = [node for node in running(cluster) if node is not lost]
        cut_off(cluster, lost)
        began = cluster.loop.time()
        async with asyncio.timeout(10 * ELECTION_S):
            while all(node.running and node.running.loop.role == "follower" for node in others):
                await asyncio.sleep(0.001)
        took.append(cluster.loop.time() - began)

    for seed in range(1, 6):
        quietly(body, seed=seed)
    assert min(took) > ELECTION_S - HEARTBEAT_S - TICK_S
    assert max(took) < 2 * ELECTION_S * 1.1


@pytest.mark.parametrize("stopped_ticks", [3.0, 4.5, 7.0, 15.0, 600.0])
def test_a_machine_that_was_stopped_elects_nobody(stopped_ticks: float) -> None:
    """All processes of the group find that much time passed at once, and their heartbeats late."""

    async def body(cluster: Cluster) -> None:
        cluster.network.settings = replace(cluster.network.settings, latency_s=(0.0005, 0.003))
        leading = await leader(cluster)
        await asyncio.sleep(ELECTION_S)
        before = terms(cluster)
        for _ in range(20):
            cast("VirtualLoop", cluster.loop)._now += stopped_ticks * TICK_S
            await asyncio.sleep(cluster.rng.uniform(0.5, 5) * TICK_S)
        assert terms(cluster) == before
        assert await leader(cluster) is leading

    quietly(body)
