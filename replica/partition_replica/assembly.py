"""Assembles one replica, runs it until it receives a signal to stop, and shuts it down."""

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Callable

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from partition_proto.connection.pem import BadPem
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
from partition_replica.engine.factory import make_engine
from partition_replica.runtime.assembly import build_replica
from partition_replica.runtime.metrics import Metrics
from partition_replica.runtime.replica import Replica
from partition_replica.runtime.transfer.state_sender import count_sent
from partition_replica.storage.files import VolumeLock, make_directory
from partition_replica.storage.log.journal import JournalLimits
from partition_replica.storage.volume import Volume
from partition_replica.transport.admin_service import ReplicaAdminService
from partition_replica.transport.authorization import Authorizer
from partition_replica.transport.channels import SERVER_OPTIONS, add_port
from partition_replica.transport.client_list import BadClientList
from partition_replica.transport.failures import Failures
from partition_replica.transport.greetings import Greetings
from partition_replica.transport.http import serve_http
from partition_replica.transport.inspection_service import InspectionGrpcService
from partition_replica.transport.log_store_service import LogStoreService
from partition_replica.transport.peer_service import PeerService
from partition_replica.transport.peers import Peers
from partition_replica.transport.raft_listener import ListenerParts, RaftListener
from partition_replica.transport.streams import StreamBytes, Streams
from partition_replica.transport.tls_files import FilesInUse, list_beside

logger = logging.getLogger(__name__)

EXIT_FATAL = 70
LOCK_POLL_S = 0.5
HEALTH_POLL_S = 0.5

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

    async def run(self) -> None:
        """Returns after SIGTERM or SIGINT, with leadership transferred and everything closed."""
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self._stop.set)
        http = await serve_http(
            self._config.http_listen, ready=self._ready, registry=self._metrics.registry
        )
        try:
            lock = await self._acquire_lock()
            if lock is not None:
                await self._serve(lock)
        finally:
            await http.cleanup()

    def _ready(self) -> tuple[bool, str]:
        if self._replica is None:
            return False, self._why_not_ready
        if self._replica.ready:
            return True, "ok"
        return False, "no leader is known"

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
        server, health_servicer, listener = self._make_server(replica)
        if config.raft_listen:
            # First: the hellos of the gRPC service name its port.
            listener.start(config.raft_listen)
        port = add_port(
            server, config.listen, config.tls, lambda problem: self._heard("server", problem)
        )
        await server.start()
        self._replica = replica
        logger.info(
            "serving on port %d, Raft connections on port %d, advertised as %s",
            port,
            listener.port,
            config.advertise,
        )
        watcher = asyncio.create_task(self._watch_health(replica, health_servicer))
        await self._stop.wait()
        logger.info("stopping")
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
        files = FilesInUse(config.tls, clients, authorizer, time.time)
        self._metrics.certificate_days_left.set_function(files.days_left)
        return authorizer, files

    def _make_server(
        self, replica: Replica
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
            state = (
                health_pb2.HealthCheckResponse.SERVING
                if replica.ready
                else health_pb2.HealthCheckResponse.NOT_SERVING
            )
            for service in ("", SERVICES[0]):
                await servicer.set(service, state)
            await asyncio.sleep(HEALTH_POLL_S)
