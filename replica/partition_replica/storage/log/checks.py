"""Raft's rules for what may be written to a log. They raise ValueError."""

from collections.abc import Iterable

from partition_replica.core.model import HardState, LogEntry, Position
from partition_replica.ids import LSN, Term


def check_overwrite(entry: LogEntry, fixed: LSN) -> None:
    """`fixed`: the last entry that must stay."""
    if entry.index <= fixed:
        raise ValueError(
            f"entry {entry.index} would overwrite a committed entry (the commit index is {fixed})"
        )


def check_append(entry: LogEntry, last: LSN, term: Term, plain: bool) -> None:
    """`last`, `term`: of the entry before it. `plain`: whether the log is standalone."""
    if entry.index != last + 1:
        raise ValueError(f"entry {entry.index} after {last} would leave a gap")
    if plain:
        if entry.term or entry.kind:
            raise ValueError(
                f"entry {entry.index} has term {entry.term} and kind {entry.kind}; in a standalone "
                "log both must be 0"
            )
    elif entry.term < max(term, 1):
        raise ValueError(
            f"entry {entry.index} has term {entry.term}, below the previous one, {max(term, 1)}"
        )


def position_after(
    entries: Iterable[LogEntry], last: Position, plain: bool, plain_term: Term
) -> Position:
    """The position of the last of `entries`, which are appended after `last`. `plain_term`: of
    those that have none."""
    index, term = last.index, last.term
    for entry in entries:
        check_append(entry, index, term, plain)
        index, term = entry.index, entry.term or plain_term
    return Position(index, term)


def check_hard_state(wanted: HardState, saved: HardState, last: Position) -> None:
    """`last`: the log's last position with the batch that `wanted` is in."""
    if wanted.term < saved.term or wanted.commit < saved.commit:
        raise ValueError(f"the hard state {wanted} is below the saved one, {saved}")
    if wanted.commit > last.index:
        raise ValueError(f"the commit index {wanted.commit} is above the last LSN {last.index}")
