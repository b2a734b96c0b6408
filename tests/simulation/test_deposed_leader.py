"""A leader that was deposed and has not heard of it answers no linearizable read: the others have
acknowledged writes since that it does not have."""

import pytest
from partition_replica.errors import NoLeader, NotLeader

from tests.simulation.cluster import Cluster
from tests.simulation.one_key import elected, read, write
from tests.simulation.quiet import cut_off, leader, quietly

SEEDS = range(1, 7)


def test_a_deposed_leader_answers_no_linearizable_read() -> None:
    """For a moment there are two that lead: the old one steps down when it has heard of no quorum
    for an election time-out, and the others may be faster."""
    unaware = 0

    async def body(cluster: Cluster) -> None:
        nonlocal unaware
        old = await leader(cluster)
        replica, process = old.replica, old.process
        assert replica is not None and process is not None and old.running is not None
        await write(old, b"before")
        assert await process.spawn(read(replica)) == b"before"
        cut_off(cluster, old)
        await write(await elected([n for n in cluster.nodes if n is not old]), b"after")
        unaware += old.running.loop.role == "leader"
        with pytest.raises((NoLeader, NotLeader)):
            await process.spawn(read(replica))

    for seed in SEEDS:
        quietly(body, seed=seed)
    assert unaware, "in no run there were two"
