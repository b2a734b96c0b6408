"""A Partition's turn: one safe step at a time, each from fresh observations.

The turns are level-triggered: an event only enqueues the Partition (turns/queue.py). Every
Partition is also observed again about once per minute.
"""

import logging
import random
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

from partition_proto.v1 import types_pb2 as types

from partition_operator import failpoints
from partition_operator.api import names
from partition_operator.api.partition import Partition
from partition_operator.api.snapshot import parse_snapshot
from partition_operator.api.words import ReplicaRole
from partition_operator.clients.kube import Body, Kube
from partition_operator.clients.observer import Observer
from partition_operator.clients.recorder import Recorder
from partition_operator.config import OperatorConfig
from partition_operator.errors import EvictionRefused, ReplicaRefused, text_of
from partition_operator.reconcile.observed.partition import (
    ObservedPartition,
    ObservedPod,
    ObservedReplica,
)
from partition_operator.reconcile.partition import creation, deletion, ownership, writes
from partition_operator.reconcile.partition.actions import (
    Action,
    EnableReplication,
    EvictPod,
    RecordBootstrapped,
    RecordCluster,
    RecordRecovery,
    RecordRestored,
    RecoverQuorum,
    SetFenced,
    TransferLeadership,
)
from partition_operator.reconcile.partition.figures import PartitionFigures, figures
from partition_operator.reconcile.partition.plan import Plan, plan
from partition_operator.reconcile.partition.refusals import Refusals
from partition_operator.turns.executor import Executor
from partition_operator.turns.fences import FenceTries
from partition_operator.turns.queue import Key, QueueItem, Version

logger = logging.getLogger(__name__)

RECORDS = (RecordCluster, RecordBootstrapped, RecordRestored, RecordRecovery)
STEPS_MAX = 50
"""Most steps of one Partition in a row. Then other Partitions get a turn."""
WAITING_POLL_S = 10.0
"""Seconds between turns of a Partition that waits for an object of which it receives no events."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What is kept of the last observation of a Partition, for its next turn. A whole observation
    takes a hundred times the memory."""

    namespace: str
    name: str
    pods: tuple[ObservedPod, ...]
    replicas: tuple[ObservedReplica, ...]
    """Also the fenced ones, by ordinal."""

    @property
    def key(self) -> tuple[str, str]:
        return self.namespace, self.name


def seen(observed: ObservedPartition) -> Seen:
    replicas = sorted((*observed.replicas, *observed.fenced), key=lambda r: r.ordinal)
    return Seen(*observed.partition.key, observed.pods, tuple(replicas))


