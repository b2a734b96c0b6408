"""Where snapshots go: prefixes, Secrets, refusals that say what is allowed and no secret."""

import base64
from typing import Any

import pytest
from partition_operator.api.destination import (
    DestinationProblem,
    ObjectStore,
    S3Credentials,
    VolumeDestination,
    credentials,
    parse_destination,
    store_prefix,
)
from partition_operator.errors import InvalidSpec

from tests.support.snapshot_objects import STORE

GOOD = {"accessKeyId": "AKIA", "secretAccessKey": "hush-hush"}


def secret(**data: str) -> dict[str, Any]:
    return {"data": {key: base64.b64encode(v.encode()).decode() for key, v in data.items()}}


@pytest.mark.parametrize(
    ("prefix", "wanted"),
    [
        ("", "ns/part/id"),
        ("backups", "backups/ns/part/id"),
        ("/a/b/", "a/b/ns/part/id"),
    ],
)
def test_the_prefix_of_a_groups_store(prefix: str, wanted: str) -> None:
    assert store_prefix(prefix, "ns", "part", "id") == wanted


def test_destinations_are_read() -> None:
    assert parse_destination({"volume": {}}, "x") == VolumeDestination()
    found = parse_destination({"objectStore": STORE}, "x")
    assert isinstance(found, ObjectStore)
    assert parse_destination({"objectStore": found.body()}, "x") == found


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({}, "one of volume and objectStore"),
        ({"volume": {}, "objectStore": STORE}, "one of volume and objectStore"),
        ({"objectStore": STORE | {"bucket": "Up"}}, "3 to 63 lower-case letters"),
        ({"objectStore": STORE | {"endpoint": "s3.example.org"}}, "a URL such as https://"),
        ({"objectStore": STORE | {"endpoint": "http://s3"}}, "allowHTTP"),
        ({"objectStore": STORE | {"prefix": "a/../b"}}, "in parts separated by '/'"),
        ({"objectStore": STORE | {"prefix": "a b"}}, "in parts separated by '/'"),
        ({"objectStore": STORE | {"prefix": "x" * 513}}, "at most 300"),
        ({"objectStore": STORE | {"credentialsSecretRef": {}}}, "the name of a Secret"),
    ],
)
def test_refusals_say_what_is_allowed(body: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidSpec, match=why) as caught:
        parse_destination(body, "spec.destination")
    assert "spec.destination" in str(caught.value)


def test_secrets_are_read_and_never_shown() -> None:
    found = credentials(secret(**GOOD, **{"ca.crt": "PEM", "sessionToken": "t\n"}), "s3")
    assert isinstance(found, S3Credentials)
    assert (found.access_key, found.secret_key) == ("AKIA", "hush-hush")
    assert (found.session_token, found.authority) == ("t", b"PEM")
    assert "hush" not in repr(found)
    assert "AKIA" not in repr(found)


@pytest.mark.parametrize(
    ("body", "reason", "what"),
    [
        (None, "SecretNotFound", "create it"),
        (secret(accessKeyId="AKIA"), "SecretKeyMissing", "secretAccessKey"),
        (secret(secretAccessKey="hush"), "SecretKeyMissing", "accessKeyId"),
        ({"data": GOOD | {"secretAccessKey": "/w=="}}, "SecretKeyInvalid", "secretAccessKey"),
    ],
)
def test_what_is_wrong_with_a_secret_is_said_by_key(body: Any, reason: str, what: str) -> None:
    found = credentials(body, "s3")
    assert isinstance(found, DestinationProblem)
    assert found.reason == reason
    assert what in found.message
    assert "s3" in found.message
    assert "hush" not in found.message
