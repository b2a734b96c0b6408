"""`kubectl partition why`: what it finds, what it advises, and that its pages exist."""

import re
from typing import Any

import pytest
from partition_kubectl import advice, why

from dev.cluster.layout import ROOT
from tests.support.kubectl_objects import NOW, condition, event, partition, pod

TROUBLESHOOTING = (ROOT / advice.TROUBLE).read_text()


def explain(body: dict[str, Any], *seen: dict[str, Any], **more: Any) -> why.Why:
    events, operator = more.get("events", []), more.get("operator")
    return why.explain(body, list(seen), events, operator, NOW)


def words(heading: str) -> set[str]:
    """The first column of the table below a heading of the troubleshooting page."""
    part = TROUBLESHOOTING.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    cells = re.findall(r"(?m)^\| ([^|]+) \|", part)
    return {word for cell in cells for word in cell.split(", ") if word[:1].isupper()}


def test_every_status_word_of_the_documentation_has_advice() -> None:
    documented = words("STATUS") - {"STATUS", "Ready"}
    assert len(documented) >= 12
    assert documented - set(advice.STATES) == set()


def test_every_condition_with_advice_is_documented() -> None:
    known = words("Conditions")
    assert len(known) > 10
    assert {kind for kind, _ in advice.CONDITIONS} - known == set()


def test_every_page_exists_with_its_heading() -> None:
    pages = {one.page for one in [*advice.STATES.values(), *advice.CONDITIONS.values()]}
    for page in pages:
        path, _, anchor = page.partition("#")
        text = (ROOT / path).read_text()
        headings = re.findall(r"(?m)^#+ (.+)$", text)
        anchors = {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}
        assert not anchor or anchor in anchors, page


def test_a_partition_that_is_ready_needs_nothing() -> None:
    found = explain(partition(), pod(0), pod(1), pod(2))
    assert found.ready
    assert why.text(found) == "Partition ns/part is Ready, and nothing needs attention."


def test_the_status_word_comes_first_with_what_to_do() -> None:
    body = partition(
        condition("QuorumAvailable", "False", "NoLeader", "no replica is the leader"),
        condition("Progressing", "True", "Changing", "waiting for part-1 to answer"),
        state="NoLeader",
    )
    ready = next(c for c in body["status"]["conditions"] if c["type"] == "Ready")
    ready |= {"status": "False", "message": "waiting for part-1 to answer"}
    broken = pod(1, ready=False, restartCount=2, lastState={"terminated": {"exitCode": 78}})
    broken["status"]["containerStatuses"][0]["state"] = {"waiting": {"reason": "CrashLoopBackOff"}}
    found = explain(body, pod(0), broken)
    assert not found.ready
    said = [one.what for one in found.findings]
    assert said == [
        "STATUS is NoLeader: waiting for part-1 to answer",
        "QuorumAvailable is False: no replica is the leader",
        "Pod part-1 has ended with exit code 78 (its TLS files can't be used), restarted 2 times.",
    ]
    assert found.findings[0].page == "docs/operations/troubleshooting.md#no-leader"
    assert "logs part --pod part-1 --previous" in found.findings[2].then
    text = why.text(found)
    assert text.startswith("Partition ns/part is not Ready.\n\n1. STATUS is NoLeader")
    assert "   Next: Bring the pods below back" in text


def test_an_image_that_is_not_there_is_to_be_corrected() -> None:
    waits = {"waiting": {"reason": "ErrImagePull", "message": "not found"}}
    (found,) = explain(partition(), pod(0, ready=False, state=waits)).findings
    assert found.what == "Pod part-0 waits with ErrImagePull: not found."
    assert found.then.startswith("Correct spec.image")


def test_a_ready_partition_with_a_rollout_that_waits_says_the_command() -> None:
    waits = condition("RolledOut", "False", "WaitingForApproval", "part-0 is behind")
    found = explain(partition(waits))
    assert found.ready
    assert [one.then for one in found.findings] == ["kubectl partition approve part"]


def test_no_spare_is_said_although_its_condition_is_true() -> None:
    spare = condition("QuorumAvailable", "True", "NoSpare", "losing one more loses the quorum")
    assert [f.what for f in explain(partition(spare)).findings] == [
        "QuorumAvailable is True: losing one more loses the quorum"
    ]


def test_a_word_that_is_not_known_yet_is_explained_by_its_message() -> None:
    body = partition(state="SomethingNew")
    found = explain(body)
    assert found.findings[0].what == "STATUS is SomethingNew: every replica serves"
    assert found.findings[0].page == advice.TROUBLE


@pytest.mark.parametrize(
    ("operator", "said"),
    [
        (None, "Ask an administrator"),
        ([], "No pod of an operator was found"),
        ([pod(0)], "Its pods are ready"),
        ([pod(0, ready=False)], "None of its pods is ready: part-0"),
    ],
)
def test_a_spec_that_no_operator_has_seen_is_said(operator: Any, said: str) -> None:
    found = explain(partition(generation=3), operator=operator)
    assert not found.ready
    assert said in why.text(found)


def test_a_spec_that_has_just_changed_is_not_late() -> None:
    body = partition(generation=3)
    body["metadata"]["managedFields"] = [{"time": "2026-01-02T11:59:30Z"}]
    assert not why.is_late(body, NOW)
    body["metadata"]["managedFields"] = [{"time": "2026-01-02T11:58:30Z"}]
    assert why.is_late(body, NOW)


def test_only_recent_warnings_are_shown() -> None:
    events = [
        event("VolumeLost", "u-part", "2026-01-02T09:00:00Z"),
        event("QuorumLost", "u-part", "2026-01-02T11:50:00Z", "no\n quorum", count=3),
        event("Ready", "u-part", "2026-01-02T11:55:00Z", type="Normal"),
    ]
    found = explain(partition(), events=events)
    assert found.events == ("QuorumLost of Partition part, 10m ago, 3 times: no quorum",)
