"""The blobs that an entry of the log names."""

import partition_raft

from partition_replica.core import payloads
from partition_replica.core.model import LogEntry
from partition_replica.ids import Digest


def blob_digests(entry: LogEntry) -> list[Digest]:
    """As `core.payloads.blob_digests`, which decodes the whole entry, with the content of its small
    files. The compiled search skips content. What it does not know is decoded."""
    if entry.kind or not payloads.may_name_blobs(entry.data):
        return []
    found = partition_raft.blob_digests(entry.data)
    return payloads.blob_digests(entry) if found is None else [Digest(one) for one in found]
