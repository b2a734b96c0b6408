"""Assembles one replica, runs it until it receives a signal to stop, and shuts it down."""

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from partition_proto.connection import pem
from partition_proto.connection.pem import BadPem
from partition_proto.connection.renewed import RenewedPem
from partition_proto.v1 import (
    inspection_pb2,
    inspection_pb2_grpc,
    log_store_pb2,
    log_store_pb2_grpc,
    peer_pb2,
    peer_pb2_grpc,
    replica_admin_pb2,
    replica_admin_pb2_grpc,
)

from partition_replica import __version__
from partition_replica.config import ReplicaConfig
from partition_replica.core.compaction import LogRetention
from partition_replica.core.model import Fence
from partition_replica.engine.factory import make_engine
from partition_replica.recovery import steps
from partition_replica.runtime.assembly import build_replica
from partition_replica.runtime.metrics import CERTIFICATE_EXPIRY, Metrics
from partition_replica.runtime.quorum_recovery import QuorumRecoveries
from partition_replica.runtime.replica import Replica
from partition_replica.runtime.transfer.state_sender import count_sent
from partition_replica.storage.fence import read_fence, remove_fence
from partition_replica.storage.files import VolumeLock, make_directory
from partition_replica.storage.log.journal import JournalLimits
from partition_replica.storage.volume import Volume
from partition_replica.threads import run_to_end
from partition_replica.transport.admin_service import ReplicaAdminService
from partition_replica.transport.authorization import Authorizer
from partition_replica.transport.channels import SERVER_OPTIONS, add_port, add_socket
from partition_replica.transport.client_list import BadClientList
from partition_replica.transport.failures import Failures
from partition_replica.transport.fenced_service import (
    FencedAdminService,
    FencedStatusService,
    RefuseOthers,
)
from partition_replica.transport.greetings import Greetings
from partition_replica.transport.http import serve_http
from partition_replica.transport.inspection_service import InspectionGrpcService
from partition_replica.transport.listener_parts import ListenerParts
from partition_replica.transport.log_store_service import LogStoreService
from partition_replica.transport.peer_service import PeerService
from partition_replica.transport.peers import Peers
from partition_replica.transport.raft_listener import RaftListener
from partition_replica.transport.streams import StreamBytes, Streams
from partition_replica.transport.tls_files import FilesInUse, list_beside

logger = logging.getLogger(__name__)

EXIT_FATAL = 70
EXIT_RECOVERING = 75
"""EX_TEMPFAIL: the process ended because its next start is to recover a lost quorum."""
LOCK_POLL_S = 0.5
HEALTH_POLL_S = 0.5
"""Seconds between looks at the health while no member runs."""
CERTIFICATE_POLL_S = 5.0
"""Seconds between looks at the certificate, for its metric."""

SERVICES = (
    log_store_pb2.DESCRIPTOR.services_by_name["LogStore"].full_name,
    replica_admin_pb2.DESCRIPTOR.services_by_name["ReplicaAdmin"].full_name,
    inspection_pb2.DESCRIPTOR.services_by_name["Inspection"].full_name,
    peer_pb2.DESCRIPTOR.services_by_name["Peer"].full_name,
)


