"""All limits of a replica: their defaults, what they bound, and what happens above them.

Units are in the names: `_bytes`, `_s` (seconds), `_ms` (milliseconds); all others are counts. The
limits under "format" are part of the replicated behaviour: they must be equal on all replicas of a
group, so they are constants, not settings.
"""

from dataclasses import dataclass

# --- format -----------------------------------------------------------------------------------

KEY_BYTES_MAX = 65_000
"""The size of a key, as in the seed's store. A longer one is INVALID_ARGUMENT."""

PATH_BYTES_MAX = 4_095
"""The size of a path, as in Linux. A longer one is INVALID_ARGUMENT."""

PATH_COMPONENT_BYTES_MAX = 255
"""The size of a name between two '/', as in Linux file systems. A longer one cannot be created
(INVALID_ARGUMENT)."""

MODE_MAX = 0o777
"""The permissions of a file or directory: no set-user-ID, set-group-ID or sticky bit. Another mode
is INVALID_ARGUMENT."""

VALUE_BYTES_MAX = 512 * 1024
"""The size of a key's value. A larger one is INVALID_ARGUMENT; store it as a file."""

PAYLOAD_INLINE_BYTES_MAX = 64 * 1024
"""The size of an inline payload. A larger payload is a blob, which is uploaded before its entry is
proposed."""

PAYLOAD_BYTES_MAX = 64 * 1024**3
"""The size of a payload. A larger one is INVALID_ARGUMENT."""

PAYLOAD_BATCHED_BYTES_MAX = 1024**2
"""The size of a payload that travels in one message with others: of clients to the leader, and of
members. A larger one travels alone."""

PAYLOADS_A_CALL_MAX = 256
"""Payloads per call of UploadPayloads, PushPayloads and FetchPayloads. More are
INVALID_ARGUMENT."""

PAYLOAD_BATCH_BYTES_MAX = 2 * 1024**2
"""The total size of the payloads in a message of these calls. The others are sent in the next
message."""

RAFT_FRAME_BYTES_MAX = 16 * 1024**2
"""The size of a Raft message on a Raft connection. A member drops a larger one before it is sent,
and ends a connection that announces one."""

RAFT_HELLO_BYTES_MAX = 4096
"""The size of the first frame of a Raft connection, the hello. A connection that announces a larger
one is ended: only a member that was let in costs more memory."""

PROPOSAL_BYTES_MAX = 1024 * 1024
"""The encoded size of a proposal. A larger one is INVALID_ARGUMENT, as are too many parts."""

PROPOSAL_OPERATIONS_MAX = 8192
"""Operations per proposal."""

PROPOSAL_PAYLOADS_MAX = 1024
"""Payloads per proposal."""

PROPOSAL_PRECONDITIONS_MAX = 64
"""Preconditions per proposal."""

FRAME_BYTES_MAX = 2 * 1024**2
"""The total size of the proposals in a frame. A larger frame is INVALID_ARGUMENT."""

FRAME_PROPOSALS_MAX = 4096
"""Proposals per frame. More are INVALID_ARGUMENT."""

SESSIONS_MAX = 4096
"""Sessions of a group. One more is SESSIONS_FULL until a session expires or is closed."""

SEQUENCE_MAX = (1 << 64) - 2
"""The highest sequence: acknowledged_below one above it still fits its field. A higher one is
INVALID_ARGUMENT."""

SESSION_WINDOW = 4096
"""A sequence must be below acknowledged_below + this, which bounds the results kept per session. A
higher one is INVALID_ARGUMENT."""

SESSION_TTL_MS_MIN = 10_000
"""The shortest time to live that a client may request for a session. Less is INVALID_ARGUMENT."""

SESSION_TTL_MS_DEFAULT = 600_000
"""The time to live of a session if the client requests none."""

SESSION_TTL_MS_MAX = 86_400_000
"""The longest time to live that a client may request for a session. More is INVALID_ARGUMENT."""


# --- settings ---------------------------------------------------------------------------------


