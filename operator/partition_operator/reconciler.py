"""The one loop: keys in, one safe step at a time out.

Level-triggered: an event only says which Partition to look at again. A key is worked on by one
worker at a time; errors back off in the queue; everything is looked at anew once a minute.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from partition_operator import failpoints
from partition_operator.api import names
from partition_operator.clients.kube import Kube
from partition_operator.clients.observer import Observer
from partition_operator.clients.recorder import Recorder
from partition_operator.config import Config
from partition_operator.errors import Deposed, OperatorError, ReplicaRefused
from partition_operator.executor import Executor
from partition_operator.reconcile.actions import RecordBootstrapped, RecordCluster
from partition_operator.reconcile.observed import Observed, Replica
from partition_operator.reconcile.plan import Plan, plan

logger = logging.getLogger(__name__)

Key = tuple[str, str]

BACKOFF_S = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
STEPS_MAX = 50
"""Steps of one Partition in a row, then others get their turn."""


@dataclass(slots=True)
class _Entry:
    """What the queue knows of a key."""

    due: float = 0.0
    working: bool = False
    again: bool = False
    failures: int = 0
    seen: Observed | None = None
    settled: bool = False
    looked_at: float = field(default_factory=time.monotonic)


class Reconciler:
    """Bounded by workers; the queue is as long as there are Partitions."""

    def __init__(
        self,
        config: Config,
        kube: Kube,
        observer: Observer,
        executor: Executor,
        recorder: Recorder,
        deposed: Callable[[int], Awaitable[None]],
    ) -> None:
        self._config = config
        self._kube = kube
        self._observer = observer
        self._executor = executor
        self._recorder = recorder
        self._deposed = deposed
        self._entries: dict[Key, _Entry] = {}
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self.reconciled = 0
        self.failed = 0
        self.turned_at = time.monotonic()
        """When the loop last turned: what liveness looks at."""

    def enqueue(self, namespace: str, name: str) -> None:
        """Looks at a Partition soon; cheap, and safe to call for what does not exist."""
        entry = self._entries.setdefault((namespace, name), _Entry())
        entry.again = True
        entry.due = min(entry.due, time.monotonic())
        entry.settled = False
        self._wake.set()

    @property
    def queued(self) -> int:
        now = time.monotonic()
        return sum(entry.due <= now for entry in self._entries.values())

    async def run(self) -> None:
        slots = asyncio.Semaphore(self._config.workers)
        while True:
            self.turned_at = now = time.monotonic()
            due = [
                key
                for key, entry in self._entries.items()
                if entry.due <= now and not entry.working
            ]
            for key in due:
                await slots.acquire()
                self.turned_at = time.monotonic()
                entry = self._entries[key]
                entry.working = True
                task = asyncio.create_task(self._work(key, entry))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                task.add_done_callback(lambda _: slots.release())
            self._wake.clear()
            pending = [e.due for e in self._entries.values() if not e.working]
            pause = min([*pending, now + 1.0]) - time.monotonic()
            try:
                await asyncio.wait_for(self._wake.wait(), max(pause, 0.01))
            except TimeoutError:
                continue

    async def close(self) -> None:
        """Lets what is under way end: a step is never cut in the middle by us."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=20)

    async def _work(self, key: Key, entry: _Entry) -> None:
        try:
            pause = await self._turn(key, entry)
            entry.failures = 0
        except Deposed as error:
            pause = await self._token_too_low(key, entry, error)
        except OperatorError as error:
            pause = self._failed(key, entry, error)
        except Exception as error:  # one broken object must not end the others' turns
            logger.exception("%s/%s: a defect of the operator", *key)
            pause = self._failed(key, entry, error)
        finally:
            entry.working = False
            self._wake.set()
        if pause is None and not entry.again:
            self._entries.pop(key, None)
            return
        pause = pause or 0.0
        entry.due = time.monotonic() + (0 if entry.again else pause)

    async def _token_too_low(self, key: Key, entry: _Entry, error: Deposed) -> float:
        """A replica saw a higher token: either another operator leads, and renewing our lease fails
        soon, or the Lease was made anew since, and we go above."""
        try:
            await self._deposed(error.seen)
        except (OperatorError, TimeoutError) as failure:
            logger.warning("%s/%s: token not raised: %s", *key, failure)
        return self._failed(key, entry, error)

    def _failed(self, key: Key, entry: _Entry, error: Exception) -> float:
        self.failed += 1
        pause = BACKOFF_S[min(entry.failures, len(BACKOFF_S) - 1)]
        entry.failures += 1
        entry.seen = None
        logger.log(
            logging.INFO if entry.failures < 3 else logging.WARNING,
            "%s/%s: %s; again in %.1f s",
            *key,
            error,
            pause,
        )
        return pause * random.uniform(0.8, 1.2)  # noqa: S311  # spreads retries, no secret

    async def _turn(self, key: Key, entry: _Entry) -> float | None:
        """Looks, and acts where there is something to do; returns when to look again."""
        entry.again, asked = False, entry.again
        config = self._config
        resync = time.monotonic() - entry.looked_at > config.resync_s * random.uniform(0.8, 1.2)  # noqa: S311
        quiet = not asked and not resync and entry.settled
        if quiet and entry.seen is not None and await self._unchanged(entry.seen):
            return config.poll_s
        for _ in range(STEPS_MAX):
            self.reconciled += 1
            entry.looked_at = time.monotonic()
            observed = await self._observer.observe(*key)
            if observed is None:
                return None
            if observed.partition.deleting:
                return config.resync_s
            step = plan(observed, config.image)
            if not isinstance(step.action, RecordCluster | RecordBootstrapped):
                # Those write status themselves, at the version that was seen.
                await self._write_status(observed, step)
            entry.seen, entry.settled = observed, step.settled
            if step.action is None:
                return config.poll_s if step.settled else config.poll_progressing_s
            try:
                await self._executor.execute(observed, step.action)
            except ReplicaRefused as error:
                # Its state is not what we saw: look again, a little later.
                logger.info("%s/%s: %s", *key, error)
                return config.poll_progressing_s
        return config.poll_progressing_s

    async def _unchanged(self, seen: Observed) -> bool:
        """Asks the replicas alone: leader changes and lag are no Kubernetes events."""
        replicas = await self._observer.replicas(seen.partition, seen.pods)
        return _view(replicas) == _view(seen.replicas)

    async def _write_status(self, observed: Observed, step: Plan) -> None:
        """Writes status and events where anything in it changed."""
        partition = observed.partition
        if partition.status == step.status:
            return
        body = {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "metadata": {
                "name": partition.name,
                "namespace": partition.namespace,
                # A deposed operator's late write must not undo a newer one.
                "resourceVersion": partition.body["metadata"]["resourceVersion"],
            },
            "status": step.status,
        }
        await self._kube.apply(body, subresource="status")
        failpoints.reach("status.written")
        for event in step.events:
            await self._recorder.post(partition, event, observed.now)


def _view(replicas: tuple[Replica, ...]) -> object:
    """What of the replicas matters to a plan; what only counts up does not."""
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
            [(m.member_id, m.voter, m.recently_active, m.progress) for m in r.members]
            if r.role == "leader"
            else None,
        )
        for r in replicas
    ]
