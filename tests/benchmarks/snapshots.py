"""Snapshots, beside `cp`, `tar | zstd` and bare puts and gets of the same data, in one run.

A volume is made with keys, small files (inlined in the state) and large ones (blobs), of random
bytes. Then, each as a command of its own and in turns: a full snapshot to the volume and to an S3
server on loopback, an incremental one after 1 % of everything changed, restores of both, and a new
follower's catch-up through a running group. The S3 server shares the processors and does more for
a byte than a file system does; so the same files are put and got by the bare client, too, with as
many streams, and no list, digest or manifest. Everything on a file system is synced before the
clock stops, on both sides; a command's start-up (about half a second of Python) is part of our
figures.
"""

import argparse
import asyncio
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import obstore
from obstore.store import S3Store
from partition_proto.v1.types_pb2 import Operation
from partition_replica.core.model import Configuration, LogEntry, Position
from partition_replica.core.payloads import blob_digests
from partition_replica.ids import LSN, ClusterID, Digest, MemberID, Term
from partition_replica.storage.blobs import blob_path
from partition_replica.storage.log import LmdbLog
from partition_replica.storage.state import LmdbState
from partition_snapshots.limits import SnapshotLimits

from dev.object_store import ObjectStoreServer
from tests.support.local_group import LocalGroup, LocalReplica, eventually
from tests.support.proposals import body, link, mkdir, opening, payload, proposal, remove, set_key

BUCKET = "snapshots"
SEED = 1
ROUNDS = 3
LIMITS = SnapshotLimits()
MEMBER = MemberID(7)
CLUSTER = ClusterID("6f0e7b1c-0000-4000-8000-00000000be9c")


@dataclass(frozen=True, slots=True)
class Scale:
    """keys of 100 bytes; small files of 8 KiB; large ones of 64 KiB + 1 to 512 KiB."""

    keys: int
    small_files: int
    large_files: int


@dataclass(slots=True)
class Timed:
    """Seconds of each round."""

    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


