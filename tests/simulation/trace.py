"""What happened in a run: the last events to read, all of them as a hash, how many of each kind."""

import hashlib
from collections import Counter, deque
from collections.abc import Callable

EVENTS_KEPT = 300


class Trace:
    """The hash covers each event with its time, so that equal hashes mean equal runs."""

    def __init__(self, now: Callable[[], float], *, echo: bool = False) -> None:
        self._now = now
        self._echo = echo
        self._hash = hashlib.sha256()
        self.last: deque[str] = deque(maxlen=EVENTS_KEPT)
        self.counts: Counter[str] = Counter()

    def event(self, who: str, kind: str, text: str = "", *, quiet: bool = False) -> None:
        """Something that the same seed makes happen again, at the same time. quiet: too frequent to
        be read."""
        line = f"{self._now():.6f} {who:8} {kind} {text}"
        self._hash.update(line.encode() + b"\n")
        if not quiet:
            self._keep(line)

    def remark(self, who: str, text: str) -> None:
        """Something for readers only: it may name what differs from run to run."""
        self._keep(f"{self._now():.6f} {who:8} # {text}")

    def count(self, kind: str, by: int = 1) -> None:
        self.counts[kind] += by

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    def _keep(self, line: str) -> None:
        self.last.append(line)
        if self._echo:
            print(line, flush=True)
