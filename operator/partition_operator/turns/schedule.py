"""The turn of a Partition's snapshots as a whole: the schedule, retention, and their part of the
Partition's status."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any

from partition_operator import failpoints
from partition_operator.api import names
from partition_operator.api.destination import DestinationProblem, S3Credentials
from partition_operator.api.events import Event
from partition_operator.api.partition import Partition
from partition_operator.api.snapshot import Snapshot, SnapshotState
from partition_operator.clients.kube import ApiError, Kube
from partition_operator.clients.recorder import Recorder
from partition_operator.clients.snapshot_jobs import SnapshotJobClient
from partition_operator.clients.snapshot_observer import SnapshotObserver
from partition_operator.config import OperatorConfig
from partition_operator.errors import ReplicaRefused, text_of
from partition_operator.reconcile.observed.snapshot import NoJob, ObservedJobOrNone, volume_lost
from partition_operator.reconcile.partition.ownership import is_foreign
from partition_operator.reconcile.schedule import deletion
from partition_operator.reconcile.schedule.deletion import Attempt, Deletion, DeletionStep
from partition_operator.reconcile.schedule.figures import SnapshotFigures, figures
from partition_operator.reconcile.schedule.policy import (
    ObservedSchedule,
    PolicyPlan,
    plan,
    refused,
)
from partition_operator.reconcile.schedule.retention import begun, next_expiry
from partition_operator.reconcile.schedule.status import fold
from partition_operator.turns.queue import SNAPSHOT, Key, QueueItem, Version

logger = logging.getLogger(__name__)

STEPS_MAX = 10
PAUSE_MIN_S = 0.05
REFUSED_POLL_S = 30.0
"""Seconds between tries of a run that the API server refuses."""
NONE: ObservedJobOrNone = NoJob.NONE


def version_of(body: dict[str, Any]) -> Version:
    """Returns the version of a Partition that counts for its snapshots. Without a policy, present
    or past, that is its generation: the status changes often, and says nothing about snapshots."""
    metadata = body["metadata"]
    policies = (body.get("spec") or {}), (body.get("status") or {})
    if any(part.get("snapshots") for part in policies):
        return Version(metadata["uid"], metadata["resourceVersion"])
    return Version(metadata["uid"], f"generation {metadata.get('generation', 0)}")


class ScheduleReconciler:
    """Works on keys of kind SCHEDULE. enqueue: requests a turn of another object."""

    def __init__(
        self,
        config: OperatorConfig,
        kube: Kube,
        observer: SnapshotObserver,
        jobs: SnapshotJobClient,
        recorder: Recorder,
        enqueue: Callable[[str, str, str], None],
    ) -> None:
        self._config = config
        self._kube = kube
        self._observer = observer
        self._jobs = jobs
        self._recorder = recorder
        self._enqueue = enqueue
        self._attempts: dict[Key, dict[str, Attempt]] = {}
        """Deletions in progress, by digest. After a restart they begin again."""
        self.figures: dict[tuple[str, str], SnapshotFigures] = {}
        """What the metrics say, by namespace and name of the Partitions that we manage."""

    async def turn(self, key: Key, entry: QueueItem[None]) -> float | None:
        taken: frozenset[str] = frozenset()
        entry.known = frozenset()
        for _ in range(STEPS_MAX):
            partition = await self._observer.partition(key.namespace, key.name)
            if partition is None:
                self._attempts.pop(key, None)
                self.figures.pop((key.namespace, key.name), None)
                # Snapshots outlive their Partition, but not the volume that they are on.
                snapshots = await self._observer.snapshots(key.namespace, key.name)
                await self._look_at_lost(key, snapshots)
                return None
            if self._left_alone(key, partition):
                return self._config.resync_s
            entry.known = frozenset({version_of(partition.body)})
            view = await self._look(partition, taken)
            step = plan(view)
            if step.create is not None:
                name = step.create["metadata"]["name"]
                try:
                    if not await self._create(step.create, view):
                        taken |= {name}
                    continue
                except ApiError as error:
                    if not error.refused:
                        raise
                    step = refused(step, error.words, view.now, REFUSED_POLL_S)
            removed, problem = await self._retain(key, view, step)
            await self._write(view, step, problem, under_way=bool(self._attempts.get(key)))
            if removed:
                continue
            pause = self._pause(key, view, step)
            if pause > PAUSE_MIN_S:
                return pause
            await asyncio.sleep(PAUSE_MIN_S)
        return 1.0

    async def _look(self, partition: Partition, taken: frozenset[str]) -> ObservedSchedule:
        """taken: names of runs that other objects already have."""
        snapshots = await self._observer.snapshots(*partition.key)
        asked = (partition.body.get("spec") or {}).get("snapshots")
        if not asked and not begun(snapshots):
            # Without a policy and without a begun deletion, the replicas need not be asked.
            return ObservedSchedule(self._observer.alone(partition), snapshots, taken)
        return ObservedSchedule(await self._observer.group(partition), snapshots, taken)

    def _left_alone(self, key: Key, partition: Partition) -> bool:
        """Whether the Partition is being deleted or another operator manages it. Then deletions in
        progress are abandoned."""
        foreign = is_foreign(partition, self._config.namespace)
        if foreign:
            self._attempts.pop(key, None)
        if foreign or partition.deleting:
            self.figures.pop(partition.key, None)
            return True
        return False

    def _pause(self, key: Key, view: ObservedSchedule, step: PolicyPlan) -> float:
        ends = [step.look_at]
        if step.spec is not None:
            ends.append(next_expiry(view.snapshots, step.spec.retention, view.now))
        # The plan's own clock: another clock may be behind or ahead of it.
        now = view.now
        pauses = [(end - now).total_seconds() for end in ends if end is not None]
        due = deletion.pause_s((self._attempts.get(key) or {}).values(), now)
        if due is not None:
            pauses.append(due)
        return min([*pauses, self._config.resync_s])

    async def _create(self, body: dict[str, Any], view: ObservedSchedule) -> bool:
        """Creates a run. Returns False if another object has its name."""
        meta = body["metadata"]
        logger.info("%s/%s: scheduled snapshot %s is due", *view.partition.key, meta["name"])
        try:
            await self._kube.create(body)
        except ApiError as error:
            if not error.exists:
                raise
            return False
        failpoints.reach("schedule.Create")
        return True

    # --- retention ----------------------------------------------------------------------------

    async def _retain(
        self, key: Key, view: ObservedSchedule, step: PolicyPlan
    ) -> tuple[bool, tuple[str, str] | None]:
        """Returns (whether any snapshot was deleted, what prevents the other deletions)."""
        await self._look_at_lost(key, view.snapshots)
        attempts = self._attempts.setdefault(key, {})
        gone = await self._expired(view, step, attempts)
        wanted = deletion.removals(gone, view.group)
        for digest in set(attempts) - {removal.digest for removal in wanted}:
            del attempts[digest]
        waits: set[str] = set()
        marked: set[str] = set()
        problem = None
        numbers = {"objects": 0, "bytes": 0}
        for removal in wanted:
            found = await self._remove(view, removal, attempts, marked)
            problem = problem or found.problem
            if found.done is None:
                waits |= set(removal.snapshot_ids)
            else:
                numbers["objects"] += found.done.objects_deleted
                numbers["bytes"] += found.done.bytes_deleted
        named = {s for removal in wanted for s in removal.snapshot_ids}
        ready = [
            s
            for s in gone
            if s.name not in waits and (s.name in named or not deletion.may_be_stored(s))
        ]
        refused = await self._delete(ready)
        if refused:
            problem = problem or ("DeleteRefused", "; ".join(refused.values()))
            waits |= set(refused)
            ready = [s for s in ready if s.name not in refused]
        if ready:
            what = ", ".join(s.name for s in ready)
            size = f"{numbers['objects']} objects, {numbers['bytes']} bytes"
            event = Event("Normal", "SnapshotDeleted", f"deleted {what}: {size}")
            await self._recorder.post(view.partition, event)
            for removal in wanted:
                if not set(removal.snapshot_ids) & waits:
                    attempts.pop(removal.digest, None)
        return bool(ready), problem

    async def _delete(self, snapshots: Iterable[Snapshot]) -> dict[str, str]:
        """Deletes the objects. Returns the API server's message for each refused one, by name."""
        refused: dict[str, str] = {}
        for snapshot in snapshots:
            name = snapshot.name
            try:
                await self._kube.delete(names.SNAPSHOT_KIND, snapshot.namespace, name, snapshot.uid)
            except ApiError as error:
                if not error.refused:
                    raise
                why = text_of(error)
                logger.warning("%s/%s: the API server refuses: %s", snapshot.namespace, name, why)
                refused[name] = f"the API server refuses to delete {name}: {error.words}"
                continue
            failpoints.reach("schedule.Delete")
        return refused

    async def _look_at_lost(self, key: Key, snapshots: Iterable[Snapshot]) -> None:
        """Requests a turn of each snapshot whose volume is lost; that turn reports it."""
        if not any("volume" in (s.status.get("destination") or {}) for s in snapshots):
            return
        claims = {snapshot.claim for snapshot in snapshots}
        volumes = await self._observer.volumes(key.namespace, key.name, claims)
        for snapshot in snapshots:
            if not snapshot.lost and volume_lost(snapshot, volumes):
                self._enqueue(SNAPSHOT, snapshot.namespace, snapshot.name)

    async def _expired(
        self, view: ObservedSchedule, step: PolicyPlan, attempts: dict[str, Attempt]
    ) -> list[Snapshot]:
        gone = deletion.gone(view, step.spec, attempts.values())
        if not gone or step.spec is None:
            return gone
        held = await self._observer.restored_from(view.partition.namespace)
        return deletion.gone(view, step.spec, attempts.values(), held)

    async def _remove(
        self,
        view: ObservedSchedule,
        removal: Deletion,
        attempts: dict[str, Attempt],
        marked: set[str],
    ) -> DeletionStep:
        known, job = attempts.get(removal.digest), NONE
        if known is not None and known.running:
            job = await self._observer.job(view.group, known.ordinal, known.job_id)
        newest = max(view.snapshots, key=lambda s: (s.created, s.name), default=None)
        pod = str(newest.status.get("sourcePod", "")) if newest is not None else ""
        step = deletion.next_step(removal, known, job, view.group, pod)
        if step.start and step.attempt is not None:
            step = await self._start(view, removal, step, step.attempt, marked)
        if step.attempt is not None:
            attempts[removal.digest] = step.attempt
        return step

    async def _start(
        self,
        view: ObservedSchedule,
        removal: Deletion,
        step: DeletionStep,
        attempt: Attempt,
        marked: set[str],
    ) -> DeletionStep:
        found = await self._observer.secret(view.partition.namespace, removal.destination)
        if isinstance(found, DestinationProblem):
            return DeletionStep(None, problem=(found.reason, found.message))
        credentials = found if isinstance(found, S3Credentials) else None
        pod = view.group.pod(attempt.ordinal)
        assert pod is not None, "it was chosen among those that have one"
        await self._mark(view, removal, marked)
        ids = ", ".join(removal.snapshot_ids)
        logger.info("%s/%s: deleting snapshots %s", *view.partition.key, ids)
        try:
            await self._jobs.delete_snapshots(
                view.partition,
                pod,
                attempt.job_id,
                snapshot_ids=removal.snapshot_ids,
                destination=removal.destination,
                credentials=credentials,
            )
        except ReplicaRefused as error:
            return deletion.failed(attempt, view.now, "SourceRefused", str(error))
        failpoints.reach("schedule.StartDelete")
        return step

    async def _mark(self, view: ObservedSchedule, removal: Deletion, marked: set[str]) -> None:
        """Sets the state Removing. marked: names whose state this turn has already set. Raises
        Conflict if a snapshot has changed since it was observed, for example if it was pinned. Its
        deletion has not begun then, and the next turn decides again."""
        for snapshot in view.snapshots:
            named = snapshot.status.get("snapshotID") in removal.snapshot_ids
            before = snapshot.state == SnapshotState.REMOVING or snapshot.name in marked
            if named and snapshot.ended and not before:
                status = deletion.marked(snapshot, view.now)
                await self._kube.apply_status(snapshot.body, status)
                marked.add(snapshot.name)
                failpoints.reach("schedule.Removing")

    # --- status -------------------------------------------------------------------------------

    async def _write(
        self,
        view: ObservedSchedule,
        step: PolicyPlan,
        problem: tuple[str, str] | None,
        *,
        under_way: bool,
    ) -> None:
        """Writes our part of the Partition's status if it changed, and the events."""
        told = fold(view, step, problem, under_way=under_way)
        partition = view.partition
        self.figures[partition.key] = figures(view, told)
        if told.status is not None:
            await self._kube.apply_status(
                partition.body | {"kind": names.KIND}, told.status, manager=names.SNAPSHOT_MANAGER
            )
            failpoints.reach("schedule.status.written")
        for event in told.events:
            await self._recorder.post(partition, event)
