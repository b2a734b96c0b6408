"""Assembles the operator: first the probes, then the Lease, then the work."""

import asyncio
import logging
import os
import signal
import sys
import time
from contextlib import suppress
from functools import partial

from aiohttp import web
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from partition_operator import __version__, metrics
from partition_operator.clients.authority import AuthorityKeeper
from partition_operator.clients.fencing import FencingToken
from partition_operator.clients.kube import Kube
from partition_operator.clients.lease import LeaseHolder
from partition_operator.clients.nodes import NodeBook
from partition_operator.clients.observer import Observer
from partition_operator.clients.recorder import Recorder
from partition_operator.clients.replica import Replicas
from partition_operator.clients.snapshot_jobs import SnapshotJobClient
from partition_operator.clients.snapshot_observer import SnapshotObserver
from partition_operator.config import OperatorConfig
from partition_operator.handlers.watches import NODES, Watches
from partition_operator.turns.executor import Executor
from partition_operator.turns.partition import Reconciler
from partition_operator.turns.queue import PARTITION, SCHEDULE, SNAPSHOT, WorkQueue
from partition_operator.turns.schedule import ScheduleReconciler
from partition_operator.turns.snapshot import SnapshotReconciler

logger = logging.getLogger(__name__)

EXIT_DEPOSED = 75
STUCK_S = 120.0
"""Liveness fails if the queue's loop has not run for this time."""


def end_process(why: str) -> None:
    """Ends the process at once: after the Lease is lost, no work may continue."""
    logger.critical("ending the process: %s", why)
    print(f"FATAL: {why}", file=sys.stderr, flush=True)
    logging.shutdown()
    os._exit(EXIT_DEPOSED)


async def _probe(kube: Kube, scope: str) -> None:
    """Checks whether a scope of the watches can be listed. Raises ApiError."""
    await (kube.probe_nodes() if scope == NODES else kube.probe(scope))


class OperatorProcess:
    """One operator process: a standby until it holds the Lease."""

    def __init__(self, config: OperatorConfig) -> None:
        self._config = config
        self._stop = asyncio.Event()
        self._queue: WorkQueue | None = None
        self._metrics = metrics.OperatorMetrics()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self._stop.set)
        http = await self._serve_http()
        kube = await Kube.connect(self._config.request_timeout_s, self._metrics.requested)
        try:
            await self._lead(kube)
        finally:
            await kube.close()
            await http.cleanup()

    async def _lead(self, kube: Kube) -> None:
        lease = LeaseHolder(kube, self._config, end_process)
        logger.info("partition-operator %s: waiting for the Lease", __version__)
        acquiring = asyncio.create_task(lease.acquire())
        stopping = asyncio.create_task(self._stop.wait())
        await asyncio.wait({acquiring, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not acquiring.done():
            acquiring.cancel()
            return
        await acquiring
        logger.info("holding the Lease, with fencing token %d", lease.transitions)
        self._metrics.read(metrics.LEADING, lambda: 1)
        renewing = asyncio.create_task(lease.renew())
        try:
            await self._work(kube, lease, renewing)
        finally:
            renewing.cancel()
            with suppress(Exception):
                await lease.release()

    async def _work(self, kube: Kube, lease: LeaseHolder, renewing: "asyncio.Task[None]") -> None:
        config = self._config
        authority = AuthorityKeeper(kube, config)
        await authority.open()
        token = FencingToken(config.identity, lease.transitions)

        async def raise_token(seen: int) -> None:
            await lease.raise_above(seen)
            token.raise_to(lease.transitions)

        replicas = Replicas(authority, token, config.replica_timeout_s, config.lifetimes)
        queue = self._queue = WorkQueue(config.workers, raise_token, self._metrics.turns)

        def node_changed(node: str) -> None:
            queue.enqueue_seen(PARTITION, lambda seen: any(pod.node == node for pod in seen.pods))

        nodes = NodeBook(node_changed) if config.watch_nodes else None
        observer = Observer(
            kube,
            replicas,
            authority,
            config.lifetimes,
            nodes,
            cluster_domain=config.cluster_domain,
        )
        recorder = Recorder(kube, config.events_a_minute_max)
        executor = Executor(kube, replicas, authority, lifetimes=config.lifetimes)
        reconciler = Reconciler(config, kube, observer, executor, recorder)
        jobs = SnapshotJobClient(replicas)
        seer = SnapshotObserver(kube, observer, jobs)
        snapshots = SnapshotReconciler(config, kube, seer, jobs, recorder)
        schedules = ScheduleReconciler(config, kube, seer, jobs, recorder, queue.enqueue)
        queue.serve(
            {PARTITION: reconciler.turn, SNAPSHOT: snapshots.turn, SCHEDULE: schedules.turn}
        )
        working = asyncio.create_task(queue.run())
        watches = Watches(queue, partial(_probe, kube), config.identity, config.watch, nodes)
        watching = asyncio.create_task(watches.run())
        self._metrics.turns.serve((PARTITION, SNAPSHOT, SCHEDULE))
        self._metrics.objects.partitions = reconciler.figures
        self._metrics.objects.snapshots = schedules.figures
        read = self._metrics.read
        read(metrics.QUEUED, lambda: queue.queued)
        read(metrics.QUEUE_AGE, lambda: queue.age_s)
        read(metrics.LOOP_AGE, lambda: time.monotonic() - queue.turned_at)
        read(metrics.TURNS_RUNNING, lambda: queue.running)
        read(metrics.RECONCILED, lambda: reconciler.reconciled)
        read(metrics.AUTHORITY_EXPIRY, lambda: authority.ends.timestamp())
        read(metrics.EVENTS_DROPPED, lambda: recorder.dropped)
        read(metrics.FOREIGN, lambda: len(reconciler.foreign))
        read(metrics.WATCHES_DOWN, lambda: watches.down)
        read(metrics.CERTIFICATES_REFUSED, lambda: observer.certificates_refused)
        stopping = asyncio.create_task(self._stop.wait())
        everything = {working, watching, renewing, stopping}
        await asyncio.wait(everything, return_when=asyncio.FIRST_COMPLETED)
        for task in (working, watching, renewing):
            if task.done() and not self._stop.is_set():
                task.result()
                end_process("a loop of the operator ended unexpectedly")
        logger.info("stopping")
        working.cancel()
        watching.cancel()
        await queue.close()
        await asyncio.wait({watching})
        await replicas.close()

    # --- probes and metrics -------------------------------------------------------------------

    async def _serve_http(self) -> web.AppRunner:
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._scrape)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, None, self._config.http_port).start()
        return runner

    async def _healthz(self, _: web.Request) -> web.Response:
        """Checks only this process: a standby is healthy; the holder's loop must run."""
        queue = self._queue
        if queue is not None and time.monotonic() - queue.turned_at > STUCK_S:
            return web.Response(status=503, text="the reconcile loop is stuck\n")
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        # A standby is ready, too. Otherwise `helm --wait` would never return.
        return web.Response(text="ok\n")

    async def _scrape(self, _: web.Request) -> web.Response:
        body = generate_latest(self._metrics.registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})
