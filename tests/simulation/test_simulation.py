"""A hundred seeds, that equal seeds give equal runs, and that the checks find what is planted.

SIMULATION_SEEDS (default 100) and SIMULATION_FIRST (default 0) say which seeds; a failure prints
how to replay one.
"""

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from partition_proto.v1 import types_pb2 as types
from partition_replica.core import apply
from partition_replica.core.compaction import APPLIED
from partition_replica.core.model import Applied, ProposalResult
from partition_replica.core.services import AppendFrame
from partition_replica.core.sessions import Verdict
from partition_replica.engine.port import Ready
from partition_replica.engine.raft import RaftEngine
from partition_replica.ids import LSN, Digest
from partition_replica.runtime import assembly
from partition_replica.runtime.consensus import admission
from partition_replica.runtime.consensus.compactor import Compactor
from partition_replica.runtime.consensus.raft_loop import RaftLoop
from partition_replica.runtime.consensus.waits import AppliedWaits
from partition_replica.runtime.serving.append_frames import AppendFrames
from partition_replica.storage.blobs import BlobStore
from partition_replica.storage.log import journaled

from tests.simulation.checks import Violation
from tests.simulation.cluster import simulate
from tests.simulation.disk import VolumeDisk

SEEDS = int(os.environ.get("SIMULATION_SEEDS", "100"))
FIRST = int(os.environ.get("SIMULATION_FIRST", "0"))
BATCH = 10

EXERCISED = (
    "acknowledged writes",
    "leaders",
    "snapshots adopted",
    "blobs collected",
    "starts",
    "files read under replacement",
    "restores",
    "linearizable reads in frames",
    "linearizable reads at followers",
    "linearizable reads by frames beside several appends",
    "answers out of order",
    "appends of several that are sent again",
    "frames of several appends",
    "streams that ended",
    "commits to a journal",
    "payloads pushed together",
    "payloads passed on",
)
"""What happens in any ten seeds, or they are worth nothing."""

RARE = ("fast clocks",)
"""What happens in any RARE_SEEDS seeds; ten may have none of it."""

RARE_SEEDS = 30

PLANTED_SEEDS_MAX = 60

pytestmark = pytest.mark.timeout(900)  # a seed takes about a second of a processor of its own


@pytest.mark.parametrize("first", range(FIRST, FIRST + SEEDS, BATCH))
def test_seeds(first: int) -> None:
    counts: Counter[str] = Counter()
    for seed in range(first, min(first + BATCH, FIRST + SEEDS)):
        report = simulate(seed)
        if report.violation is not None:
            pytest.fail(report.explain(), pytrace=False)
        counts += report.counts
    if first + BATCH <= FIRST + SEEDS:
        assert not [kind for kind in EXERCISED if not counts[kind]]


def test_what_is_rare_happens() -> None:
    missing = set(RARE)
    for seed in range(FIRST, FIRST + RARE_SEEDS):
        missing -= {kind for kind, count in simulate(seed).counts.items() if count}
        if not missing:
            return
    pytest.fail(f"not in {RARE_SEEDS} seeds: {missing}")


