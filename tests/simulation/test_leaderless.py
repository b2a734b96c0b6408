"""A replica without a leader says so to whoever follows its log: others may have gone on."""

import asyncio
import re

import pytest
from partition_replica.core.model import Configuration
from partition_replica.errors import NoLeader

from tests.simulation.cluster import Cluster
from tests.simulation.node import ELECTION_TICKS, TICK_S, Node
from tests.simulation.quiet import cut_off, leader, quietly

ELECTION_S = ELECTION_TICKS * TICK_S
TOLD_S = 6 * ELECTION_S
"""Until a leader that is cut off steps down, and then two election times; with some to spare."""


async def follow(node: Node) -> None:
    """What a following Read does, where nothing new comes."""
    replica, process = node.replica, node.process
    assert replica is not None and process is not None

    async def serve() -> None:
        position = 0
        while True:
            entries, position = replica.applications.committed_entries(position, 1 << 20)
            if not entries:
                await replica.applications.advanced()

    await process.spawn(serve())


async def must_be_told(node: Node) -> None:
    with pytest.raises(NoLeader, match=re.escape("follow another replica")):
        await asyncio.wait_for(follow(node), TOLD_S)


async def must_be_silent(node: Node) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(follow(node), TOLD_S)


def test_a_leader_that_is_cut_off_ends_its_followers_streams() -> None:
    async def body(cluster: Cluster) -> None:
        lost = await leader(cluster)
        following = asyncio.ensure_future(must_be_told(lost))
        cut_off(cluster, lost)
        await following
        # And those that come later, at once.
        with pytest.raises(NoLeader):
            await asyncio.wait_for(follow(lost), 0.01)

        # The others have a leader, and are followed in silence while nothing is written.
        others = [node for node in cluster.nodes if node is not lost]
        await asyncio.gather(*(must_be_silent(node) for node in others))
        cluster.network.heal()
        await asyncio.sleep(TOLD_S)
        await must_be_silent(lost)

    quietly(body)


def test_a_follower_that_is_cut_off_does_so_too() -> None:
    async def body(cluster: Cluster) -> None:
        leading = await leader(cluster)
        lost = next(node for node in cluster.nodes if node is not leading)
        following = asyncio.ensure_future(must_be_told(lost))
        cut_off(cluster, lost)
        await following
        await must_be_silent(leading)

    quietly(body)


def test_a_learner_that_is_cut_off_does_so_too() -> None:
    """It never campaigns, so its engine takes the last leader for the leader for ever."""

    async def body(cluster: Cluster) -> None:
        leading = await leader(cluster)
        lost = cluster.add_node()
        lost.start()
        assert lost.replica is not None and lost.process is not None
        assert leading.replica is not None and leading.process is not None
        cluster_id = str(leading.volume.log.identity.cluster_id)  # type: ignore[union-attr]
        await lost.process.spawn(lost.replica.administration.join(cluster_id))
        administration = leading.replica.administration
        await leading.process.spawn(administration.add_learner(lost.member, lost.address))

        def configuration() -> Configuration:
            return lost.volume.log.configuration[1]  # type: ignore[union-attr]

        while lost.member not in configuration().learners:
            await asyncio.sleep(0.1)
        await must_be_silent(lost)
        cut_off(cluster, lost)
        await must_be_told(lost)
        assert lost.running is not None and lost.running.loop.leader == leading.member

    quietly(body)
