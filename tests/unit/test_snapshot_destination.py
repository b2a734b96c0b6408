"""Destinations as arguments and environment: what is wrong is named, secrets never are."""

import argparse
from pathlib import Path
from typing import Any

import pytest
from partition_snapshots.destination import (
    Destination,
    DirectoryDestination,
    S3Destination,
    add_arguments,
    from_arguments,
)
from partition_snapshots.errors import InvalidDestination

SECRET = "s3cr3t-k3y"
KEYS = {"AWS_ACCESS_KEY_ID": "AKID", "AWS_SECRET_ACCESS_KEY": SECRET}
PEM = b"-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n"


def parse(arguments: list[str], environ: dict[str, str]) -> Destination:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return from_arguments(parser.parse_args(arguments), environ)


def make(**changes: Any) -> S3Destination:
    return S3Destination(
        **{"bucket": "bucket", "access_key_id": "AKID", "secret_access_key": SECRET} | changes
    )


def test_both_kinds_travel(tmp_path: Path) -> None:
    ca = tmp_path / "ca.crt"
    ca.write_bytes(PEM)
    for destination in (
        DirectoryDestination(tmp_path / "store"),
        make(),
        make(
            endpoint="http://store:9000",
            prefix="a/b",
            region="eu-west-1",
            session_token="token",
            allow_http=True,
            virtual_hosted_style=True,
            ca_certificate=PEM,
            ca_file=ca,
        ),
    ):
        arguments, environment = destination.to_arguments()
        assert parse(arguments, environment) == destination
        assert SECRET not in " ".join(arguments) + str(destination) + repr(destination)
        assert "token" not in " ".join(arguments) + repr(destination)


@pytest.mark.parametrize(
    ("arguments", "environ", "why"),
    [
        ([], KEYS, "no destination"),
        (["--directory", "x", "--s3-bucket", "bucket"], KEYS, "both given"),
        (["--s3-bucket", "bucket"], {}, "AWS_ACCESS_KEY_ID is empty"),
        (["--s3-bucket", "bucket"], {"AWS_ACCESS_KEY_ID": "x"}, "AWS_SECRET_ACCESS_KEY is empty"),
        (["--s3-bucket", "bucket"], KEYS | {"AWS_SECRET_ACCESS_KEY": "a\n"}, "line break"),
        (["--s3-bucket", "Bucket"], KEYS, "not a bucket name"),
        (["--s3-bucket", "bucket", "--s3-endpoint", "http://x"], KEYS, "no TLS"),
        (["--s3-bucket", "bucket", "--s3-endpoint", "x:9000"], KEYS, "must be a URL"),
        (["--s3-bucket", "bucket", "--s3-endpoint", "https://u:p@x"], KEYS, "more than"),
        (["--s3-bucket", "bucket", "--s3-prefix", "a/../b"], KEYS, "not allowed"),
        (["--s3-bucket", "bucket", "--s3-prefix", "a//b"], KEYS, "not allowed"),
        (["--s3-bucket", "bucket", "--s3-ca-file", "/nonexistent"], KEYS, "--s3-ca-file"),
        (["--s3-bucket", "bucket", "--s3-prefix=-a/b"], KEYS, "begins with '-'"),
        (["--s3-bucket", "bucket", "--s3-region=-x"], KEYS, "not a region"),
        (["--s3-bucket", "bucket", "--s3-region", ""], KEYS, "not a region"),
        (["--s3-bucket", "bucket", "--s3-region", "a\0b"], KEYS, "not a region"),
        (["--s3-bucket", "bucket", "--s3-endpoint", "https://a\0b"], KEYS, "not allowed in a URL"),
        (["--s3-bucket", "bucket", "--s3-endpoint", "https://a\nb"], KEYS, "not allowed in a URL"),
        (["--s3-bucket", "bucket", "--s3-endpoint", "https://[a"], KEYS, "is not a URL"),
        (["--s3-bucket", "bucket", "--s3-endpoint", "https://a:port"], KEYS, "is not a URL"),
        (["--s3-bucket", "bucket"], KEYS | {"AWS_SESSION_TOKEN": "a\0b"}, "not allowed in a token"),
        (["--s3-bucket", "bucket"], KEYS | {"AWS_SESSION_TOKEN": "ä"}, "not allowed in a token"),
    ],
)
def test_what_is_wrong_is_named(arguments: list[str], environ: dict[str, str], why: str) -> None:
    with pytest.raises(InvalidDestination, match=why) as caught:
        parse(arguments, environ)
    assert SECRET not in str(caught.value)


def test_a_ca_that_is_none() -> None:
    with pytest.raises(InvalidDestination, match="no PEM"):
        make(ca_certificate=b"junk")
    with pytest.raises(InvalidDestination, match="not in a file"):
        make(ca_certificate=PEM).to_arguments()
