"""Every backoff of the project: how long to wait before something that failed is tried again."""


class Backoff:
    """Pauses that grow with the failures in a row. There is no end to the tries: the last pause
    repeats."""

    def __init__(self, *pauses_s: float) -> None:
        """`pauses_s`: seconds after the first failure, the second, and so on."""
        if not pauses_s:
            raise ValueError("a backoff has at least one pause")
        self._pauses_s = pauses_s

    def after(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row; fewer than 1 count as 1."""
        return self._pauses_s[min(max(failures, 1), len(self._pauses_s)) - 1]


CALL = Backoff(0.02, 0.05, 0.1, 0.2, 0.4)
"""The client's calls and appends."""

PEER_CONNECTION = Backoff(0.05, 0.1, 0.2, 0.4, 0.8, 1.0)
"""A replica's connection to another member."""

STATE_TRANSFER = Backoff(0.0, 0.2, 0.5, 1.0, 2.0, 5.0)
"""A state transfer to a member that failed."""

TURN = Backoff(0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""A turn of the operator that raised an error."""

WATCH = Backoff(1.0, 2.0, 5.0, 10.0, 30.0)
"""A watch of the operator that ended with an error."""

WRITE_REFUSED = Backoff(2, 5, 15, 60)
"""A write that the API server refuses."""

WRITE_UNDONE = Backoff(10, 30, 60, 300)
"""A write that somebody else undoes."""

RESTORE = Backoff(5, 15, 60, 300)
"""A restore into a new volume that may succeed by itself."""

SNAPSHOT = Backoff(5, 15, 60, 300)
"""Taking a snapshot."""

VERIFICATION = Backoff(10, 60)
"""Verifying a stored snapshot."""

SNAPSHOT_DELETION = Backoff(10, 30, 120, 600)
"""Deleting an expired snapshot from its store."""