def test_equal_seeds_give_equal_runs() -> None:
    """In processes of their own, whose hashes of strings differ."""
    for seed in ("3", "4"):
        digests = {
            subprocess.run(
                [sys.executable, "-m", "tests.simulation", "--seed", seed, "--digest"],
                env={**os.environ, "PYTHONHASHSEED": hash_seed},
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            for hash_seed in ("1", "2")
        }
        assert len(digests) == 1
        assert digests == {f"{simulate(int(seed)).digest}\n"}


def find() -> Violation:
    """What the first seed finds that finds anything."""
    for seed in range(PLANTED_SEEDS_MAX):
        violation = simulate(seed).violation
        if violation is not None:
            print(f"found by seed {seed}: {violation}")
            return violation
    pytest.fail(f"not found by {PLANTED_SEEDS_MAX} seeds")


def test_finds_a_boundary_ahead_of_the_durable_state(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hasty(Compactor):
        """Takes what is applied for what is durable."""

        async def run_once(self) -> int:
            log, applied = self._log, self._states.current.applied.index
            if not self._applier.paused and applied > log.positions.get(APPLIED, 0):
                await self._loop.call_writer(lambda: self._acknowledge(applied))
            return await super().run_once()

    monkeypatch.setattr(assembly, "Compactor", Hasty)
    found = find()
    assert found.check == "start"
    assert "the state is at" in found.text


def test_finds_waiters_that_are_told_before_the_apply(monkeypatch: pytest.MonkeyPatch) -> None:
    async def reach(waits: AppliedWaits, index: LSN) -> None:
        """Returns at once; the entries are applied later."""

    monkeypatch.setattr(AppliedWaits, "reach", reach)
    found = find()
    assert found.check == "client"
    assert "reads" in found.text


def test_finds_answers_before_the_log_is_durable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each member tells its engine of the disk as soon as it has given it something to write."""
    handle = RaftLoop._handle

    def hasty(loop: RaftLoop, work: Ready) -> None:
        loop._durable_number = work.number
        handle(loop, work)

    monkeypatch.setattr(RaftLoop, "_handle", hasty)
    assert find().check == "durable"


def test_finds_a_journal_that_does_not_wait_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file is not opened with O_DSYNC: a power failure may lose what was written to it."""

    def write(disk: VolumeDisk, descriptor: int, parts: Sequence[bytes], offset: int) -> int:
        path = disk._of_descriptor(descriptor)
        disk._see(path)
        count = os.pwritev(descriptor, parts, offset)
        disk._note("overwrite", path, data=b"".join(parts)[:count], offset=offset)
        return count

    monkeypatch.setattr(VolumeDisk, "write_durably", write)
    assert find().check in ("durable", "start")


def test_finds_a_journal_that_keeps_its_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records that the tables took over long ago are read again."""
    monkeypatch.setattr(journaled.secrets, "token_bytes", lambda size: b"e" * size)
    assert find().check == "start"


def test_finds_appends_of_a_frame_that_a_retry_drops(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last one of a frame that is sent again is answered, and not proposed."""
    append_slice = AppendFrames._append_slice

    def careless(
        frames: AppendFrames, frame: AppendFrame, start: int, encoder: Any, results: Any, to: Any
    ) -> int:
        last = frame.first_sequence + len(frame.proposals) - 1
        if frame.retry and last not in results:
            position = frames._states.current.applied
            to.appended(last, Applied(position.index, position.term, "committed"))
            frame = replace(frame, proposals=frame.proposals[:-1])
        append_slice(frames, frame, start, encoder, results, to)
        return len(frame.proposals) + 1

    monkeypatch.setattr(AppendFrames, "_append_slice", careless)
    assert find().check in ("committed", "client")


def test_finds_messages_that_leave_before_their_term_is_durable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    take_ready = RaftEngine.take_ready

    def hasty(engine: RaftEngine) -> Ready | None:
        ready = take_ready(engine)
        return None if ready is None else replace(ready, hold_messages=False)

    monkeypatch.setattr(RaftEngine, "take_ready", hasty)
    assert find().check == "durable term"


def test_finds_a_blob_collected_under_a_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    def hold(store: BlobStore, digests: Iterable[Digest]) -> None:
        """Holds nothing."""

    def release_hold(
        store: BlobStore, digests: Iterable[Digest], *, unneeded: bool = False
    ) -> None:
        """Nothing was held."""

    monkeypatch.setattr(BlobStore, "hold", hold)
    monkeypatch.setattr(BlobStore, "release_hold", release_hold)
    found = find()
    assert found.check in ("snapshot", "blob")


def test_finds_preconditions_that_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apply, "_holds", lambda *_: True)
    assert "wrong precondition" in find().text


def test_finds_sessions_that_live_by_the_wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """As entries before format 2 had it: one leader's clock was ahead for a moment. A client hears
    of it, or an append that was acknowledged has no effect, because its session was over."""

    def by_wall(clock_ms: int, body: types.EntryBody) -> int:
        return max(clock_ms, body.time_ms)

    monkeypatch.setattr(apply, "advance_clock", by_wall)
    assert re.search("session ended|took effect at .* it did at None", find().text)


def test_finds_sequences_that_are_used_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer for a sequence that was used for another content, or acknowledged."""

    def careless(_s: int, _d: bytes, below: int, earlier: ProposalResult | None) -> Verdict:
        return Verdict.NEW if earlier is None else Verdict.REPEATED

    monkeypatch.setattr(apply, "judge", careless)
    monkeypatch.setattr(admission, "judge", careless)
    assert "again and got" in find().text
