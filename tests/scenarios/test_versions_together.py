"""Members and clients of an earlier version beside today's: each kind leads, writes, is killed and
comes back. The earlier version has no frames, no Raft connections, no journal, and takes large
files one by one (dev/older_version.py)."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from partition_client import AsyncClient, PayloadSource
from partition_client.client import link_payload, remove_entry

from dev import older_version
from tests.support.local_group import LocalGroup, LocalReplica, assert_equal

FILES = 6
KEYS = 200

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]  # builds the earlier version once


@pytest.fixture(scope="module")
def older() -> Path:
    return older_version.build()


def environment(older: Path) -> dict[str, str]:
    return {"PYTHONPATH": os.pathsep.join(str(older / name) for name in older_version.PACKAGES)}


def make_older(replica: LocalReplica, older: Path) -> None:
    replica.environment = replica.environment | environment(older)


async def write_and_read(client: AsyncClient) -> None:
    pairs = [(b"k%d" % number, b"v%d" % number) for number in range(KEYS)]
    await asyncio.gather(*(client.set_key(key, value) for key, value in pairs))
    assert await asyncio.gather(*(client.get_key(key) for key, _ in pairs)) == [v for _, v in pairs]
    sources = [PayloadSource.of_bytes(os.urandom(100_000)) for _ in range(FILES)]
    operations = []
    for number in range(1, FILES + 1):
        path = b"f%d" % number
        operations += [remove_entry(path), link_payload(number, path)]
    await client.append(operations, sources, wait_applied=True)
    content = bytearray()
    await client.read_file(b"f3", content.extend)
    assert bytes(content) == sources[2].content


async def set_keys(group: LocalGroup, letter: bytes) -> None:
    async with group.client() as client:
        for number in range(5):
            await client.set_key(letter + b"%d" % number, letter)


def older_partitionctl(group: LocalGroup, older: Path, *arguments: str) -> None:
    endpoints = ",".join(replica.address for replica in group.replicas)
    command = [sys.executable, "-m", "partition_client", "--endpoints", endpoints]
    if group.tls:
        command += ["--tls-dir", str(group.tls["client"].certificate.parent)]
    done = subprocess.run(
        [*command, *arguments],
        env=os.environ | environment(older),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("numbers", [(2,), (1, 2), (0,)], ids=["one", "two", "the first"])
async def test_members_of_both_versions(
    group: LocalGroup, older: Path, tmp_path: Path, numbers: tuple[int, ...]
) -> None:
    tree = tmp_path / "files"
    tree.mkdir()
    for number in range(20):
        (tree / str(number)).write_bytes(os.urandom(10_000 * number))
    for number in numbers:
        make_older(group.replicas[number], older)
    async with group:
        await group.bootstrap()
        for leader in group.replicas:
            await group.lead(leader)
            async with group.client() as client:
                await write_and_read(client)
            older_partitionctl(group, older, "put", "key", "value")
            older_partitionctl(group, older, "put-tree", str(tree), "--under", "tree")
        for victim in group.replicas:
            victim.kill()
            async with group.client() as client:
                await client.set_key(b"while-down", b"v")
            await group.start(victim)
            await group.settled()
        await assert_equal(group)


async def test_a_volume_of_the_earlier_version_goes_on_and_back(
    group: LocalGroup, older: Path
) -> None:
    """After a clean stop the log has the earlier version's format again. After a kill it may not,
    and the earlier version refuses it instead of missing entries."""
    only = group.replicas[0]
    group.replicas = [only]
    today = dict(only.environment)
    make_older(only, older)
    async with group:
        await group.bootstrap()
        async with group.client() as client:
            await client.set_key(b"a", b"1")
        only.terminate()
        only.environment = today
        await group.start(only)
        await set_keys(group, b"b")
        only.terminate()
        make_older(only, older)
        await group.start(only)
        async with group.client() as client:
            await client.set_key(b"c", b"3")
            assert [key async for key, _ in client.list_keys()] == [
                b"a", *(b"b%d" % number for number in range(5)), b"c"
            ]  # fmt: skip
        only.terminate()
        only.environment = today
        await group.start(only)
        await set_keys(group, b"d")
        only.kill()
        make_older(only, older)
        only.start()
        assert only.wait_exit() != 0
        assert "the volume has format 2; this version reads 1" in only.log.read_text()
        only.environment = today
        await group.start(only)
        async with group.client() as client:
            assert await client.get_key(b"d4") == b"d"
