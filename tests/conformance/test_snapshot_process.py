"""A snapshot job's process may say anything, fail to start, or refuse to end: that is the job's
failure, and never the replica's."""

import asyncio
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from partition_proto.v1 import replica_admin_pb2 as api
from partition_replica.config import ReplicaConfig
from partition_replica.core.limits import Limits
from partition_replica.core.model import Configuration
from partition_replica.errors import StorageFailed
from partition_replica.runtime.jobs import job_process, snapshot_jobs
from partition_replica.runtime.jobs.job_process import JobFailed, JobProcess
from partition_replica.runtime.jobs.snapshot_jobs import SnapshotJobRunner
from partition_replica.runtime.metrics import Metrics
from partition_replica.storage.files import VolumeLock
from partition_replica.storage.volume import Volume

LIMITS = replace(Limits(), snapshot_job_end_s=0.5, snapshot_job_stall_s=30.0)

Script = Callable[[str], None]


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    """Makes a shell script what is run."""

    def write(body: str) -> None:
        path = tmp_path / "process"
        path.write_text(f"#!/bin/sh\ncd {tmp_path}\n{body}\n")
        path.chmod(0o700)
        monkeypatch.setattr(job_process, "sys", SimpleNamespace(executable=str(path)))

    return write


async def no_capture() -> dict[str, Any]:
    raise AssertionError("it is not asked for")


def process(told: Callable[[str, int, int], None] = lambda *_: None) -> JobProcess:
    return JobProcess(LIMITS, told=told, capture=no_capture)


@pytest.mark.parametrize(
    "line",
    [
        "no JSON",
        "17",
        '"report"',
        "null",
        "[]",
        "{}",
        '{"report": 1}',
        '{"report": {}}',
        '{"report": {"state": "failed", "reason": "X"}}',
        '{"phase": "state", "done": 1}',
        '{"phase": "state", "done": "1", "total": 2}',
        "x" * 100_000,
    ],
)
async def test_lines_that_are_not_ours_fail_the_job(script: Script, line: str) -> None:
    script(f"printf '%s\\n' '{line}'")
    with pytest.raises(JobFailed) as failed:
        await process().run([], {})
    assert (failed.value.reason, failed.value.retriable) == ("ProcessDied", True)


async def test_a_process_that_reports(script: Script) -> None:
    report = {"state": "succeeded", "lsn": 7}
    script(f"""echo '{{"phase": "a", "done": 1, "total": 2}}'
echo '{json.dumps({"report": report})}'""")
    told: list[tuple[str, int, int]] = []
    assert await process(lambda *found: told.append(found)).run([], {}) == report
    assert told == [("a", 1, 2)]


async def test_one_that_can_not_be_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(JobFailed) as zero:
        await process().run(["a\0b"], {})
    assert (zero.value.reason, zero.value.retriable) == ("InvalidArgument", False)
    nothing = SimpleNamespace(executable=str(tmp_path / "none"))
    monkeypatch.setattr(job_process, "sys", nothing)
    with pytest.raises(JobFailed) as missing:
        await process().run([], {})
    assert (missing.value.reason, missing.value.retriable) == ("ProcessNotStarted", True)


async def test_one_that_does_not_end_is_killed_however_often_we_are_cancelled(
    script: Script, tmp_path: Path
) -> None:
    script("""trap '' TERM
mkfifo stays
echo '{"phase": "a", "done": '$$', "total": 2}'
read line < stays""")
    said: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    found = process(lambda _phase, pid, _total: said.set_result(pid))
    running = asyncio.create_task(found.run([], {}))
    pid = await said
    for _ in range(4):
        running.cancel()
        for _ in range(3):
            await asyncio.sleep(0)
        assert not running.done()
    with pytest.raises(asyncio.CancelledError):
        await running
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


# --- jobs -------------------------------------------------------------------------------------


