"""Every limit of a replica, named, with its default.

Those under "format" are part of the replicated behaviour: they must be equal on all replicas, so
they are constants and no settings.
"""

from dataclasses import dataclass

# --- format -----------------------------------------------------------------------------------

KEY_BYTES_MAX = 65_000
"""What the seed's store takes. These limits are equal on all replicas of a group."""

PATH_BYTES_MAX = 4_095
"""What Linux takes."""

PATH_COMPONENT_BYTES_MAX = 255
"""The longest name between two '/' that may be created: what Linux' file systems take."""

MODE_MAX = 0o777
"""A file's or a directory's permissions: no set-user-ID, set-group-ID or sticky bit."""

VALUE_BYTES_MAX = 512 * 1024
PAYLOAD_INLINE_BYTES_MAX = 64 * 1024
"""Larger payloads are blobs, beside the log instead of in it."""

PAYLOAD_BYTES_MAX = 64 * 1024**3
PAYLOAD_BATCHED_BYTES_MAX = 1024**2
"""Payloads up to this size may go from member to member several in a message."""

PAYLOADS_A_CALL_MAX = 256
"""So many at most are asked for at once."""

PAYLOAD_BATCH_BYTES_MAX = 2 * 1024**2
"""Of such a message."""

PROPOSAL_BYTES_MAX = 1024 * 1024
PROPOSAL_OPERATIONS_MAX = 8192
PROPOSAL_PAYLOADS_MAX = 1024
PROPOSAL_PRECONDITIONS_MAX = 64

SESSIONS_MAX = 4096
"""One more is refused until an old one expires."""

SESSION_WINDOW = 4096
"""A sequence must lie below acknowledged_below + this: it bounds the results kept a session."""

SESSION_TTL_MS_MIN = 10_000
SESSION_TTL_MS_DEFAULT = 600_000
SESSION_TTL_MS_MAX = 86_400_000


# --- settings ---------------------------------------------------------------------------------


