"""A volume with a row in each table, copies of it to damage, and a process that reads them: damage
to LMDB's pages may end the reader by a signal.

`python -m tests.support.damaged_volumes` is the reader. It takes a folder per line.
"""

import hashlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from partition_replica.core.model import Configuration, HardState, LogBatch, LogEntry, Position
from partition_replica.core.payloads import blob_digests
from partition_replica.errors import Damaged, StorageFailed
from partition_replica.ids import LSN, ClusterID, Digest, MemberID, SessionID, Term
from partition_replica.storage.files import VolumeLock
from partition_replica.storage.log import LmdbLog
from partition_replica.storage.state import LmdbState
from partition_replica.storage.state_tables import decode_result
from partition_replica.storage.volume import Volume

from tests.support.proposals import body, link, mkdir, opening, payload, proposal, set_key

BLOB = b"blob" * 25_000
LARGE = payload(BLOB)
DIGEST = Digest(LARGE.digest)
SMALL = payload(b"small")


def fill(root: Path) -> None:
    """A volume with a row in each table, and a blob."""
    lock = VolumeLock(root)
    assert lock.try_acquire()
    volume = Volume(root, lock, pins_max=10)
    member = volume.log.identity.member_id
    volume.state.start(Position(LSN(1), Term(1)), {member: "here:1"})
    volume.log.bootstrap(ClusterID("c"), Configuration((member,)))
    writer = volume.blobs.writer(DIGEST, len(BLOB))
    writer.write(BLOB)
    writer.finish()
    bodies = [
        opening(),
        body(proposal(2, 1, [mkdir(b"d"), link(b"d/blob"), link(b"small", 2)], [LARGE, SMALL])),
        *(body(proposal(2, n, [set_key(b"k%d" % n, b"v" * n * 10)])) for n in range(2, 40)),
        body(proposal(2, 40, [link(b"small", 1)], [SMALL])),  # an outcome that is noted
        body(proposal(2, 41, [set_key(b"l" * 600 + b"%d" % n, b"v") for n in range(3)])),
        body(proposal(2, 42, [mkdir(b"x" * 600 + b"%d" % n) for n in range(3)])),
    ]
    entries = [
        LogEntry(LSN(n), Term(1), 0, found.SerializeToString()) for n, found in enumerate(bodies, 2)
    ]
    volume.log.commit(LogBatch(entries, HardState(Term(1), MemberID(3), entries[-1].index)))
    volume.log.save_fencing_token(4, "operator")
    volume.log.register("consumer", LSN(1))  # so that no entry goes
    volume.state.apply(entries[:-3], {})
    volume.state.apply(entries[-3:], {})
    volume.state.sync()
    volume.close()


def read_everything(root: Path) -> str:
    """All that a volume holds, as a digest. Opens it as a replica does."""
    lock = VolumeLock(root)
    assert lock.try_acquire()
    volume = Volume(root, lock, pins_max=10)
    try:
        found = [*read_log(volume.log), *read_state(volume.state)]
        found += [hashlib.sha256(volume.blobs.path(d).read_bytes()) for d in volume.blobs.digests()]
    finally:
        volume.close()
    return hashlib.sha256(repr([_plain(item) for item in found]).encode()).hexdigest()


def _plain(item: Any) -> Any:
    return item.hexdigest() if hasattr(item, "hexdigest") else item


def read_log(log: LmdbLog) -> list[Any]:
    first, last = log.first_stored, log.last.index
    entries = log.read(first, LSN(last + 1), None)
    named = [log.names_blob(d) for entry in entries for d in blob_digests(entry)]
    return [
        (log.boundary, log.last, log.hard_state, log.configuration, log.identity),
        (log.fencing_token, log.backfill, sorted(log.positions.items())),
        (entries, [log.term(LSN(n)) for n in range(log.boundary.index, last + 1)], named),
    ]


def read_state(state: LmdbState) -> list[Any]:
    nodes = state.list_tree_entries(b"", b"", True, 10**6)[0]
    with state._environment.begin() as txn:  # sessions read their results, in an apply
        results = [decode_result(k, v) for k, v in txn.cursor(state._tables.result)]
    return [
        (state.applied, state.time_ms, state.members(), state.session_count()),
        (state.list_values(b"", b"", 10**6, 10**9)[0], nodes, results),
        [state.content(node.digest) for _, node in nodes if not node.directory],
        (state.blobs(), state.get_session(SessionID(2), 1)),
        [state.unapplied(LSN(n)) for n in range(1, 60)],
    ]


def serve() -> None:
    """Reads each folder in a child, which may die of it."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin:
        receiving, sending = os.pipe()
        child = os.fork()
        if not child:
            os.close(receiving)
            resource.setrlimit(resource.RLIMIT_CPU, (2, 2))  # SIGKILL: it turns in a circle
            try:
                outcome = f"read {read_everything(Path(line.strip()))}"
            except (Damaged, StorageFailed) as error:
                outcome = f"named {type(error).__name__}: {error}"
            except BaseException as error:
                outcome = f"unnamed {type(error).__name__}: {error}"
            os.write(sending, outcome.replace("\n", " ").encode()[:4000])
            os._exit(0)
        os.close(sending)
        with os.fdopen(receiving, "rb") as pipe:
            said = pipe.read().decode(errors="replace")
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            said = f"signal {signal.Signals(os.WTERMSIG(status)).name}"
        print(said, flush=True)


class Reader:
    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.damaged_volumes"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def read(self, root: Path) -> tuple[str, str]:
        """(read, named, unnamed or signal; what exactly)."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{root}\n")
        self._process.stdin.flush()
        kind, _, what = self._process.stdout.readline().strip().partition(" ")
        return kind, what

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    found = Reader()
    yield found
    found.close()


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as found:
        yield Path(found)


@pytest.fixture(scope="module")
def healthy(folder: Path) -> Path:
    root = folder / "healthy"
    root.mkdir()
    fill(root)
    return root


@pytest.fixture
def volume(healthy: Path, folder: Path) -> Path:
    """A copy to damage."""
    root = folder / "damaged"
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(healthy, root)
    return root


if __name__ == "__main__":
    serve()
