"""What the API server takes and refuses of spec.replication.mode, by the CRD alone."""

import json
import uuid
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.api_server import ApiServer

pytestmark = [pytest.mark.apiserver, pytest.mark.timeout(120)]

Change = dict[str, Any]
REFUSED = "can't go from Raft to None"
NONE: Change = {"replication": {"mode": "None"}}
RAFT: Change = {"replication": {"mode": "Raft"}}


@dataclass
class Subject:
    """A Partition of a namespace of its own."""

    server: ApiServer
    namespace: str

    def create(self, spec: Change) -> str:
        """Returns the mode that it got."""
        body = {
            "apiVersion": "logstore.dev/v1alpha1",
            "kind": "Partition",
            "metadata": {"name": "part"},
            "spec": {"storage": {"size": "1Gi"}} | spec,
        }
        self.server.kubectl("-n", self.namespace, "create", "-f", "-", stdin=json.dumps(body))
        return self.mode()

    def patch(self, *operations: Change) -> str:
        """A JSON patch, all of it or nothing; returns the mode."""
        words = ("patch", "partition", "part", "--type=json", "-p", json.dumps(operations))
        self.server.kubectl("-n", self.namespace, *words)
        return self.mode()

    def mode(self) -> str:
        found = self.server.kubectl.json("-n", self.namespace, "get", "partition", "part")
        return str(found["spec"]["replication"]["mode"])


@pytest.fixture
def subject(server: ApiServer) -> Subject:
    namespace = f"t-{uuid.uuid4().hex[:8]}"
    server.kubectl("create", "namespace", namespace)
    return Subject(server, namespace)


def put(path: str, value: Any) -> Change:
    return {"op": "add", "path": path, "value": value}


def remove(path: str) -> Change:
    return {"op": "remove", "path": path}


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        ({}, "Raft"),
        ({"replication": {}}, "Raft"),
        ({"replication": None}, "Raft"),
        ({"replication": {"mode": None}}, "Raft"),
        (RAFT, "Raft"),
        (NONE, "None"),
        (NONE | {"replicas": 1}, "None"),
        (NONE | {"replicas": 5}, "None"),
    ],
)
def test_what_is_absent_is_raft(subject: Subject, spec: Change, wanted: str) -> None:
    assert subject.create(spec) == wanted


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({"replication": {"mode": "none"}}, 'supported values: "None", "Raft"'),
        ({"replication": {"mode": ""}}, 'supported values: "None", "Raft"'),
        (NONE | {"replicas": 2}, "1, 3, 5 or 7 are allowed"),
    ],
)
def test_other_modes_are_refused(subject: Subject, spec: Change, why: str) -> None:
    with pytest.raises(RuntimeError, match=why):
        subject.create(spec)


@pytest.mark.parametrize(
    "change",
    [
        [put("/spec/replication/mode", "Raft")],
        [put("/spec/replication", {})],
        [remove("/spec/replication/mode")],
        [remove("/spec/replication")],
    ],
)
def test_raft_is_switched_on_by_word_or_by_leaving_the_mode_out(
    subject: Subject, change: list[Change]
) -> None:
    assert subject.create(NONE) == "None"
    assert subject.patch(*change) == "Raft"
    with pytest.raises(RuntimeError, match=REFUSED):
        subject.patch(put("/spec/replication/mode", "None"))


@pytest.mark.parametrize("spec", [{}, RAFT])
@pytest.mark.parametrize("removal", [None, "/spec/replication", "/spec/replication/mode"])
def test_the_way_back_is_refused_by_removing_the_field_first_too(
    subject: Subject, spec: Change, removal: str | None
) -> None:
    assert subject.create(spec) == "Raft"
    if removal is not None:
        assert subject.patch(remove(removal)) == "Raft", "the default comes back"
    for change in (
        put("/spec/replication/mode", "None"),
        put("/spec/replication", {"mode": "None"}),
    ):
        with pytest.raises(RuntimeError, match=REFUSED):
            subject.patch(change)
    # In one patch, too.
    with pytest.raises(RuntimeError, match=REFUSED):
        subject.patch(remove("/spec/replication"), put("/spec/replication", NONE["replication"]))
    assert subject.mode() == "Raft"


def test_an_unrelated_change_of_either_mode_passes(subject: Subject) -> None:
    assert subject.create(NONE) == "None"
    assert subject.patch(put("/spec/replicas", 5)) == "None"
    assert subject.patch(put("/spec/replication/mode", "Raft")) == "Raft"
    assert subject.patch(put("/spec/replicas", 3)) == "Raft"
