"""How long applying stands still while the state is copied.

`python -m tests.benchmarks.capture [--keys N --files N --value-bytes N --seconds S]` applies
entries without a break, first alone, then while a capture runs, and prints the longest gap between
two applied batches of each phase as one line of JSON.
"""

import argparse
import asyncio
import hashlib
import itertools
import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from partition_proto.v1 import storage_pb2 as rows
from partition_replica.core.limits import Limits
from partition_replica.core.model import Applied, Configuration, LogEntry, Position
from partition_replica.ids import LSN, ClusterID, Term
from partition_replica.runtime.consensus.applier import Applier, ApplyHooks
from partition_replica.runtime.metrics import Metrics
from partition_replica.storage import codec
from partition_replica.storage.files import VolumeLock
from partition_replica.storage.volume import Volume

from tests.support.captures import state_capture
from tests.support.proposals import body, opening, proposal, set_key

CLUSTER = ClusterID("00000000-0000-4000-8000-000000000000")
SESSION = 2
AHEAD_MAX = 100
"""Entries that wait: what a batch is at most, and takes some milliseconds by itself."""

FILL_ROWS = 50_000


@dataclass(frozen=True, slots=True)
class Phase:
    """What a phase saw. Gaps are between the ends of two applied batches."""

    seconds: float
    entries: int
    batches: int
    gap_ms_max: float
    gap_ms_p99: float


class Load:
    """Applies entries, always some ahead, and notes when each batch was done."""

    def __init__(self, volume: Volume, value_bytes: int) -> None:
        self._value = b"v" * value_bytes
        self._next = 2
        self._done: list[tuple[float, int]] = []
        self._room = asyncio.Event()
        self.volume = volume
        self.limits = Limits()
        self.applier = Applier(
            volume.log,
            volume.states,
            volume.garbage,
            self.limits,
            Metrics(),
        )
        self.applier.start(ApplyHooks(change=self._change, done=self._applied))

    async def run(self) -> None:
        running = asyncio.create_task(self.applier.run())
        running.add_done_callback(self._ended)
        try:
            while True:
                while self.applier.lag < AHEAD_MAX:
                    self.applier.add([self._entry() for _ in range(50)])
                    await asyncio.sleep(0)
                self._room.clear()
                await self._room.wait()
        finally:
            running.cancel()

    def phase(self, since: float) -> Phase:
        now = time.perf_counter()
        done = [found for found in self._done if found[0] >= since]
        times = [since, *(at for at, _ in done), now]
        gaps = sorted(1000 * (b - a) for a, b in itertools.pairwise(times))
        return Phase(
            round(now - since, 3),
            sum(count for _, count in done),
            len(done),
            round(gaps[-1], 1),
            round(gaps[len(gaps) * 99 // 100 - 1], 1),
        )

    def _entry(self) -> LogEntry:
        index = self._next
        self._next += 1
        found = opening()
        if index > SESSION:
            key = b"applied/%016d" % (index * 7919 % 1_000_000)
            found = body(proposal(SESSION, index, [set_key(key, self._value)]))
            found.proposal.acknowledged_below = max(index - 10, 0)
        return LogEntry(LSN(index), Term(1), 0, found.SerializeToString())

    def _ended(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled():
            raise AssertionError("the applier ended") from task.exception()

    async def _change(self, entry: LogEntry) -> None:
        raise AssertionError("no configuration changes here")

    def _applied(self, results: list[Applied]) -> None:
        self._done.append((time.perf_counter(), len(results)))
        self._room.set()


def fill(volume: Volume, keys: int, files: int, value_bytes: int) -> None:
    """Writes rows as applying would, and much faster."""
    state = volume.state
    for start in range(0, keys, FILL_ROWS):
        with state.environment.begin(write=True) as txn:
            for number in range(start, min(start + FILL_ROWS, keys)):
                key = b"filled/%012d" % number
                txn.put(key, codec.seal(key, b"v" * value_bytes), db=state.tables.value)
        print(f"{start} of {keys} keys", end="\r", file=sys.stderr)
    with state.environment.begin(write=True) as txn:
        for number in range(files):
            digest = hashlib.sha256(b"%d" % number).digest()
            path = b"file-%012d" % number
            node = rows.NodeRow(mode=0o644, size=100_000, digest=digest)
            txn.put(path, codec.seal_message(path, node), db=state.tables.tree)
            payload = rows.PayloadRow(references=1, size=100_000)
            txn.put(digest, codec.seal_message(digest, payload), db=state.tables.payload)
    state.sync()


async def measure(
    root: Path, keys: int, files: int, value_bytes: int, seconds: float
) -> dict[str, object]:
    lock = VolumeLock(root)
    assert lock.try_acquire()
    volume = Volume(root, lock, pins_max=1000)
    member = volume.log.identity.member_id
    volume.state.start(Position(LSN(1), Term(1)), {int(member): "here:1"})
    volume.log.bootstrap(CLUSTER, Configuration((member,)))
    fill(volume, keys, files, value_bytes)
    load = Load(volume, value_bytes)
    capture = state_capture(volume, load.applier, load.limits)
    running = asyncio.create_task(load.run())
    try:
        await asyncio.sleep(1.0)  # caches warm, the first pages copied
        started = time.perf_counter()
        await asyncio.sleep(seconds)
        alone = load.phase(started)
        started = time.perf_counter()
        captured = await capture.take(volume.staging / "captured")
        beside = load.phase(started)
        assert captured is not None
        size = (captured.directory / "data.mdb").stat().st_size
        assert len(captured.blobs) == files
        captured.release()
        if running.done():
            running.result()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await asyncio.to_thread(load.applier.close)
        volume.close()
    return {
        "keys": keys,
        "files": files,
        "state_bytes": size,
        "alone": asdict(alone),
        "during_capture": asdict(beside),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--value-bytes", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=5.0, help="of the phase without a capture")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="capture-") as folder:
        found = asyncio.run(
            measure(Path(folder), options.keys, options.files, options.value_bytes, options.seconds)
        )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
