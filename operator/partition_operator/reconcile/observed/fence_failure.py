"""A fence that failed: a turn remembers it, so that other steps go on until the next try."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FenceFailure:
    """A try to fence a replica, or to end its fence, that failed. fenced: which of both. why: in
    the words of the error. retry_s: seconds until the next try; 0 if it is due."""

    fenced: bool
    why: str
    retry_s: float
