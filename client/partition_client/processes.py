"""A client belongs to the process that made it.

gRPC's threads and connections don't survive a fork. In a child a client that was inherited would
wait for ever; so would a new one, if gRPC ran in the parent at the fork. Both are refused here at
once.
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
"""Those of this process that have channels."""

_last_closed = float("-inf")
_unusable = False
"""Whether gRPC would not work in a child that is forked now."""

_inherited = False
"""Whether it does not work in this process, because of a fork."""

GRPC_THREADS = frozenset({"event_engine", "grpc_global_tim", "lifeguard", "grpc_shutdown"})
THREADS_END_S = 1.0
"""For so long after a client was closed a fork waits until gRPC's threads have ended."""


class Owner:
    """The process that a client was made in."""

    def __init__(self) -> None:
        """Raises ForkedProcess in a child in which gRPC can't work."""
        if _inherited:
            raise ForkedProcess(
                "this process was forked while gRPC ran in its parent, for an open partition "
                "client or another user, so gRPC can't work in it; close every client before the "
                "fork, or start processes by multiprocessing's 'spawn' or 'forkserver'"
            )
        self._pid = os.getpid()

    @property
    def here(self) -> bool:
        """Whether this process is the one."""
        return os.getpid() == self._pid

    def check(self) -> None:
        """Raises ForkedProcess in any other process."""
        if not self.here:
            raise ForkedProcess(
                f"this partition client belongs to process {self._pid}, from which this process "
                f"({os.getpid()}) was forked; make a client after the fork, and have none open then"
            )

    def opened(self) -> None:
        """The client has channels from now on."""
        _open.add(self)

    def closed(self) -> None:
        """The client has none any more."""
        global _last_closed
        if self in _open:
            _open.discard(self)
            _last_closed = time.monotonic()


def _threads_of_grpc() -> bool:
    """Whether gRPC's threads run in this process; False if the system doesn't tell."""
    for task in Path("/proc/self/task").glob("*/comm"):
        with suppress(OSError):  # it has just ended
            if task.read_text().strip() in GRPC_THREADS:
                return True
    return False


def _forking() -> None:
    """Before a fork: finds out whether gRPC can work in the child."""
    global _unusable
    if not fork_handlers.ARE_OFF:
        _unusable = bool(_open)
        if _open:
            logger.warning(
                "this process forks with an open partition client and gRPC's fork handlers on: "
                "children may end by a signal; import partition_client before grpc, or set %s=0",
                fork_handlers.SETTING,
            )
        return
    # The threads of the last client that was closed end a moment later.
    while not _open and _threads_of_grpc() and time.monotonic() < _last_closed + THREADS_END_S:
        time.sleep(0.005)
    _unusable = bool(_open) or _threads_of_grpc()


def _forked() -> None:
    global _inherited
    _inherited = _inherited or _unusable


os.register_at_fork(before=_forking, after_in_child=_forked)
