"""Limits for the use of a store: memory, streams, time."""

from dataclasses import dataclass

MIB = 1 << 20

SEGMENT_BYTES_MAX = 4 * MIB
"""The format's limit for a segment or blob list, so that a reader knows the memory it needs."""

SEGMENT_BYTES_MIN = 64
"""The smallest allowed value of the setting segment_bytes."""

KEY_BYTES_MAX = 65_000
"""The format's limit for the key of a row."""

RUNS_MAX = 8
"""The format's limit for the runs of a state. A reader needs one segment per run in memory."""


POSITIVE = ("streams_max", "part_bytes", "parts_max", "references_max", "delete_batch")


@dataclass(frozen=True)
class SnapshotLimits:
    """Limits for one use of a store. Raises ValueError for a value that is not allowed.

    Memory for data is at most about 2 * inflight_bytes_max for files that are read and sent, plus
    (streams_max + runs_max + 4) * segment_bytes for the state."""

    streams_max: int = 8
    """Objects that are sent or fetched concurrently."""

    part_bytes: int = 8 * MIB
    """Files are read and sent in parts of this size, in bytes. Larger files are sent by multipart
    upload, for which S3 requires parts of at least 5 MiB."""

    parts_max: int = 1
    """Parts of one file that are sent concurrently."""

    inflight_bytes_max: int = 32 * MIB
    """Bytes of files in memory that are being sent. A file counts with at most (parts_max + 1)
    parts. One file is always admitted, of any size."""

    segment_bytes: int = SEGMENT_BYTES_MAX
    """Size of a segment, in bytes; at most SEGMENT_BYTES_MAX. A row must fit into one."""

    runs_max: int = RUNS_MAX
    """Runs of a state: one full run and the deltas on it; at most RUNS_MAX."""

    delta_ratio_max: float = 0.3
    """A full run is written if the deltas together would exceed this share of the full run."""

    retries: int = 60
    """Retries of one operation on the store."""

    retry_timeout_s: float = 180.0
    """Seconds after the first try of an operation, or after the last progress of a large file, in
    which a retry may begin."""

    backoff_first_s: float = 0.1
    """Seconds before the first retry; doubled for each further retry."""

    backoff_max_s: float = 10.0
    """The longest pause between two tries, in seconds."""

    connect_timeout_s: float = 5.0
    """Seconds that a connection attempt may take."""

    request_timeout_s: float = 120.0
    """Seconds that one request may take with its body, which is at most a part or a segment."""

    marker_stale_s: float = 3600.0
    """Seconds without a renewal, by the store's clock, after which other processes take over a
    marker. Its owner stops after half of that, by its own clock."""

    busy_wait_s: float = 60.0
    """Seconds that a take waits for a running garbage collection."""

    manifest_bytes_max: int = 16 * MIB
    """The largest manifest that is read, in bytes."""

    snapshots_max: int = 10_000
    """The most snapshots in one store. A store with more is refused."""

    object_get_bytes_max: int = SEGMENT_BYTES_MAX
    """The largest object that `Store.get` reads into memory, in bytes."""

    recheck_rounds: int = 3
    """How often a take checks its objects before the manifest, and sends missing ones again."""

    references_max: int = 500_000
    """Digests that a garbage collection keeps in memory at once (about 130 bytes each). For more
    digests, it reads the blob lists several times."""

    delete_batch: int = 1000
    """Objects that one request deletes; S3 allows 1000."""

    def __post_init__(self) -> None:
        if not SEGMENT_BYTES_MIN <= self.segment_bytes <= SEGMENT_BYTES_MAX:
            raise ValueError(
                f"segment_bytes is {self.segment_bytes}; it must be between {SEGMENT_BYTES_MIN} "
                f"and {SEGMENT_BYTES_MAX}"
            )
        if not 1 <= self.runs_max <= RUNS_MAX:
            raise ValueError(f"runs_max is {self.runs_max}; it must be between 1 and {RUNS_MAX}")
        for name in POSITIVE:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.retries < 0:
            raise ValueError(f"retries is {self.retries}; it must be at least 0")