def disk_reserve(wanted_bytes: int, total_bytes: int, *, own_work: bool = False) -> int:
    """Bytes that stay free of a volume of `total_bytes`: `wanted_bytes`, or a tenth of the volume
    if that is less. own_work: half as many. Copies for other members, state transfers and stored
    snapshots may go that far into the reserve: they go on while writes of clients are refused, and
    deletes and pruning, which the reserve is for, have the other half."""
    reserved = min(wanted_bytes, total_bytes // 10)
    return reserved // 2 if own_work else reserved


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one process."""

    inbox_messages_max: int = 4096
    inbox_bytes_max: int = 64 * 1024**2
    """Raft messages of peers that wait for the engine; over it they are dropped (Raft resends)."""

    proposals_queued_max: int = 8192
    proposals_queued_bytes_max: int = 64 * 1024**2
    """Proposals that wait for the engine; over it OVERLOADED."""

    proposal_batch_bytes_max: int = 1024 * 1024
    proposal_batch_max: int = 1024
    """What one call of the engine takes."""

    uncommitted_bytes_max: int = 64 * 1024**2
    apply_batch_max: int = 1024
    apply_batch_bytes_max: int = 8 * 1024**2
    apply_queue_bytes_max: int = 64 * 1024**2
    """Committed and not applied, kept in memory; what does not fit is read from the log again."""

    apply_lag_max: int = 500_000
    """Entries committed and not applied; over it proposals are refused."""

    peer_queue_bytes_max: int = 16 * 1024**2
    peer_batch_bytes_max: int = 4 * 1024**2
    """To one peer; over it messages are dropped (Raft resends)."""

    held_appends_max: int = 64
    """Appends of one leader that wait for blobs to be fetched; over it they are dropped."""

    uploads_max: int = 64
    """Uploads and pushes under way; over it OVERLOADED."""

    pins_max: int = 100_000
    pin_lease_s: float = 600.0
    """How long a payload that nothing names yet is kept."""

    snapshot_keep_s: float = 120.0
    """How long a snapshot made for a follower is kept after its last use."""

    snapshot_hold_s: float = 10.0
    """How long the log behind such a snapshot is kept after its last use."""

    snapshot_sends_max: int = 4
    """Snapshots on their way to members at the same time; the others wait."""

    snapshot_partial_keep_s: float = 120.0
    """How long what came of a snapshot that broke off is kept: its state file and its payloads."""

    fetch_stall_s: float = 60.0
    """A member that sends nothing of a payload for so long has failed: another one is asked, or the
    same again."""

    fetch_group_bytes_max: int = 64 * 1024**2
    """Small payloads that a snapshot's receiver fetches in one call, and syncs together."""

    snapshot_jobs_queued_max: int = 16
    """Snapshot jobs that wait for their turn; over it OVERLOADED."""

    snapshot_jobs_kept_max: int = 256
    """Snapshot jobs that have ended and can be asked about; then the oldest is forgotten."""

    snapshot_capture_wait_s: float = 60.0
    """How long a snapshot job, a verification or a reader of the whole state waits while the state
    can't be copied. The copy itself does not count."""

    snapshot_job_stall_s: float = 480.0
    """A snapshot job that makes no progress for so long is ended. More than what the store's own
    retries may take."""

    snapshot_job_end_s: float = 15.0
    """How long a snapshot job that is to end may take before its process is killed: more than it
    takes to give up an upload and to remove its marker, 5 s each."""

    snapshot_store_retry_s: float = 180.0
    """How long an operation on an object store is tried again."""

    snapshot_marker_stale_s: float = 3600.0
    """After how long a marker that a dead process left in a snapshot store counts for nothing."""

    snapshot_streams_max: int = 8
    """Objects that a snapshot job sends or reads at the same time."""

    log_trail_entries: int = 50_000
    """Applied entries that the log keeps for followers that are behind: one further behind is sent
    a snapshot."""

    log_trail_bytes: int = 1024**3
    """The most bytes that those entries may have, with the files that only they still name; a
    follower that needs more of them is sent a snapshot, which costs as much as the state."""

    log_compaction_step_entries: int = 1_000
    """The log is compacted when at least so many entries may go."""

    log_prune_rows: int = 4096
    """Entries deleted in one transaction."""

    consumer_lag_entries_max: int = 5_000_000
    """A consumer, or a snapshot on its way, further behind than this no longer holds the log."""

    backfill_rows: int = 16_384
    """Entries that get their Raft metadata in one transaction."""

    mirror_bytes_max: int = 64 * 1024**2
    pinned_states_max: int = 4
    """States that readers have pinned (ReadState), each a copy on the volume; over it
    OVERLOADED."""

    pinned_state_idle_s: float = 300.0
    """A pinned state of which nothing is asked, or no answer taken, for so long is given up."""

    pinned_state_age_max_s: float = 3600.0
    """A pinned state is given up after so long, however busy its reader is: its copy, the payloads
    that it names and the log behind it fill the volume."""

    reads_waiting_max: int = 4096
    """Linearizable reads that wait for a read index, and as many that wait until it is applied."""

    disk_reserve_bytes: int = 256 * 1024**2
    """Free bytes of the volume below which writes are refused."""

    learner_lag_max: int = 1000
    """Entries that a learner may be behind and still be promoted."""

    append_requests_max: int = 4096
    """Appends of one stream that are under way or whose answers are not sent yet; then no more is
    read from the stream."""

    append_bytes_max: int = 16 * 1024**2
    """Of their requests."""

    append_bytes_total_max: int = 256 * 1024**2
    """Of the requests of all append streams; over it OVERLOADED."""

    client_streams_max: int = 1024
    """Streams of clients that are open, uploads included; over it OVERLOADED."""

    peer_streams_max: int = 256
    """The same of members."""

    stream_stall_s: float = 60.0
    """An upload, a push or a snapshot that sends nothing for so long is given up: each of them has
    one of few places."""

    read_batch_bytes_max: int = 256 * 1024
    """Entries that a Read keeps in memory until they are sent; at least one."""

    chunk_bytes: int = 512 * 1024
    range_bytes_max: int = 2 * 1024**2
    range_items_max: int = 1000
