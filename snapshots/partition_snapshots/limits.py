"""How much a use of a store may take: memory, streams, time."""

from dataclasses import dataclass

MIB = 1 << 20

SEGMENT_BYTES_MAX = 4 * MIB
"""Of the format: no segment and no blob list is larger, so a reader knows what one can take."""

SEGMENT_BYTES_MIN = 64
"""The smallest segment that a setting may ask for."""

KEY_BYTES_MAX = 65_000
"""Of the format: no row has a longer key."""

RUNS_MAX = 8
"""Of the format: no state has more runs, so a reader needs no more than this many segments."""


POSITIVE = ("streams_max", "part_bytes", "parts_max", "references_max", "delete_batch")


@dataclass(frozen=True)
class SnapshotLimits:
    """Memory for bulk data is at most about 2 * inflight_bytes_max for files (read, and being
    sent), plus (streams_max + runs_max + 4) * segment_bytes for the state. Raises ValueError for
    limits that contradict each other."""

    streams_max: int = 8
    """Objects that are sent or fetched at the same time."""

    part_bytes: int = 8 * MIB
    """Files are read and sent in parts of this size, in bytes; larger ones by multipart upload, to
    which S3 gives parts of at least 5 MiB."""

    parts_max: int = 1
    """Parts of one file under way at the same time."""

    inflight_bytes_max: int = 32 * MIB
    """Bytes of files that are in memory at the same time to be sent; a file counts with at most
    (parts_max + 1) parts. One file may always go on."""

    segment_bytes: int = SEGMENT_BYTES_MAX
    """Size of a segment, in bytes; at most SEGMENT_BYTES_MAX. A row must fit into one."""

    runs_max: int = RUNS_MAX
    """Runs of a state: a full one and the deltas on top of it; at most RUNS_MAX."""

    delta_ratio_max: float = 0.3
    """A new full run is written when the deltas together exceed this share of the full run."""

    retries: int = 60
    """How often one operation on the store is tried again."""

    retry_timeout_s: float = 180.0
    """No try begins later than this after an operation's first, or after its last progress where it
    sends a large file, in seconds."""

    backoff_first_s: float = 0.1
    """Wait before the first retry, in seconds; doubled for each further one."""

    backoff_max_s: float = 10.0
    """The longest wait between two tries, in seconds."""

    connect_timeout_s: float = 5.0
    """For a connection to be made, in seconds."""

    request_timeout_s: float = 120.0
    """For one request, body included, in seconds; a body has at most part_bytes or a segment."""

    marker_stale_s: float = 3600.0
    """A marker that nobody renewed for this long, by the store's clock, is taken over, in seconds.
    Its owner stops at half of that, by its own clock."""

    busy_wait_s: float = 60.0
    """How long a take waits for a running collection, in seconds."""

    manifest_bytes_max: int = 16 * MIB
    """A larger manifest is refused, in bytes."""

    snapshots_max: int = 10_000
    """Snapshots of one store. More are refused."""

    object_get_bytes_max: int = SEGMENT_BYTES_MAX
    """The most that `Store.get` reads into memory for an object, in bytes."""

    recheck_rounds: int = 3
    """How often a take sends what vanished between its sending and its last look."""

    references_max: int = 500_000
    """Digests that a collection holds in memory at once (about 130 bytes each); it takes several
    passes over the blob lists where there are more."""

    delete_batch: int = 1000
    """Objects that one request deletes; 1000 is what S3 allows."""

    def __post_init__(self) -> None:
        if not SEGMENT_BYTES_MIN <= self.segment_bytes <= SEGMENT_BYTES_MAX:
            raise ValueError(
                f"segment_bytes must be between {SEGMENT_BYTES_MIN} and {SEGMENT_BYTES_MAX}"
            )
        if not 1 <= self.runs_max <= RUNS_MAX:
            raise ValueError(f"runs_max must be between 1 and {RUNS_MAX}")
        for name in POSITIVE:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        if self.retries < 0:
            raise ValueError("retries must be at least 0")
