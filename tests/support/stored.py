"""Volumes whose states are stored, and the commands that do it, in a few words."""

import json
import os
import random
import subprocess
import sys
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from partition_proto.v1 import types_pb2 as types
from partition_replica.__main__ import parse
from partition_replica.core.model import Configuration, HardState, LogBatch, LogEntry, Position
from partition_replica.ids import LSN, Digest, MemberID, Term
from partition_replica.offline.snapshots import commands as snapshots
from partition_replica.offline.snapshots.contents import digest_of
from partition_replica.offline.stopped import open_stopped
from partition_replica.storage.failpoints import ENVIRONMENT
from partition_replica.storage.volume import Volume

from tests.support.proposals import body, copy, link, mkdir, opening, payload, proposal, set_key
from tests.support.seed_logs import CLUSTER, open_volume

NEW_CLUSTER = str(uuid.UUID(int=99))
LARGE = [random.Random(seed).randbytes(70_000 + seed) for seed in range(6)]
"""Contents of blobs."""


def bodies(first: int = 2) -> list[types.EntryBody]:
    """Keys, a tree with modes, files of both sizes, a session with results and a
    duplicate; the first entry, at `first`, opens the session."""
    small, empty = payload(b"sha", 0o600), payload(b"", 0o644)
    large = [payload(content, 0o755) for content in LARGE]
    return [
        opening(time_ms=5000),
        body(proposal(first, 1, [set_key(b"k\xff", b"v"), mkdir(b"d", 0o711)])),
        body(proposal(first, 2, [link(b"d/small", 1), link(b"d/empty", 2)], [small, empty])),
        body(proposal(first, 3, [link(b"f%d" % n, n + 1) for n in range(6)], large), 7000),
        body(proposal(first, 4, [copy(b"f0", b"d/again"), set_key(b"k" * 400, b"x" * 100_000)])),
        body(proposal(first, 4, [set_key(b"never", b"a duplicate")])),
    ]


def make_volume(
    data: Path,
    *,
    replicated: bool = True,
    term: int = 3,
    found: list[types.EntryBody] | None = None,
) -> Path:
    """A stopped replica's volume, everything applied."""
    volume = open_volume(data)
    start = Position(LSN(1), Term(1)) if replicated else Position(LSN(0), Term(0))
    volume.state.start(start, {7: "old:1"})
    if replicated:
        configuration = Configuration((volume.log.identity.member_id,))
        volume.log.bootstrap(CLUSTER, configuration)
    else:
        volume.log.bootstrap_standalone(CLUSTER)
        term = 0
    append(volume, bodies(start.index + 1) if found is None else found, term)
    volume.close()
    return data


def append(
    volume: Volume, found: list[types.EntryBody], term: int, *, blobs: Sequence[bytes] = LARGE
) -> None:
    """Entries behind the last, applied; `blobs` are there for them to name."""
    for content in blobs:
        digest = Digest(payload(content).digest)
        if not volume.blobs.has(digest):
            writer = volume.blobs.writer(digest, len(content))
            writer.write(content)
            writer.finish()
    first = volume.log.last.index + 1
    entries = [
        LogEntry(LSN(n), Term(term), 0, one.SerializeToString())
        for n, one in enumerate(found, first)
    ]
    if not entries:
        return
    hard = HardState(Term(term), MemberID(0), entries[-1].index) if term else None
    volume.log.commit(LogBatch(entries, hard))
    volume.state.apply(entries, {})


def rows_digest(data: Path) -> str:
    """Of a stopped volume's replicated rows."""
    with open_stopped(data) as volume:
        return digest_of(volume.state)


def command(*arguments: object, report: Path) -> tuple[int, dict[str, Any]]:
    """Runs `partition-replica snapshot …` in this process; (exit code, report)."""
    options = parse(["snapshot", *map(str, arguments), "--report", str(report)])
    report.unlink(missing_ok=True)
    code = snapshots.run(options)  # type: ignore[arg-type]
    return code, json.loads(report.read_bytes())


def ended(failpoint: str, *arguments: object) -> int:
    """Runs it as a process that ends at a failpoint; its exit code."""
    done = subprocess.run(
        [sys.executable, "-m", "partition_replica", "snapshot", *map(str, arguments)],
        env={**os.environ, ENVIRONMENT: failpoint},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode


class Stored:
    """A store in a directory, and volumes below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = root / "store"
        self._report = root / "report.json"

    def run(self, action: str, *arguments: object) -> tuple[int, dict[str, Any]]:
        return command(action, *arguments, "--directory", self.store, report=self._report)

    def done(self, action: str, *arguments: object) -> dict[str, Any]:
        """Runs what must succeed."""
        code, report = self.run(action, *arguments)
        assert (code, report["state"]) == (0, "succeeded"), report
        return report

    def publish(self, data: Path, snapshot: str = "s1", *arguments: object) -> dict[str, Any]:
        return self.done("take", "--data", data, "--snapshot", snapshot, *arguments)

    def restore_arguments(self, data: Path, snapshot: str = "s1") -> list[object]:
        return ["--data", data, "--snapshot", snapshot, "--cluster-id", NEW_CLUSTER]

    def restore(self, data: Path, snapshot: str = "s1", *arguments: object) -> dict[str, Any]:
        return self.done("restore", *self.restore_arguments(data, snapshot), *arguments)

    def objects(self) -> list[Path]:
        return sorted(path for path in (self.store / "objects").rglob("*") if path.is_file())


Change = Callable[[Path], None]


def flip(path: Path) -> None:
    """One bit in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    _replace(path, bytes(content))


def cut(path: Path) -> None:
    _replace(path, path.read_bytes()[:-10])


def drop(path: Path) -> None:
    path.unlink()


def _replace(path: Path, content: bytes) -> None:
    """Not in place: a hard link of it may be a volume's."""
    path.unlink()
    path.write_bytes(content)


DAMAGE: dict[str, Change] = {"flipped": flip, "cut": cut, "gone": drop}


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    return Stored(tmp_path)


@pytest.fixture
def published(stored: Stored) -> Stored:
    stored.publish(make_volume(stored.root / "source"))
    return stored


def modes(data: Path) -> dict[bytes, int]:
    with open_stopped(data) as volume:
        found, _ = volume.state.list_tree_entries(b"", b"", True, 10**6)
        return {path: node.mode for path, node in found}
