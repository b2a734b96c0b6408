"""`partition-replica inspect`, `verify`, `replication`: of a running replica, of a stopped one."""

import asyncio
import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import lmdb
import pytest
from partition_client import PayloadSource, PreconditionFailed
from partition_proto.v1 import types_pb2 as types
from partition_replica.offline.stopped import open_stopped
from partition_replica.storage import codec

from tests.support.local_group import LocalGroup, LocalReplica, assert_equal, eventually
from tests.support.proposals import body, opening, proposal, set_key
from tests.support.stored import make_volume


async def command(*arguments: str, code: int = 0) -> str:
    """Runs `partition-replica`; what it printed, on standard error where it was to fail."""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "partition_replica", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr if code else done.stdout


async def json_of(*arguments: str, code: int = 0) -> Any:
    return json.loads(await command(*arguments, "--json", code=code))


def remote(replica: LocalReplica) -> list[str]:
    """Where a running replica is asked, with its own certificate."""
    tls = replica.arguments[replica.arguments.index("--tls-dir") + 1]
    return ["--address", replica.address, "--tls-dir", tls]


async def fill(group: LocalGroup) -> None:
    """Keys, files of both sizes, and writes that have no effect, or part of one."""
    absent = types.Precondition(key_absent=b"k0")
    async with group.client() as client:
        for number in range(30):
            await client.set_key(b"k%d" % number, b"v%d" % number)
        await client.put_file(b"small", PayloadSource.of_bytes(b"small"))
        await client.put_file(b"large", PayloadSource.of_bytes(os.urandom(200_000)))
        await client.put_file(b"gone", PayloadSource.of_bytes(os.urandom(200_000)))
        await client.remove_file(b"gone")
        with pytest.raises(PreconditionFailed):
            await client.append([set_key(b"never", b"v")], preconditions=[absent])


async def test_a_running_replica(group: LocalGroup) -> None:
    async with group:
        await group.bootstrap()
        await fill(group)
        applied = await group.settled()
        for replica in group.replicas:
            where = remote(replica)
            found = await json_of("inspect", *where)
            assert (found["applied"], found["replication"]) == (applied, "Raft")
            report = await json_of("verify", *where)
            assert report["findings"] == []
            assert report["counts"]["blobs"] == 2
        terms = await json_of("inspect", *where, "terms")
        assert terms[-1]["last"] == applied
        entry = await command("inspect", *where, "entry", str(applied - 1))
        assert "set b'never' = b'v'" in entry
        assert "entry" in await command("inspect", *where, "entry", "99999", code=1)
        busy = await command("inspect", "--data", str(group.replicas[0].data), code=1)
        assert "a running replica uses the volume" in busy
        # A client's certificate may not.
        client = str(group.root / "pki" / "client")
        refused = await command("verify", "--address", where[1], "--tls-dir", client, code=1)
        assert "PERMISSION_DENIED" in refused


async def stopped(group: LocalGroup) -> Path:
    await group.bootstrap()
    await fill(group)
    await group.settled()
    for replica in group.replicas:
        replica.kill()
    return group.replicas[0].data


async def test_a_stopped_replica(group: LocalGroup) -> None:
    async with group:
        data = await stopped(group)
        before = listing(data)
        where = ["--data", str(data)]
        found = await json_of("inspect", *where)
        assert found["first index"] == found["stored from"]
        assert found["configuration"]["voters"]
        entry = await json_of("inspect", *where, "entry", str(found["applied"] - 1))
        operation = entry["body"]["proposal"]["operations"][0]
        assert operation["set_key"]["key"] == "bmV2ZXI="
        report = await json_of("verify", *where)
        assert report["findings"] == []
        assert report["counts"]["keys"] == 30
        assert "no findings" in await command("verify", *where)
        # Reading wrote nothing.
        assert listing(data) == before
        assert "not a replica's volume" in await command("inspect", "--data", "/nowhere", code=1)
        assert "needs an LSN" in await command("inspect", *where, "entry", code=1)


async def test_damaged_pages_end_a_verification_and_not_the_replica(group: LocalGroup) -> None:
    """A page in the middle of the log, whose header LMDB trusts: reading one entry behind the other
    over it ends the process, by SIGABRT. The replica serves on, and says what was found."""
    async with group:
        only = group.replicas[0]
        group.replicas = [only]
        found = [opening()]
        found += [body(proposal(2, n, [set_key(b"k%d" % n, b"v" * 100)])) for n in range(1, 2000)]
        make_volume(only.data, found=found)
        key = (1000).to_bytes(8, "big")
        with open_stopped(only.data) as volume, volume.log.environment.begin() as txn:
            wanted = key + bytes(txn.get(key, db=volume.log.tables.raft))
        clear_page_headers(only.data / "log" / "data.mdb", wanted)
        await group.start(only)
        for _ in range(2):
            report = await json_of("verify", *remote(only), code=1)
            assert any("SIGABRT" in finding for finding in report["findings"]), report
            assert "everything after step" in report["unchecked"][0]
        async with group.client() as client:
            await client.set_key(b"k", b"v")
            assert await client.get_key(b"k1") == b"v" * 100
        assert only.running
        assert [path.name for path in (only.data / "staging").iterdir()] == []