class Reconciler:
    """Works on keys of kind PARTITION."""

    def __init__(
        self,
        config: OperatorConfig,
        kube: Kube,
        observer: Observer,
        executor: Executor,
        recorder: Recorder,
    ) -> None:
        self._config = config
        self._kube = kube
        self._observer = observer
        self._executor = executor
        self._recorder = recorder
        self._refusals: dict[Key, str] = {}
        """Why a replica refused to begin a backfill, by Partition."""
        self._evictions: dict[Key, str] = {}
        """Why the last eviction was refused, by Partition."""
        self._fences = FenceTries(executor)
        self.foreign: set[Key] = set()
        """Watched Partitions that another operator manages."""
        self._told: set[Key] = set()
        """The Partitions of `foreign` whose event is written."""
        self._callers = Refusals()
        self.reconciled = 0
        self.figures: dict[tuple[str, str], PartitionFigures] = {}
        """What the metrics say, by namespace and name of the Partitions that we manage."""

    async def turn(self, key: Key, entry: QueueItem[Seen]) -> float | None:
        """Observes the Partition and takes the steps that are due. Returns the seconds until the
        next turn, or None if the Partition does not exist any more."""
        config = self._config
        resync = time.monotonic() - entry.looked_at > config.resync_s * random.uniform(0.8, 1.2)  # noqa: S311
        quiet = not entry.asked and not resync and entry.settled
        if quiet and entry.seen is not None and await self._unchanged(entry.seen):
            return config.poll_s
        return await self._steps(key, entry)

    async def _steps(self, key: Key, entry: QueueItem[Seen]) -> float | None:
        """Takes steps until there is nothing to do, or STEPS_MAX is reached."""
        entry.known = frozenset()
        for _ in range(STEPS_MAX):
            self.reconciled += 1
            entry.looked_at = time.monotonic()
            partition = await self._observer.partition(key.namespace, key.name)
            if partition is None:
                await self._forget(key)
                self._refusals.pop(key, None)
                self._evictions.pop(key, None)
                self._fences.forget(key)
                self._not_foreign(key)
                return None
            pause = await self._step(key, entry, partition)
            if pause is not None:
                return pause
        return self._config.poll_progressing_s

    async def _step(self, key: Key, entry: QueueItem[Seen], partition: Partition) -> float | None:
        """Takes one step. Returns the seconds until the next turn; None if the next step may follow
        at once."""
        config = self._config
        if partition.deleting:
            self.figures.pop(partition.key, None)
        ends = partition.deleting and not deletion.has_finalizer(partition)
        if ends or await self._left_alone(key, partition):
            # Otherwise the next turn would poll its replicas.
            entry.seen = None
            return config.resync_s
        if partition.deleting:
            entry.seen = None
            return await self._depart(key, partition)
        if ownership.has_to_be_claimed(partition, config.namespace):
            await self._claim(partition)
            return None
        observed = await self._observe(key, partition)
        entry.known |= _versions(observed)
        step = self._plan(observed)
        self.figures[partition.key] = figures(observed, step.status)
        if not isinstance(step.action, RECORDS):
            # These actions write status themselves, at the observed version.
            entry.known |= await self._write_status(observed, step)
        entry.seen, entry.settled = seen(observed), step.settled
        if not isinstance(step.action, EvictPod):
            self._evictions.pop(key, None)
        if step.action is None:
            return self._pause(step)
        if creation.created_by(observed, step.action) is not None:
            entry.known |= await self._create(observed, step.action)
            return None
        return await self._act(key, observed, step.action)

    def _plan(self, observed: ObservedPartition) -> Plan:
        return plan(
            observed,
            self._config.image,
            backfill_stalled_s=self._config.backfill_stalled_s,
            image_auto_update=self._config.image_auto_update,
        )

    async def _depart(self, key: Key, partition: Partition) -> float | None:
        """Takes the next step of a Partition that is being deleted and has the finalizer. While a
        last snapshot is needed, its group is kept running as ever. Returns as `_step`."""
        observed = await self._observe(key, partition)
        taken = [
            await self._kube.get(names.SNAPSHOT_KIND, partition.namespace, name)
            for name in deletion.last_names(partition)
        ]
        departure = deletion.depart(observed, [parse_snapshot(one) for one in taken if one])
        own, along = departure.action, None
        if own is not None and writes.is_held(observed, own):
            own = None
        if departure.follows:
            observed = deletion.awake(observed)
            along = self._plan(observed)
            if not isinstance(along.action, EvictPod):
                self._evictions.pop(key, None)
        if own is not None or along is None or not isinstance(along.action, RECORDS):
            await self._tell_departure(observed, departure, along)
        if own is not None:
            await self._executor.execute(observed, own)
            after = replace(observed, writes=self._executor.writes.of(partition.key))
            if departure.event is not None and not writes.refusal(after, own):
                await self._recorder.post(partition, departure.event)
            return None
        if along is not None and along.action is not None:
            return await self._act(key, observed, along.action)
        busy = along is not None and not along.settled
        return min(self._pause(along), WAITING_POLL_S) if along and busy else WAITING_POLL_S

    async def _tell_departure(
        self, observed: ObservedPartition, departure: deletion.Departure, along: Plan | None
    ) -> None:
        """Writes the status, if it changed, and the events. along: the plan that keeps the group
        running; None if there is none."""
        partition = observed.partition
        told = deletion.status(observed, departure, None if along is None else along.status)
        if told != partition.status:
            await self._kube.apply_status(partition.body | {"kind": names.KIND}, told)
        found = None if along is None else (along.status, along.events)
        for event in deletion.events(observed, departure, found):
            await self._recorder.post(partition, event)

    async def _observe(self, key: Key, partition: Partition) -> ObservedPartition:
        """Observes the Partition, and posts an event if its replicas refused many callers."""
        observed = await self._observer.observe(partition)
        if (event := self._callers.look(observed)) is not None:
            await self._recorder.offer(partition, event)
        return replace(
            observed,
            writes=self._executor.writes.of(partition.key),
            refused=self._refusals.get(key, ""),
            eviction_refused=self._evictions.get(key, ""),
            fence_failures=self._fences.failures(key),
        )

    async def _act(self, key: Key, observed: ObservedPartition, action: Action) -> float | None:
        """Executes the action. Returns as `_carry_out`. A fence that fails must not hold up all
        else."""
        if not isinstance(action, SetFenced):
            return await self._carry_out(key, observed, action)
        await self._fences.carry_out(key, observed, action)
        return None

    async def _create(
        self, observed: ObservedPartition, action: Action | None
    ) -> frozenset[Version]:
        """Creates the object, and then every other one that is missing. Returns their versions."""
        written = frozenset[Version]()
        while action is not None and (found := creation.created_by(observed, action)) is not None:
            stored = await self._executor.execute(observed, action)
            if stored is None:
                break  # refused: the next observation's plan says so
            written |= {_version(stored)}
            observed = creation.with_created(observed, found, stored)
            observed = replace(observed, writes=self._executor.writes.of(observed.partition.key))
            action = self._plan(observed).action
        return written

    async def _carry_out(
        self, key: Key, observed: ObservedPartition, action: Action
    ) -> float | None:
        """Executes the action. Returns the seconds until the next turn; None if the next step may
        follow at once."""
        try:
            await self._executor.execute(observed, action)
        except EvictionRefused as error:
            logger.info("%s: %s", key, text_of(error))
            self._evictions[key] = str(error)
            return self._config.poll_progressing_s
        except ReplicaRefused as error:
            # The replica's state has changed since it was observed: observe it again soon.
            logger.info("%s: %s", key, text_of(error))
            if isinstance(action, EnableReplication) and error.reason == types.REASON_DISK_FULL:
                # The first message stays, because the numbers in it change all the time.
                self._refusals.setdefault(key, str(error))
            return self._config.poll_progressing_s
        if isinstance(action, EvictPod):
            self._evictions.pop(key, None)
        if isinstance(action, RecoverQuorum):
            return self._config.poll_progressing_s  # the replica restarts
        if isinstance(action, EnableReplication):
            self._refusals.pop(key, None)
            # The replica continues on its own. An immediate next step would repeat the request.
            return self._config.poll_backfill_s
        if isinstance(action, TransferLeadership):
            # The next leader serves in a moment. Until then it would be said that none does.
            return self._config.poll_backfill_s
        return None

    async def _left_alone(self, key: Key, partition: Partition) -> bool:
        """Whether another operator manages the Partition. Then nothing else of it is read. Each
        process posts one event about it, and retries in later turns until it is written."""
        mine = self._config.namespace
        if not ownership.is_foreign(partition, mine):
            self._not_foreign(key)
            return False
        await self._forget(key)
        event = ownership.said(partition, mine)
        if key not in self.foreign:
            self.foreign.add(key)
            logger.warning("%s: %s", key, event.message)
        # Many foreign Partitions may exceed the limit of events: the rest follows in later turns.
        if key not in self._told and await self._recorder.offer(partition, event):
            self._told.add(key)
        return True

    async def _forget(self, key: Key) -> None:
        """Drops the memory of a Partition that was deleted or that another operator manages."""
        self.figures.pop((key.namespace, key.name), None)
        await self._observer.forget(key.namespace, key.name)
        self._callers.forget((key.namespace, key.name))
        self._executor.writes.forget((key.namespace, key.name))

    def _not_foreign(self, key: Key) -> None:
        self.foreign.discard(key)
        self._told.discard(key)

    async def _claim(self, partition: Partition) -> None:
        """Writes status.operator at the observed resource version, so of two operators only one
        succeeds. Raises Conflict."""
        body = {
            "metadata": {"resourceVersion": partition.body["metadata"]["resourceVersion"]},
            "status": {"operator": self._config.namespace},
        }
        await self._kube.merge_status(partition.namespace, partition.name, body)

    def _pause(self, step: Plan) -> float:
        """Returns the seconds until the next turn if there is nothing to do."""
        config = self._config
        if step.settled:
            pause = config.poll_s
        elif step.waiting:
            pause = WAITING_POLL_S
        else:
            pause = config.poll_backfill_s if step.hurried else config.poll_progressing_s
        return pause if step.retry_s is None else min(pause, step.retry_s)

    async def _unchanged(self, before: Seen) -> bool:
        """Whether the replicas report the same as before. Only they are asked: leader changes and
        lag cause no Kubernetes events."""
        replicas = await self._observer.replicas(before, before.pods)
        return _view(replicas) == _view(before.replicas)

    async def _write_status(self, observed: ObservedPartition, step: Plan) -> frozenset[Version]:
        """Writes the status, if it changed, and the events. Returns the version that it wrote."""
        partition, written = observed.partition, frozenset[Version]()
        if partition.status != step.status:
            body = partition.body | {"kind": names.KIND}
            stored = await self._kube.apply_status(body, step.status)
            written = frozenset({_version(stored)})
            failpoints.reach("status.written")
        for event in step.events:
            await self._recorder.post(partition, event)
        return written


def _version(body: Body) -> Version:
    metadata = body["metadata"]
    return Version(metadata["uid"], metadata["resourceVersion"])


def _versions(observed: ObservedPartition) -> frozenset[Version]:
    return frozenset(Version(uid, version) for uid, version in observed.versions() if version)


def _view(replicas: Iterable[ObservedReplica]) -> object:
    """Returns the fields of the replicas that matter to a plan, without the counters."""
    return [
        (
            r.ordinal,
            r.cluster_id,
            r.member_id,
            r.role,
            r.term,
            r.serving,
            r.changing,
            r.disk_full,
            r.standalone,
            r.backfill,
            (r.tls.trusted, r.tls.certificate, r.tls.clients) if r.tls else None,
            [(m.member_id, m.voter, m.recently_active, m.progress) for m in r.members]
            if r.role == ReplicaRole.LEADER
            else None,
        )
        for r in replicas
    ]
