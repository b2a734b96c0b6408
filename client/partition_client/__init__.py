"""The client of a partition. It finds the leader, sends concurrent appends on one stream, and
retries them so that each takes effect once.

    async with AsyncClient(["host:7000"], tls=Tls(...)) as client:
        await client.set_key(b"greeting", b"hello")

`Client` is for code without an event loop and has only the calls for keys and files. Everything
else, such as `tail`, `state` and consumers, needs `AsyncClient`. docs/client.md lists the
differences. `partitionctl` is the client for the command line.
"""

from partition_client import fork_handlers  # first: it decides how gRPC is imported

# isort: split
from partition_client.channels import Tls
from partition_client.client import AsyncClient
from partition_client.errors import (
    ClientError,
    DeadlineExceeded,
    DiskFull,
    ForkedProcess,
    HistoryChanged,
    InvalidEndpoint,
    NotFound,
    OutcomeUnknown,
    PreconditionFailed,
    RequestRefused,
    SourceFailed,
    StateLost,
    TlsFilesInvalid,
    TlsRefused,
    TreeMismatch,
)
from partition_client.pending_append import Appended
from partition_client.pinned_state import PinnedState
from partition_client.sources import PayloadSource
from partition_client.sync import Client

__version__ = "0.1.0"

__all__ = [
    "Appended",
    "AsyncClient",
    "Client",
    "ClientError",
    "DeadlineExceeded",
    "DiskFull",
    "ForkedProcess",
    "HistoryChanged",
    "InvalidEndpoint",
    "NotFound",
    "OutcomeUnknown",
    "PayloadSource",
    "PinnedState",
    "PreconditionFailed",
    "RequestRefused",
    "SourceFailed",
    "StateLost",
    "Tls",
    "TlsFilesInvalid",
    "TlsRefused",
    "TreeMismatch",
    "fork_handlers",
]
