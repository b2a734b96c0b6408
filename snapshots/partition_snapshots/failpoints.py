"""Named places before and after each durable step, for tests that end the process there."""

from collections.abc import Callable

POINTS = frozenset(
    {
        "snapshot.upload.begun",
        "snapshot.object.before",
        "snapshot.object.after",
        "snapshot.segment.after",
        "snapshot.manifest.before",
        "snapshot.manifest.after",
        "snapshot.marker.removed",
        "snapshot.base.saved",
        "snapshot.delete.before",
        "snapshot.delete.after",
        "snapshot.collect.before",
        "snapshot.collect.after",
    }
)


def _pass(_name: str) -> None:
    return


hook: Callable[[str], None] = _pass
"""Called with a name of POINTS, on any thread. Crash tests set it."""


def reach(name: str) -> None:
    """Calls the hook."""
    hook(name)
