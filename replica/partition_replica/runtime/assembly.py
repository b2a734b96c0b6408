"""Creates a replica, its member and their parts. It starts none of them."""

import secrets
from collections.abc import Callable

from partition_replica.config import ReplicaConfig
from partition_replica.core.ports import PeerTransport
from partition_replica.core.sessions import SESSION_ID_MAX
from partition_replica.engine.port import EngineSettings, MakeEngine
from partition_replica.runtime.consensus.applier import Applier
from partition_replica.runtime.consensus.collection import Collection
from partition_replica.runtime.consensus.compactor import Compactor
from partition_replica.runtime.consensus.lease import Clock, LeaderLease, machine_clock
from partition_replica.runtime.consensus.log_holds import LogHolds
from partition_replica.runtime.consensus.log_writer import LogWriter
from partition_replica.runtime.consensus.proposals import Proposals
from partition_replica.runtime.consensus.raft_loop import RaftLoop
from partition_replica.runtime.consensus.roster import Roster
from partition_replica.runtime.consensus.waits import AppliedWaits, ReadIndexes
from partition_replica.runtime.current_member import CurrentMember
from partition_replica.runtime.disk import DiskWatch
from partition_replica.runtime.jobs.inspection import Inspection
from partition_replica.runtime.jobs.snapshot_jobs import SnapshotJobRunner
from partition_replica.runtime.member import Member, MemberParts
from partition_replica.runtime.metrics import Metrics
from partition_replica.runtime.peer_requests import PeerRequests
from partition_replica.runtime.replica import Replica, ReplicaParts
from partition_replica.runtime.serving.append_frames import AppendFrames
from partition_replica.runtime.serving.appends import Appends
from partition_replica.runtime.serving.applications import Applications
from partition_replica.runtime.serving.consumers import Consumers
from partition_replica.runtime.serving.histories import Histories
from partition_replica.runtime.serving.pinned_states import PinnedStates
from partition_replica.runtime.serving.proposer import Proposer
from partition_replica.runtime.serving.reads import Reads
from partition_replica.runtime.serving.status import Status
from partition_replica.runtime.transfer.capture import StateCapture
from partition_replica.runtime.transfer.payloads import Payloads
from partition_replica.runtime.transfer.state_receiver import StateReceiver
from partition_replica.runtime.transfer.state_sender import StateSender
from partition_replica.storage.volume import Volume


def draw_session() -> int:
    """Draws a session ID at random, so that it is not used again after a restore or in another
    group."""
    return secrets.randbelow(SESSION_ID_MAX) + 1


def build_replica(  # noqa: PLR0913  # everything that a test or the simulation replaces
    config: ReplicaConfig,
    volume: Volume,
    transport: PeerTransport,
    metrics: Metrics,
    *,
    make_engine: MakeEngine,
    wall_ms: Callable[[], int],
    failed: Callable[[BaseException], None],
    log_writer: type[LogWriter] = LogWriter,
    draw_session: Callable[[], int] = draw_session,
    lease_clock: Clock = machine_clock,
) -> Replica:
    """Creates a replica that is not started. On the event loop.

    `failed` is called with an error that must end the process. `draw_session` returns unused
    session IDs. `wall_ms` is the wall clock, in milliseconds since 1970. `lease_clock` measures the
    leader's lease.
    """
    limits, log, states, blobs = config.limits, volume.log, volume.states, volume.blobs
    incarnation = secrets.randbits(62) + 1
    disk = DiskWatch(volume.space, limits.disk_reserve_bytes)
    holds = LogHolds(log)
    current = CurrentMember(log)
    histories = Histories(log, states, current)
    consumers = Consumers(log, states, current.running)
    proposer = Proposer(limits, disk, current)
    appends = Appends(states, blobs, metrics, proposer, current=current, draw_session=draw_session)
    frames = AppendFrames(states, metrics, proposer, appends, current)
    reads = Reads(
        log, states, blobs, current, lambda by: metrics.linearizable_reads.labels(by).inc()
    )
    pinned_states = PinnedStates(
        states,
        blobs,
        volume.space,
        volume.staging,
        limits,
        metrics,
        disk=disk,
        reads=reads,
        running=current.running,
        check_state=histories.check_state,
        holds=holds,
        failed=failed,
    )
    status = Status(
        config,
        log,
        states,
        current,
        disk=disk,
        consumers=consumers,
        histories=histories,
        incarnation=incarnation,
    )
    parts = ReplicaParts(
        current=current,
        disk=disk,
        status=status,
        applications=Applications(
            histories, appends, frames, reads, pinned_states, consumers, status
        ),
        peer_requests=PeerRequests(log, blobs, transport, metrics, current, status),
        pinned_states=pinned_states,
        inspection=Inspection(volume, limits, disk, current.running),
        snapshot_jobs=SnapshotJobRunner(
            config, volume, metrics, running=current.running, wall_ms=wall_ms, failed=failed
        ),
    )

    def make_member() -> Member:
        return build_member(
            config,
            volume,
            transport,
            metrics,
            disk=disk,
            holds=holds,
            make_engine=make_engine,
            wall_ms=wall_ms,
            failed=failed,
            log_writer=log_writer,
            lease_clock=lease_clock,
        )

    return Replica(
        config,
        volume,
        metrics,
        parts,
        make_member=make_member,
        incarnation=incarnation,
        failed=failed,
    )


