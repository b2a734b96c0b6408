"""Verification: of a log that goes on meanwhile, of damage of any kind, in bounded memory, and
without room. What it finds in rows and files: test_commands, test_damage."""

import asyncio
import json
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lmdb
import pytest
from partition_replica.__main__ import parse
from partition_replica.core.limits import Limits
from partition_replica.core.model import (
    Configuration,
    LogBatch,
    LogEntry,
    Position,
    StateSwitch,
    VerifyReport,
)
from partition_replica.core.payloads import blob_digests
from partition_replica.errors import Compacted, Damaged, DiskFull, Stopping, StorageFailed
from partition_replica.ids import LSN, MemberID, Term
from partition_replica.offline import commands
from partition_replica.runtime.jobs import inspection
from partition_replica.runtime.jobs.inspection import Inspection
from partition_replica.runtime.jobs.job_process import JobFailed
from partition_replica.storage import verification
from partition_replica.storage.log.reading import RunningLog
from partition_replica.storage.state import LmdbState
from partition_replica.storage.verification import Verification

from tests.support.proposals import body, mkdir, proposal
from tests.support.stored import append
from tests.support.verified_volumes import Progress, fill, verify

# --- a log that goes on -----------------------------------------------------------------------


def once(step: str, action: Callable[[], None]) -> Progress:
    done = False

    def progress(found: str, *_: int) -> None:
        nonlocal done
        if found == step and not done:
            done = True
            action()

    return progress


@pytest.mark.parametrize("how", ["pruned", "snapshot", "pruned and a hole"])
def test_what_goes_while_it_is_read_is_no_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """And a hole behind it is one."""
    monkeypatch.setattr(verification, "ROWS_A_TRANSACTION", 10)
    volume = fill(tmp_path / "data", 60)
    log = volume.log

    def go() -> None:
        if how == "snapshot":
            switch = StateSwitch(Position(LSN(100), Term(2)), Configuration((7,)), 2)
            log.commit(LogBatch(snapshot=switch))
            log.commit(LogBatch([LogEntry(LSN(101), Term(2), 0, b"")]))
            return
        log.acknowledge("applied", LSN(30))
        log.compact(LSN(30))
        assert log.prune(100)[0] == 29
        if how != "pruned":
            with log.environment.begin(write=True) as txn:
                assert txn.delete((31).to_bytes(8, "big"), db=log.tables.manifest)

    report, cut_off = verify(volume, tmp_path / "scratch", once("log", go))
    assert not cut_off
    if how == "pruned and a hole":
        assert "log entry 31 is missing; the next entry is 32" in report.findings
    else:
        assert report.findings == []
    volume.close()


@pytest.mark.parametrize("index", [40, 61])
def test_a_hole_is_found_while_it_goes_on(tmp_path: Path, index: int) -> None:
    volume = fill(tmp_path / "data", 61)  # LSNs 2 to 62
    with volume.log.environment.begin(write=True) as txn:
        assert txn.delete(index.to_bytes(8, "big"), db=volume.log.tables.manifest)
    report, _ = verify(volume, tmp_path / "scratch")
    assert f"log entry {index} is missing; the next entry is {index + 1}" in report.findings
    volume.close()


PRUNE = """
import sys
from pathlib import Path
from partition_replica.ids import LSN
from partition_replica.offline.volume.replication import open_volume
with open_volume(Path(sys.argv[1])) as volume:
    volume.log.compact(LSN(30))
    print(volume.log.prune(100)[0])
"""


def test_another_process_sees_what_is_stored_now(tmp_path: Path) -> None:
    data = tmp_path / "data"
    fill(data, 60).close()
    log = RunningLog(data / "log", MemberID(0), blob_digests)
    assert (log.first_stored, log.last.index) == (2, 61)
    assert len(log.read(LSN(2), LSN(62), None)) == 60
    done = subprocess.run(
        [sys.executable, "-c", PRUNE, str(data)], check=True, capture_output=True, timeout=60
    )
    assert done.stdout == b"29\n"
    assert log.first_stored == 31
    for read in (
        lambda: log.read(LSN(20), LSN(40), None),
        lambda: log.read_back(LSN(20), LSN(40), 100, 10**9),
    ):
        with pytest.raises(Compacted):
            read()
    found = log.read_back(LSN(31), LSN(61), 10, 10**9)
    assert [entry.index for entry in found] == list(range(61, 51, -1))
    log.close()


# --- damage -----------------------------------------------------------------------------------


