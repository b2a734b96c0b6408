"""Specs that the present CRD would not admit: an error names the field, and nothing is guessed."""

from typing import Any

import pytest
from partition_operator.api import schema, validation
from partition_operator.api.partition import parse_spec
from partition_operator.api.snapshot import parse_snapshots_spec
from partition_operator.errors import InvalidSpec

from tests.support.snapshot_objects import STORE, snapshot

LEAST = {"storage": {"size": "1Gi"}}


def test_the_defaults_are_the_crds() -> None:
    found = validation.checked(schema.PartitionSpec, LEAST, "spec")
    assert found == LEAST | {
        "replicas": 3,
        "replication": {"mode": "Raft"},
        "updateStrategy": {"type": "Rolling", "progressDeadlineSeconds": 600},
    }
    assert LEAST == {"storage": {"size": "1Gi"}}, "what was given stays as it is"
    policy = parse_snapshots_spec({"snapshots": {"retention": {}}})
    assert policy is not None
    assert (policy.time_zone, policy.verify) == ("Etc/UTC", "Checksum")
    assert policy.retention.min_successful == 1


def test_null_is_absent_as_for_an_api_server() -> None:
    spec = LEAST | {"replicas": None, "bootstrap": None, "podTemplate": {"metadata": None}}
    assert parse_spec("a", spec) == parse_spec("a", LEAST)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"storage": None}, "spec.storage is missing"),
        ({"storage": "1Gi"}, "spec.storage '1Gi': is not an object with fields"),
        ({"storage": {"size": 1}}, "spec.storage.size 1: is not text"),
        ({"storage": {"size": "1" * 40}}, "spec.storage.size .*: at most 32 characters"),
        ({"replicas": "3"}, "spec.replicas '3': is not a whole number"),
        ({"paused": "yes"}, "spec.paused 'yes': is neither true nor false"),
        ({"image": "an image"}, "spec.image 'an image': the image of the replicas, without spaces"),
        (
            {"updateStrategy": {"type": "Quick"}},
            "spec.updateStrategy.type 'Quick': allowed are Rolling, Supervised, OnDelete",
        ),
        (
            {"updateStrategy": {"progressDeadlineSeconds": 0}},
            "spec.updateStrategy.progressDeadlineSeconds 0: at least 1",
        ),
        (
            {"updateStrategy": {"maintenanceWindows": [{"schedule": "0 3 * * *"}]}},
            r"spec.updateStrategy.maintenanceWindows\[0\].durationMinutes is missing",
        ),
        (
            {
                "updateStrategy": {
                    "maintenanceWindows": [{"schedule": "0 3 * * *", "durationMinutes": 10081}]
                }
            },
            r"spec.updateStrategy.maintenanceWindows\[0\].durationMinutes 10081: at most 10080",
        ),
        (
            {
                "updateStrategy": {
                    "maintenanceWindows": [{"schedule": "0 3 * * *", "durationMinutes": 1}] * 17
                }
            },
            "spec.updateStrategy.maintenanceWindows has 17 items: at most 16 are allowed",
        ),
        ({"replicas": True}, "spec.replicas True: is not a whole number"),
        ({"bootstrap": {"adopt": "yes"}}, "spec.bootstrap.adopt 'yes': is neither true nor false"),
        ({"tolerations": {}}, "spec.tolerations {}: is not a list"),
        (
            {"bootstrap": {"objectStore": {"path": "x", "bucket": "abc"}}},
            "spec.bootstrap.objectStore.credentialsSecretRef is missing: a Secret in this",
        ),
        ({"affinity": "x" * 1000}, "spec.affinity 'x{99}: is not an object"),
    ],
)
def test_an_error_names_the_field(more: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidSpec, match=why):
        parse_spec("a", LEAST | more)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({"startingDeadlineSeconds": 9}, "spec.snapshots.startingDeadlineSeconds 9: at least 10"),
        ({"verify": "Maybe"}, "spec.snapshots.verify 'Maybe': allowed are None, Checksum, Restore"),
        ({"schedule": 5}, "spec.snapshots.schedule 5: is not text"),
        ({"schedule": "0 3 * * *"}, "spec.snapshots.destination: a schedule needs one"),
        ([], "spec.snapshots \\[\\]: is not an object"),
    ],
)
def test_so_does_one_of_the_snapshots(body: object, why: str) -> None:
    with pytest.raises(InvalidSpec, match=why):
        parse_snapshots_spec({"snapshots": body})
    if isinstance(body, dict):
        assert parse_spec("a", LEAST | {"snapshots": body}).replicas == 3, "it stops nothing else"


def test_a_patterns_end_is_the_texts_end() -> None:
    with pytest.raises(InvalidSpec, match="bucket"):
        validation.checked(schema.ObjectStore, STORE | {"bucket": "abc\n"}, "x")


def test_a_recorded_prefix_may_be_longer_than_a_users() -> None:
    found = snapshot(status={"destination": {"objectStore": STORE | {"prefix": "p" * 400}}})
    assert found.stored_in() is not None
    for prefix in ("p" * 513, "a/../b", 7):
        wrong = snapshot(status={"destination": {"objectStore": STORE | {"prefix": prefix}}})
        with pytest.raises(InvalidSpec, match=r"status\.destination\.objectStore\.prefix"):
            wrong.stored_in()
