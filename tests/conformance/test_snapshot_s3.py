"""What an S3 server does to stored snapshots: it refuses, it fails, it dies in the middle, it is
full of what others left. Against a real one."""

import asyncio
import hashlib
import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from obstore.exceptions import GenericError
from partition_snapshots import failpoints, s3_files, s3_store
from partition_snapshots.collect import collect_garbage
from partition_snapshots.destination import S3Destination, open_store
from partition_snapshots.errors import (
    SourceDamaged,
    StoreRefused,
    StoreUnavailable,
)
from partition_snapshots.limits import MIB
from partition_snapshots.read import list_snapshots
from partition_snapshots.s3_uploads import abort_uploads
from partition_snapshots.store import object_name
from partition_snapshots.take import take_snapshot

from dev.object_store import ObjectStoreServer
from tests.support import certificates
from tests.support.object_store import (
    BUCKET,
    QUICK,
    Partition,
    Place,
    read_rows,
    s3_destination,
    varint,
)
from tests.support.s3_uploads import (
    BIG,
    PARTS,
    big_partition,
    check_clean,
    parts,
    place_on,
    publishing,
    until,
)
from tests.support.s3_uploads import own_server as own_server  # a fixture


async def test_a_server_that_dies_during_an_upload_and_comes_back(
    own_server: ObjectStoreServer, tmp_path: Path
) -> None:
    place, partition = place_on(own_server), big_partition(tmp_path)
    running = publishing(place, partition, "one")
    await until(lambda: len(parts(own_server)) >= 2, "two parts are sent")
    own_server.kill()
    # Several tries meet nobody.
    await asyncio.sleep(0.5)
    await asyncio.to_thread(own_server.start)
    await running
    assert await read_rows(place.open(), "one") == list(partition.rows())
    await check_clean(place, "one")


