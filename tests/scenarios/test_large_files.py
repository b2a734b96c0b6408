"""A file four times as large as the memory that a replica may have."""

import hashlib
import os
import random
import shutil
import time
from contextlib import ExitStack
from pathlib import Path

from partition_client import PayloadSource
from partition_replica.storage.blobs import blob_path

from tests.support import certificates
from tests.support.local_group import PARTITION, LocalGroup, LocalReplica, eventually
from tests.support.memory import AnonymousPeak, MemoryLimit

MEMORY_BYTES = 256 * 1024**2
FILE_BYTES = int(os.environ.get("LARGE_FILE_BYTES", str(1024**3)))
WITHIN_S = 600.0


def make_file(path: Path) -> None:
    """Mostly holes, so that it is made fast; no two parts are alike."""
    rng = random.Random(1)
    with path.open("wb") as file:
        for start in range(0, FILE_BYTES, 16 * 1024**2):
            file.seek(start)
            file.write(rng.randbytes(100_000))
        file.truncate(FILE_BYTES)


def blob_digest(replica: LocalReplica, digest: bytes) -> bytes:
    with blob_path(replica.data / "blobs", digest).open("rb") as file:  # type: ignore[arg-type]
        return hashlib.file_digest(file, "sha256").digest()


async def test_a_file_larger_than_memory(tmp_path: Path) -> None:
    """Goes in, to three members, comes out equal, and reaches a newcomer with its snapshot; no
    process has more than its memory at any time."""
    tls, folders = certificates.make(tmp_path / "pki", PARTITION, 4)
    group = LocalGroup(tmp_path, size=4, tls=tls, tls_directories=folders)
    everyone = group.replicas
    group.replicas = everyone[:3]
    source, peak = tmp_path / "source", AnonymousPeak()
    make_file(source)
    with ExitStack() as stack:
        # pytest keeps the folders of a few runs.
        for replica in everyone:
            stack.callback(shutil.rmtree, replica.data, ignore_errors=True)
        stack.callback(source.unlink)
        limits = [stack.enter_context(MemoryLimit(MEMORY_BYTES)) for _ in everyone]
        for replica, limit in zip(everyone, limits, strict=True):
            replica.prefix = limit.prefix
        async with group, peak.watching(everyone):
            began = time.monotonic()
            await group.bootstrap()
            async with group.client(deadline_s=WITHIN_S) as client:
                wanted = PayloadSource.of_file(source)
                await client.put_file(b"large", wanted)
                print(f"written after {time.monotonic() - began:.1f} s")
                await group.settled()
                for replica in group.replicas:
                    assert blob_digest(replica, wanted.digest) == wanted.digest
                read = hashlib.sha256()
                await client.read_file(b"large", read.update)
                assert read.digest() == wanted.digest
                print(f"read after {time.monotonic() - began:.1f} s")
                newcomer = everyone[3]
                group.replicas.append(newcomer)
                await group.start(newcomer)
                member = await group.begin_adding(newcomer)

                async def has_it() -> bool:
                    return blob_path(newcomer.data / "blobs", wanted.digest).exists()  # type: ignore[arg-type]

                await eventually(has_it, "the newcomer has the file", WITHIN_S)
                await group.finish_adding(member)
                await group.settled()
            assert newcomer.metric("logstore_state_transfer_payloads_total") == 1
            assert blob_digest(newcomer, wanted.digest) == wanted.digest
            print(f"a newcomer has it after {time.monotonic() - began:.1f} s")
            assert all(replica.running for replica in everyone)
        print({name: found // 1024**2 for name, found in peak.bytes.items()}, "MiB anonymous")
        print("limits enforced:", [limit.enforced for limit in limits])
    assert set(peak.bytes) == {replica.name for replica in everyone}
    assert all(0 < found < MEMORY_BYTES for found in peak.bytes.values()), peak.bytes
