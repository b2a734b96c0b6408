"""The appends of one session, from their arrival to their answer."""

from itertools import islice
from operator import attrgetter

from partition_client.pending_append import PendingAppend

WINDOW = 4000
"""Sequences above the oldest that has no answer: replicas refuse more than 4,096."""

_waits_applied = attrgetter("wait_applied")


class AppendQueue:
    """Numbers appends, and knows which have to be sent. An append that waits for its answer is in
    `new` or in `unanswered` at any time, so that an error finds it."""

    def __init__(self) -> None:
        self._next_sequence = 1
        self.new: dict[PendingAppend, None] = {}
        """Not numbered yet, in the order of their arrival."""
        self.unanswered: dict[int, PendingAppend] = {}
        """By sequence; put in ascending, so the first is the oldest."""
        self.again: dict[int, PendingAppend] = {}
        """Of these, by sequence: those that have to be sent on this stream."""
        self.sent: dict[int, PendingAppend] = {}
        """By sequence: those under way on this stream."""

    @property
    def waits(self) -> bool:
        """Whether any append waits for its answer."""
        return bool(self.new or self.unanswered)

    @property
    def oldest(self) -> int:
        """The oldest sequence without an answer; the next one if there is none."""
        return next(iter(self.unanswered), self._next_sequence)

    def all(self) -> tuple[PendingAppend, ...]:
        return (*self.new, *self.unanswered.values())

    def clear(self) -> None:
        self.new.clear()
        self.unanswered.clear()
        self.again.clear()

    def begin_session(self) -> None:
        """A new session begins at sequence 1."""
        self._next_sequence = 1

    def begin_stream(self) -> None:
        """What has no answer is to be sent on a new stream. Something else brings those that are
        held: in the queue here, too, they would be sent twice."""
        self.sent.clear()
        self.again = {
            sequence: self.unanswered[sequence]
            for sequence in sorted(self.unanswered)
            if not self.unanswered[sequence].held
        }

    def take(self, session: int) -> list[PendingAppend]:
        """Takes what has to be sent again, and as many new ones as the window has room for. They
        count as sent. Raises ValueError if the session's ID fits no proposal."""
        again, self.again = self.again, {}
        appends = [
            pending
            for _, pending in sorted(again.items())
            if not pending.future.done() and not pending.held
        ]
        for pending in appends:
            pending.retry = pending.doubts > 0
        appends += self._number(session)
        for pending in appends:
            pending.doubts += 1
            self.sent[pending.sequence] = pending
        return appends

    def refuse_sent(self) -> None:
        """Nothing of what was sent on this stream had an effect."""
        for pending in self.sent.values():
            pending.doubts -= 1
        self.sent.clear()

    def send_again(self, pending: PendingAppend) -> bool:
        """Returns whether it is to be sent again on this stream. If it waits to be numbered anew,
        it is sent with the new ones."""
        if self.unanswered.get(pending.sequence) is not pending:
            return False
        self.again[pending.sequence] = pending
        return True

    def forget(self, pending: PendingAppend) -> bool:
        """Only once its future is done, because no error finds it any more. Returns whether the
        window may have room for new ones now."""
        self.new.pop(pending, None)
        if self.unanswered.get(pending.sequence) is not pending:
            return False
        del self.unanswered[pending.sequence]
        return bool(self.new)

    def leave_session(self) -> list[PendingAppend]:
        """What was refused had no effect, and is numbered anew. Returns everything else that was
        sent: its outcome is unknown."""
        refused: dict[PendingAppend, None] = {}
        unknown = []
        for sequence in sorted(self.unanswered):
            pending = self.unanswered.pop(sequence)
            if pending.doubts:
                unknown.append(pending)
            elif not pending.future.done():
                refused[pending] = None
        self.new = refused | self.new
        self.again.clear()
        return unknown

    def _number(self, session: int) -> list[PendingAppend]:
        """Gives sequences to new appends. Those that wait for the apply come last, because a frame
        has only one kind."""
        if not self.new:
            return []
        room = self.oldest + WINDOW - self._next_sequence
        # Who is answered already, by the deadline or by being cancelled, was told "not written".
        waiting = (pending for pending in self.new if not pending.future.done())
        taken = list(islice(waiting, max(0, room)))
        taken.sort(key=_waits_applied)
        for pending in taken:
            self.unanswered[self._next_sequence] = pending
            del self.new[pending]
            pending.number(session, self._next_sequence)
            pending.retry = False
            self._next_sequence += 1
        # Something else brings those that are held, as in `begin_stream`.
        return [pending for pending in taken if not pending.held]
