"""Refuses to use a client in a fork of the process that made it.

gRPC's threads and connections don't survive a fork. In a child process, an inherited client would
wait forever. So would a new client, if gRPC ran in the parent at the fork. Both raise ForkedProcess
here at once.
"""

import logging
import os
import time
import weakref
from contextlib import suppress
from pathlib import Path

from partition_client import fork_handlers
from partition_client.errors import ForkedProcess

logger = logging.getLogger(__name__)

_open: "weakref.WeakSet[Owner]" = weakref.WeakSet()
"""The clients of this process that have channels."""

_last_closed = float("-inf")
_unusable = False
"""True if gRPC would not work in a child that is forked now."""

_inherited = False
"""True if gRPC does not work in this process, because it was forked while gRPC ran."""

GRPC_THREADS = frozenset({"event_engine", "grpc_global_tim", "lifeguard", "grpc_shutdown"})
THREADS_END_S = 1.0
"""After a client is closed, a fork waits up to this time for the end of gRPC's threads."""


class Owner:
    """The process that a client was made in."""

    def __init__(self) -> None:
        """Raises ForkedProcess in a child in which gRPC can't work."""
        if _inherited:
            raise ForkedProcess(
                "this process can't use gRPC, because an open partition client or another user of "
                "gRPC ran in the parent at the fork; close every client before the fork, or start "
                "processes with multiprocessing's 'spawn' or 'forkserver'"
            )
        self._pid = os.getpid()

    @property
    def here(self) -> bool:
        """Whether this process made the client."""
        return os.getpid() == self._pid

    def check(self) -> None:
        """Raises ForkedProcess in any other process."""
        if not self.here:
            raise ForkedProcess(
                f"this partition client belongs to process {self._pid}, and this process "
                f"({os.getpid()}) is a fork of it; close all clients before the fork, and make a "
                "new client after the fork"
            )

    def opened(self) -> None:
        """Records that the client has channels."""
        _open.add(self)

    def closed(self) -> None:
        """Records that the client has closed its channels."""
        global _last_closed
        if self in _open:
            _open.discard(self)
            _last_closed = time.monotonic()


def _threads_of_grpc() -> bool:
    """Returns whether gRPC's threads run in this process; False if /proc does not show threads."""
    for task in Path("/proc/self/task").glob("*/comm"):
        with suppress(OSError):  # it has just ended
            if task.read_text().strip() in GRPC_THREADS:
                return True
    return False


def _forking() -> None:
    """Runs before a fork. Finds out whether gRPC can work in the child."""
    global _unusable
    if not fork_handlers.ARE_OFF:
        _unusable = bool(_open)
        if _open:
            logger.warning(
                "this process forks with an open partition client while gRPC's fork handlers are "
                "on, so the child may end by a signal; import partition_client before grpc, or set "
                "%s=0",
                fork_handlers.SETTING,
            )
        return
    # gRPC's threads end a moment after the last client was closed.
    while not _open and _threads_of_grpc() and time.monotonic() < _last_closed + THREADS_END_S:
        time.sleep(0.005)
    _unusable = bool(_open) or _threads_of_grpc()


def _forked() -> None:
    global _inherited
    _inherited = _inherited or _unusable


os.register_at_fork(before=_forking, after_in_child=_forked)
