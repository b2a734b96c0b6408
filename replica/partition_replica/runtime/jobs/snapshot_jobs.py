"""Snapshot jobs of a replica: take, verify, delete. Each runs alone, in its own process.

Jobs are kept in memory. If the replica ends during a job, the job's files stay in staging/, which
the next start empties, and in the destination, where the same job finds them.
"""

import asyncio
import logging
import shutil
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from partition_proto.v1 import replica_admin_pb2 as api
from partition_snapshots.destination import Destination, DirectoryDestination, S3Destination
from partition_snapshots.errors import SnapshotError

from partition_replica.config import ReplicaConfig
from partition_replica.core.snapshot_jobs import check_job_id, check_request
from partition_replica.core.snapshot_progress import progress_of
from partition_replica.errors import (
    DiskFull,
    Fatal,
    GoElsewhere,
    NotFound,
    Overloaded,
    ReplicaError,
    RetryLater,
    no_state_yet,
)
from partition_replica.runtime.jobs.job_process import JobFailed, JobProcess
from partition_replica.runtime.member import Member
from partition_replica.runtime.metrics import Metrics
from partition_replica.runtime.transfer.capture import Captured, capture_in_time
from partition_replica.storage.failpoints import reach
from partition_replica.storage.files import fatal_on_failure, full_disk_refuses
from partition_replica.storage.volume import SNAPSHOTS, Volume
from partition_replica.threads import run_to_end

logger = logging.getLogger(__name__)

_ENDED = (api.SNAPSHOT_JOB_STATE_SUCCEEDED, api.SNAPSHOT_JOB_STATE_FAILED)
_FIGURES = {
    "snapshot_id": "snapshotID",
    "lsn": "lsn",
    "term": "term",
    "time_ms": "timeMs",
    "keys": "keys",
    "files": "files",
    "size_bytes": "sizeBytes",
    "transferred_bytes": "transferredBytes",
    "digest": "digest",
    "snapshots_deleted": "snapshotsDeleted",
    "objects_deleted": "objectsDeleted",
    "bytes_deleted": "bytesDeleted",
}
"""Fields of a SnapshotJob, with their names in the report of its process."""


@dataclass(slots=True, eq=False)
class _Job:
    """request: None once the job has ended, because it contains secrets."""

    kind: str
    request: api.StartSnapshotJobRequest | None
    status: api.SnapshotJob
    task: "asyncio.Task[api.SnapshotJob] | None" = None
    over: asyncio.Event = field(default_factory=asyncio.Event)
    captured: Captured | None = field(default=None, repr=False)