def build_member(  # noqa: PLR0913  # everything that a member stands on
    config: ReplicaConfig,
    volume: Volume,
    transport: PeerTransport,
    metrics: Metrics,
    *,
    disk: DiskWatch,
    holds: LogHolds,
    make_engine: MakeEngine,
    wall_ms: Callable[[], int],
    failed: Callable[[BaseException], None],
    log_writer: type[LogWriter],
    lease_clock: Clock,
) -> Member:
    """Creates a member, not started, of the group that the volume belongs to. On the event loop.
    Raises partition_raft.InvalidConfig if the log contradicts itself."""
    limits, log, states, blobs = config.limits, volume.log, volume.states, volume.blobs
    applied = states.current.applied.index
    roster = Roster()
    lease = (
        LeaderLease(config.election_ticks, config.tick_s, lease_clock)
        if config.lease_reads
        else None
    )
    token = int(log.identity.member_id).to_bytes(8, "big") + secrets.token_bytes(8)
    read_indexes = ReadIndexes(limits.reads_waiting_max, lease, token)
    applier = Applier(log, states, volume.garbage, limits, metrics)
    waits = AppliedWaits(limits.reads_waiting_max, hurry=applier.hurry)
    waits.applied = applied
    proposals = Proposals(limits, leader=lambda: roster.leading, hurry=applier.hurry)
    collection = Collection(volume.garbage, applier, metrics)
    capture = StateCapture(log, states, blobs, volume.space, applier, limits)
    sender = StateSender(
        log, volume.staging, capture, transport, limits, metrics, holds=holds, failed=failed
    )
    settings = EngineSettings(
        election_tick=config.election_ticks,
        heartbeat_tick=config.heartbeat_ticks,
        election_timeout_ticks=config.election_timeout_ticks,
        uncommitted_bytes_max=limits.uncommitted_bytes_max,
        entry_cache_bytes_max=limits.entry_cache_bytes_max,
    )
    loop = RaftLoop(
        log,
        states,
        make_engine(log, applied, settings, sender.source),
        transport,
        limits,
        metrics,
        roster=roster,
        proposals=proposals,
        reads=read_indexes,
        applier=applier,
        tick_s=config.tick_s,
        election_ticks=config.election_ticks,
        wall_ms=wall_ms,
        failed=failed,
        log_writer=log_writer,
        voteless_ticks=config.election_ticks if config.lease_reads else 0,
    )
    payloads = Payloads(
        blobs,
        transport,
        limits,
        metrics,
        own_member=int(log.identity.member_id),
        configuration=lambda: log.configuration[1],
        disk_full=disk.full,
        disk_low=disk.low,
        deliver=loop.receive,
        failed=failed,
    )
    receiver = StateReceiver(
        states,
        blobs,
        volume.space,
        volume.staging,
        payloads,
        limits,
        metrics,
        disk_full=disk.full,
        step=loop.receive_then,
    )
    compactor = Compactor(log, states, loop, applier, limits, metrics, collect=collection.collect)
    parts = MemberParts(
        roster=roster,
        waits=waits,
        proposals=proposals,
        read_indexes=read_indexes,
        loop=loop,
        applier=applier,
        collection=collection,
        payloads=payloads,
        capture=capture,
        sender=sender,
        receiver=receiver,
        compactor=compactor,
    )
    return Member(config, volume, transport, metrics, parts, disk=disk, failed=failed)
