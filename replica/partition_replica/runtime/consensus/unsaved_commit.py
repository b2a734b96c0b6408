"""A commit index that rose while nothing else was to be saved.

It is saved with the next entries, or after a while. Losing it would be safe; saving it shortens
what a restart has to learn again.
"""

from partition_replica.core.model import HardState

COMMIT_FLUSH_S = 1.0
"""A new commit index is saved with the next entries, or after this time."""


class UnsavedCommit:
    """The newest hard state that is not given to the disk."""

    def __init__(self) -> None:
        self._hard_state: HardState | None = None
        self._since = 0.0

    def __bool__(self) -> bool:
        return self._hard_state is not None

    def note(self, hard_state: HardState, now: float) -> None:
        """`now`: seconds of a monotonic clock, above 0."""
        self._hard_state = hard_state
        self._since = self._since or now

    def due(self, now: float) -> bool:
        """Whether it has waited for long enough."""
        return self._hard_state is not None and now - self._since >= COMMIT_FLUSH_S

    def take(self) -> HardState | None:
        """Returns it, to be saved now; None if there is none."""
        taken, self._hard_state, self._since = self._hard_state, None, 0.0
        return taken
