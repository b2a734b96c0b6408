"""A replica's process ends at each named place, as by a power cut of the process; it starts again,
nothing acknowledged is lost, and the replicas are equal."""

import os

import pytest
from partition_client.client import Source
from partition_replica.storage.failpoints import ENVIRONMENT, EXIT_CODE, REGISTERED

from tests.scenarios.test_group import assert_equal
from tests.support.local_group import LocalGroup

WHILE_WRITING = {
    "log.commit.before": 20,
    "log.commit.after": 20,
    "state.apply.before": 20,
    "state.apply.after": 20,
    "blob.adopted": 2,
}
WHILE_JOINING = ("snapshot.staged", "snapshot.adopted", "snapshot.switched")
WHILE_BOOTSTRAPPING = ("bootstrap.state_started",)


def test_every_failpoint_is_tried() -> None:
    assert {*WHILE_WRITING, *WHILE_JOINING, *WHILE_BOOTSTRAPPING} == REGISTERED


@pytest.mark.parametrize("role", ["leader", "follower"])
@pytest.mark.parametrize("failpoint", WHILE_WRITING)
async def test_while_writing(group: LocalGroup, failpoint: str, role: str) -> None:
    async with group:
        await group.bootstrap()
        leader = await group.leader()
        victim = leader if role == "leader" else next(r for r in group.replicas if r is not leader)
        if role == "leader":
            await group.admin(leader).TransferLeadership(group.transfer())
        victim.kill()
        armed = f"{failpoint}:{WHILE_WRITING[failpoint]}"
        await group.start(victim, **{ENVIRONMENT: armed})
        if role == "leader":
            await group.lead(victim)
        acknowledged: dict[bytes, bytes] = {}
        async with group.client() as client:
            for number in range(400):
                if not victim.running:
                    break
                key, value = b"k%04d" % number, os.urandom(16)
                await client.set_key(key, value)
                acknowledged[key] = value
                await client.put_file(b"large%d" % number, Source.of_bytes(os.urandom(70_000)))
            assert victim.wait_exit() == EXIT_CODE
            await client.set_key(b"while-down", b"v")
            await group.start(victim)
            await client.set_key(b"after", b"v")
            await group.settled()
            found = {k: v async for k, v in client.list_keys(b"k", b"l")}
            # A write whose answer never came may be there, too.
            assert {k: found.get(k) for k in acknowledged} == acknowledged
        await assert_equal(group)
        assert_nothing_left_over(group)


@pytest.mark.parametrize("failpoint", WHILE_JOINING)
async def test_while_a_snapshot_is_installed(group: LocalGroup, failpoint: str) -> None:
    async with group:
        group.replicas, newcomer = group.replicas[:2], group.replicas[2]
        await group.bootstrap()
        async with group.client() as client:
            for number in range(5):
                await client.put_file(b"f%d" % number, Source.of_bytes(os.urandom(80_000)))
                await client.set_key(b"k%d" % number, b"v")
        group.replicas.append(newcomer)
        await group.start(newcomer, **{ENVIRONMENT: failpoint})
        adding = await group.begin_adding(newcomer)
        assert newcomer.wait_exit() == EXIT_CODE
        await group.start(newcomer)
        await group.finish_adding(adding)
        await assert_equal(group)
        assert_nothing_left_over(group)


@pytest.mark.parametrize("failpoint", WHILE_BOOTSTRAPPING)
async def test_while_bootstrapping(group: LocalGroup, failpoint: str) -> None:
    async with group:
        first = group.replicas[0]
        await group.start(first, **{ENVIRONMENT: failpoint})
        with pytest.raises(Exception, match=r"UNAVAILABLE|CANCELLED"):
            await group.admin(first).Bootstrap(group.bootstrap_request())
        assert first.wait_exit() == EXIT_CODE
        await group.start(first)
        status = await group.status(first)
        assert status is not None
        assert status.role == "unbootstrapped"
        await group.bootstrap_started()
        async with group.client() as client:
            await client.set_key(b"k", b"v")
        await assert_equal(group)


def assert_nothing_left_over(group: LocalGroup) -> None:
    """A start collects: nothing staged, one generation of the state, no blob that nothing names."""
    for replica in group.replicas:
        replica.kill()
        replica.start()

    for replica in group.replicas:
        folders = {path.name for path in (replica.data / "state").iterdir()}
        assert len(folders) == 1
        staged = [p.name for p in (replica.data / "staging").iterdir()]
        assert [name for name in staged if name.startswith("blob-")] == []
