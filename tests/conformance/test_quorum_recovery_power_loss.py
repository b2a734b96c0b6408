"""What a power failure leaves of a volume while a lost quorum is recovered from it: before or after
the switch to the new cluster, and each time the next start finds its way."""

import random
from pathlib import Path

import pytest
from partition_replica.recovery import steps
from partition_replica.storage.state import LmdbState

from tests.support import survivors
from tests.support.power_loss import Model, Recorder, materialise
from tests.support.replica_life import disk as disk  # a fixture
from tests.support.seed_logs import open_volume
from tests.support.survivors import APPLIED, LAST, NEW, OLD

STATES = 12
"""Disk states that are tried per moment."""


def recorded(
    root: Path, monkeypatch: pytest.MonkeyPatch, history: str, *, synced: bool = True
) -> tuple[Recorder, int]:
    """The operations of a recovery, and how many there were before it. synced: whether it syncs the
    state that it has applied."""
    root.mkdir()
    recorder = Recorder(root)
    with monkeypatch.context() as patch:
        recorder.attach(patch)
        survivors.make(root, history=history).close()
        volume = open_volume(root)
        before = len(recorder.operations)
        if not synced:
            patch.setattr(LmdbState, "sync", lambda state: state.applied)
        finding = steps.survey(volume)
        volume.log.accept_recovery(steps.accepted(finding, NEW, finding.token))
        steps.recover(volume)
        volume.close()
    return recorder, before


def replay(recorder: Recorder, before: int, scratch: Path, history: str) -> dict[str, int]:
    """Starts a replica's volume on what may be left at each moment. Returns how often each cluster
    was found before its recovery was resumed."""
    found = {OLD: 0, NEW: 0}
    for point in range(before, len(recorder.operations) + 1):
        for tree in Model(recorder.operations[:point]).survivors(random.Random(point), STATES):
            materialise(tree, scratch)
            volume = open_volume(scratch)
            try:
                found[volume.log.identity.cluster_id] += 1
                steps.resume(volume)
                if volume.log.recovery is None:
                    assert volume.log.identity.cluster_id == OLD
                    assert (volume.log.last.index, volume.state.applied.index) == (LAST, APPLIED)
                    assert volume.state.history == history
                    continue
            finally:
                volume.close()
            survivors.assert_recovered(scratch)
    return {str(cluster): count for cluster, count in found.items()}


@pytest.mark.parametrize("history", ["", "restored-once"])
def test_the_power_fails_while_a_quorum_is_recovered(
    history: str, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder, before = recorded(disk / "volume", monkeypatch, history)
    found = replay(recorder, before, disk / "left", history)
    assert found[OLD] > 1
    assert found[NEW] > 3


def test_a_state_that_is_not_synced_before_the_end_is_found(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checks above would see it."""
    recorder, before = recorded(disk / "volume", monkeypatch, "", synced=False)
    with pytest.raises(AssertionError):
        replay(recorder, before, disk / "left", "")
