"""The metrics of a replica. A metric's name ends with its unit. docs/reference/metrics.md is
generated from the names, labels and help texts here."""

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, ProcessCollector
from prometheus_client.registry import Collector

from partition_replica import __version__
from partition_replica.transport.raft_traffic import CONNECTION, STREAM

FAST = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)

FRAME_KEYS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

ROLES = ("follower", "precandidate", "candidate", "leader")
"""The roles that an engine reports. A learner is a follower without a vote."""

CERTIFICATE_EXPIRY = "logstore_certificate_expiry_timestamp_seconds"

GAUGES = {
    "logstore_term": "Raft term",
    "logstore_leading": "1 if this replica leads",
    "logstore_serving": "1 if this replica leads and serves clients",
    "logstore_voter": "1 if this replica votes; 0 for a learner and for a removed member",
    "logstore_voters": "Voters of the group, as of the configuration that this replica applied",
    "logstore_voters_active": "Voters that the leader has heard of within two election time-outs, "
    "itself included; 0 at other replicas",
    "logstore_leaderless_seconds": "Seconds for which this replica has heard of no leader; 0 below "
    "two election time-outs",
    "logstore_committed_lsn": "Committed LSN",
    "logstore_applied_lsn": "Applied LSN",
    "logstore_last_lsn": "Last LSN of the log",
    "logstore_first_lsn": "First LSN of the Raft log: its boundary plus one",
    "logstore_stored_lsn": "First LSN that is stored",
    "logstore_low_water_mark": "Lowest LSN that consumers can count on",
    "logstore_consumers": "Registered consumers",
    "logstore_proposals_queued": "Proposals that are not proposed yet",
    "logstore_proposals_waiting": "Proposals in progress",
    "logstore_apply_queue_bytes": "Bytes of entries committed but not applied",
    "logstore_entry_cache_bytes": "Bytes of the log's tail in memory",
    "logstore_blobs_pinned": "Blobs under a pin",
    "logstore_disk_free_bytes": "Free bytes on the volume",
    "logstore_disk_total_bytes": "Bytes of the volume",
    "logstore_disk_reserve_bytes": "Free bytes below which the replica refuses writes",
    "logstore_disk_full": "1 if the replica refuses writes because its volume is full",
    "logstore_sessions": "Open sessions",
    CERTIFICATE_EXPIRY: "When the certificate expires that the next "
    "TLS handshake shows, as a Unix time",
    "logstore_snapshot_jobs_queued": "Queued snapshot jobs",
    "logstore_backfill_next_lsn": "Next LSN of a backfill; present from its start on",
    "logstore_backfill_target_lsn": "Last LSN of a backfill; present from its start on",
}
"""Help texts of the gauges that `Metrics.set` creates, by name. One without a value is not
exported, so that nothing reads 0 before it was measured."""

DEPRECATED_GAUGES = {"logstore_entry_cache_bytes": "logstore_mirror_bytes"}
"""Earlier names of gauges, by current name. Both are exported for one minor version."""


class DeprecatedCounters(Collector):
    """Exports counters also under their earlier names, for one minor version."""

    def __init__(self, counters: Mapping[str, Counter]) -> None:
        """counters: by earlier name, without `_total`."""
        self._counters = counters

    def collect(self) -> Iterable[Metric]:
        for name, counter in self._counters.items():
            for today in counter.collect():
                text = f"(deprecated: use {today.name}_total) {today.documentation}"
                earlier = Metric(name, text, "counter")
                for sample in today.samples:
                    suffix = sample.name.removeprefix(today.name)
                    earlier.samples.append(sample._replace(name=name + suffix))
                yield earlier


class RaftCounts:
    """How Raft messages travel: over a gRPC "stream" or a Raft "connection". Implements
    transport.raft_traffic.RaftTraffic."""

    def __init__(self, registry: CollectorRegistry) -> None:
        messages = Counter(
            "logstore_raft_messages",
            "Raft messages sent and received, by their way",
            ["direction", "way"],
            registry=registry,
        )
        size = Counter(
            "logstore_raft_bytes",
            "Bytes of Raft messages sent and received, by their way",
            ["direction", "way"],
            registry=registry,
        )
        self._members = Gauge(
            "logstore_raft_members",
            "Members that this one sends Raft messages to, by their way",
            ["way"],
            registry=registry,
        )
        self._refused = Counter(
            "logstore_raft_connections_refused",
            "Raft connections refused before or after their hello, by reason",
            ["reason"],
            registry=registry,
        )
        # Looked up once: this runs for each write and read.
        ways = (STREAM, CONNECTION)
        self._out = {way: (messages.labels("out", way), size.labels("out", way)) for way in ways}
        self._in = {way: (messages.labels("in", way), size.labels("in", way)) for way in ways}

    def sent(self, way: str, messages: int, size: int) -> None:
        counts = self._out[way]
        counts[0].inc(messages)
        counts[1].inc(size)

    def received(self, way: str, messages: int, size: int) -> None:
        counts = self._in[way]
        counts[0].inc(messages)
        counts[1].inc(size)

    def sending(self, way: str, change: int) -> None:
        self._members.labels(way).inc(change)

    def refused(self, reason: str) -> None:
        self._refused.labels(reason).inc()


