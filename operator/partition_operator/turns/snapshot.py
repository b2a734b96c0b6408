"""A PartitionSnapshot's turn: observe, write status, act, and observe again."""

import logging
from dataclasses import replace

from partition_proto.v1 import types_pb2 as types

from partition_operator import failpoints
from partition_operator.api import names
from partition_operator.api.destination import S3Credentials
from partition_operator.api.events import Event
from partition_operator.api.partition import Partition
from partition_operator.api.snapshot import Snapshot, SnapshotState
from partition_operator.api.words import JobState
from partition_operator.clients.kube import ApiError, Kube
from partition_operator.clients.recorder import Recorder
from partition_operator.clients.snapshot_jobs import SnapshotJobClient
from partition_operator.clients.snapshot_observer import SnapshotObserver
from partition_operator.config import OperatorConfig
from partition_operator.errors import OperatorError, ReplicaRefused, ReplicaUnreachable, text_of
from partition_operator.reconcile.observed import last_write
from partition_operator.reconcile.observed.last_write import Write
from partition_operator.reconcile.observed.partition import ObservedPartition, ObservedPod
from partition_operator.reconcile.observed.snapshot import NoJob, ObservedJob, ObservedSnapshot
from partition_operator.reconcile.partition.ownership import is_foreign
from partition_operator.reconcile.snapshot.actions import (
    CancelJob,
    CreateVerifyPod,
    DeletePod,
    Label,
    SnapshotAction,
    StartTake,
    StartVerify,
)
from partition_operator.reconcile.snapshot.plan import SnapshotPlan, place, plan
from partition_operator.resources.common import content_hash
from partition_operator.turns.queue import Key, QueueItem

logger = logging.getLogger(__name__)

STEPS_MAX = 10
"""Most steps of one snapshot in a row. Then other objects get a turn."""
RETRIABLE_REFUSALS = frozenset(
    {
        types.REASON_OVERLOADED,
        types.REASON_STOPPING,
        types.REASON_NO_LEADER,
        types.REASON_NOT_LEADER,
        types.REASON_NOT_BOOTSTRAPPED,
        types.REASON_DISK_FULL,
    }
)
"""Reasons of a replica that refuses a job now; it or another replica may accept the job later."""


