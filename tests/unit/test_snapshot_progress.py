"""What a snapshot job says of its progress."""

import pytest
from partition_replica.core.snapshot_progress import progress_of


def test_a_take_goes_from_nothing_to_almost_all_without_falling() -> None:
    told = [
        ("waiting", 0, 0),
        ("state", 0, 100),
        ("state", 50, 100),
        ("state", 130, 100),  # compaction is guessed at
        ("blobs", 0, 1000),
        ("blobs", 500, 1000),
        ("blobs", 1000, 1000),
        ("checking", 0, 0),
        ("manifest", 0, 0),
    ]
    found = [progress_of("take", *one) for one in told]
    percents = [percent for _, percent in found]
    assert percents == sorted(percents)
    assert (percents[0], percents[-1]) == (5, 98)
    assert [phase for phase, _ in found] == ["Reading"] * 4 + ["Writing"] * 3 + ["Committing"] * 2


PROVED = (
    "verifying",
    "restoring",
    "restored log",
    "restored state",
    "restored blobs",
)


@pytest.mark.parametrize(("kind", "steps"), [("restore", PROVED[1:2]), ("prove", PROVED)])
def test_a_restore_goes_from_nothing_to_almost_all(kind: str, steps: tuple[str, ...]) -> None:
    assert progress_of(kind, "", 0, 0) == ("Preparing", 0)
    percents = [progress_of(kind, step, n, 10)[1] for step in steps for n in (0, 5, 10)]
    assert percents == sorted(percents)
    assert (percents[0], percents[-1]) == (0, 99)


@pytest.mark.parametrize(("kind", "phase"), [("delete", "Collecting"), ("verify", "Verifying")])
def test_the_others_have_one_phase(kind: str, phase: str) -> None:
    assert progress_of(kind, "anything", 0, 0) == (phase, 0)
    assert progress_of(kind, "anything", 1, 2) == (phase, 49)
    assert progress_of(kind, "anything", 2, 2) == (phase, 99)
