"""Reads by the leader's lease: of no value that is out of date, whatever stops the leader or makes
its followers forget."""

import asyncio

import pytest

from tests.simulation.cluster import Cluster
from tests.simulation.leases import (
    by_lease,
    deposed,
    nothing,
    read_by_lease,
    stopped_clocks,
    suspended,
    value_after,
)
from tests.simulation.node import TICK_S
from tests.simulation.one_key import read, write
from tests.simulation.quiet import cut_off, leader, quietly

SEEDS = range(1, 7)


def test_a_deposed_leader_has_no_lease() -> None:
    found = [deposed(nothing, seed) for seed in SEEDS]
    assert {value for value, _ in found} == {None}
    assert any(leads for _, leads in found), "in no run there were two leaders"


def test_clocks_that_do_not_count_a_pause_would_give_a_value_that_is_out_of_date() -> None:
    """What the lease relies on is needed, and a test like this finds where it is missing."""
    assert b"before" in {deposed(stopped_clocks, seed)[0] for seed in SEEDS}


def test_a_clock_that_jumps_refuses_the_lease() -> None:
    found = [deposed(suspended, seed) for seed in SEEDS]
    assert {value for value, _ in found} == {None}


def forgetful(seed: int, ticks: int | None) -> tuple[bytes | None, bool]:
    """A leader whose lease was renewed by a follower that restarts then. `ticks`: for which a
    member votes for nobody after its start; None as the product has it."""
    result: list[tuple[bytes | None, bool]] = []

    async def body(cluster: Cluster) -> None:
        old = await leader(cluster)
        one, other = (node for node in cluster.nodes if node is not old)
        await write(old, b"before")
        # The other one does not hear of the leader for almost its time-out.
        cluster.network.cut(old.name, other.name)
        cluster.network.cut(other.name, old.name)
        await asyncio.sleep(TICK_S * 9)
        assert await read_by_lease(old) == b"before"
        cut_off(cluster, old)
        one.crash()
        one.start()
        if ticks is not None:
            assert one.running is not None
            one.running.loop._voteless_ticks = ticks
        result.append(await value_after(old, [one, other]))

    quietly(body, seed=seed, lease_reads=True)
    return result[0]


def test_a_member_that_forgot_its_promise_keeps_it() -> None:
    assert {forgetful(seed, None)[0] for seed in SEEDS} == {None}


def test_a_member_that_votes_right_after_its_start_would_break_a_promise() -> None:
    assert b"before" in {forgetful(seed, 0)[0] for seed in SEEDS}


def test_a_leader_that_hands_over_has_no_lease() -> None:
    """The one that it names needs not wait for any promise to end."""

    async def body(cluster: Cluster) -> None:
        old = await leader(cluster)
        others = [node for node in cluster.nodes if node is not old]
        await write(old, b"before")
        assert await read_by_lease(old) == b"before"
        assert old.running is not None and old.process is not None
        member = old.running.transferee()
        assert member is not None
        old.process.run(old.running.loop.transfer_leader, member)
        lease = old.running._read_indexes.lease
        assert lease is not None
        assert not lease.holds()
        assert (await value_after(old, others))[0] in (None, b"after")

    for seed in SEEDS:
        quietly(body, seed=seed, lease_reads=True)


@pytest.mark.parametrize("voters", [1, 3])
def test_most_reads_need_no_round(voters: int) -> None:
    async def body(cluster: Cluster) -> None:
        old = await leader(cluster)
        await write(old, b"v")
        assert await read_by_lease(old) == b"v"
        before = by_lease(old)
        assert old.replica is not None and old.process is not None
        for _ in range(200):
            assert await old.process.spawn(read(old.replica)) == b"v"
            await asyncio.sleep(0.02)
        assert by_lease(old) - before == 200

    quietly(body, voters=voters, lease_reads=True)
