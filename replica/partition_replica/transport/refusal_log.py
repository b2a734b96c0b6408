"""Decides which refused callers are logged, so that no caller can fill the log."""

import time
from collections.abc import Callable

LOGGED_MAX = 100
"""Callers that are remembered as logged. More are not logged; the metrics count all of them."""
LOG_AGAIN_S = 300.0
"""A caller that is refused again after this time is logged again."""


class RefusalLog:
    """The callers that were logged lately. For one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """clock: monotonic seconds."""
        self._clock = clock
        self._logged: dict[tuple[str, ...], float] = {}

    def due(self, caller: tuple[str, ...]) -> bool:
        """Whether this refusal is to be logged: at most once per caller and LOG_AGAIN_S. If so, the
        caller is remembered. caller: who it is, and what else makes a refusal another one."""
        now = self._clock()
        if now - self._logged.get(caller, float("-inf")) < LOG_AGAIN_S:
            return False
        if len(self._logged) >= LOGGED_MAX:
            self._logged = {c: at for c, at in self._logged.items() if now - at < LOG_AGAIN_S}
        if len(self._logged) >= LOGGED_MAX:
            return False
        self._logged[caller] = now
        return True