class SnapshotReconciler:
    """Works on keys of kind SNAPSHOT."""

    def __init__(
        self,
        config: OperatorConfig,
        kube: Kube,
        observer: SnapshotObserver,
        jobs: SnapshotJobClient,
        recorder: Recorder,
    ) -> None:
        self._config = config
        self._kube = kube
        self._observer = observer
        self._jobs = jobs
        self._recorder = recorder
        self._pods: dict[Key, Write] = {}
        """Verifying pods that the API server refused."""

    async def turn(self, key: Key, entry: QueueItem[ObservedSnapshot]) -> float | None:
        refused: ObservedJob | None = None
        for _ in range(STEPS_MAX):
            snapshot = await self._observer.snapshot(key.namespace, key.name)
            if snapshot is None:
                self._pods.pop(key, None)
                await self._gone(entry.seen)
                return None
            partition = await self._observer.partition(key.namespace, snapshot.partition)
            if partition is not None and is_foreign(partition, self._config.namespace):
                # The Partition's turn reports it. Earlier observations are no longer used.
                entry.seen = None
                self._pods.pop(key, None)
                return self._config.resync_s
            view, credentials = await self._look(snapshot, partition)
            view = self._with_refusals(key, view, refused)
            step = plan(view, self._config.image)
            await self._write(view, step)
            entry.seen = view
            if step.action is None:
                return step.pause_s
            try:
                await self._execute(view, step.action, credentials)
            except ReplicaRefused as error:
                logger.info("%s: %s", key, text_of(error))
                refused = _refusal(error)
            except ApiError as error:
                if not await self._goes_on(key, view, step.action, error):
                    raise
            else:
                if isinstance(step.action, CreateVerifyPod):
                    self._pods.pop(key, None)
        return 1.0

    async def _look(
        self, snapshot: Snapshot, partition: Partition | None
    ) -> tuple[ObservedSnapshot, S3Credentials | None]:
        """Observes the snapshot. After its end, replicas and Secrets are not read."""
        if snapshot.ended and not snapshot.verifying:
            return await self._observer.stored(snapshot), None
        return await self._observer.view(snapshot, partition, place(snapshot, partition))

    def _with_refusals(
        self, key: Key, view: ObservedSnapshot, job: ObservedJob | None
    ) -> ObservedSnapshot:
        """Adds the refusal of the pod until its next try, and the job that a replica refused."""
        pod = self._pods.get(key)
        if pod is not None and last_write.held(pod, pod.wanted, view.now):
            view = replace(view, refused=pod.refusal)
        if job is not None and view.job is NoJob.UNKNOWN:
            view = replace(view, job=job)
        return view

    async def _goes_on(
        self, key: Key, view: ObservedSnapshot, action: SnapshotAction, error: ApiError
    ) -> bool:
        """Whether the turn continues after an error. It does after a refused pod, because the plan
        handles that."""
        if not error.refused:
            return False
        if not isinstance(action, CreateVerifyPod):
            # No other step is possible before this one; the queue retries it.
            event = Event("Warning", "ObjectRefused", error.words)
            await self._recorder.post(view.snapshot, event)
            return False
        logger.warning("%s: the API server refuses: %s", key, text_of(error))
        last, wanted = self._pods.get(key), content_hash(action.body)
        self._pods[key] = last_write.refused(last, wanted, error.words, view.now)
        return True

    async def _write(self, view: ObservedSnapshot, step: SnapshotPlan) -> None:
        """Writes the status if it changed, and the events."""
        snapshot = view.snapshot
        if snapshot.status != step.status:
            await self._kube.apply_status(snapshot.body, step.status)
            failpoints.reach("snapshot.status.written")
        for event in step.events:
            await self._recorder.post(snapshot, event)
        if view.group is not None:
            for event in step.partition_events:
                await self._recorder.post(view.group.partition, event)

    async def _execute(
        self, view: ObservedSnapshot, action: SnapshotAction, credentials: S3Credentials | None
    ) -> None:
        """Executes the action. Raises ReplicaRefused, and other OperatorErrors, which are
        retried."""
        snapshot = view.snapshot
        logger.info("%s/%s: %s", snapshot.namespace, snapshot.name, _describe(action))
        match action:
            case Label(partition):
                # The Partition's snapshots are found by this label. Other labels are the user's.
                body = {"metadata": {"labels": {names.LABEL_PARTITION: partition}}}
                await self._kube.merge(names.SNAPSHOT_KIND, snapshot.body, body)
            case CreateVerifyPod(body):
                try:
                    await self._kube.create(body)
                except ApiError as error:
                    # The next turn checks the owner of the existing pod.
                    if not error.exists:
                        raise
            case DeletePod(name, uid):
                await self._kube.delete("Pod", snapshot.namespace, name, uid)
            case CancelJob(ordinal, job_id):
                await self._cancel(view, ordinal, job_id)
            case StartTake() | StartVerify():
                await self._start(view, action, credentials)
        failpoints.reach(f"snapshot.{type(action).__name__}")

    async def _start(
        self,
        view: ObservedSnapshot,
        action: StartTake | StartVerify,
        credentials: S3Credentials | None,
    ) -> None:
        snapshot, group = view.snapshot, view.group
        assert group is not None, "a job runs on a replica of it"
        pod = _pod(group, action.ordinal)
        if isinstance(action, StartTake):
            await self._jobs.take(
                group.partition,
                pod,
                action.job_id,
                snapshot=snapshot,
                destination=action.destination,
                credentials=credentials,
                full=action.full,
            )
        else:
            await self._jobs.verify(
                group.partition,
                pod,
                action.job_id,
                snapshot_id=snapshot.status["snapshotID"],
                destination=action.destination,
                credentials=credentials,
            )

    async def _gone(self, seen: ObservedSnapshot | None) -> None:
        """Cancels the job of a snapshot that was deleted while it ran. The next deletion of a
        snapshot collects its files in the store."""
        if seen is None or seen.group is None:
            return
        status = seen.snapshot.status
        if seen.snapshot.state != SnapshotState.RUNNING or not status.get("jobID"):
            return
        ordinal = int(str(status["sourcePod"]).rpartition("-")[2])
        await self._cancel(seen, ordinal, str(status["jobID"]))

    async def _cancel(self, view: ObservedSnapshot, ordinal: int, job_id: str) -> None:
        """Cancels a job, best effort. A replica that does not answer ends its job by its own
        limits.
        """
        pod = view.group.pod(ordinal) if view.group is not None else None
        try:
            if view.group is not None and pod is not None and pod.ip:
                await self._jobs.cancel(view.group.partition, pod, job_id)
        except OperatorError as error:
            logger.info("%s: the job was not cancelled: %s", view.snapshot.name, text_of(error))


def _pod(group: ObservedPartition, ordinal: int) -> ObservedPod:
    pod = group.pod(ordinal)
    if pod is None or not pod.ip:
        raise ReplicaUnreachable(f"{names.pod(group.partition.name, ordinal)} has no address")
    return pod


def _refusal(error: ReplicaRefused) -> ObservedJob:
    """Returns a failed job for a refused start."""
    return ObservedJob(
        state=JobState.FAILED,
        reason="SourceBusy" if error.reason in RETRIABLE_REFUSALS else "SourceRefused",
        message=str(error),
        retriable=error.reason in RETRIABLE_REFUSALS,
    )


def _describe(action: SnapshotAction) -> str:
    match action:
        case CreateVerifyPod(body):
            return f"create pod {body['metadata']['name']}"
        case _:
            return repr(action)
