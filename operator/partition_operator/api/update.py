"""`spec.updateStrategy`: how and when the pods of a Partition are replaced."""

import datetime as dt
from dataclasses import dataclass
from typing import Final, Literal

from partition_operator.api import schema

UpdateType = Literal["Rolling", "Supervised", "OnDelete"]
ROLLING: Final = "Rolling"
SUPERVISED: Final = "Supervised"
ON_DELETE: Final = "OnDelete"
DEADLINE_S = 600
UTC = "Etc/UTC"


@dataclass(frozen=True, slots=True)
class Window:
    """A maintenance window. schedule: when it opens; reconcile/cron.py parses it."""

    schedule: str
    duration: dt.timedelta
    time_zone: str


@dataclass(frozen=True, slots=True)
class UpdateStrategy:
    """deadline: how long a replaced pod may take to be ready before the rollout counts as stalled.
    windows: without any, pods are replaced at any time."""

    type: UpdateType = ROLLING
    deadline: dt.timedelta = dt.timedelta(seconds=DEADLINE_S)
    windows: tuple[Window, ...] = ()


def parse_update_strategy(body: schema.UpdateStrategy) -> UpdateStrategy:
    """body: checked."""
    return UpdateStrategy(
        type=body.get("type", ROLLING),
        deadline=dt.timedelta(seconds=body.get("progressDeadlineSeconds", DEADLINE_S)),
        windows=tuple(
            Window(
                window["schedule"],
                dt.timedelta(minutes=window["durationMinutes"]),
                window.get("timeZone", UTC),
            )
            for window in body.get("maintenanceWindows", [])
        ),
    )
