"""The recovery of a lost quorum, on the volume of a stopped survivor."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from partition_proto.v1 import storage_pb2 as rows
from partition_replica.core.model import Configuration, LogBatch, RecoveryStep
from partition_replica.core.ports import FIRST
from partition_replica.engine.entries import member_changes
from partition_replica.engine.port import ChangeKind
from partition_replica.errors import Damaged, InvalidArgument, RecoveryRefused
from partition_replica.ids import LSN, ClusterID
from partition_replica.offline.volume import recovery
from partition_replica.recovery import steps
from partition_replica.storage import codec
from partition_replica.storage.failpoints import ENVIRONMENT, EXIT_CODE
from partition_replica.storage.volume import Volume

from tests.support import survivors
from tests.support.crash_points import WHILE_RECOVERING
from tests.support.proposals import body, link, payload, proposal
from tests.support.seed_logs import open_volume, verify
from tests.support.survivors import APPLIED, COMMITTED, LAST, NEW, OLD, OTHERS, SESSION

OWN_CHANGES = steps.EXPIRING_ENTRIES + len(OTHERS)


def closed(volume: Volume, data: Path) -> Path:
    volume.close()
    return data


def assert_recovered(data: Path, *, others: int = len(OTHERS)) -> None:
    """As `survivors.assert_recovered`, and the volume is sound."""
    survivors.assert_recovered(data, others=others)
    report = verify(data, data.parent / "scratch")
    assert report.findings == []
    assert report.unchecked == []  # the log is replayed from its start, over the recovery


def test_a_survivor_keeps_its_tail_and_becomes_the_only_voter(tmp_path: Path) -> None:
    data = closed(survivors.make(tmp_path / "data"), tmp_path / "data")
    found = recovery.survey(data)
    assert (found.last.index, found.committed, found.applied) == (LAST, COMMITTED, APPLIED)
    told = " ".join(found.may_be_lost())
    assert f"behind LSN {LAST} are lost" in told
    assert f"{COMMITTED + 1} to {LAST}, may not be committed" in told
    assert "15, 16 are removed" in told  # in hexadecimal
    done = recovery.recover(data, NEW, found.token)
    assert (done.former_cluster_id, done.step) == (OLD, RecoveryStep.COMPLETE)
    assert_recovered(data)
    # The same order again finds it done, and so it is told; another one finds a quorum.
    assert recovery.recover(data, NEW, found.token) == done
    assert "only voter of its group" in recovery.survey(data).refusal


def test_without_the_token_of_this_state_nothing_changes(tmp_path: Path) -> None:
    volume = survivors.make(tmp_path / "data")
    token = steps.survey(volume).token
    entry = survivors.writes(LAST + 1, LAST + 1)
    volume.log.commit(LogBatch(entry))
    data = closed(volume, tmp_path / "data")
    for wrong in (token, "", "0" * 16):
        with pytest.raises(RecoveryRefused, match=f"ends at LSN {LAST + 1} in term 6"):
            recovery.recover(data, NEW, wrong)
    found = recovery.survey(data)
    with pytest.raises(RecoveryRefused, match="former cluster: draw a new one"):
        recovery.recover(data, OLD, found.token)
    volume = open_volume(data)
    assert (volume.log.identity.cluster_id, volume.log.recovery) == (OLD, None)
    assert (volume.log.last.index, volume.state.applied.index) == (LAST + 1, APPLIED)
    with pytest.raises(InvalidArgument, match="a running replica uses the volume"):
        recovery.recover(data, NEW, found.token)
    volume.close()


@pytest.mark.parametrize("what", ["standalone", "sole", "removed", "joining", "new"])
def test_what_lost_no_quorum_is_refused(what: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    volume = open_volume(data)
    own = volume.log.identity.member_id
    match what:
        case "standalone":
            volume.log.bootstrap_standalone(OLD)
            volume.log.begin_backfill()
        case "sole":
            volume.state.start(FIRST, {})
            volume.log.bootstrap(OLD, Configuration(voters=(own,), learners=(5,)))
        case "removed":
            volume.state.start(FIRST, {})
            volume.log.bootstrap(OLD, Configuration(voters=(5, 6)))
        case "joining":
            volume.log.join(OLD)
    volume.close()
    expected = {
        "standalone": "its one replica needs no quorum",
        "sole": "only voter of its group",
        "removed": "was removed from the group",
        "joining": "never received the group's state",
        "new": "is empty: its replica has not been bootstrapped",
    }[what]
    with pytest.raises((RecoveryRefused, InvalidArgument), match=expected):
        recovery.recover(data, NEW, recovery.survey(data).token)
    volume = open_volume(data)
    assert volume.log.recovery is None
    volume.close()


def test_a_tail_whose_payload_is_missing_is_refused(tmp_path: Path) -> None:
    """Blobs are durable before their entry, so this is damage."""
    found = payload(os.urandom(100_000))
    named = survivors.normal(LAST, body(proposal(SESSION, 9, [link(b"f")], [found])))
    tail = [*survivors.writes(COMMITTED + 1, LAST - 1), named]
    data = closed(survivors.make(tmp_path / "data", tail=tail), tmp_path / "data")
    refused = recovery.survey(data)
    assert f"{found.digest.hex()} of entry {LAST}" in refused.refusal
    with pytest.raises(RecoveryRefused, match="lacks payloads"):
        recovery.recover(data, NEW, refused.token)


def test_changes_of_the_members_in_the_tail_are_settled(tmp_path: Path) -> None:
    """The survivor's own removal, which the lost members may have committed, and a new learner."""
    volume = open_volume(tmp_path / "data")
    own = int(volume.log.identity.member_id)
    volume.close()
    tail = [
        survivors.change(COMMITTED + 1, ChangeKind.ADD_LEARNER, 30, "there:30"),
        survivors.change(COMMITTED + 2, ChangeKind.REMOVE, own),
        *survivors.writes(LAST, LAST),
    ]
    data = closed(survivors.make(tmp_path / "data", tail=tail), tmp_path / "data")
    found = recovery.survey(data)
    assert found.changed == {30, own}
    recovery.recover(data, NEW, found.token)
    volume = open_volume(data)
    assert volume.log.configuration[1] == Configuration(voters=(own,))
    assert volume.state.members() == {own: "here:1"}
    entries = volume.log.read(LSN(LAST + 1), LSN(volume.log.last.index + 1), None)
    changes = [member_changes(entry) for entry in entries if entry.kind]
    assert changes == [{own: "here:1"}, {21: None}, {22: None}, {30: None}]
    volume.close()
    assert verify(data, data.parent / "scratch").findings == []