def clear_page_headers(file: Path, content: bytes) -> None:
    """Of the leaf pages with this node, the one in use and older copies of it."""
    found = bytearray(file.read_bytes())
    cleared, at = 0, found.find(content)
    while at >= 0:
        page = at - at % 4096
        flags, lower = struct.unpack_from("<10x H H", found, page)
        nodes = struct.unpack_from(f"<{(lower - 16) // 2}H", found, page + 16)
        if flags == 0x02 and at - page - 8 in nodes:  # not what a page was before
            found[page : page + 16] = bytes(16)
            cleared += 1
        at = found.find(content, at + 1)
    assert cleared
    file.write_bytes(found)


def listing(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != "lock.mdb"
    }


@pytest.mark.parametrize(
    ("environment", "table", "finding"),
    [
        ("log", "raft", "table raft fails its checksum"),
        ("log", "manifest", "table manifest fails its checksum"),
        ("state", "value", "table value fails its checksum"),
        ("state", "tree", "table tree fails its checksum"),
        ("state", "payload", "table payload fails its checksum"),
        ("state", "content", "table content fails its checksum"),
    ],
)
async def test_damage_is_found_and_named(
    group: LocalGroup, environment: str, table: str, finding: str
) -> None:
    async with group:
        data = await stopped(group)
        folder = data / "log" if environment == "log" else next((data / "state").iterdir())
        flip_first(folder, table.encode())
        report = await json_of("verify", "--data", str(data), code=1)
        assert any(finding in found for found in report["findings"]), report


async def test_a_state_that_is_not_the_logs_is_found(group: LocalGroup) -> None:
    """Rows whose checksum is right, and blobs: what only references and a replay tell."""
    async with group:
        data = await stopped(group)
        state = next((data / "state").iterdir())
        edit(state, b"value", b"k3", codec.seal(b"k3", b"other"))
        edit(state, b"value", b"stray", codec.seal(b"stray", b"v"))
        edit(state, b"value", b"k4", None)
        blobs = sorted(path for path in (data / "blobs").rglob("*") if path.is_file())
        cut = bytearray(blobs[0].read_bytes())
        cut[100] ^= 1
        blobs[0].write_bytes(cut)
        blobs[1].unlink()
        findings = "\n".join((await json_of("verify", "--data", str(data), code=1))["findings"])
        for wanted in (
            "row b'k3' of value differs from a replay",
            "row b'stray' of value is in the state, not in a replay of the log",
            "row b'k4' of value is in a replay",
            f"blob {blobs[0].name} is damaged: its SHA-256 is",
            f"blob {blobs[1].name} is missing",
        ):
            assert wanted in findings


async def test_a_compacted_log_is_checked_in_part(group: LocalGroup) -> None:
    async with group:
        only = group.replicas[0]
        group.replicas = [only]
        only.arguments += ["--limit", "log_trail_entries=10"]
        only.arguments += ["--limit", "log_compaction_step_entries=1"]
        await group.bootstrap()
        await fill(group)

        async def compacted() -> bool:
            status = await group.status(only)
            return status is not None and status.first_index == status.last_index - 9

        await eventually(compacted, "the log is compacted")
        running = await json_of("verify", *remote(only))
        assert running["findings"] == []
        only.kill()
        report = await json_of("verify", "--data", str(only.data))
        assert report["findings"] == []
        assert "the log begins at" in report["unchecked"][0]
        state = next((only.data / "state").iterdir())
        edit(state, b"tree", b"small", None)
        findings = (await json_of("verify", "--data", str(only.data), code=1))["findings"]
        assert any("path b'small' of the state differs" in f for f in findings)


async def test_replication_off_and_on_again(group: LocalGroup) -> None:
    async with group:
        replicas, group.replicas = group.replicas, group.replicas[:1]
        only = replicas[0]
        where = ("--data", str(only.data))
        await group.bootstrap()
        await fill(group)
        refused = await command("replication", "disable", *where, code=1)
        assert "a running replica uses the volume" in refused
        only.kill()
        assert "the log is standalone" in await command("replication", "disable", *where)
        assert "not replicated" in await command("replication", "disable", *where, code=1)
        await group.start(only)
        async with group.client() as client:
            await client.set_key(b"plain", b"v")
            assert await client.get_key(b"k29") == b"v29"
        status = await group.status(only)
        assert status is not None
        assert status.standalone
        only.kill()
        assert "replication is enabled" in await command("replication", "enable", *where)
        found = await json_of("inspect", *where)
        assert (found["replication"], found["committed"]) == ("Raft", found["last index"])
        assert (await json_of("verify", *where))["findings"] == []
        group.replicas = replicas[:2]
        await group.start(only)
        await group.start(replicas[1])
        await group.add(replicas[1])
        async with group.client() as client:
            await client.set_key(b"raft", b"v")
            assert await client.get_key(b"plain") == b"v"
        await assert_equal(group)
        for replica in group.replicas:
            replica.kill()
        two = await command("replication", "disable", *where, code=1)
        assert "sole voter" in two


def flip_first(folder: Path, table: bytes) -> None:
    environment = lmdb.open(str(folder), max_dbs=16)
    with environment.begin(write=True) as txn:
        database = environment.open_db(table, txn)
        cursor = txn.cursor(database)
        assert cursor.first()
        key, row = bytes(cursor.key()), bytearray(cursor.value())
        row[-1] ^= 1
        txn.put(key, bytes(row), db=database)
    environment.close()


def edit(folder: Path, table: bytes, key: bytes, row: bytes | None) -> None:
    environment = lmdb.open(str(folder), max_dbs=16)
    with environment.begin(write=True) as txn:
        database = environment.open_db(table, txn)
        if row is None:
            assert txn.delete(key, db=database)
        else:
            txn.put(key, row, db=database)
    environment.close()
