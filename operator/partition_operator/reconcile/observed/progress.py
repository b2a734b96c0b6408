"""The progress of a pod or a job, as status stores it. Pure."""

from dataclasses import dataclass
from typing import Any

PHASE_CHARACTERS_MAX = 40
PERCENT_MAX = 99
"""The highest percentage of work in progress. 100 means that it has ended."""
PERCENT_STEP = 5
"""Status is written at most once per step, to limit the writes."""


@dataclass(frozen=True, slots=True)
class JobProgress:
    """percent: of the whole, 0 to 99, in steps."""

    phase: str
    percent: int

    def __str__(self) -> str:
        return f"{self.phase}, {self.percent} %"


def parse_progress(said: Any) -> JobProgress | None:
    """Returns the progress in a pod's report or in a status; None if it is not valid."""
    if not isinstance(said, dict):
        return None
    phase, percent = said.get("phase"), said.get("percent")
    if not isinstance(phase, str) or not phase.isalpha() or len(phase) > PHASE_CHARACTERS_MAX:
        return None
    if type(percent) is not int or not 0 <= percent <= PERCENT_MAX:
        return None
    return JobProgress(phase, stepped(percent))


def stepped(percent: int) -> int:
    """Rounds a percentage down to its step."""
    return max(percent, 0) // PERCENT_STEP * PERCENT_STEP