def test_a_joint_configuration_ends(tmp_path: Path) -> None:
    volume = open_volume(tmp_path / "data")
    own = int(volume.log.identity.member_id)
    volume.close()
    joint = Configuration((21, 22), (23,), (own, 21), (), True)
    data = closed(survivors.make(tmp_path / "data", configuration=joint), tmp_path / "data")
    found = recovery.survey(data)
    assert not found.refusal
    recovery.recover(data, NEW, found.token)
    assert_recovered(data, others=4)  # with its own, because it was no voter of the new half


def test_a_restored_history_is_renewed(tmp_path: Path) -> None:
    volume = survivors.make(tmp_path / "data", history="restored-once")
    data = closed(volume, tmp_path / "data")
    recovery.recover(data, NEW, recovery.survey(data).token)
    volume = open_volume(data)
    assert volume.states.history_of(volume.state) == volume.state.history == NEW
    volume.close()


def test_an_order_for_another_state_is_dropped_at_the_next_start(tmp_path: Path) -> None:
    """A leader was found after the order, and appended."""
    volume = survivors.make(tmp_path / "data")
    finding = steps.survey(volume)
    volume.log.accept_recovery(steps.accepted(finding, NEW, finding.token))
    volume.log.commit(LogBatch(survivors.writes(LAST + 1, LAST + 1)))
    steps.resume(volume)
    assert (volume.log.recovery, volume.log.identity.cluster_id) == (None, OLD)
    steps.resume(volume)  # nothing is left to do
    volume.close()


def test_a_learner_is_told_that_a_voter_may_have_more(tmp_path: Path) -> None:
    volume = open_volume(tmp_path / "data")
    own = int(volume.log.identity.member_id)
    volume.close()
    found = Configuration(voters=OTHERS, learners=(own,))
    data = closed(survivors.make(tmp_path / "data", configuration=found), tmp_path / "data")
    survey = recovery.survey(data)
    assert any("is a learner" in sentence for sentence in survey.may_be_lost())
    recovery.recover(data, NEW, survey.token)
    assert_recovered(data, others=3)


@pytest.mark.parametrize("failpoint", WHILE_RECOVERING)
def test_ended_at(failpoint: str, tmp_path: Path) -> None:
    """The command goes on where it ended, and so does the start of a replica."""
    made = survivors.make(tmp_path / "data", history="restored-once")
    data = closed(made, tmp_path / "data")
    token = recovery.survey(data).token
    command = ["recover-quorum", "--data", str(data), "--accept-loss", token, "--cluster-id", NEW]
    ended = subprocess.run(
        [sys.executable, "-m", "partition_replica", *command],
        env={**os.environ, ENVIRONMENT: failpoint},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == EXIT_CODE, ended.stderr
    volume = open_volume(data)
    assert volume.log.recovery is not None
    before = failpoint in ("recovery.accepted", "recovery.switch.before")
    assert volume.log.identity.cluster_id == (OLD if before else NEW)
    steps.resume(volume)
    volume.close()
    assert_recovered(data)
    again = recovery.recover(data, ClusterID("unused"), token)
    assert (again.cluster_id, again.step) == (NEW, RecoveryStep.COMPLETE)


def test_a_step_of_a_later_version_is_not_guessed() -> None:
    with pytest.raises(Damaged, match="step 9, which this version does not know"):
        codec.recovery_of(rows.RecoveryRow(step=9))  # type: ignore[arg-type]
