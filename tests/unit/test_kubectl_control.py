"""What the commands of `kubectl partition` write, and when they refuse."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from partition_kubectl import control, snapshots
from partition_kubectl.__main__ import answer
from partition_kubectl.arguments import parser
from partition_kubectl.errors import Refused, UsageError

from tests.support.kubectl_objects import FakeKubectl, condition, partition, pod


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeKubectl:
    found = FakeKubectl(tmp_path)
    monkeypatch.setenv("KUBECTL", str(found.program))
    return found


def options(*words: str) -> argparse.Namespace:
    return parser().parse_args(words)


def patched(kubectl: FakeKubectl) -> Any:
    """What was sent by `kubectl patch`."""
    call = next(words for words in kubectl.calls() if words[0] == "patch")
    return json.loads(call[call.index("-p") + 1])


def test_a_ready_voter_that_does_not_lead_takes_over() -> None:
    pods = [pod(0), pod(1, ready=False), pod(2)]
    assert control.successor(partition(), pods, "") == "part-2"
    assert control.successor(partition(), pods, "part-1") == "part-1"
    with pytest.raises(UsageError, match="the voters are part-0, part-1, part-2"):
        control.successor(partition(), pods, "part-7")
    with pytest.raises(Refused, match="no other voter is ready"):
        control.successor(partition(), [pod(0)], "")


def test_a_learner_takes_no_leadership_over() -> None:
    body = partition()
    body["status"]["members"][1]["role"] = "learner"
    with pytest.raises(UsageError, match="not a voter"):
        control.successor(body, [pod(0), pod(1)], "part-1")


def test_a_switchover_to_the_leader_changes_nothing(
    kubectl: FakeKubectl, capsys: pytest.CaptureFixture[str]
) -> None:
    kubectl.answer("get", "pods", out={"items": [pod(0)]})
    kubectl.answer("get", out=partition())
    assert answer(["switchover", "part", "--to", "part-0"]) == 0
    assert "leads already" in capsys.readouterr().out
    assert {words[0] for words in kubectl.calls()} == {"get"}


def test_a_switchover_asks_with_a_new_value(kubectl: FakeKubectl) -> None:
    kubectl.answer("get", "pods", out={"items": [pod(0), pod(1)]})
    kubectl.answer("patch", out=partition())
    kubectl.answer("get", out=partition())
    assert answer(["switchover", "part", "--no-wait"]) == 0
    marks = patched(kubectl)["metadata"]["annotations"]
    assert marks["logstore.dev/switchover"].startswith("part-1/20")


def test_approve_takes_the_revision_that_waits(kubectl: FakeKubectl) -> None:
    waits = condition("RolledOut", "False", "WaitingForApproval")
    kubectl.answer("patch", out=partition())
    kubectl.answer("get", out=partition(waits))
    assert answer(["approve", "part"]) == 0
    assert patched(kubectl)["metadata"]["annotations"] == {
        "logstore.dev/approve-rollout": "part-aaa"
    }
    with pytest.raises(Refused, match="RolledOut is UpToDate"):
        control.approvable(partition(condition("RolledOut", "True", "UpToDate")))


@pytest.mark.parametrize(
    ("rolled", "said"),
    [
        (condition("RolledOut", "True", "UpToDate", "every pod has it"), "UpToDate: every pod"),
        (condition("RolledOut", "False", "OutsideWindow", "opens at 3"), "OutsideWindow: opens"),
        (condition("RolledOut", "False", "Stalled", "part-1 is not ready"), ""),
    ],
)
def test_a_restart_waits_for_the_rollout_of_a_new_revision(
    kubectl: FakeKubectl, capsys: pytest.CaptureFixture[str], rolled: Any, said: str
) -> None:
    # The revision is another one as soon as the annotation is written.
    kubectl.answer("patch", out=partition())
    kubectl.answer("get", out=partition(rolled), first=partition(rolled, revision="part-old"))
    if said:
        assert answer(["restart", "part"]) == 0
        assert said in capsys.readouterr().out
    else:
        with pytest.raises(Refused, match="the rollout has stalled: part-1"):
            answer(["restart", "part"])


def test_fences_are_added_and_taken_away() -> None:
    body = partition(annotations={"logstore.dev/fence": "part-2"})
    assert control.with_fences(body, ["part-0", "part-2"]) == "part-0,part-2"
    for wrong in ("other-0", "part", "part-x"):
        with pytest.raises(UsageError, match="is not a pod of part"):
            control.with_fences(body, [wrong])
    both = partition(annotations={"logstore.dev/fence": "part-0,part-2"})
    assert control.without_fences(both, ["part-0"]) == "part-2"
    assert control.without_fences(both, ["part-0", "part-2"]) is None
    assert control.without_fences(both, []) is None
    with pytest.raises(Refused, match="fenced are: part-2"):
        control.without_fences(body, ["part-0"])


def test_a_fence_that_loses_the_quorum_needs_a_yes(kubectl: FakeKubectl) -> None:
    kubectl.answer("patch", out=partition())
    kubectl.answer("get", out=partition(quorumCriticalPods=["part-1"]))
    with pytest.raises(UsageError, match=r"no quorum.*Give --yes"):
        answer(["fence", "part", "part-1"])
    assert answer(["fence", "part", "part-1", "--yes"]) == 0
    assert patched(kubectl)["metadata"]["annotations"] == {"logstore.dev/fence": "part-1"}


def test_a_minority_may_be_fenced_without_a_question() -> None:
    assert not control.loses_quorum(partition(), ["part-1"])
    assert control.loses_quorum(partition(), ["part-1", "part-2"])
    assert control.loses_quorum(partition(quorumCriticalPods=["part-1"]), ["part-1"])
    assert control.loses_quorum(partition(members=[{"pod": "part-0", "role": "voter"}]), ["part-0"])


def test_a_field_that_the_cluster_does_not_have_is_said(kubectl: FakeKubectl) -> None:
    kubectl.answer("patch", out=partition())
    with pytest.raises(Refused, match=r"no field spec\.hibernated: upgrade"):
        answer(["hibernate", "part", "--yes"])
    assert patched(kubectl) == {"spec": {"hibernated": True}}


def test_a_recovery_shows_the_loss_and_takes_only_its_token(
    kubectl: FakeKubectl, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = {"token": "t-1", "survivors": [{"pod": "part-2", "lastLSN": "88"}]}
    body = partition(quorumLoss=lost)
    kubectl.answer("patch", out=body)
    kubectl.answer("get", out=body)
    assert answer(["recover", "part"]) == 0
    shown = capsys.readouterr().out
    assert 'lastLSN: "88"' in shown
    assert "--from POD --accept-loss t-1" in shown
    wrong = ["recover", "part", "--from", "part-2", "--accept-loss", "t-0", "--yes"]
    with pytest.raises(Refused, match="not the present one"):
        answer(wrong)
    assert all(words[0] == "get" for words in kubectl.calls())
    right = [*wrong[:-2], "t-1", "--yes", "--no-wait"]
    assert answer(right) == 0
    value = patched(kubectl)["metadata"]["annotations"]["logstore.dev/recover"]
    assert json.loads(value) == {"from": "part-2", "acceptLoss": "t-1"}
    with pytest.raises(Refused, match="nothing to recover"):
        control.quorum_loss(partition())
    with pytest.raises(Refused, match="no recovery is possible now: nobody answers"):
        control.quorum_loss(partition(quorumLoss={"message": "nobody answers"}))


LEADS = "the order to recover from part-2 with token t-1: a leader leads"


@pytest.mark.parametrize(
    ("recovered", "said"),
    [
        (condition("QuorumRecovered", "True", "Recovered", "all are back"), "Recovered: all are"),
        (condition("QuorumRecovered", "False", "VolumesLeft", "delete them"), "VolumesLeft: del"),
        (condition("QuorumRecovered", "False", "Refused", LEADS), ""),
    ],
)
def test_a_recovery_is_waited_for_until_the_operator_or_the_user_has_the_next_word(
    kubectl: FakeKubectl, capsys: pytest.CaptureFixture[str], recovered: Any, said: str
) -> None:
    lost = partition(quorumLoss={"token": "t-1"})
    kubectl.answer("patch", out=lost)
    after = partition(recovered, recovery={"acceptLoss": "t-1"})
    kubectl.answer("get", out=after, first=lost)
    words = ["recover", "part", "--from", "part-2", "--accept-loss", "t-1", "--yes"]
    if said:
        assert answer(words) == 0
        assert said in capsys.readouterr().out
    else:
        with pytest.raises(Refused, match=r"refuses the recovery: .* a leader leads"):
            answer(words)


@pytest.mark.parametrize(
    ("message", "ours"),
    [
        ("the order to recover from part-2 with token t-0: another loss", False),
        ("the order to recover from part-1 with token t-1: no survivor", False),
        (LEADS, True),
        ("the order to recover from part-2 with token t-1: as before", False),
    ],
)
def test_the_refusal_of_another_order_is_not_ours(message: str, ours: bool) -> None:
    """One that was given just before may be refused only after ours is given."""
    seen = partition(condition("QuorumRecovered", "False", "Refused", message))
    before = "the order to recover from part-2 with token t-1: as before"
    found = control.recovery_outcome(seen, "part-2", "t-1", before)
    assert bool(found) == ours


def test_a_snapshot_takes_the_partitions_destination_unless_told_otherwise() -> None:
    plain = snapshots.snapshot_body("part", "s", {"verify": None}, volume=False, pinned=False)
    assert plain["spec"] == {"partitionRef": {"name": "part"}}
    fields = {"verify": "Restore", "full": True}
    full = snapshots.snapshot_body("part", "s", fields, volume=True, pinned=True)
    assert full["spec"] == {
        "partitionRef": {"name": "part"},
        "verify": "Restore",
        "full": True,
        "destination": {"volume": {}},
    }
    assert full["metadata"]["annotations"] == {"logstore.dev/pinned": "true"}


@pytest.mark.parametrize(
    ("status", "verifies", "ended"),
    [
        ({}, True, False),
        ({"state": "Running"}, True, False),
        ({"state": "Succeeded"}, True, False),
        ({"state": "Succeeded"}, False, True),
        ({"state": "Succeeded", "conditions": [condition("Verified", "False", "No")]}, True, True),
        ({"state": "Verified"}, True, True),
        ({"state": "Failed"}, True, True),
    ],
)
def test_a_snapshot_has_ended_once_nothing_more_will_happen(
    status: dict[str, Any], verifies: bool, ended: bool
) -> None:
    assert snapshots.stored(status, verifies=verifies) is ended


def test_a_restore_is_printed_with_what_the_partition_had(
    kubectl: FakeKubectl, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = {"spec": {"partitionRef": {"name": "part"}}, "status": {"state": "Verified"}}
    source = partition(spec={"snapshots": {"schedule": "x"}, "paused": True, "image": "i:1"})
    kubectl.answer("get", "partitionsnapshots.logstore.dev", out=taken)
    kubectl.answer("get", out=source)
    words = ["restore", "again", "--snapshot", "s"]
    assert answer([*words, "--size", "20Gi"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["spec"] == {
        "replicas": 3,
        "storage": {"size": "20Gi"},
        "image": "i:1",
        "bootstrap": {"snapshotRef": {"name": "s"}},
    }
    kubectl.answer("create", out=printed)
    assert answer([*words, "--create"]) == 0
    assert json.loads(kubectl.stdins()[-1])["spec"]["storage"] == {"size": "10Gi"}


def test_a_restore_from_an_object_store_needs_no_snapshot_object() -> None:
    found = options(
        *("restore", "again", "--bucket", "b", "--path", "p", "--secret", "s", "--size", "1Gi")
    )
    body = snapshots.restored_body(found, {})
    assert body["spec"]["bootstrap"]["objectStore"] == {
        "bucket": "b",
        "path": "p",
        "snapshot": "latest",
        "credentialsSecretRef": {"name": "s"},
    }
    with pytest.raises(UsageError, match="--size"):
        snapshots.restored_body(options("restore", "again", "--snapshot", "s"), {})
    with pytest.raises(UsageError, match="lower-case letters"):
        snapshots.restored_body(options("restore", "Again", "--snapshot", "s"), {})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give either --snapshot"),
        (["--snapshot", "s", "--bucket", "b"], "give either --snapshot"),
        (["--bucket", "b", "--path", "p"], "--bucket needs --path"),
    ],
)
def test_a_restore_needs_one_source(kubectl: FakeKubectl, words: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        answer(["restore", "again", *words])


def test_a_snapshot_that_failed_is_not_restored(kubectl: FakeKubectl) -> None:
    taken = {"spec": {"partitionRef": {"name": "part"}}, "status": {"state": "Failed"}}
    kubectl.answer("get", out=taken)
    with pytest.raises(Refused, match="s is Failed"):
        answer(["restore", "again", "--snapshot", "s"])