class Volume:
    """A stopped replica's volume, written directly: its log is compacted up to the state."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.bytes = self.changed_bytes = 0
        self.files = 0
        self._random = random.Random(SEED)
        self._sequence = 0
        data.mkdir()
        (data / "lock").touch()
        for name in ("state", "blobs"):
            (data / name).mkdir()

    def fill(self, scale: Scale) -> None:
        """Makes the first content, and a log that goes on behind it."""
        state = LmdbState(self.data / "state" / "1")
        state.start(Position(LSN(1), Term(1)), {int(MEMBER): "localhost:1"})
        self._apply(state, [opening()])
        self._apply(state, [self._operation([mkdir(b"s"), mkdir(b"l")], [])])
        self._write(state, range(scale.keys), range(scale.small_files), range(scale.large_files))
        assert sum(1 for _ in state.blobs()) == scale.large_files
        self._finish(state)

    def change(self, scale: Scale) -> None:
        """Writes 1 % of everything anew, spread at random."""
        state = LmdbState(self.data / "state" / "1")
        draw, before = self._random.sample, self.bytes
        self._write(
            state,
            draw(range(scale.keys), scale.keys // 100),
            draw(range(scale.small_files), scale.small_files // 100),
            draw(range(scale.large_files), scale.large_files // 100),
            again=True,
        )
        self.changed_bytes = self.bytes - before
        self.bytes = before
        self.files -= scale.small_files // 100 + scale.large_files // 100
        self._finish(state)

    def _finish(self, state: LmdbState) -> None:
        """Makes all of it durable, with a log that goes on behind the state."""
        position = state.sync()
        state.close()
        shutil.rmtree(self.data / "log", ignore_errors=True)
        log = LmdbLog(self.data / "log", MEMBER, blob_digests)
        log.bootstrap(CLUSTER, Configuration(voters=(MEMBER,)), position)
        log.close()
        subprocess.run(["sync", "-f", str(self.data)], check=True)

    def _write(
        self,
        state: LmdbState,
        keys: "range | list[int]",
        small: "range | list[int]",
        large: "range | list[int]",
        *,
        again: bool = False,
    ) -> None:
        """again: over what is there, which a link alone would leave as it is."""
        for batch in _batches(list(keys), 2000):
            operations = [
                set_key(b"key/%012d" % number, self._random.randbytes(84)) for number in batch
            ]
            self._apply(state, [self._operation(operations, [])])
            self.bytes += 100 * len(batch)
        for batch in _batches(list(small), 64):
            payloads = [payload(self._random.randbytes(8192)) for _ in batch]
            links = _links(b"s", batch, again)
            self._apply(state, [self._operation(links, payloads)])
            self.bytes += 8192 * len(batch)
        for batch in _batches(list(large), 64):
            payloads = []
            for _ in batch:
                content = self._random.randbytes(self._random.randint(65_537, 524_288))
                found = payload(content)
                target = blob_path(self.data / "blobs", Digest(found.digest))
                target.parent.mkdir(exist_ok=True)
                target.write_bytes(content)
                payloads.append(found)
                self.bytes += len(content)
            links = _links(b"l", batch, again)
            self._apply(state, [self._operation(links, payloads)])
        self.files += len(small) + len(large)

    def _operation(self, operations: list[object], payloads: list[object]) -> object:
        self._sequence += 1
        made = proposal(2, self._sequence, operations, payloads, below=self._sequence)  # type: ignore[arg-type]
        return body(made)

    def _apply(self, state: LmdbState, bodies: list[object]) -> None:
        at = state.applied.index
        entries = [
            LogEntry(LSN(at + n), Term(1), 0, found.SerializeToString())  # type: ignore[attr-defined]
            for n, found in enumerate(bodies, start=1)
        ]
        results, _ = state.apply(entries, {})
        assert len(results) == len(entries)


def _links(directory: bytes, numbers: list[int], again: bool) -> list[Operation]:
    """Of payloads in their order."""
    paths = [b"%s/%08d" % (directory, number) for number in numbers]
    gone = [remove(path) for path in paths] if again else []
    return gone + [link(path, number) for number, path in enumerate(paths, start=1)]


def _batches(items: list[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def timed(*command: str, environment: dict[str, str] | None = None) -> float:
    """Seconds of a command, with everything that it wrote synced."""
    began = time.perf_counter()
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env=os.environ | (environment or {})
    )
    if done.returncode:
        raise RuntimeError(f"{command}: {done.returncode} {done.stdout}{done.stderr}")
    return time.perf_counter() - began


def shell(text: str) -> float:
    return timed("bash", "-o", "pipefail", "-c", text)


def snapshot(*arguments: str, environment: dict[str, str] | None = None) -> tuple[float, dict]:  # type: ignore[type-arg]
    """Seconds and report of `partition-replica snapshot`, its start-up included."""
    with tempfile.NamedTemporaryFile() as report:
        seconds = timed(
            sys.executable,
            "-m",
            "partition_replica",
            "snapshot",
            *arguments,
            "--json",
            "--report",
            report.name,
            environment=environment,
        )
        return seconds, json.loads(Path(report.name).read_text())


class Benchmark:
    def __init__(self, root: Path, scale: Scale) -> None:
        self.root = root
        self.scale = scale
        self.rows: list[str] = []

    def run(self) -> None:
        volume = Volume(self.root / "volume")
        volume.fill(self.scale)
        self.volume = volume
        self.size = sum(f.stat().st_size for f in volume.data.rglob("*") if f.is_file())
        print(
            f"{self.scale.keys:,} keys, {volume.files:,} files, {volume.bytes / 1e6:,.0f} MB of "
            f"content; {self.size / 1e6:,.0f} MB of files on the volume",
            flush=True,
        )
        with ObjectStoreServer(self.root / "store") as server:
            server.make_bucket(BUCKET)
            self._full(server)
            self._incremental(server)
            self._restore(server)
        asyncio.run(self._catch_up())
        print("\n| what | measured | beside it | ratio |\n|---|---|---|---|")
        print("\n".join(self.rows))

    def _s3(self, server: ObjectStoreServer, prefix: str) -> tuple[list[str], dict[str, str]]:
        where = ["--s3-bucket", BUCKET, "--s3-prefix", prefix, "--s3-endpoint", server.endpoint]
        return [*where, "--s3-allow-http"], {
            "AWS_ACCESS_KEY_ID": server.access_key_id,
            "AWS_SECRET_ACCESS_KEY": server.secret_access_key,
        }

    def _full(self, server: ObjectStoreServer) -> None:
        data = self.volume.data
        copied, packed, linked, sent, bare = Timed(), Timed(), Timed(), Timed(), Timed()
        for number in range(ROUNDS):
            copied.seconds.append(self._copy(data, self.root / "copy"))
            packed.seconds.append(self._pack())
            shutil.rmtree(data / "snapshots", ignore_errors=True)
            seconds, _ = snapshot(
                *("take", "--data", str(data), "--snapshot", "full"),
                *("--directory", str(data / "snapshots")),
            )
            linked.seconds.append(seconds)
            where, secrets = self._s3(server, f"round{number}")
            shutil.rmtree(data / "snapshot-base", ignore_errors=True)
            seconds, report = snapshot(
                *("take", "--data", str(data), "--snapshot", "full", *where), environment=secrets
            )
            sent.seconds.append(seconds)
            assert report["transferredBytes"] >= report["sizeBytes"] * 0.99, report
            bare.seconds.append(asyncio.run(self._put(server)))
        self._row("full snapshot to the volume", linked, "tar \\| zstd", packed)
        self._row("full snapshot to the volume", linked, "cp", copied)
        self._row("full snapshot to S3 on loopback", sent, "bare puts", bare)
        self._row("full snapshot to S3 on loopback", sent, "cp", copied)
        self._row("full snapshot to S3 on loopback", sent, "tar \\| zstd", packed)

    def _incremental(self, server: ObjectStoreServer) -> None:
        data = self.volume.data
        self.volume.change(self.scale)
        where, secrets = self._s3(server, f"round{ROUNDS - 1}")
        seconds, report = snapshot(
            *("take", "--data", str(data), "--snapshot", "next", *where), environment=secrets
        )
        share = report["transferredBytes"] / report["sizeBytes"]
        # What is new is in it, however little that may be.
        assert report["transferredBytes"] > self.volume.changed_bytes, report
        self.rows.append(
            f"| incremental to S3 after 1 % changed | {seconds:.1f} s, "
            f"{report['transferredBytes'] / 1e6:,.1f} MB | "
            f"of {report['sizeBytes'] / 1e6:,.0f} MB | {share:.2%} of the bytes |"
        )
        seconds, report = snapshot(
            *("take", "--data", str(data), "--snapshot", "next"),
            *("--directory", str(data / "snapshots")),
        )
        self.rows.append(f"| incremental to the volume after 1 % changed | {seconds:.1f} s | | |")

    def _restore(self, server: ObjectStoreServer) -> None:
        data = self.volume.data
        where, secrets = self._s3(server, f"round{ROUNDS - 1}")
        copied, unpacked, near, far, bare = Timed(), Timed(), Timed(), Timed(), Timed()
        for _ in range(ROUNDS):
            copied.seconds.append(self._copy(data, self.root / "copy"))
            unpacked.seconds.append(self._unpack())
            bare.seconds.append(asyncio.run(self._get(server)))
            for found, source, environment in (
                (near, ["--directory", str(data / "snapshots")], None),
                (far, where, secrets),
            ):
                shutil.rmtree(self.root / "restored", ignore_errors=True)
                seconds, _ = snapshot(
                    *("restore", "--data", str(self.root / "restored")),
                    *("--cluster-id", str(uuid.uuid4()), "--snapshot", "next", *source),
                    environment=environment,
                )
                found.seconds.append(seconds)
        self._row("restore from a volume", near, "zstd \\| tar", unpacked)
        self._row("restore from a volume", near, "cp", copied)
        self._row("restore from S3 on loopback", far, "bare gets", bare)
        self._row("restore from S3 on loopback", far, "cp", copied)
        self._row("restore from S3 on loopback", far, "zstd \\| tar", unpacked)

    async def _catch_up(self) -> None:
        """A second member joins the restored volume's group: snapshot and blobs over loopback."""
        copied, piped, joined = Timed(), Timed(), Timed()
        for number in range(ROUNDS):
            copied.seconds.append(self._copy(self.volume.data, self.root / "copy"))
            piped.seconds.append(self._pipe())
            root = self.root / f"group{number}"
            root.mkdir()
            group = LocalGroup(root, size=2)
            first, second = group.replicas
            snapshot(
                *("restore", "--data", str(first.data), "--cluster-id", group.cluster),
                *("--snapshot", "next", "--directory", str(self.volume.data / "snapshots")),
            )
            async with group:
                await group.start(first)
                await group.start(second)
                leader = await group.leader()
                status = await group.status(leader)
                assert status is not None
                began = time.perf_counter()
                await group.begin_adding(second)

                await _caught_up(group, second, status.applied)
                joined.seconds.append(time.perf_counter() - began)
            shutil.rmtree(root)
        self._row("a new follower's catch-up", joined, "tar \\| zstd \\| zstd -d \\| tar", piped)
        self._row("a new follower's catch-up", joined, "cp", copied)

    def _bare_client(self, server: ObjectStoreServer) -> S3Store:
        return S3Store(
            BUCKET,
            prefix="bare",
            endpoint=server.endpoint,
            region="us-east-1",
            access_key_id=server.access_key_id,
            secret_access_key=server.secret_access_key,
            client_options={"allow_http": True},
        )

    async def _put(self, server: ObjectStoreServer) -> float:
        """Seconds to put the volume's files."""
        store, data = self._bare_client(server), self.volume.data
        files = iter((*data.glob("blobs/*/*"), *data.glob("state/*/data.mdb")))

        async def some() -> None:
            for file in files:
                content = await asyncio.to_thread(file.read_bytes)
                large = len(content) > LIMITS.part_bytes
                name = str(file.relative_to(data))
                await obstore.put_async(store, name, content, use_multipart=large)

        began = time.perf_counter()
        await asyncio.gather(*(some() for _ in range(LIMITS.streams_max)))
        return time.perf_counter() - began

    async def _get(self, server: ObjectStoreServer) -> float:
        """Seconds to get them back into files, synced."""
        store, target = self._bare_client(server), self.root / "got"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        began = time.perf_counter()
        names = iter([item["path"] for page in obstore.list(store) for item in page])

        async def some() -> None:
            for name in names:
                content = await (await obstore.get_async(store, name)).bytes_async()
                file = target / name.replace("/", "-")
                await asyncio.to_thread(file.write_bytes, content)

        await asyncio.gather(*(some() for _ in range(LIMITS.streams_max)))
        subprocess.run(["sync", "-f", str(target)], check=True)
        return time.perf_counter() - began

    def _copy(self, source: Path, target: Path) -> float:
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        return shell(f"cp -r {source}/blobs {source}/state {target}/ && sync -f {target}")

    def _pack(self) -> float:
        archive = self.root / "archive"
        archive.unlink(missing_ok=True)
        return shell(
            f"tar -C {self.volume.data} -cf - blobs state | zstd -q -T0 -1 -o {archive} && "
            f"sync -f {archive}"
        )

    def _unpack(self) -> float:
        target = self.root / "unpacked"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        return shell(
            f"zstd -qdc {self.root / 'archive'} | tar -C {target} -xf - && sync -f {target}"
        )

    def _pipe(self) -> float:
        """As one would send it to another machine."""
        target = self.root / "unpacked"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        return shell(
            f"tar -C {self.volume.data} -cf - blobs state | zstd -q -T0 -1 | zstd -qdc | "
            f"tar -C {target} -xf - && sync -f {target}"
        )

    def _row(self, what: str, ours: Timed, beside: str, theirs: Timed) -> None:
        ratios = sorted(b / a for a, b in zip(ours.seconds, theirs.seconds, strict=True))
        content, files = self.volume.bytes / 1e6, self.volume.files

        def rate(seconds: float) -> str:
            return f"{seconds:.1f} s, {content / seconds:,.0f} MB/s, {files / seconds:,.0f} files/s"

        self.rows.append(
            f"| {what} | {rate(ours.median)} | {beside}: {rate(theirs.median)} | "
            f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) |"
        )
        print(self.rows[-1], flush=True)


async def _caught_up(group: LocalGroup, replica: LocalReplica, lsn: int) -> None:
    async def applied() -> bool:
        found = await group.status(replica)
        return found is not None and found.applied >= lsn

    await eventually(applied, "the follower has caught up", within_s=600)


def main(root: Path, scale: Scale) -> None:
    """Measures below a new directory of root, and prints a table in Markdown."""
    folder = root.resolve() / "snapshots"
    folder.mkdir()
    try:
        Benchmark(folder, scale).run()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


DEFAULT = Scale(keys=1_000_000, small_files=50_000, large_files=5_000)

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.snapshots")
    parser.add_argument("--keys", type=int, default=DEFAULT.keys)
    parser.add_argument("--small-files", type=int, default=DEFAULT.small_files)
    parser.add_argument("--large-files", type=int, default=DEFAULT.large_files)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=".") as name:
        main(Path(name), Scale(options.keys, options.small_files, options.large_files))
