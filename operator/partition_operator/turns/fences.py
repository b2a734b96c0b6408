"""Carries out fences, and remembers those that failed until their next try."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from partition_common import backoff

from partition_operator.errors import ReplicaRefused, ReplicaUnreachable, text_of
from partition_operator.reconcile.observed.fence_failure import FenceFailure
from partition_operator.reconcile.observed.partition import ObservedPartition
from partition_operator.reconcile.partition.actions import SetFenced
from partition_operator.turns.executor import Executor
from partition_operator.turns.queue import Key

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Tried:
    """fenced: what was asked for. failures: how many in a row. due: clock time of the next try."""

    fenced: bool
    why: str
    failures: int
    due: float


class FenceTries:
    """The failed fences of each Partition. A Partition without one costs no memory."""

    def __init__(self, executor: Executor, clock: Callable[[], float] = time.monotonic) -> None:
        self._executor = executor
        self._clock = clock
        self._tried: dict[Key, dict[int, _Tried]] = {}

    def failures(self, key: Key) -> dict[int, FenceFailure]:
        """Returns the failed fences by ordinal, as of now."""
        now = self._clock()
        return {
            ordinal: FenceFailure(tried.fenced, tried.why, max(0.0, tried.due - now))
            for ordinal, tried in self._tried.get(key, {}).items()
        }

    def forget(self, key: Key) -> None:
        self._tried.pop(key, None)

    async def carry_out(self, key: Key, observed: ObservedPartition, action: SetFenced) -> None:
        """Fences a replica, or ends its fence. If the replica refuses or does not answer, that is
        remembered and not raised, so that the Partition's other steps go on. Raises Deposed."""
        tried = self._tried.setdefault(key, {})
        try:
            await self._executor.execute(observed, action)
        except (ReplicaRefused, ReplicaUnreachable) as error:
            before = tried.get(action.ordinal)
            again = before is not None and before.fenced == action.fenced
            failures = before.failures + 1 if before is not None and again else 1
            pause_s = backoff.FENCE.after(failures)
            why = text_of(error)
            tried[action.ordinal] = _Tried(action.fenced, why, failures, self._clock() + pause_s)
            logger.warning("%s: %s; next try in %.0f s", key, why, pause_s)
        else:
            tried.pop(action.ordinal, None)
            if not tried:
                self.forget(key)