async def test_a_large_file_says_how_far_it_is(
    own_server: ObjectStoreServer, tmp_path: Path
) -> None:
    place, partition = place_on(own_server), big_partition(tmp_path)
    seen: list[int] = []
    path = partition.blob_path(next(digest for digest, size in partition.blobs() if size == BIG))
    sent = await place.open(PARTS).put_file(object_name(path.name), path, BIG, seen.append)
    assert sent == sum(seen) == BIG
    assert seen == [PARTS.part_bytes] * (BIG // PARTS.part_bytes)


async def test_time_for_retries_counts_from_the_last_progress(
    s3_place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upload that takes hours may meet an error late, and is tried again; one that gets nowhere
    is not, and what a failed try sent is taken back."""
    now = [1000.0]

    class Clock:
        @staticmethod
        def monotonic() -> float:
            return now[0]

    tries: list[int] = []

    async def put_async(_client: object, _key: str, parts: Any, **_: object) -> None:
        tries.append(0)
        async for _ in parts:
            if len(tries) < 3:
                now[0] += 100.0
                tries[-1] += 1
                if tries[-1] == 4:
                    raise GenericError("status code: 503")
            elif tries[-1] == 0:
                now[0] += 1000.0
                raise GenericError("status code: 503")

    path = tmp_path / "big"
    path.write_bytes(b"0123456789" * MIB)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    limits = replace(QUICK, part_bytes=2 * MIB, retry_timeout_s=150.0)
    seen: list[int] = []
    store = s3_place.open(limits)
    monkeypatch.setattr(s3_store, "time", Clock)
    monkeypatch.setattr(s3_files, "time", Clock)
    monkeypatch.setattr(s3_store.obstore, "put_async", put_async)
    with pytest.raises(StoreUnavailable):
        await store.put_file(object_name(digest), path, 10 * MIB, seen.append)
    assert tries == [4, 4, 0]
    assert sum(seen) == 0
    assert seen.count(-6 * MIB) == 2


def test_a_sweep_that_cannot_even_begin_is_none(tmp_path: Path) -> None:
    for certificate in (b"-----BEGIN CERTIFICATE-----\n\xff", b"-----BEGIN CERTIFICATE-----\n"):
        destination = S3Destination(
            bucket=BUCKET,
            access_key_id="a",
            secret_access_key="b",
            endpoint="https://127.0.0.1:1",
            ca_certificate=certificate,
        )
        assert abort_uploads(destination, "objects/", QUICK) == 0


async def test_a_server_that_stays_away(own_server: ObjectStoreServer, tmp_path: Path) -> None:
    place, partition = place_on(own_server), big_partition(tmp_path)
    limits = replace(PARTS, retry_timeout_s=1.0)
    running = asyncio.ensure_future(
        take_snapshot(
            place.open(limits),
            partition.source("one"),
            partition.rows,
            partition.blobs(),
            partition.blob_path,
            limits=limits,
            owner="a",
        )
    )
    await until(lambda: len(parts(own_server)) >= 2, "two parts are sent")
    own_server.kill()
    with pytest.raises(StoreUnavailable, match="no answer") as caught:
        await running
    assert own_server.secret_access_key not in str(caught.value)
    await asyncio.to_thread(own_server.start)
    assert await list_snapshots(place.open()) == []
    assert parts(own_server) != []
    await publishing(place, partition, "two")
    await check_clean(place, "two")


@pytest.mark.parametrize(
    "point",
    ["snapshot.upload.begun", "snapshot.segment.after", "snapshot.manifest.before"],
)
async def test_a_server_that_restarts_between_two_requests(
    own_server: ObjectStoreServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    place = place_on(own_server)
    partition = Partition.random(tmp_path / "volume", 4)
    done: list[str] = []

    def hook(name: str) -> None:
        if name == point and not done:
            done.append(name)
            own_server.kill()
            own_server.start()

    monkeypatch.setattr(failpoints, "hook", hook)
    await publishing(place, partition, "one")
    assert done
    await check_clean(place, "one")


async def test_a_cancelled_upload_is_aborted(own_server: ObjectStoreServer, tmp_path: Path) -> None:
    place, partition = place_on(own_server), big_partition(tmp_path)
    running = publishing(place, partition, "one")
    await until(lambda: len(parts(own_server)) >= 2, "two parts are sent")
    running.cancel()  # type: ignore[attr-defined]
    with pytest.raises(asyncio.CancelledError):
        await running
    await until(lambda: not parts(own_server), "the upload is aborted")
    # The marker, too, is taken back: nobody has to wait.
    await collect_garbage(place.open(), PARTS)
    await check_clean(place)


async def test_a_damaged_file_of_many_parts_never_becomes_an_object(
    own_server: ObjectStoreServer, tmp_path: Path
) -> None:
    place, partition = place_on(own_server), big_partition(tmp_path)
    digest = next(digest for digest, size in partition.blobs() if size == BIG)
    with partition.blob_path(digest).open("r+b") as file:
        file.seek(123)
        file.write(b"damage")
    with pytest.raises(SourceDamaged, match="volume is damaged"):
        await publishing(place, partition, "one")
    assert not place.file(object_name(digest.hex())).exists()
    await until(lambda: not parts(own_server), "the upload is aborted")


REFUSALS = {
    "key": ({"access_key_id": "AKNOBODY"}, "InvalidAccessKeyId"),
    "secret": ({"secret_access_key": "not-the-secret-at-all"}, "SignatureDoesNotMatch"),
    "bucket": ({"bucket": "there-is-none"}, "NoSuchBucket"),
}


@pytest.mark.parametrize("case", REFUSALS)
async def test_refusals_say_what_to_change(
    s3_server: ObjectStoreServer, tmp_path: Path, case: str
) -> None:
    changes, code = REFUSALS[case]
    destination = s3_destination(s3_server, "refusals", **changes)
    store = open_store(destination, QUICK)
    partition = Partition.random(tmp_path / "volume", 4, large=1)
    for attempt in (
        take_snapshot(
            store,
            partition.source("one"),
            partition.rows,
            partition.blobs(),
            partition.blob_path,
            limits=QUICK,
        ),
        list_snapshots(store),
        collect_garbage(store, QUICK),
        store.put_bytes("format.json", b""),
        store.get("format.json"),
    ):
        with pytest.raises(StoreRefused, match=code) as caught:
            await attempt
        text = str(caught.value) + repr(caught.value.__cause__) + repr(destination)
        assert destination.secret_access_key not in text
        assert destination.bucket in str(caught.value)
        assert s3_server.endpoint in str(caught.value)
        assert not caught.value.retriable
    with pytest.raises(StoreRefused, match=code):
        _ = [info async for info in store.list("objects/")]


async def test_nobody_there(tmp_path: Path, s3_server: ObjectStoreServer) -> None:
    destination = s3_destination(s3_server, "p", endpoint="http://127.0.0.1:1")
    store = open_store(destination, replace(QUICK, retry_timeout_s=0.3))
    for attempt in (store.get("format.json"), store.put_bytes("format.json", b"")):
        with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:1") as caught:
            await attempt
        assert caught.value.retriable
    with pytest.raises(StoreUnavailable):
        _ = [info async for info in store.list("objects/")]
    assert await store.sweep() == 0


async def test_tls_with_a_ca_of_ones_own(tmp_path: Path) -> None:
    _, folders = certificates.make(tmp_path / "pki", "shop/object-store", 1)
    folder = folders["replica-0"]
    server = ObjectStoreServer(
        tmp_path / "server", certificate=folder / "tls.crt", key=folder / "tls.key"
    )
    server.make_bucket(BUCKET)
    with server:
        assert server.endpoint.startswith("https://")
        # The names in the tests' certificates are those of replicas, and localhost.
        changes = {"endpoint": f"https://localhost:{server.port}", "allow_http": False}
        trusting = s3_destination(
            server, "p", ca_certificate=(folder / "ca.crt").read_bytes(), **changes
        )
        store = open_store(trusting, QUICK)
        assert await store.put_bytes("format.json", b"{}", create=True)
        assert await store.get("format.json") == b"{}"
        assert await store.sweep() == 0
        strict = open_store(
            s3_destination(server, "p", **changes), replace(QUICK, retry_timeout_s=0.3)
        )
        with pytest.raises(StoreRefused, match="certificate is not trusted"):
            await strict.get("format.json")


MEMORY = """
import asyncio, json, re, sys
from pathlib import Path
from partition_snapshots.destination import S3Destination, open_store
from partition_snapshots.limits import SnapshotLimits
from partition_snapshots.model import SnapshotSource
from partition_snapshots.process import leave
from partition_snapshots.take import take_snapshot
from partition_snapshots.verify import verify
job = json.load(sys.stdin)
async def main():
    limits = SnapshotLimits()
    store = open_store(S3Destination(**job["destination"]), limits)
    source = SnapshotSource("big", "u", "n/p", "c", 2, 1, 0, 0)
    blobs = [(bytes.fromhex(digest), size) for digest, size in job["blobs"]]
    rows = [(3, digest, bytes.fromhex("000000000801") + b"\\x10" + bytes.fromhex(job["varint"]))
            for digest, _ in blobs]
    await take_snapshot(store, source, lambda: iter(rows), blobs,
                  lambda digest: Path(job["volume"]) / digest.hex(), limits=limits)
    await verify(store, "big", limits)
asyncio.run(main())
# Not ru_maxrss, which counts what the process that started this one had.
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
leave(0)
"""


def test_large_files_take_bounded_memory(s3_server: ObjectStoreServer, tmp_path: Path) -> None:
    """Eight files of 48 MiB, sent and verified."""
    size, blobs = 48 * MIB, []
    for number in range(8):
        path = tmp_path / "blob"
        found = hashlib.sha256()
        with path.open("wb") as file:
            for step in range(48):
                chunk = bytes([number, step]) * (MIB // 2)
                file.write(chunk)
                found.update(chunk)
        path.rename(tmp_path / found.hexdigest())
        blobs.append((found.hexdigest(), size))
    fields = asdict(s3_destination(s3_server, "memory"))
    del fields["ca_certificate"], fields["ca_file"]
    job = {
        "destination": fields,
        "blobs": sorted(blobs),
        "volume": str(tmp_path),
        "varint": varint(size).hex(),
    }
    done = subprocess.run(
        [sys.executable, "-c", MEMORY],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    peak = int(done.stdout) * 1024
    print(f"peak {peak / MIB:.0f} MiB")
    assert peak < 160 * MIB
