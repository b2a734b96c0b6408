"""`kubectl partition report`: what it takes out, what it contains, and what it says when it may not
read something."""

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from partition_kubectl import redaction
from partition_kubectl.__main__ import answer
from partition_kubectl.errors import UsageError

from tests.support.kubectl_objects import FakeKubectl, event, partition, pod

PASSWORD = "hunter2-hunter2"
CONTAINER = {
    "name": "app",
    "command": ["app", f"--password={PASSWORD}"],
    "env": [
        {"name": "TOKEN", "value": PASSWORD},
        {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
    ],
}


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeKubectl:
    folder = tmp_path / "fake"
    folder.mkdir()
    found = FakeKubectl(folder)
    monkeypatch.setenv("KUBECTL", str(found.program))
    monkeypatch.chdir(tmp_path)
    return found


def contents(path: Path) -> dict[str, str]:
    """The files of a report, without the name of its folder."""
    found = {}
    with tarfile.open(path) as archive:
        for entry in archive.getmembers():
            file = archive.extractfile(entry)
            assert file is not None
            found[entry.name.partition("/")[2]] = file.read().decode()
    return found


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ("connect postgres://me:secret1@db:5432/x", "connect postgres://REDACTED@db:5432/x"),
        ("Authorization: Bearer abc.def", "Authorization: REDACTED"),
        ('{"password": "secret1", "user": "me"}', '{"password": "REDACTED", "user": "me"}'),
        ("AWS_SECRET_ACCESS_KEY=secret1 next", "AWS_SECRET_ACCESS_KEY=REDACTED next"),
        ("x eyJhbGciOiJI.eyJzdWIiOiIx.abc y", "x REDACTED y"),
        ("GET /b?X-Amz-Signature=ab12&x=1", "GET /b?X-Amz-Signature=REDACTED&x=1"),
        (
            "a\n-----BEGIN EC PRIVATE KEY-----\nMIIB\n-----END EC PRIVATE KEY-----\nb",
            "a\nREDACTED\nb",
        ),
        ("-----BEGIN PRIVATE KEY-----\nthe log was cut here", "REDACTED"),
        ("part-0 leads term 4 at http://10.0.0.1:7000/x", None),
        ("-----BEGIN CERTIFICATE-----", None),
        ("Secret part-client-tls is issued", None),
    ],
)
def test_secrets_in_text_are_taken_out(said: str, left: str | None) -> None:
    assert redaction.text(said) == (said if left is None else left)


@pytest.mark.parametrize("field", ["containers", "initContainers", "ephemeralContainers"])
def test_values_of_variables_and_flags_of_others_are_taken_out(field: str) -> None:
    body = {"kind": "Pod", "spec": {field: [CONTAINER, CONTAINER | {"name": "replica"}]}}
    cleaned = redaction.body(body)["spec"][field]
    assert cleaned[0]["env"] == [
        {"name": "TOKEN", "value": "REDACTED"},
        {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
    ]
    assert cleaned[0]["command"] == ["REDACTED"]
    assert cleaned[1]["command"][0] == "app"
    assert PASSWORD not in json.dumps(cleaned)


def test_copies_of_the_object_are_cleaned_too() -> None:
    spec = json.dumps({"containers": [CONTAINER]})
    marks = {
        "kubectl.kubernetes.io/last-applied-configuration": spec,
        "logstore.dev/pod-spec": spec,
        "example.org/password": PASSWORD,
        "example.org/owner": "team-a",
    }
    body = {"metadata": {"annotations": marks, "managedFields": [{"manager": "me"}]}}
    cleaned = redaction.body(body)["metadata"]
    assert PASSWORD not in json.dumps(cleaned)
    assert cleaned["annotations"]["example.org/owner"] == "team-a"
    assert '"name": "TOKEN"' in cleaned["annotations"]["logstore.dev/pod-spec"]
    assert "managedFields" not in cleaned
    broken = {"metadata": {"annotations": {"logstore.dev/pod-spec": "{" + PASSWORD}}}
    assert PASSWORD not in json.dumps(redaction.body(broken))


def test_variables_of_the_pod_template_in_the_spec_are_taken_out() -> None:
    body = {"spec": {"podTemplate": {"env": [{"name": "X", "value": PASSWORD}]}}}
    assert PASSWORD not in json.dumps(redaction.body(body))
    ours = {"env": [{"name": "PARTITION_WATCH", "value": "a,b"}]}
    assert redaction.body(ours) == ours


def test_a_secret_is_never_taken() -> None:
    with pytest.raises(ValueError, match="must not be read"):
        redaction.body({"kind": "Secret", "data": {}})


def test_a_report_holds_objects_events_and_logs_and_asks_for_no_secret(
    kubectl: FakeKubectl, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: dict[str, Any] = pod(0, restartCount=1)
    seen["spec"]["containers"].append(CONTAINER)
    kubectl.answer("logs", "part-0", "--previous", out="before\n")
    kubectl.answer("logs", "part-0", out=f"password={PASSWORD}\nleads\n")
    kubectl.answer("logs", err='Error from server (Forbidden): pods "op-0" is forbidden', code=1)
    kubectl.answer(
        "get",
        "pods",
        "app.kubernetes.io/name=partition-operator",
        out={
            "items": [
                pod(0)
                | {"metadata": {"name": "op-0", "namespace": "partition-system", "uid": "u-op"}}
            ]
        },
    )
    kubectl.answer("get", "pods", out={"items": [seen]})
    kubectl.answer(
        "get",
        "events",
        out={
            "items": [
                event("QuorumLost", "u-part", "2026-01-02T11:00:00Z"),
                event(
                    "Other", "u-x", "2026-01-02T11:00:00Z", involvedObject={"name": "x", "uid": "x"}
                ),
            ]
        },
    )
    kubectl.answer("get", "partitions.logstore.dev", "part", out=partition())
    kubectl.answer("get", "services", err="Error from server (Forbidden): services no", code=1)
    kubectl.answer("get", out={"items": []})
    kubectl.answer("version", out={"clientVersion": {"gitVersion": "v1.34.0"}})
    file = tmp_path / "report.tar.gz"
    assert answer(["report", "part", "--file", str(file)]) == 0
    assert file.stat().st_mode & 0o777 == 0o600
    found = contents(file)
    assert found["logs/part-0.log"] == "password=REDACTED\nleads\n"
    assert found["logs/part-0.previous.log"] == "before\n"
    assert json.loads(found["partition.json"])[0]["metadata"]["name"] == "part"
    assert [e["reason"] for e in json.loads(found["events.json"])] == ["QuorumLost"]
    assert PASSWORD not in "".join(found.values())
    readme = found["README.txt"]
    assert set(found) - {"README.txt"} == {
        line.removeprefix("- ") for line in readme.splitlines() if line in {f"- {n}" for n in found}
    }
    assert "- services: services no" in readme
    assert '- logs/op-0.log: pods "op-0" is forbidden' in readme
    assert "Left out: services: services no" in capsys.readouterr().out
    assert not any("secret" in word for words in kubectl.calls() for word in words)


def test_a_file_that_exists_is_kept(kubectl: FakeKubectl, tmp_path: Path) -> None:
    file = tmp_path / "mine"
    file.write_text("mine")
    with pytest.raises(UsageError, match="exists already"):
        answer(["report", "part", "--file", str(file)])
    assert (file.read_text(), kubectl.calls()) == ("mine", [])