def disk_reserve(wanted_bytes: int, total_bytes: int, *, own_work: bool = False) -> int:
    """The bytes of a volume of `total_bytes` that stay free: `wanted_bytes`, or a tenth of the
    volume if that is less.

    own_work: half of that, for copies of the state, state transfers and stored snapshots. They
    continue while clients' writes are refused. The other half of the reserve is for deletes and
    pruning."""
    reserved = min(wanted_bytes, total_bytes // 10)
    return reserved // 2 if own_work else reserved


LOG_JOURNAL_BYTES_MAX = 64 * 1024**2
"""The maximum of `log_journal_bytes`."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one process. Words such as OVERLOADED are the error that a caller gets above a
    limit."""

    inbox_messages_max: int = 4096
    """Raft messages of peers that wait for the engine. More are dropped; Raft sends them again."""

    inbox_bytes_max: int = 64 * 1024**2
    """The total size of these messages. More are dropped."""

    proposals_queued_max: int = 8192
    """Proposals that wait for the engine or for their answers; one more is OVERLOADED."""

    proposals_queued_bytes_max: int = 64 * 1024**2
    """The total size of the proposals that wait for the engine; more are OVERLOADED."""

    proposal_batch_bytes_max: int = 4 * 1024**2
    """The total size of the proposals that a leader proposes and writes together, at least one. The
    others wait until its disk is done."""

    proposal_batch_max: int = 4096
    """Proposals that a leader proposes and writes together. The others wait until its disk is
    done."""

    commit_delay_s: float = 0.005
    """The time that a leader waits for further entries before it tells the others of a new commit
    index in a message of its own. Until then they apply nothing new."""

    uncommitted_bytes_max: int = 64 * 1024**2
    """The total size of a leader's uncommitted entries; more are OVERLOADED."""

    apply_batch_max: int = 1024
    """Entries applied per transaction of the state. The others are applied in the next one."""

    apply_batch_bytes_max: int = 8 * 1024**2
    """The total size of the entries per transaction, which applies at least one."""

    apply_delay_s: float = 0.02
    """The time for which a committed entry may wait for others before it is applied, if nobody
    waits for it. Then it is applied, in one transaction with the others; 0 applies it at once."""

    apply_queue_bytes_max: int = 64 * 1024**2
    """The total size of entries in memory that are committed and not applied. The others are read
    from the log when they are applied."""

    apply_lag_max: int = 500_000
    """Entries that are committed and not applied. With more, proposals are OVERLOADED."""

    peer_queue_bytes_max: int = 16 * 1024**2
    """The total size of Raft messages that wait to be sent to a member. More are dropped; Raft
    sends them again."""

    peer_batch_bytes_max: int = 4 * 1024**2
    """The total size of Raft messages in one message of a stream, or in one write to a Raft
    connection, which has at least one. The others are sent in the next one."""

    raft_hellos_max: int = 64
    """Raft and payload connections whose hello has not come yet. One more is closed at once."""

    raft_hello_s: float = 5.0
    """The time in which the TLS handshake and the hello of a Raft or payload connection must come,
    and in which they must be answered. Then the connection is closed."""

    raft_silence_s: float = 8.0
    """The time for which the other side's kernel may not answer on a Raft connection. Then the
    connection is broken: the other side is dead or unreachable."""

    payload_connections_max: int = 8
    """Connections to one other member that carry payloads; 0 for none. With all of them in use, a
    payload goes over gRPC, which costs more."""

    payload_connections_accepted_max: int = 64
    """Connections of other members that carry payloads; one more is OVERLOADED, and its payloads go
    over gRPC."""

    payload_connection_idle_s: float = 30.0
    """The time after which a connection of payloads without use is closed. The other side closes it
    after twice this time."""

    held_appends_max: int = 64
    """A leader's appends that wait until their blobs are fetched. One more is dropped; Raft sends
    it again."""

    uploads_max: int = 64
    """Uploads and pushes of payloads in progress; one more is OVERLOADED."""

    passed_on_max: int = 4
    """Payloads that are pushed to one member while they arrive; 0 for none. One more is pushed when
    it is complete."""

    pins_max: int = 100_000
    """Payloads that are pinned. For one more the oldest pin ends, or the new one is OVERLOADED if
    the oldest is younger than 30 s."""

    pin_time_to_live_s: float = 600.0
    """The time for which a payload that no entry names is kept. Then it is deleted."""

    transfer_keep_s: float = 120.0
    """The time for which a copy of the state for followers is kept after its last use. Then it is
    deleted, and the next follower waits for another one."""

    transfer_hold_s: float = 10.0
    """The time for which the log after such a copy is kept after its last use, if no member has
    received a part of the copy. Then the log may be compacted, which makes the copy useless."""

    transfers_max: int = 4
    """Concurrent state transfers to members; the others wait."""

    transfer_partial_keep_s: float = 120.0
    """The time for which the received part of an interrupted state transfer is kept: of its state
    file and of its payloads. Then the transfer starts over."""

    fetch_stall_s: float = 60.0
    """The time for which a member may send nothing of a payload that is fetched from it. Then the
    fetch fails, and is repeated at another member, or at the same one."""

    fetch_group_bytes_max: int = 64 * 1024**2
    """The total size of small payloads that the receiver of a state fetches in one call and syncs
    together, at least one. The others are fetched in the next call."""

    snapshot_jobs_queued_max: int = 16
    """Snapshot jobs that wait to run; one more is OVERLOADED."""

    snapshot_jobs_kept_max: int = 256
    """Ended snapshot jobs whose status is kept. With more, the oldest is dropped, and is
    NOT_FOUND."""

    snapshot_capture_wait_s: float = 60.0
    """The time for which a snapshot job, a verification or a reader of the whole state waits if the
    state cannot be copied or its copies fail. Then the job fails; the others are OVERLOADED. The
    duration of the copy that succeeds does not count."""

    snapshot_job_stall_s: float = 480.0
    """The time for which a snapshot job may make no progress. Then it is ended and may be repeated.
    It must exceed the retries of the job's store (`snapshot_store_retry_s`)."""

    snapshot_job_end_s: float = 15.0
    """The time in which a snapshot job must end after a request to end. Then its process is killed.
    It must exceed the time to abort an upload and to delete its marker, 5 s each."""

    snapshot_store_retry_s: float = 180.0
    """The time for which an operation on an object store is retried. Then the snapshot job fails,
    and may be repeated."""

    snapshot_marker_stale_s: float = 3600.0
    """The time after which a marker that its process does not renew is ignored: a process that
    takes snapshots or collects garbage in the store is then considered dead."""

    snapshot_streams_max: int = 8
    """Objects that a snapshot job sends or reads concurrently; the others wait."""

    log_trail_entries: int = 50_000
    """Applied entries that the log keeps for slow followers. A follower that is further behind
    needs a state transfer."""

    log_trail_bytes: int = 1024**3
    """The total size of these entries, with the blobs that only they name. A follower that needs
    more gets a state transfer, which copies the whole state."""

    log_journal_bytes: int = 2 * 1024**2
    """The size of the log's journal, in which small batches of entries become durable. The file is
    made when the first entry is written. A batch for which there is no room is written to the
    log's tables, with all that the journal has. 0: there is no journal, and small batches wait for
    the disk twice."""

    log_journal_entries_max: int = 256
    """Entries that are durable in the journal alone. A batch that would exceed it is written to the
    log's tables, with all that the journal has."""

    log_compaction_step_entries: int = 1_000
    """The minimum number of entries per compaction, unless the limit in bytes is exceeded."""

    log_prune_rows: int = 4096
    """Entries deleted per transaction of the log. The others are deleted in the next one."""

    consumer_lag_entries_max: int = 5_000_000
    """The number of entries that a consumer, a pinned state or a state transfer may be behind the
    log's end. One that is further behind no longer keeps the log, and gets COMPACTED."""

    backfill_rows: int = 16_384
    """Entries that a backfill processes per transaction of the log."""

    entry_cache_bytes_max: int = 64 * 1024**2
    """The size of the entry cache, the log's tail in the engine's memory. Older entries are read
    from the log. Entries that wait for their commit take at most as much again."""

    pinned_states_max: int = 4
    """States that readers have pinned (ReadState), each a copy on the volume; one more is
    OVERLOADED."""

    pinned_state_idle_s: float = 300.0
    """The time for which a reader may neither send a request to its pinned state nor take an
    answer. Then the state is released, and its reader gets OVERLOADED."""

    pinned_state_age_max_s: float = 3600.0
    """The maximum age of a pinned state, also if its reader is active: its copy, its payloads and
    the log after it fill the volume. Then it is released, and its reader gets OVERLOADED."""

    reads_waiting_max: int = 4096
    """Linearizable reads that wait for a read index, and as many that wait until it is applied; one
    more is OVERLOADED."""

    disk_reserve_bytes: int = 256 * 1024**2
    """The free bytes of the volume below which writes are DISK_FULL. At most a tenth of the volume
    (`disk_reserve`)."""

    learner_lag_max: int = 1000
    """The number of entries that a learner may be behind when it is promoted. If it is further
    behind, the promotion is MEMBERSHIP_REFUSED."""

    append_requests_max: int = 4096
    """Appends of a stream that are in progress or whose answers are not sent. At this number, the
    replica stops reading from the stream until an answer is sent."""

    append_bytes_max: int = 16 * 1024**2
    """The total size of these appends and their answers. At this size, the replica stops reading,
    too."""

    append_bytes_total_max: int = 256 * 1024**2
    """The total size of the appends and answers of all streams; more are OVERLOADED."""

    get_frame_keys_max: int = 1024
    """Keys per frame of GetFrames. More are INVALID_ARGUMENT."""

    get_frames_max: int = 64
    """Frames of a GetFrames stream that are in progress or whose answers are not sent. At this
    number, the replica stops reading from the stream until an answer is sent."""

    get_bytes_max: int = 4 * 1024**2
    """The total size of these frames, with the answer that is being sent. At this size, the replica
    stops reading, too."""

    get_answer_bytes_max: int = 2 * 1024**2
    """The total size of the values per message of GetFrames, which has at least one. The others are
    read and sent after it."""

    get_bytes_total_max: int = 128 * 1024**2
    """The total size of the frames and answers of all GetFrames streams; more are OVERLOADED."""

    client_streams_max: int = 1024
    """Open streams of clients, including uploads; one more is OVERLOADED."""

    peer_streams_max: int = 256
    """Open streams and Raft connections of members, and payloads that they push; one more is
    OVERLOADED."""

    stream_stall_s: float = 60.0
    """The time for which an upload, a push or a state transfer may send nothing, and in which a
    ReadState must send its first request. Then the stream ends with OVERLOADED, because the number
    of streams is limited; a payload connection just ends."""

    read_batch_bytes_max: int = 256 * 1024
    """The total size of entries that a Read has in memory until they are sent, at least one. The
    others are read from the log later."""

    chunk_bytes: int = 512 * 1024
    """The size of a file's content per message. The rest is sent in the next messages."""

    range_bytes_max: int = 2 * 1024**2
    """The total size of the values per answer of ListKeys, which has at least one. The answer
    contains the start of the next call."""

    range_items_max: int = 1000
    """Keys per answer of ListKeys. The answer contains the start of the next call."""

    def __post_init__(self) -> None:
        if self.log_journal_bytes > LOG_JOURNAL_BYTES_MAX:
            raise ValueError(
                f"log_journal_bytes is {self.log_journal_bytes}; allowed are at most "
                f"{LOG_JOURNAL_BYTES_MAX}: a start reads all of it"
            )


MAY_BE_ZERO = frozenset(
    {"apply_delay_s", "log_journal_bytes", "passed_on_max", "payload_connections_max"}
)
"""Limits for which `--limit` accepts 0."""

DEPRECATED_NAMES = {
    "mirror_bytes_max": "entry_cache_bytes_max",
    "pin_lease_s": "pin_time_to_live_s",
    "snapshot_hold_s": "transfer_hold_s",
    "snapshot_keep_s": "transfer_keep_s",
    "snapshot_partial_keep_s": "transfer_partial_keep_s",
    "snapshot_sends_max": "transfers_max",
}
"""Earlier names of limits, accepted by `--limit` for one more minor release, and today's names."""
