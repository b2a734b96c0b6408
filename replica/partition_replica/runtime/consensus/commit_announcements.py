"""When a leader tells the others of a commit index in a message of its own: only if no entries have
carried it for a while."""

import asyncio
from collections.abc import Callable


class CommitAnnouncements:
    """Of one member. On the event loop."""

    def __init__(self, delay_s: float, wake: Callable[[], None]) -> None:
        """`wake` is called when an announcement is due. The next round then makes it: an error of
        the engine has to end the loop."""
        self._delay_s = delay_s
        self._wake = wake
        self._pending = False
        """Whether there is a commit index that no message has carried."""
        self._due = False
        self._timer: asyncio.TimerHandle | None = None

    def committed(self) -> None:
        """A leader has a new commit index."""
        self._pending = True
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._delay_s, self._end)

    def carried(self) -> None:
        """Entries have been proposed: they carry the commit index."""
        self._pending = False

    def take(self) -> bool:
        """Whether the commit index has to be announced now. Once true, it counts as announced."""
        due = self._due and self._pending
        self._due = False
        if due:
            self._pending = False
        return due

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _end(self) -> None:
        self._timer = None
        self._due = True
        self._wake()
