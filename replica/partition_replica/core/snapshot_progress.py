"""How far a command on stored snapshots is, as people read it: a phase, and a percentage of the
whole, which no one can know before it has ended."""

_SHARES: dict[str, dict[str, tuple[str, int, int]]] = {
    # What the command says: (phase, where it begins, where it ends), percent.
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
    """(phase, percent up to 99) of a command of this kind that says it is so far in `said`; total
    0: not known. kind: take, delete, verify, restore, or prove, which verifies by restoring."""
    share = min(max(done, 0) / total, 1.0) if total > 0 else 0.0
    name, begin, end = _SHARES.get(kind, {}).get(said, _OTHERWISE[kind])
    return name, begin + int(share * (end - begin))