def test_a_damaged_directory_is_a_finding(tmp_path: Path) -> None:
    volume = fill(tmp_path / "data", 5)
    found = [body(proposal(2, 9, [mkdir(b"d1/inside")]))]
    append(volume, found, 1)
    state = volume.state
    with state.environment.begin(write=True) as txn:
        txn.put(b"d1", b"1234\xff\xff\xff\xff", db=state.tables.tree)
    report, cut_off = verify(volume, tmp_path / "scratch")
    assert f"row {b'd1'.hex()} of table tree fails its checksum" in report.findings[0]
    assert report.unchecked == []
    assert report.counts["entries_replayed"] == 6
    assert not cut_off
    volume.close()


@pytest.mark.parametrize("error", [lmdb.CorruptedError("page"), IndexError("list"), Damaged("row")])
@pytest.mark.parametrize("step", ["_check_log", "_check_tree", "_check_blobs", "_check_replay"])
def test_a_step_that_breaks_off_is_a_finding_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: Exception
) -> None:
    def broken(self: Verification) -> None:
        raise error

    monkeypatch.setattr(Verification, step, broken)
    volume = fill(tmp_path / "data", 5)
    report, cut_off = verify(volume, tmp_path / "scratch")
    assert len(report.findings) == 1
    assert str(error) in report.findings[0]
    assert len(report.unchecked) == 1
    assert not cut_off
    assert report.counts["keys"] == 4
    assert ("entries_replayed" in report.counts) == (step != "_check_replay")
    volume.close()


# --- memory -----------------------------------------------------------------------------------


def test_large_entries_are_read_a_few_at_a_time(tmp_path: Path) -> None:
    """Forwards, and backwards where the log's start is gone."""
    count, value_bytes = 60, 500 * 1024
    volume = fill(tmp_path / "data", count, value_bytes)
    volume.log.acknowledge("applied", LSN(3))
    volume.log.compact(LSN(3))
    assert volume.log.prune(10)[0] == 2
    tracemalloc.start()
    try:
        report, _ = verify(volume, tmp_path / "scratch")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert report.findings == []
    assert report.counts["entries_replayed"] == count - 2
    assert peak < 16 * 1024**2, peak
    volume.close()


# --- no room ----------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["replay", "counts", "directory"])
def test_scratch_that_fails_is_said_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    volume = fill(tmp_path / "data", 5)
    full = lmdb.Error("No space left on device")
    if where == "replay":

        def failing(*_: object) -> None:
            raise StorageFailed(f"commit of the state: {full}") from full

        monkeypatch.setattr(LmdbState, "apply", failing)
    elif where == "counts":
        monkeypatch.setattr(verification.Counts, "flush", lambda _: (_ for _ in ()).throw(full))
    else:
        (tmp_path / "scratch").write_bytes(b"")
    report, cut_off = verify(volume, tmp_path / "scratch")
    assert cut_off
    assert report.findings == []
    assert len(report.unchecked) == (2 if where == "directory" else 1)
    assert report.counts["entries"] == 5
    volume.close()


@pytest.mark.parametrize(("error", "code"), [(StorageFailed("full"), 74), (Damaged("row"), 70)])
def test_a_command_whose_disk_fails_does_not_say_damaged(
    monkeypatch: pytest.MonkeyPatch, error: Exception, code: int
) -> None:
    def failing(_: object) -> int:
        raise error

    monkeypatch.setitem(commands._COMMANDS, "log", failing)
    assert commands.run(SimpleNamespace(command="log")) == code  # type: ignore[arg-type]


def test_verify_says_that_it_was_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, scratch = tmp_path / "data", tmp_path / "scratch"
    fill(data, 5).close()
    where = ["verify", "--data", str(data), "--scratch", str(scratch)]
    assert commands.run(parse(where)) == 1  # type: ignore[arg-type]
    assert "cannot create a scratch directory" in capsys.readouterr().err
    scratch.mkdir()
    assert commands.run(parse(where)) == 0  # type: ignore[arg-type]
    assert "no findings" in capsys.readouterr().out

    def failing(*_: object) -> None:
        raise StorageFailed("commit of the state: No space left on device")

    monkeypatch.setattr(LmdbState, "apply", failing)
    assert commands.run(parse(where)) == 74  # type: ignore[arg-type]
    said = capsys.readouterr().out
    assert "not checked: state against a replay of the log: the rest: commit of the state" in said
    assert "no findings in what was checked" in said


# --- while a replica serves -------------------------------------------------------------------