class SnapshotJobRunner:
    """Implements core.services.SnapshotJobService. On the event loop.

    `running` returns the member that runs, and raises if there is none. `failed` is called with
    errors that must end this process.
    """

    def __init__(
        self,
        config: ReplicaConfig,
        volume: Volume,
        metrics: Metrics,
        *,
        running: Callable[[], Member],
        wall_ms: Callable[[], int],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._config = config
        self._limits = config.limits
        self._volume = volume
        self._metrics = metrics
        self._running = running
        self._wall_ms = wall_ms
        self._failed = failed
        self._jobs: dict[str, _Job] = {}
        self._queue: deque[_Job] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._serial = 0
        self._closing = False

    # --- calls of the service -----------------------------------------------------------------

    def start(self, request: api.StartSnapshotJobRequest) -> api.SnapshotJob:
        kind = check_request(request)
        known = self._jobs.get(request.job_id)
        if known is not None:
            return _copy(known.status)
        member = self._running()
        if kind == "take" and not member.configuration.members:
            raise no_state_yet()
        if len(self._queue) >= self._limits.snapshot_jobs_queued_max:
            raise Overloaded(
                f"{len(self._queue)} snapshot jobs wait here, the maximum: retry later, or use "
                "another replica"
            )
        status = api.SnapshotJob(job_id=request.job_id, state=api.SNAPSHOT_JOB_STATE_QUEUED)
        if kind != "delete":
            status.snapshot_id = getattr(request, kind).snapshot_id
        kept = api.StartSnapshotJobRequest()
        kept.CopyFrom(request)
        job = self._jobs[request.job_id] = _Job(kind, kept, status)
        self._queue.append(job)
        self._forget_oldest()
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
            self._worker.add_done_callback(self._worker_ended)
        self._gauge()
        return _copy(status)

    def get(self, job_id: str) -> api.SnapshotJob:
        return _copy(self._known(job_id).status)

    async def cancel(self, job_id: str) -> api.SnapshotJob:
        job = self._known(job_id)
        if job in self._queue:
            self._queue.remove(job)
            self._end(
                job,
                JobFailed(
                    "Cancelled", "the job was cancelled while it was queued", retriable=False
                ),
            )
        elif job.task is not None:
            job.task.cancel()
            await job.over.wait()
        return _copy(job.status)

    async def close(self) -> None:
        """Ends all running and queued jobs. Nothing of them is left on the volume then."""
        self._closing = True
        while self._queue:
            self._end(self._queue.popleft(), _stopping())
        for job in self._jobs.values():
            if job.task is not None:
                job.task.cancel()
        if self._worker is not None:
            await asyncio.wait([self._worker])

    def _known(self, job_id: str) -> _Job:
        check_job_id(job_id)
        job = self._jobs.get(job_id)
        if job is None:
            raise NotFound(
                f"snapshot job {job_id!r} is not known here: start it again; it reuses what an "
                "earlier run left in the destination"
            )
        return job

    def _forget_oldest(self) -> None:
        ended = [job_id for job_id, job in self._jobs.items() if job.status.state in _ENDED]
        for job_id in ended[: max(0, len(ended) - self._limits.snapshot_jobs_kept_max)]:
            del self._jobs[job_id]

    def _gauge(self) -> None:
        self._metrics.set("logstore_snapshot_jobs_queued", len(self._queue))

    # --- one after the other ------------------------------------------------------------------

    async def _work(self) -> None:
        while self._queue:
            job = self._queue.popleft()
            self._gauge()
            job.status.state = api.SNAPSHOT_JOB_STATE_RUNNING
            job.status.started_ms = self._wall_ms()
            logger.info("snapshot job %s begins: %s", job.status.job_id, job.kind)
            job.task = asyncio.create_task(self._execute(job))
            await asyncio.wait([job.task])
            task, job.task = job.task, None
            self._end(job, self._outcome(task))
        self._worker = None

    def _worker_ended(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed(error)

    def _outcome(  # noqa: PLR0911  # one return for each kind of failure
        self, task: "asyncio.Task[api.SnapshotJob]"
    ) -> api.SnapshotJob | JobFailed:
        """Returns the figures of a task that is done, or its failure. Raises a Fatal again."""
        try:
            return task.result()
        except asyncio.CancelledError:
            cancelled = JobFailed("Cancelled", "the job was cancelled", retriable=False)
            return _stopping() if self._closing else cancelled
        except JobFailed as error:
            return error
        except SnapshotError as error:
            return JobFailed(error.reason, str(error), retriable=error.retriable)
        except Fatal:
            raise
        except DiskFull as error:
            return JobFailed("VolumeFull", str(error), retriable=False)
        except ReplicaError as error:
            retriable = isinstance(error, RetryLater | GoElsewhere)
            return JobFailed(type(error).__name__, str(error), retriable=retriable)
        except Exception as error:
            # A failed snapshot job must not end the replica.
            logger.exception("a snapshot job failed unexpectedly")
            name = type(error).__name__
            return JobFailed(name, f"{name}: {error}", retriable=isinstance(error, OSError))

    def _end(self, job: _Job, outcome: api.SnapshotJob | JobFailed) -> None:
        status = job.status
        job.request = None
        status.completed_ms = self._wall_ms()
        if isinstance(outcome, JobFailed):
            status.state = api.SNAPSHOT_JOB_STATE_FAILED
            status.reason, status.message = outcome.reason, str(outcome)
            status.retriable = outcome.retriable
            logger.warning("snapshot job %s failed: %s: %s", status.job_id, outcome.reason, outcome)
        else:
            status.MergeFrom(outcome)
            status.state, status.percent = api.SNAPSHOT_JOB_STATE_SUCCEEDED, 100
            self._metrics.snapshot_bytes.inc(status.transferred_bytes)
            logger.info(
                "snapshot job %s succeeded: LSN %d, %d bytes, %d transferred",
                status.job_id,
                status.lsn,
                status.size_bytes,
                status.transferred_bytes,
            )
        result = "failed" if isinstance(outcome, JobFailed) else "succeeded"
        self._metrics.snapshot_jobs.labels(job.kind, result).inc()
        job.over.set()

    # --- one job ------------------------------------------------------------------------------

    async def _execute(self, job: _Job) -> api.SnapshotJob:
        """Runs a job; returns the figures of its report."""
        self._running()
        self._serial += 1
        directory = self._volume.staging / f"snapshot-job-{self._serial}"

        def told(phase: str, done: int, total: int) -> None:
            job.status.phase, percent = progress_of(job.kind, phase, done, total)
            job.status.percent = max(job.status.percent, percent)

        process = JobProcess(self._limits, told=told, capture=lambda: self._capture(job, directory))
        try:
            await run_to_end(lambda: _make(directory))
            arguments, environment = self._command(job, directory)
            report = await process.run(arguments, environment)
            reach("snapshot.job.reported")
            return _figures(report)
        finally:
            captured, job.captured = job.captured, None
            await run_to_end(partial(_remove, captured, directory))

    def _command(self, job: _Job, directory: Path) -> tuple[list[str], dict[str, str]]:
        """(arguments, environment) of the job's process. Raises InvalidDestination."""
        request = job.request
        assert request is not None
        wanted: Any = getattr(request, job.kind)
        destination = self._destination(wanted.destination, directory)
        to, environment = destination.to_arguments()
        to += ["--limit", f"retry_timeout_s={self._limits.snapshot_store_retry_s}"]
        to += ["--limit", f"streams_max={self._limits.snapshot_streams_max}"]
        to += ["--limit", f"marker_stale_s={self._limits.snapshot_marker_stale_s}"]
        if job.kind == "verify":
            return ["verify", "--snapshot", wanted.snapshot_id, *to], environment
        # Jobs run one at a time: a marker or upload of this owner belongs to a process that ended.
        to += ["--owner", f"{self._volume.log.identity.member_id:x}"]
        if job.kind == "delete":
            named = [part for found in wanted.snapshot_ids for part in ("--snapshot", found)]
            return ["delete", *named, *to], environment
        made = ["take", "--data", str(self._volume.root), "--snapshot", wanted.snapshot_id]
        made += ["--cluster-id", self._volume.log.identity.cluster_id]
        made += ["--uid", wanted.uid, "--partition", wanted.partition or self._config.partition]
        return [*made, *(["--full"] if wanted.full else []), *to], environment

    def _destination(self, wanted: api.SnapshotDestination, directory: Path) -> Destination:
        if wanted.WhichOneof("kind") == "volume":
            return DirectoryDestination(self._volume.root / SNAPSHOTS)
        s3 = wanted.s3
        found = S3Destination(
            bucket=s3.bucket,
            access_key_id=s3.access_key_id,
            secret_access_key=s3.secret_access_key,
            endpoint=s3.endpoint,
            region=s3.region or "us-east-1",
            prefix=s3.prefix,
            session_token=s3.session_token,
            ca_certificate=s3.ca_certificate,
            allow_http=s3.allow_http,
            virtual_hosted_style=s3.virtual_hosted_style,
        )
        if not s3.ca_certificate:
            return found
        authority = directory / "ca.crt"
        what = "writing a CA certificate"
        with full_disk_refuses(what), fatal_on_failure(what):
            authority.write_bytes(s3.ca_certificate)
        return replace(found, ca_file=authority)

    async def _capture(self, job: _Job, directory: Path) -> dict[str, Any]:
        """Copies the state as soon as possible. Returns what is sent to the job's process."""
        job.status.phase = "Copying"
        try:
            captured = await capture_in_time(
                lambda: self._running().capture,
                directory / "state",
                self._limits.snapshot_capture_wait_s,
                self._check_room,
            )
        except Overloaded as error:
            raise JobFailed("NoCopy", str(error), retriable=True) from error
        job.captured = captured
        job.status.lsn, job.status.term = captured.position.index, captured.position.term
        job.status.time_ms = captured.time_ms
        reach("snapshot.job.captured")
        return {
            "directory": str(captured.directory),
            "voters": [f"{member:x}" for member in captured.configuration.voters],
            "learners": [f"{member:x}" for member in captured.configuration.learners],
        }

    def _check_room(self) -> None:
        """Raises JobFailed unless there is room for a copy of the state and for its rows, which go
        to the destination on this volume or become the base of the next snapshot."""
        size = self._volume.state.size_bytes()
        room = self._volume.space.room_for(2 * size, self._limits, own_work=True)
        if not room.enough:
            raise JobFailed(
                "VolumeFull",
                f"taking a snapshot needs up to {room.needed_bytes} free bytes on the volume (the "
                f"state has {size} bytes), {room.free_bytes} are free: make room or grow the "
                "volume",
                retriable=False,
            )


def _figures(report: dict[str, Any]) -> api.SnapshotJob:
    """The figures of a job's report. Raises JobFailed if one has the wrong type."""
    found = api.SnapshotJob()
    try:
        for name, reported in _FIGURES.items():
            if reported in report:
                setattr(found, name, report[reported])
    except (TypeError, ValueError) as error:
        raise JobFailed(
            "ProcessDied", f"the job's process sent an invalid report: {error}", retriable=True
        ) from error
    return found


def _remove(captured: Captured | None, directory: Path) -> None:
    if captured is not None:
        captured.remove()
    shutil.rmtree(directory, ignore_errors=True)


def _make(directory: Path) -> None:
    what = "making a snapshot job's directory"
    with full_disk_refuses(what), fatal_on_failure(what):
        directory.mkdir(mode=0o700)


def _stopping() -> JobFailed:
    message = "the replica is stopping: start the job again, here or at another replica"
    return JobFailed("Stopping", message, retriable=True)


def _copy(status: api.SnapshotJob) -> api.SnapshotJob:
    copy = api.SnapshotJob()
    copy.CopyFrom(status)
    return copy
