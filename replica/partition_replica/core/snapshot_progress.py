"""The progress of a command on stored snapshots for users: a phase, and an estimated percentage."""

_SHARES: dict[str, dict[str, tuple[str, int, int]]] = {
    # The command's own phase: (the shown phase, its first and its last percentage).
    "take": {
        "copying": ("Copying", 0, 5),
        "waiting": ("Reading", 5, 5),
        "state": ("Reading", 5, 45),
        "blobs": ("Writing", 45, 95),
        "checking": ("Committing", 95, 98),
        "manifest": ("Committing", 98, 99),
    },
    "restore": {"restoring": ("Restoring", 0, 99)},
    "prove": {
        "verifying": ("Reading", 0, 35),
        "restoring": ("Restoring", 35, 80),
        "restored log": ("Examining", 80, 85),
        "restored state": ("Examining", 85, 90),
        "restored blobs": ("Examining", 90, 99),
    },
}
_OTHERWISE = {
    "take": ("Writing", 5, 5),
    "restore": ("Preparing", 0, 0),
    "prove": ("Preparing", 0, 0),
    "delete": ("Collecting", 0, 99),
    "verify": ("Verifying", 0, 99),
}


def progress_of(kind: str, said: str, done: int, total: int) -> tuple[str, int]:
    """Returns (phase, percent up to 99). kind: take, delete, verify, restore, or prove, a
    verification that restores. said, done, total: the command's own phase and its progress in it; a
    total of 0 means unknown."""
    share = min(max(done, 0) / total, 1.0) if total > 0 else 0.0
    name, begin, end = _SHARES.get(kind, {}).get(said, _OTHERWISE[kind])
    return name, begin + int(share * (end - begin))