def end_process(error: BaseException) -> None:
    """Ends the process at once, so that it acknowledges nothing more. The last line of output names
    the error."""
    logger.critical("ending: %s: %s", type(error).__name__, error, exc_info=error)
    print(f"FATAL: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    logging.shutdown()
    os._exit(EXIT_FATAL)


class SidecarProcess:
    """One replica's process: probes first, then the lock, the volume, the services."""

    def __init__(self, config: ReplicaConfig) -> None:
        self._config = config
        self._metrics = Metrics()
        self._replica: Replica | None = None
        self._why_not_ready = "starting"
        self._stop = asyncio.Event()
        self._exit_code = 0

    async def run(self) -> int:
        """Returns the exit code after SIGTERM or SIGINT, or if the next start is to recover a lost
        quorum, with leadership transferred and everything closed."""
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self._stop.set)
        http = await serve_http(
            self._config.http_listen,
            ready=self._ready,
            measure=self._measure,
            registry=self._metrics.registry,
        )
        try:
            while not self._stop.is_set():
                fence = read_fence(self._config.data)
                if fence is not None:
                    await self._stay_fenced(fence)
                elif (lock := await self._acquire_lock()) is not None:
                    await self._serve(lock)
        finally:
            await http.cleanup()
        return self._exit_code

    def _measure(self) -> None:
        if self._replica is not None:
            self._replica.measure()

    def _ready(self) -> tuple[bool, str]:
        if self._replica is None:
            return False, self._why_not_ready
        if self._replica.ready:
            return True, "ok"
        return False, "no leader is known"

    async def _stay_fenced(self, fence: Fence) -> None:
        """Returns when the operator has ended the fence, or the process is stopped."""
        self._replica, self._why_not_ready = None, "fenced"
        self._metrics.fenced.set(1)
        self._metrics.member_closed()
        config, lowered = self._config, asyncio.Event()

        async def lower() -> None:
            await run_to_end(partial(remove_fence, config.data))
            lowered.set()

        def refused(reason: str) -> None:
            self._metrics.refused.labels(reason).inc()

        interceptors: list[grpc.aio.ServerInterceptor] = [RefuseOthers()]
        if config.tls:
            interceptors.insert(0, Authorizer(config.partition, refused))
        server = grpc.aio.server(interceptors=interceptors, options=SERVER_OPTIONS)
        log_store_pb2_grpc.add_LogStoreServicer_to_server(FencedStatusService(fence), server)
        replica_admin_pb2_grpc.add_ReplicaAdminServicer_to_server(
            FencedAdminService(fence, Failures(refused, end_process), lower), server
        )
        add_port(server, config.listen, config.tls, lambda found: self._heard("server", found))
        await server.start()
        logger.warning("this replica is fenced: it serves nobody until the operator ends the fence")
        watcher = None
        if config.tls is not None:
            watcher = asyncio.create_task(self._watch_certificate(RenewedPem(config.tls)))
        await _first(self._stop.wait(), lowered.wait())
        if watcher is not None:
            watcher.cancel()
        await server.stop(grace=1.0)
        self._why_not_ready = "starting"
        self._metrics.fenced.set(0)

    async def _acquire_lock(self) -> VolumeLock | None:
        """Waits, not ready, while another process uses the volume. Returns None if the process is
        stopped first."""
        make_directory(self._config.data)
        lock = VolumeLock(self._config.data)
        while not lock.try_acquire():
            if self._why_not_ready != "waiting":
                logger.warning(
                    "another process uses the volume %s: this one waits until it ends",
                    self._config.data,
                )
            self._why_not_ready = "waiting"
            try:
                await asyncio.wait_for(self._stop.wait(), LOCK_POLL_S)
            except TimeoutError:
                continue
            return None
        return lock

    async def _serve(self, lock: VolumeLock) -> None:
        config = self._config
        limits = config.limits
        retention = LogRetention.of(limits, keep_all=config.keep_all_entries)
        volume = Volume(
            config.data,
            lock,
            pins_max=limits.pins_max,
            retention=retention,
            journal=JournalLimits.of(limits),
        )
        await asyncio.to_thread(steps.resume, volume)
        own = int(volume.log.identity.member_id)
        logger.info(
            "partition-replica %s: member %x of cluster %s, log %d to %d, applied %d, "
            "%d blobs collected",
            __version__,
            own,
            volume.log.identity.cluster_id or "(none)",
            volume.log.boundary.index + 1,
            volume.log.last.index,
            volume.state.applied.index,
            volume.blobs_collected,
        )
        replica: Replica

        def hello() -> peer_pb2.Hello:
            return peer_pb2.Hello(
                cluster_id=volume.log.identity.cluster_id,
                member_id=own,
                incarnation=replica.incarnation,
                last_index=volume.log.last.index,
                address=config.advertise,
            )

        peers = Peers(
            own,
            config.limits,
            config.tls,
            hello=hello,
            unreachable=lambda member: replica.peer_requests.unreachable(member),
            dropped=lambda n: self._metrics.messages_dropped.labels("peer_queue_full").inc(n),
            snapshot_sent=lambda n: count_sent(self._metrics, n),
            refused=lambda reason: self._metrics.peers_refused.labels(reason).inc(),
            traffic=self._metrics.raft,
            pushed=lambda way: self._metrics.payloads_pushed.labels(way).inc(),
            files_heard=lambda problem: self._heard("peers", problem),
        )
        replica = build_replica(
            config,
            volume,
            peers,
            self._metrics,
            make_engine=make_engine,
            wall_ms=lambda: time.time_ns() // 1_000_000,
            failed=end_process,
        )
        replica.start()
        server, health_servicer, listener = self._make_server(replica, volume)
        if config.raft_listen:
            # First: the hellos of the gRPC service name its port.
            listener.start(config.raft_listen)
        port = add_port(
            server,
            config.listen,
            config.tls,
            lambda problem: self._heard("server", problem),
            self._metrics.tls_connections.inc,
        )
        if config.socket:
            add_socket(server, config.socket)
        await server.start()
        self._replica = replica
        logger.info(
            "serving on port %d, Raft connections on port %d, advertised as %s",
            port,
            listener.port,
            config.advertise,
        )
        watchers = [asyncio.create_task(self._watch_health(replica, health_servicer))]
        if config.tls is not None:
            watchers.append(asyncio.create_task(self._watch_certificate(RenewedPem(config.tls))))
        await _first(self._stop.wait(), replica.fence_put.wait())
        logger.info("stopping")
        self._replica, self._why_not_ready = None, "stopping"
        for watcher in watchers:
            watcher.cancel()
        await health_servicer.enter_graceful_shutdown()
        await replica.stop()
        await peers.close()  # first: the others learn by it that this member, if it leads, is gone
        await server.stop(grace=1.0)
        await listener.close()
        volume.close()
        logger.info("stopped")

    def _heard(self, user: str, problem: BadPem | BadClientList | None) -> None:
        """The TLS files, or the list of clients, changed: they are invalid, or valid again."""
        self._metrics.tls_files_bad.labels(user).set(problem is not None)
        if problem is None:
            logger.info("%s: the TLS files are valid again", user)
        else:
            logger.error("%s: the previous TLS files stay in use: %s", user, problem)

    def _authorization(
        self, refused: Callable[[str], None]
    ) -> tuple[Authorizer | None, FilesInUse | None]:
        """Returns who decides about callers, and the TLS files; None without TLS."""
        config = self._config
        if config.tls is None:
            return None, None
        clients = list_beside(config.tls, lambda problem: self._heard("clients", problem))
        authorizer = Authorizer(config.partition, refused, clients.current)
        files = FilesInUse(config.tls, clients, authorizer)
        return authorizer, files

    def _end_to_recover(self) -> None:
        self._exit_code = EXIT_RECOVERING
        self._stop.set()

    def _make_server(
        self, replica: Replica, volume: Volume
    ) -> tuple[grpc.aio.Server, health.aio.HealthServicer, RaftListener]:
        """Creates the services. None of them listens yet."""
        config = self._config

        def refused(reason: str) -> None:
            self._metrics.refused.labels(reason).inc()

        authorizer, files = self._authorization(refused)
        server = grpc.aio.server(
            interceptors=[authorizer] if authorizer else [], options=SERVER_OPTIONS
        )
        limits = config.limits
        failures = Failures(refused, end_process)

        def opened(method: str, count: int) -> None:
            self._metrics.streams.labels(method).set(count)

        log_store_pb2_grpc.add_LogStoreServicer_to_server(
            LogStoreService(
                replica.applications,
                limits,
                failures,
                Streams(limits.client_streams_max, opened),
                StreamBytes(limits.append_bytes_total_max, self._metrics.append_bytes.set),
                StreamBytes(limits.get_bytes_total_max, self._metrics.get_bytes.set),
                self._metrics.get_keys.observe,
                None if files is None else files.status,
            ),
            server,
        )
        replica_admin_pb2_grpc.add_ReplicaAdminServicer_to_server(
            ReplicaAdminService(
                replica.administration,
                replica.snapshot_jobs,
                QuorumRecoveries(volume, replica.current, self._end_to_recover),
                failures,
                authorizer.is_client if authorizer else lambda _: False,
            ),
            server,
        )
        parts = ListenerParts(
            replica.peer_requests,
            Greetings(replica.peer_requests, lambda: listener.port),
            Streams(limits.peer_streams_max, opened),
            failures,
            authorizer,
            self._metrics.raft,
        )
        listener = RaftListener(
            parts, limits, config.tls, lambda problem: self._heard("raft", problem)
        )
        peer_pb2_grpc.add_PeerServicer_to_server(
            PeerService(
                replica.peer_requests,
                limits,
                failures,
                parts.streams,
                greetings=parts.greetings,
                traffic=parts.traffic,
            ),
            server,
        )
        inspection_pb2_grpc.add_InspectionServicer_to_server(
            InspectionGrpcService(replica.inspection, failures), server
        )
        health_servicer = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
        reflection.enable_server_reflection(
            (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), server
        )
        return server, health_servicer, listener

    async def _watch_health(self, replica: Replica, servicer: health.aio.HealthServicer) -> None:
        while True:
            ready = replica.ready
            state = (
                health_pb2.HealthCheckResponse.SERVING
                if ready
                else health_pb2.HealthCheckResponse.NOT_SERVING
            )
            for service in ("", SERVICES[0]):
                await servicer.set(service, state)
            if replica.member is None:
                await asyncio.sleep(HEALTH_POLL_S)
            elif replica.ready == ready:
                await replica.member.leader_changed()

    async def _watch_certificate(self, files: RenewedPem) -> None:
        """Sets the metric of the certificate's end. The services read the same files at the next
        handshake."""
        known = 0
        while True:
            version, found = files.current()
            if version != known:
                known = version
                # It makes a handshake with itself, which computes for a millisecond.
                shown = await asyncio.to_thread(pem.leaf, found)
                if shown is not None:
                    expires = shown.not_after.timestamp()
                    self._metrics.set(CERTIFICATE_EXPIRY, expires)
            await asyncio.sleep(CERTIFICATE_POLL_S)


async def _first(*waits: Coroutine[Any, Any, object]) -> None:
    """Returns when one of them has ended; the others are cancelled."""
    tasks = [asyncio.create_task(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
