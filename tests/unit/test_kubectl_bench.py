"""`kubectl partition bench`: the pod that it makes, its report, and that it leaves nothing."""

import json
from pathlib import Path
from typing import Any

import pytest
from partition_kubectl import bench
from partition_kubectl.__main__ import answer, main
from partition_kubectl.arguments import parser
from partition_kubectl.errors import Refused, TimedOut, UsageError
from partition_replica.__main__ import parse

from tests.support.kubectl_objects import NOW, FakeKubectl, event, partition

REPORT = {
    "syncs": 100,
    "fsync_p50_ms": 1.5,
    "fsync_p99_ms": 4.25,
    "fsync_max_ms": 9.0,
    "written_bytes": 2**29,
    "write_mib_s": 200.0,
    "verdict": "good",
    "why": ["fsync p99 of 4.25 ms is good"],
}


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeKubectl:
    found = FakeKubectl(tmp_path)
    monkeypatch.setenv("KUBECTL", str(found.program))
    found.answer("delete")
    found.answer("create", out={})
    return found


def ended(message: object, code: int = 0) -> dict[str, Any]:
    text = message if isinstance(message, str) else json.dumps(message)
    state = {"terminated": {"exitCode": code, "reason": "Completed", "message": text}}
    return {
        "metadata": {"uid": "u"},
        "spec": {"nodeName": "node-1"},
        "status": {"phase": "Succeeded", "containerStatuses": [{"name": "bench", "state": state}]},
    }


def deleted(kubectl: FakeKubectl) -> list[str]:
    return [words[2] for words in kubectl.calls() if words[0] == "delete"]


def test_the_pod_may_run_in_a_restricted_namespace_and_calls_the_replica() -> None:
    options = parser().parse_args(["bench", "--seconds", "3", "--mib", "64", "--node", "n1"])
    pod = bench.pod("b", "image:1", options)
    spec, container = pod["spec"], pod["spec"]["containers"][0]
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert not container["securityContext"]["allowPrivilegeEscalation"]
    assert not spec["automountServiceAccountToken"]
    assert spec["nodeSelector"] == {"kubernetes.io/hostname": "n1"}
    asked: Any = parse(container["args"])
    assert (asked.command, asked.seconds, asked.mib) == ("bench-disk", 3, 64)
    assert str(asked.report) == container["terminationMessagePath"]
    claim = bench.claim("b", "fast", "2Gi")
    assert claim["spec"]["storageClassName"] == "fast"
    assert "storageClassName" not in bench.claim("b", "", "2Gi")["spec"]


def test_figures_and_verdict_are_shown_and_nothing_is_left(
    kubectl: FakeKubectl, capsys: pytest.CaptureFixture[str]
) -> None:
    kubectl.answer("get", "pod", out=ended(REPORT))
    assert answer(["bench", "--image", "i", "--storage-class", "fast"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("Storage class fast, on node node-1\n")
    assert "p50 1.50 ms, p99 4.25 ms, longest 9.00 ms, 100 times" in shown
    assert "verdict         good" in shown
    assert len(deleted(kubectl)) == 2


def test_a_disk_that_is_too_slow_has_its_own_exit_code(
    kubectl: FakeKubectl, capsys: pytest.CaptureFixture[str]
) -> None:
    kubectl.answer("get", "pod", out=ended(REPORT | {"verdict": "too slow"}, 1))
    assert answer(["bench", "--image", "i", "-o", "json"]) == 3
    assert json.loads(capsys.readouterr().out)["verdict"] == "too slow"


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("partition-replica: --data: 3 MiB are free", "3 MiB are free"),
        ("error: argument command: invalid choice: 'bench-disk' (choose", "name a newer one"),
        ("", "Completed"),
        ("[]", r"\[\]"),
    ],
)
def test_a_measurement_that_fails_says_why_and_leaves_nothing(
    kubectl: FakeKubectl, message: str, said: str
) -> None:
    kubectl.answer("get", "pod", out=ended(message, 1))
    with pytest.raises(Refused, match=said):
        answer(["bench", "--image", "i"])
    assert len(deleted(kubectl)) == 2


def test_a_pod_that_never_starts_is_given_up_with_its_last_event(kubectl: FakeKubectl) -> None:
    waiting = {"metadata": {"uid": "u"}, "status": {"phase": "Pending"}}
    kubectl.answer("get", "events", out={"items": [event("Failed", "u", "", "no such class")]})
    kubectl.answer("get", out=waiting)
    with pytest.raises(TimedOut, match="Its last event: no such class"):
        answer(["bench", "--image", "i", "--timeout", "1s"])
    assert len(deleted(kubectl)) == 2


def test_an_interrupt_leaves_nothing(kubectl: FakeKubectl, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("partition_kubectl.waiting.Patience.until", interrupted)
    with pytest.raises(SystemExit) as left:
        main(["bench", "--image", "i"])
    assert left.value.code == 130
    assert len(deleted(kubectl)) == 2


def test_what_is_kept_is_said(kubectl: FakeKubectl, capsys: pytest.CaptureFixture[str]) -> None:
    kubectl.answer("get", "pod", out=ended(REPORT))
    assert answer(["bench", "--image", "i", "--keep"]) == 0
    assert deleted(kubectl) == []
    assert "are kept; delete them yourself" in capsys.readouterr().err


def test_the_image_is_that_of_a_partition_or_of_the_operator(kubectl: FakeKubectl) -> None:
    kubectl.answer("get", "partitions.logstore.dev", out={"items": [partition()]})
    kubectl.answer("get", "pod", out=ended(REPORT))
    assert answer(["bench"]) == 0
    assert '"image": "registry.example/partition:1.2"' in kubectl.stdins()[2]


def test_without_a_known_image_one_has_to_be_named(kubectl: FakeKubectl) -> None:
    kubectl.answer("get", out={"items": []})
    with pytest.raises(UsageError, match="--image: no Partition"):
        answer(["bench"])
    assert deleted(kubectl) == []


def test_progress_is_the_part_of_the_time_that_has_passed() -> None:
    running = {"running": {"startedAt": "2026-01-02T11:59:55Z"}}
    pod = {"status": {"containerStatuses": [{"name": "bench", "state": running}]}}
    assert bench.progress(pod, 20, NOW) == ("measuring", 0.25)
    pending = {"metadata": {}, "status": {"phase": "Pending"}}
    assert bench.progress(pending, 20, NOW) == ("the pod has not started yet", 0.0)
    assert bench.progress({"metadata": {}, "status": {"phase": "Failed"}}, 20, NOW)[1] == 1.0
