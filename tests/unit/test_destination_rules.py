"""The operator and the replica agree on what a store in a bucket may be called.

Two programs check it: the operator by the CRD's rules, the replica's commands by their own, because
they take a store from flags.
"""

from typing import Any

import pytest
from partition_operator.api import schema, validation
from partition_operator.errors import InvalidSpec
from partition_snapshots import destination as replica
from partition_snapshots.errors import InvalidDestination

from tests.support.snapshot_objects import STORE

BUCKETS = [
    "abc",
    "a.b-c",
    "a" * 63,
    "0-9",
    "ab",
    "a" * 64,
    "Abc",
    "-bc",
    "ab-",
    "a_c",
    "a/c",
    "abc\n",
]
PATHS = ["", "a", "a/b", "/a/b/", "A-z.0_9!*'()", "a//b", "..", "a/../b", "./a", "a b", "ä", "a\n"]
ENDPOINTS = [
    "https://s3.example.org",
    "https://h:9000",
    "s3.example.org",
    "ftp://h",
    "https:///x",
]


def operator_takes(**more: Any) -> bool:
    try:
        validation.checked(schema.ObjectStore, STORE | more, "x")
    except InvalidSpec:
        return False
    return True


def replica_takes(**more: Any) -> bool:
    given = {"bucket": "bucket", "access_key_id": "a", "secret_access_key": "b"}
    try:
        replica.S3Destination(**(given | more))
    except InvalidDestination:
        return False
    return True


@pytest.mark.parametrize("bucket", BUCKETS)
def test_buckets(bucket: str) -> None:
    assert operator_takes(bucket=bucket) == replica_takes(bucket=bucket)


@pytest.mark.parametrize("path", PATHS)
def test_paths(path: str) -> None:
    assert operator_takes(prefix=path) == replica_takes(prefix=path)


def test_the_length_of_a_path() -> None:
    assert validation.PATH_MAX == replica.PREFIX_BYTES_MAX


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_endpoints(endpoint: str) -> None:
    assert operator_takes(endpoint=endpoint) == replica_takes(endpoint=endpoint)


@pytest.mark.parametrize("allowed", [True, False])
def test_plain_http_has_to_be_allowed(allowed: bool) -> None:
    assert operator_takes(endpoint="http://h", allowHTTP=allowed) == allowed
    assert replica_takes(endpoint="http://h", allow_http=allowed) == allowed


@pytest.mark.parametrize(
    ("operators", "replicas"),
    [
        ({"prefix": "-a"}, {"prefix": "-a"}),
        ({"region": "eu west"}, {"region": "eu west"}),
        ({"endpoint": "https://h?x=y"}, {"endpoint": "https://h?x=y"}),
    ],
)
def test_what_the_replica_alone_refuses(operators: Any, replicas: Any) -> None:
    """Known differences: the snapshot's job fails, and its message says why."""
    assert operator_takes(**operators)
    assert not replica_takes(**replicas)


def test_the_crds_pattern_is_the_replicas() -> None:
    pattern = schema.RULES["ObjectStore"]["bucket"].pattern
    assert pattern == f"^{replica._BUCKET.pattern}$"