class Jobs:
    """The jobs of a replica whose processes are `run`. asks: they ask for a copy of the state."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        lock = VolumeLock(root)
        assert lock.try_acquire()
        self.volume = Volume(root, lock, pins_max=10)
        self.failed: list[BaseException] = []
        self.arguments: list[str] = []
        self.outcome: Any = {}
        self.asks = False
        monkeypatch.setattr(snapshot_jobs, "JobProcess", self._make)
        config = ReplicaConfig(root, "here:1", "here:2", "here:1", "ns/p", None, limits=LIMITS)
        member = SimpleNamespace(
            configuration=Configuration((self.volume.log.identity.member_id,)),
            capture=SimpleNamespace(take=self._take),
        )
        self.jobs = SnapshotJobRunner(
            config,
            self.volume,
            Metrics(),
            running=lambda: member,  # type: ignore[arg-type,return-value]
            wall_ms=lambda: 1000,
            failed=self.failed.append,
        )
        self._serial = 0

    def _make(self, *_: object, capture: Callable[[], Any], **__: object) -> Any:
        async def run(arguments: list[str], environment: dict[str, str]) -> dict[str, Any]:
            self.arguments = arguments
            if self.asks:
                await capture()
            if isinstance(self.outcome, BaseException):
                raise self.outcome
            found: dict[str, Any] = self.outcome
            return found

        return SimpleNamespace(run=run)

    async def _take(self, directory: Path, check: Callable[[], None]) -> None:
        check()
        raise StorageFailed("nothing is copied here")

    async def run(self, **kinds: Any) -> api.SnapshotJob:
        self._serial += 1
        request = api.StartSnapshotJobRequest(job_id=f"j{self._serial}", **kinds)
        self.jobs.start(request)
        worker = self.jobs._worker
        assert worker is not None
        await asyncio.wait([worker])
        await asyncio.sleep(0)
        return self.jobs.get(request.job_id)


HERE = api.SnapshotDestination(volume=api.VolumeDestination())
VERIFY = api.VerifySnapshot(snapshot_id="s1", destination=HERE)


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Jobs:
    data = tmp_path / "data"
    data.mkdir()
    return Jobs(data, monkeypatch)


async def test_a_job_that_fails_unexpectedly_does_not_end_the_replica(jobs: Jobs) -> None:
    for outcome, reason, retriable in (
        (BlockingIOError("no more processes"), "BlockingIOError", True),
        (KeyError("phase"), "KeyError", False),
        ({"state": "succeeded", "lsn": "many"}, "ProcessDied", True),
        ({"state": "succeeded", "lsn": -1}, "ProcessDied", True),
    ):
        jobs.outcome = outcome
        found = await jobs.run(verify=VERIFY)
        assert (found.state, found.reason, found.retriable) == (
            api.SNAPSHOT_JOB_STATE_FAILED,
            reason,
            retriable,
        )
        assert list(jobs.volume.staging.iterdir()) == []
    assert jobs.failed == []
    jobs.outcome = {"state": "succeeded", "lsn": 7}
    found = await jobs.run(verify=VERIFY)
    assert (found.state, found.lsn) == (api.SNAPSHOT_JOB_STATE_SUCCEEDED, 7)
    jobs.volume.close()


async def test_a_failed_fsync_ends_the_replica(jobs: Jobs) -> None:
    jobs.outcome = StorageFailed("fsync")
    await jobs.run(verify=VERIFY)
    assert jobs.failed == [jobs.outcome]
    jobs.volume.close()


async def test_a_volume_without_room_is_said_before_anything_is_copied(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the state's copy and rows, half of what a volume keeps free has to stay."""
    jobs.asks = True
    needed = 2 * jobs.volume.state.size_bytes() + 10**9 // 20
    monkeypatch.setattr(jobs.volume.space, "free_bytes", lambda: (needed - 1, 10**9))
    found = await jobs.run(take=api.TakeSnapshot(snapshot_id="s1", uid="u", destination=HERE))
    assert (found.reason, found.retriable) == ("VolumeFull", False)
    assert f"needs up to {needed} free bytes" in found.message
    assert list(jobs.volume.staging.iterdir()) == []
    assert jobs.failed == []
    jobs.volume.close()


async def test_the_store_is_told_whose_job_it_is(jobs: Jobs) -> None:
    owner = f"{jobs.volume.log.identity.member_id:x}"
    jobs.outcome = {"state": "succeeded"}
    await jobs.run(take=api.TakeSnapshot(snapshot_id="s1", uid="u", destination=HERE))
    assert jobs.arguments[jobs.arguments.index("--owner") + 1] == owner
    await jobs.run(delete=api.DeleteSnapshots(snapshot_ids=["s1"], destination=HERE))
    assert jobs.arguments[jobs.arguments.index("--owner") + 1] == owner
    await jobs.run(verify=VERIFY)
    assert "--owner" not in jobs.arguments
    jobs.volume.close()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("region", "a\0b"),
        ("region", "-r"),
        ("region", "a b"),
        ("prefix", "-p"),
        ("endpoint", "http://h\0st"),
        ("session_token", "to\0ken"),
    ],
)
async def test_a_destination_that_can_not_be_told_is_refused(
    jobs: Jobs, name: str, value: str
) -> None:
    s3 = api.S3Destination(
        endpoint="http://h:1",
        bucket="bucket",
        access_key_id="k",
        secret_access_key="s",
        allow_http=True,
    )
    setattr(s3, name, value)
    there = api.SnapshotDestination(s3=s3)
    found = await jobs.run(verify=api.VerifySnapshot(snapshot_id="s1", destination=there))
    assert (found.reason, found.retriable) == ("InvalidDestination", False)
    assert jobs.arguments == []
    assert name != "session_token" or value not in found.message
    jobs.volume.close()
