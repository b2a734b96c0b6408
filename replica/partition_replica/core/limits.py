"""Every limit of a replica, with its default: what it bounds, in which unit, and what happens
beyond it.

Units are in the names: `_bytes`, `_s` (seconds), `_ms` (milliseconds); all else are counts. The
limits under "format" are part of the replicated behaviour: they must be equal on all replicas of a
group, so they are constants and no settings.
"""

from dataclasses import dataclass

# --- format -----------------------------------------------------------------------------------

KEY_BYTES_MAX = 65_000
"""Of one key, as in the seed's store; a longer one is INVALID_ARGUMENT."""

PATH_BYTES_MAX = 4_095
"""Of one path, as in Linux; a longer one is INVALID_ARGUMENT."""

PATH_COMPONENT_BYTES_MAX = 255
"""Of one name between two '/', as in Linux' file systems. A longer one can't be created
(INVALID_ARGUMENT)."""

MODE_MAX = 0o777
"""The permissions of a file or directory: no set-user-ID, set-group-ID or sticky bit. Another mode
is INVALID_ARGUMENT."""

VALUE_BYTES_MAX = 512 * 1024
"""Of one key's value; a larger one is INVALID_ARGUMENT and has to be a file."""

PAYLOAD_INLINE_BYTES_MAX = 64 * 1024
"""Of a payload inside its entry. A larger one is a blob, beside the log, and is uploaded before the
entry is proposed."""

PAYLOAD_BYTES_MAX = 64 * 1024**3
"""Of one payload; a larger one is INVALID_ARGUMENT."""

PAYLOAD_BATCHED_BYTES_MAX = 1024**2
"""Of a payload that travels between members with others in one message. A larger one is fetched
alone."""

PAYLOADS_A_CALL_MAX = 256
"""Payloads that one call of FetchPayloads asks for; more are INVALID_ARGUMENT."""

PAYLOAD_BATCH_BYTES_MAX = 2 * 1024**2
"""Of the payloads in one message of FetchPayloads; the next ones go into another message."""

PROPOSAL_BYTES_MAX = 1024 * 1024
"""Of one proposal as it is encoded; a larger one is INVALID_ARGUMENT, as are too many parts."""

PROPOSAL_OPERATIONS_MAX = 8192
"""Operations of one proposal."""

PROPOSAL_PAYLOADS_MAX = 1024
"""Payloads that one proposal names."""

PROPOSAL_PRECONDITIONS_MAX = 64
"""Preconditions of one proposal."""

SESSIONS_MAX = 4096
"""Sessions of a group. One more is SESSIONS_FULL until another one expires or is closed."""

SESSION_WINDOW = 4096
"""A sequence lies below acknowledged_below + this, which bounds the results kept per session. A
higher one is INVALID_ARGUMENT."""

SESSION_TTL_MS_MIN = 10_000
"""The shortest time to live that a session may ask for; less is INVALID_ARGUMENT."""

SESSION_TTL_MS_DEFAULT = 600_000
"""The time to live of a session that asks for none."""

