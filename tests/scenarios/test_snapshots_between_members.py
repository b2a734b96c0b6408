"""Members that are caught up by a snapshot: while clients write, over connections that break, and
with either end killed at each step."""

import re

import pytest
from partition_replica.storage.failpoints import ENVIRONMENT, EXIT_CODE

from dev.ports import free_port
from tests.support.crash_points import WHILE_CATCHING_UP
from tests.support.left_behind import (
    FILE_BYTES,
    NEW_FILES,
    OLD_FILES,
    assert_same_bytes,
    caught_up,
    left_behind,
    write,
    writing,
)
from tests.support.left_behind import small_group as small_group  # a fixture
from tests.support.local_group import LocalGroup, eventually
from tests.support.proxy import ResettingProxy


@pytest.mark.parametrize("newcomer", [False, True])
async def test_caught_up_while_clients_write(small_group: LocalGroup, newcomer: bool) -> None:
    """And only the files that it lacks are fetched."""
    group = small_group
    async with group:
        behind = group.replicas[2]
        if newcomer:
            group.replicas = group.replicas[:2]
        await group.bootstrap()
        await group.lead(group.replicas[0])
        async with group.client() as client:
            await write(client, b"old", OLD_FILES)
            if newcomer:
                last = 0
                await write(client, b"new", NEW_FILES)
            else:
                last = await left_behind(group, client, behind)
            async with writing(client):
                await group.start(behind)
                if newcomer:
                    group.replicas.append(behind)
                    await group.add(behind)
                await caught_up(group, behind, last)
        fetched = behind.metric("logstore_state_transfer_payloads_total")
        assert fetched == (OLD_FILES if newcomer else 0) + NEW_FILES
        assert behind.metric("logstore_state_transfer_bytes_total", direction="in") > 500_000
        await assert_same_bytes(group)


@pytest.mark.parametrize("where", ["state", "payloads"])
async def test_a_broken_connection_costs_only_what_was_on_it(
    small_group: LocalGroup, where: str
) -> None:
    group = small_group
    behind = group.replicas[2]
    for replica in group.replicas:
        replica.advertised_port = free_port()
    async with (
        ResettingProxy(group.replicas[0].advertised_port, group.replicas[0].port) as to_leader,
        ResettingProxy(group.replicas[1].advertised_port, group.replicas[1].port),
        ResettingProxy(behind.advertised_port, behind.port) as to_follower,
        group,
    ):
        await group.bootstrap()
        async with group.client() as client:
            await group.lead(group.replicas[0])
            await write(client, b"old", OLD_FILES)
            last = await left_behind(group, client, behind)
        leader = await group.leader()
        assert leader is group.replicas[0]
        proxy = to_follower if where == "state" else to_leader
        resets = proxy.resets
        if where == "state":
            to_follower.arm(to_target=200_000, times=3)
        else:
            # The follower fetches: what breaks is the way back from the leader.
            to_leader.arm(from_target=200_000, times=3)
        await group.start(behind)

        async def broken() -> bool:
            return proxy.resets >= resets + 3

        await eventually(broken, "three breaks")
        await caught_up(group, behind, last)
        received = behind.metric("logstore_state_transfer_bytes_total", direction="in")
        resumed = behind.metric("logstore_state_transfer_bytes_total", direction="resumed")
        if where == "state":
            assert resumed > 0
        copied = r"copied the state at LSN \d+ for a state transfer: (\d+) bytes"
        made = re.findall(copied, leader.log.read_text())
        assert received == int(made[-1])  # no byte of it twice
        assert behind.metric("logstore_state_transfer_payloads_total") == NEW_FILES
        if where == "payloads":
            carried = behind.metric("logstore_payload_bytes_total", direction="in")
            assert carried == NEW_FILES * FILE_BYTES
        await assert_same_bytes(group)


@pytest.mark.parametrize("failpoint", WHILE_CATCHING_UP)
async def test_either_end_is_killed(small_group: LocalGroup, failpoint: str) -> None:
    group = small_group
    who, count = WHILE_CATCHING_UP[failpoint]
    armed = {ENVIRONMENT: f"{failpoint}:{count}"}
    async with group:
        await group.bootstrap()
        leader, behind = group.replicas[0], group.replicas[2]
        await group.lead(leader)
        async with group.client() as client:
            await write(client, b"old", OLD_FILES)
            last = await left_behind(group, client, behind)
            victim = behind
            if who == "leader":
                leader.kill()
                await group.start(leader, **armed)
                await group.lead(leader)
                victim = leader
            await group.start(behind, **(armed if who == "follower" else {}))
            assert victim.wait_exit() == EXIT_CODE
            await group.start(victim)
            await caught_up(group, behind, last)
            await client.set_key(b"after", b"v")
        await assert_same_bytes(group)