class Metrics:
    """The metrics of one process, in their own registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._gauges: dict[str, Gauge] = {}
        r = self.registry
        self.streams = Gauge(
            "logstore_streams_open",
            "Open streams, by method (limits client_streams_max, peer_streams_max)",
            ["method"],
            registry=r,
        )
        self.append_bytes = Gauge(
            "logstore_append_streams_bytes",
            "Bytes of requests on append streams whose answers are not sent yet "
            "(limit append_bytes_total_max)",
            registry=r,
        )
        self.get_bytes = Gauge(
            "logstore_get_streams_bytes",
            "Bytes of keys and values on GetFrames streams whose answers are not sent yet "
            "(limit get_bytes_total_max)",
            registry=r,
        )
        self.get_keys = Histogram(
            "logstore_get_frame_keys", "Keys per frame of GetFrames", buckets=FRAME_KEYS, registry=r
        )
        self.linearizable_reads = Counter(
            "logstore_linearizable_reads",
            "Linearizable reads and get frames, by what confirmed them",
            ["by"],
            registry=r,
        )
        self.pinned_states = Gauge(
            "logstore_pinned_states",
            "States that readers have pinned with ReadState (limit pinned_states_max)",
            registry=r,
        )
        self.log_commits = Histogram(
            "logstore_log_commit_seconds",
            "A durable commit of the log, with its fsync",
            buckets=FAST,
            registry=r,
        )
        self.log_journaled = Gauge(
            "logstore_log_journaled_entries",
            "Entries that are durable in the log's journal alone (limit log_journal_entries_max)",
            registry=r,
        )
        self.log_checkpoints = Histogram(
            "logstore_log_checkpoint_seconds",
            "Checkpoint of an idle log: its tables take over the journal",
            buckets=FAST,
            registry=r,
        )
        self.log_entries = Counter("logstore_log_entries", "Entries made durable", registry=r)
        self.proposal_batches = Histogram(
            "logstore_proposal_batch_entries",
            "Entries that a leader proposed and wrote together",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096),
            registry=r,
        )
        self.applies = Histogram(
            "logstore_apply_seconds", "Applying one batch to the state", buckets=FAST, registry=r
        )
        self.apply_batch_entries = Histogram(
            "logstore_apply_batch_entries",
            "Entries per batch applied (limits apply_batch_max, apply_delay_s)",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024),
            registry=r,
        )
        self.applied_entries = Counter("logstore_applied_entries", "Entries applied", registry=r)
        self.appends = Histogram(
            "logstore_append_seconds",
            "From a proposal's arrival to its answer, at the leader",
            buckets=FAST,
            registry=r,
        )
        self.refused = Counter(
            "logstore_refused",
            "Requests refused, by the Reason that clients get",
            ["reason"],
            registry=r,
        )
        self.peers_refused = Counter(
            "logstore_peers_refused",
            "Members that refuse us or that TLS cannot reach, by reason; counted once until they "
            "are reached",
            ["reason"],
            registry=r,
        )
        self.tls_connections = Counter(
            "logstore_tls_connections",
            "TLS connections accepted at the gRPC port, also those whose handshake fails",
            registry=r,
        )
        self.tls_files_bad = Gauge(
            "logstore_tls_files_bad",
            "1 if changed TLS files are invalid and the previous ones stay in use",
            ["user"],
            registry=r,
        )
        self.fenced = Gauge(
            "logstore_fenced",
            "1 while the replica is fenced, and so answers nobody",
            registry=r,
        )
        self.messages_dropped = Counter(
            "logstore_peer_messages_dropped",
            "Raft messages dropped, by cause",
            ["cause"],
            registry=r,
        )
        self.raft = RaftCounts(r)
        self.payload_bytes = Counter(
            "logstore_payload_bytes",
            "Bytes of payloads sent and received",
            ["direction"],
            registry=r,
        )
        self.payloads_pushed = Counter(
            "logstore_payloads_pushed",
            "Payloads that a member took alone, over a gRPC stream or a payload connection",
            ["way"],
            registry=r,
        )
        self.payloads_passed_on = Counter(
            "logstore_payloads_passed_on",
            "Payloads that a member took while they arrived at the leader",
            registry=r,
        )
        self.blobs_collected = Counter(
            "logstore_blobs_collected", "Blobs unlinked because nothing names them", registry=r
        )
        self.state_transfers = Counter(
            "logstore_state_transfers",
            "State transfers between members",
            ["direction", "result"],
            registry=r,
        )
        self.state_transfer_bytes = Counter(
            "logstore_state_transfer_bytes",
            "Bytes of state files between members: sent, received, or skipped by resuming",
            ["direction"],
            registry=r,
        )
        self.state_transfer_payloads = Counter(
            "logstore_state_transfer_payloads", "Payloads that state transfers fetched", registry=r
        )
        self.snapshot_jobs = Counter(
            "logstore_snapshot_jobs", "Snapshot jobs that ended", ["kind", "result"], registry=r
        )
        self.snapshot_bytes = Counter(
            "logstore_snapshot_transferred_bytes", "Bytes sent to snapshot stores", registry=r
        )
        self.pruned_entries = Counter(
            "logstore_pruned_entries", "Entries deleted from the log's front", registry=r
        )
        self.prunes_failed = Counter(
            "logstore_prunes_failed",
            "Failed deletions from the log's front, which are retried",
            registry=r,
        )
        self.backfill_held = Gauge(
            "logstore_backfill_held_seconds",
            "Seconds for which the last backfill held writes",
            registry=r,
        )
        self.elections = Counter(
            "logstore_leader_changes",
            "Changes of role or leader that this member observed",
            registry=r,
        )
        self._role = Gauge(
            "logstore_role", "1 for the role of this member, 0 for the others", ["role"], registry=r
        )
        self._member_lag = Gauge(
            "logstore_member_lag_entries",
            "Entries that another member's log lacks, as its leader knows; absent at others",
            ["member"],
            registry=r,
        )
        build = Gauge(
            "logstore_info", "1; the version of the replica's program", ["version"], registry=r
        )
        build.labels(__version__).set(1)
        # Memory, processor time, open files and start of the process, under their usual names.
        ProcessCollector(registry=r)

        self.elections_started = Counter(
            "logstore_elections_started",
            "Elections that this member started, from its first pre-vote until it leads or follows",
            registry=r,
        )
        self.fast_clocks = Counter(
            "logstore_fast_clocks",
            "Periods of the fast clock: the connection from the leader broke",
            registry=r,
        )

        r.register(
            DeprecatedCounters(
                {
                    "logstore_snapshots": self.state_transfers,
                    "logstore_snapshot_state_bytes": self.state_transfer_bytes,
                    "logstore_snapshot_payloads_fetched": self.state_transfer_payloads,
                }
            )
        )

    def set(self, name: str, value: float) -> None:
        """Sets a gauge of GAUGES, also under its earlier name. The first call creates the gauge."""
        if name in DEPRECATED_GAUGES:
            earlier = f"(deprecated: use {name}) {GAUGES[name]}"
            self._gauge(DEPRECATED_GAUGES[name], earlier).set(value)
        self._gauge(name, GAUGES[name]).set(value)

    def _gauge(self, name: str, help_text: str) -> Gauge:
        gauge = self._gauges.get(name)
        if gauge is None:
            gauge = self._gauges[name] = Gauge(name, help_text, registry=self.registry)
        return gauge

    def role(self, role: str) -> None:
        """Sets the role of this member, one of ROLES."""
        for other in ROLES:
            self._role.labels(other).set(other == role)

    def lags(self, lags: Mapping[str, int]) -> None:
        """Sets the lags of the other members, by address. Empty unless this member leads."""
        self._member_lag.clear()
        for address, lag in lags.items():
            self._member_lag.labels(address).set(lag)

    def member_closed(self) -> None:
        """Says that no member leads or serves here, and ends the export of the other gauges about
        the member and its volume, which would keep their last values. The next member sets them
        again."""
        for name in [name for name in self._gauges if name != CERTIFICATE_EXPIRY]:
            self.registry.unregister(self._gauges.pop(name))
        self._role.clear()
        self._member_lag.clear()
        self.log_journaled.set(0)
        self.set("logstore_leading", 0)
        self.set("logstore_serving", 0)
