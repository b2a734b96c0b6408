"""How far a pod or a job is, as status says it. Pure."""

from dataclasses import dataclass
from typing import Any

PHASE_CHARACTERS_MAX = 40
PERCENT_MAX = 99
"""Of something under way: at 100 it has ended."""
PERCENT_STEP = 5
"""Progress is written into status at most once a step: few writes."""


@dataclass(frozen=True, slots=True)
class JobProgress:
    """percent: of the whole, 0 to 99, in steps."""

    phase: str
    percent: int

    def __str__(self) -> str:
        return f"{self.phase}, {self.percent} %"


def parse_progress(said: Any) -> JobProgress | None:
    """What a pod said, or a status keeps of it; None where it makes no sense."""
    if not isinstance(said, dict):
        return None
    phase, percent = said.get("phase"), said.get("percent")
    if not isinstance(phase, str) or not phase.isalpha() or len(phase) > PHASE_CHARACTERS_MAX:
        return None
    if type(percent) is not int or not 0 <= percent <= PERCENT_MAX:
        return None
    return JobProgress(phase, stepped(percent))


def stepped(percent: int) -> int:
    """The step that a percentage has come to."""
    return max(percent, 0) // PERCENT_STEP * PERCENT_STEP
