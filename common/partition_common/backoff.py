"""Every backoff of the project: the pauses between tries of a failed action, in seconds."""

import random

draw = random.random
"""Returns the next number of [0, 1) for the jitter."""


class Backoff:
    """Pauses that grow with the number of consecutive failures. The last pause repeats forever; the
    caller decides when to stop."""

    def __init__(self, *pauses_s: float, jitter: float = 0.0) -> None:
        """`pauses_s`: seconds after the first failure, the second, and so on. `jitter`: the part, 0
        to 1, by which a pause is shortened at most, at random, so that callers that failed together
        do not all try together. Raises ValueError if no pause is given."""
        if not pauses_s:
            raise ValueError("a backoff needs at least one pause; none is given")
        self._pauses_s = pauses_s
        self._jitter = jitter

    def after(self, failures: int) -> float:
        """Returns the seconds to wait after this many consecutive failures; less than 1 counts as
        1."""
        pause_s = self._pauses_s[min(max(failures, 1), len(self._pauses_s)) - 1]
        return pause_s * (1 - self._jitter * draw()) if self._jitter else pause_s


CALL = Backoff(0.0, 0.02, *[0.05] * 10, *[0.1] * 5, 0.2, 0.4, jitter=0.5)
"""Calls and append streams of the client, to the same or another replica. The first retry is made
at once, because another replica may serve. The pauses stay at 50 ms for about half a second, in
which the group elects a leader after the death of one, and at 100 ms for another half second. A
client makes about 25 tries in the first two seconds, and fewer than 5 per second from then on."""

REFUSED = Backoff(0.02, 0.05, 0.1, 0.2, 0.4, jitter=0.5)
"""Calls and appends of the client that a replica refused for now, because it is overloaded. There
may be thousands, so the pauses grow faster."""

PEER_CONNECTION = Backoff(0.01, 0.05, 0.1, 0.2, 0.4, 0.8, 1.0)
"""A replica's connection to another member. The first pause, after a connection that worked, is
short: a leader has to connect again before its followers' fast clocks
(`runtime/consensus/ticker.py`) make them elect another one."""

RAFT_CONNECTION = Backoff(0.2, 0.5, 1.0, 2.0, 5.0, 15.0, 30.0)
"""A replica's Raft connection to another member. Meanwhile it uses the gRPC stream."""

STATE_TRANSFER = Backoff(0.0, 0.2, 0.5, 1.0, 2.0, 5.0)
"""A failed state transfer to one member. The first retry has no pause, because it resumes where the
transfer was interrupted."""

TURN = Backoff(0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""A turn of the operator that raised an error."""

FENCE = Backoff(5.0, 15.0, 60.0, 120.0)
"""A fence that the operator could not put or end. Each try may hold up the Partition's turns for as
long as a command may take, so the pauses grow beyond that."""

WATCH = Backoff(1.0, 2.0, 5.0, 10.0, 30.0)
"""A watch of the operator that failed."""

WRITE_REFUSED = Backoff(2, 5, 15, 60)
"""A write of the operator that the API server refused."""

WRITE_UNDONE = Backoff(10, 30, 60, 300)
"""A write of the operator that another program reverted."""

RESTORE = Backoff(5, 15, 60, 300)
"""A failed restore into a new volume, if a retry may succeed."""

SNAPSHOT = Backoff(5, 15, 60, 300)
"""A snapshot job that failed to take a snapshot."""

VERIFICATION = Backoff(10, 60)
"""A snapshot job that failed to verify a stored snapshot."""

SNAPSHOT_DELETION = Backoff(10, 30, 120, 600)
"""A snapshot job that failed to delete an expired snapshot from its store."""