SESSION_TTL_MS_MAX = 86_400_000
"""The longest time to live that a session may ask for; more is INVALID_ARGUMENT."""


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
    """Limits of one process. "OVERLOADED" and the like are what a caller gets beyond a limit."""

    inbox_messages_max: int = 4096
    """Raft messages of peers that wait for the engine. More are dropped; Raft sends them again."""

    inbox_bytes_max: int = 64 * 1024**2
    """Of these messages. More are dropped."""

    proposals_queued_max: int = 8192
    """Proposals that wait for the engine or for their answers; one more is OVERLOADED."""

    proposals_queued_bytes_max: int = 64 * 1024**2
    """Of the proposals that wait for the engine; more are OVERLOADED."""

    proposal_batch_bytes_max: int = 1024 * 1024
    """Of the proposals that one call of the engine takes, at least one. The others wait for the
    next call."""

    proposal_batch_max: int = 1024
    """Proposals that one call of the engine takes. The others wait for the next call."""

    uncommitted_bytes_max: int = 64 * 1024**2
    """Of entries that a leader has proposed and that are not committed; more are OVERLOADED."""

    apply_batch_max: int = 1024
    """Entries applied in one transaction of the state; the others go into the next one."""

    apply_batch_bytes_max: int = 8 * 1024**2
    """Of the entries applied in one transaction, at least one."""

    apply_queue_bytes_max: int = 64 * 1024**2
    """Of entries committed and not applied that are kept in memory. The others are read from the
    log when it is their turn."""

    apply_lag_max: int = 500_000
    """Entries committed and not applied; beyond it, proposals are OVERLOADED."""

    peer_queue_bytes_max: int = 16 * 1024**2
    """Of Raft messages that wait to be sent to one member. More are dropped; Raft sends them
    again."""

    peer_batch_bytes_max: int = 4 * 1024**2
    """Of Raft messages sent to a member in one, at least one. The others go into the next one."""

    held_appends_max: int = 64
    """Appends of the leader that wait until their blobs are fetched. One more is dropped; Raft
    sends it again."""

    uploads_max: int = 64
    """Uploads and pushes of payloads under way; one more is OVERLOADED."""

    pins_max: int = 100_000
    """Payloads that are pinned; one more is OVERLOADED."""

    pin_time_to_live_s: float = 600.0
    """How long a payload that no entry names is kept. Then it is collected."""

    transfer_keep_s: float = 120.0
    """How long a copy of the state that was made for followers is kept after its last use. Then it
    is removed, and the next follower waits for another one."""

    transfer_hold_s: float = 10.0
    """How long the log behind such a copy is kept after its last use, if no member has a part of
    the copy yet. Then the log may be compacted, and the copy be useless."""

    transfers_max: int = 4
    """State transfers to members at the same time; the others wait."""

    transfer_partial_keep_s: float = 120.0
    """How long the received part of an interrupted state transfer is kept: of its state file and of
    its payloads. Then the transfer begins anew."""

    fetch_stall_s: float = 60.0
    """How long a member may send nothing of a payload that is fetched from it. Then the fetch has
    failed, and is repeated at another member, or at the same one."""

    fetch_group_bytes_max: int = 64 * 1024**2
    """Of small payloads that the receiver of a state fetches in one call and syncs together, at
    least one. The others go into the next call."""

    snapshot_jobs_queued_max: int = 16
    """Snapshot jobs that wait for their turn; one more is OVERLOADED."""

    snapshot_jobs_kept_max: int = 256
    """Snapshot jobs that have ended and can still be asked about. Beyond it the oldest is
    forgotten, and is NOT_FOUND."""

    snapshot_capture_wait_s: float = 60.0
    """How long a snapshot job, a verification or a reader of the whole state waits while the state
    can't be copied or its copies fail. The job fails then; the others are OVERLOADED. The copy that
    succeeds does not count."""

    snapshot_job_stall_s: float = 480.0
    """How long a snapshot job may make no progress. Then it is ended and may be repeated. More than
    the retries of its store may take (`snapshot_store_retry_s`)."""

    snapshot_job_end_s: float = 15.0
    """How long a snapshot job that is to end may take. Then its process is killed. More than it
    takes to give up an upload and to remove its marker, 5 s each."""

    snapshot_store_retry_s: float = 180.0
    """How long an operation on an object store is repeated. Then the snapshot job fails, and may be
    repeated."""

    snapshot_marker_stale_s: float = 3600.0
    """How long a process that publishes or collects may leave its marker in a snapshot store as it
    is. Then the process counts as dead, and the marker for nothing."""

    snapshot_streams_max: int = 8
    """Objects that a snapshot job sends or reads at the same time; the others wait."""

    log_trail_entries: int = 50_000
    """Applied entries that the log keeps for followers that are behind. A follower that is further
    behind is sent the state."""

    log_trail_bytes: int = 1024**3
    """Of these entries, with the files that only they still name. A follower that needs more is
    sent the state, which costs as much as the state is large."""

    log_compaction_step_entries: int = 1_000
    """The log is compacted once so many entries may go, or if bytes are the reason."""

    log_prune_rows: int = 4096
    """Entries deleted in one transaction of the log; the others go in the next one."""

    consumer_lag_entries_max: int = 5_000_000
    """How far a consumer, a pinned state or a state in transit may be behind the log's end, in
    entries. One that is further behind no longer holds the log, and meets COMPACTED."""

    backfill_rows: int = 16_384
    """Entries that a backfill gives their Raft metadata in one transaction of the log."""

    entry_cache_bytes_max: int = 64 * 1024**2
    """Of the log's tail that the engine keeps in memory. Older entries are read from the log."""

    pinned_states_max: int = 4
    """States that readers have pinned (ReadState), each a copy on the volume; one more is
    OVERLOADED."""

    pinned_state_idle_s: float = 300.0
    """How long a reader may ask nothing of its pinned state, and take no answer. Then the state is
    given up, and its reader gets OVERLOADED."""

    pinned_state_age_max_s: float = 3600.0
    """How long a state may be pinned, however busy its reader is: its copy, the payloads that it
    names and the log behind it fill the volume. Then it is given up, and its reader gets
    OVERLOADED."""

    reads_waiting_max: int = 4096
    """Linearizable reads that wait for a read index, and as many that wait until it is applied; one
    more is OVERLOADED."""

    disk_reserve_bytes: int = 256 * 1024**2
    """Free bytes of the volume below which writes are DISK_FULL. At most a tenth of the volume
    (`disk_reserve`)."""

    learner_lag_max: int = 1000
    """Entries that a learner may be behind and still be promoted; beyond it the promotion is
    MEMBERSHIP_REFUSED."""

    append_requests_max: int = 4096
    """Appends of one stream that are under way or whose answers are not sent. Then no more is read
    from the stream until one is."""

    append_bytes_max: int = 16 * 1024**2
    """Of these appends and their answers. Then no more is read from the stream, either."""

    append_bytes_total_max: int = 256 * 1024**2
    """Of the appends and answers of all streams; more are OVERLOADED."""

    client_streams_max: int = 1024
    """Streams of clients that are open, uploads included; one more is OVERLOADED."""

    peer_streams_max: int = 256
    """Streams of members that are open; one more is OVERLOADED."""

    stream_stall_s: float = 60.0
    """How long an upload, a push or a state transfer may send nothing, and a ReadState no first
    request. Then its stream ends with OVERLOADED, and gives one of few places back."""

    read_batch_bytes_max: int = 256 * 1024
    """Of the entries that a Read keeps in memory until they are sent, at least one. The others are
    read from the log later."""

    chunk_bytes: int = 512 * 1024
    """Of a file's content in one message; the rest goes into the next ones."""

    range_bytes_max: int = 2 * 1024**2
    """Of the values in one answer of ListKeys, at least one. The answer then says where the next
    call begins."""

    range_items_max: int = 1000
    """Keys in one answer of ListKeys. The answer then says where the next call begins."""


DEPRECATED_NAMES = {
    "mirror_bytes_max": "entry_cache_bytes_max",
    "pin_lease_s": "pin_time_to_live_s",
    "snapshot_hold_s": "transfer_hold_s",
    "snapshot_keep_s": "transfer_keep_s",
    "snapshot_partial_keep_s": "transfer_partial_keep_s",
    "snapshot_sends_max": "transfers_max",
}
"""Names of limits that `--limit` accepts for one minor release more, and today's names."""