class Room:
    """A disk that is as full as a test says."""

    def __init__(self) -> None:
        self.free_bytes, self.is_full = 10**12, False

    def full(self) -> bool:
        return self.is_full


class Serving:
    """An inspection of a volume, whose process is `process`."""

    def __init__(self, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.volume = fill(data, 5)
        self.room = Room()
        monkeypatch.setattr(self.volume.space, "free_bytes", lambda: (self.room.free_bytes, 10**13))
        self.released = 0
        self.damage: Exception | None = None
        self.started = asyncio.Event()
        self.returncode = 0
        self.process: Callable[..., Any] = self.hang
        member = SimpleNamespace(capture=SimpleNamespace(take=self.take))
        self.inspection = Inspection(
            self.volume,
            Limits(),
            self.room,  # type: ignore[arg-type]
            lambda: member,  # type: ignore[arg-type,return-value]
        )
        monkeypatch.setattr(inspection, "JobProcess", self.make)

    def make(self, limits: Limits, *, told: Progress, **_: object) -> Any:
        async def run(arguments: list[str], environment: dict[str, str]) -> None:
            self.started.set()
            await self.process(told, Path(arguments[arguments.index("--scratch") + 1]))

        return SimpleNamespace(run=run, returncode=self.returncode)

    async def take(self, directory: Path, check: Callable[[], None]) -> Any:
        if self.damage is not None:
            raise self.damage
        self.volume.state.copy(directory)
        return SimpleNamespace(remove=self.remove)

    def remove(self) -> None:
        self.released += 1

    async def hang(self, told: Progress, scratch: Path) -> None:
        told("log", 1, 2)
        await asyncio.Event().wait()

    async def report(self) -> VerifyReport:
        found = [item async for item in self.inspection.verify()]
        assert isinstance(found[-1], VerifyReport)
        return found[-1]

    def assert_let_go(self) -> None:
        assert self.released == 1
        assert list(self.volume.staging.iterdir()) == []


@pytest.fixture
def serving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Serving:
    return Serving(tmp_path / "data", monkeypatch)


@pytest.mark.parametrize("moment", ["begun", "read"])
async def test_who_goes_away_leaves_nothing_held(serving: Serving, moment: str) -> None:
    found = serving.inspection.verify()
    waiting = asyncio.create_task(anext(found))
    await serving.started.wait()
    if moment == "read":
        assert await waiting == ("log", 1, 2)
    else:
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    await found.aclose()
    await serving.inspection.close()
    serving.assert_let_go()

    async def whole(told: Progress, scratch: Path) -> None:
        (scratch / "report.json").write_text(json.dumps({"findings": ["a"]}))

    serving.process, serving.released = whole, 0
    assert (await serving.report()).findings == ["a"]
    serving.assert_let_go()
    serving.volume.close()


async def test_a_state_that_cannot_be_copied_is_a_finding(serving: Serving) -> None:
    serving.damage = Damaged("row 00 of table payload fails its checksum")
    report = await serving.report()
    assert report.findings == ["row 00 of table payload fails its checksum"]
    assert list(serving.volume.staging.iterdir()) == []
    serving.volume.close()


async def test_a_replica_that_stops_says_so(serving: Serving) -> None:
    report = asyncio.create_task(serving.report())
    await serving.started.wait()
    await serving.inspection.close()
    with pytest.raises(Stopping):
        await report
    serving.assert_let_go()
    serving.volume.close()


async def test_no_room_is_no_failure_of_the_replica(serving: Serving) -> None:
    serving.room.free_bytes = 10**6
    with pytest.raises(DiskFull, match="needs up to"):
        await serving.report()
    serving.room.free_bytes = 10**12

    async def fill_up(told: Progress, scratch: Path) -> None:
        serving.room.is_full = True
        told("replay", 1, 2)

    serving.process = fill_up
    with pytest.raises(DiskFull, match="fell below its reserve"):
        await serving.report()
    serving.assert_let_go()
    serving.volume.close()


@pytest.mark.parametrize(
    ("returncode", "finds"), [(-signal.SIGABRT, 1), (-signal.SIGKILL, 0), (1, 0)]
)
async def test_a_process_that_dies(serving: Serving, returncode: int, finds: int) -> None:
    async def die(told: Progress, scratch: Path) -> None:
        told("state", 7, 9)
        raise JobFailed("ProcessDied", f"it ended with {returncode}", retriable=True)

    serving.process, serving.returncode = die, returncode
    report = await serving.report()
    assert len(report.findings) == finds
    assert "step state at 7" in report.unchecked[0]
    serving.assert_let_go()
    serving.volume.close()
