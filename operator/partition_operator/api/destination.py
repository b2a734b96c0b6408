"""Destinations of snapshots: a replica's volume, or an S3-compatible object store with credentials
from a Secret. Pure. A repr never contains a secret.

The CRD contains the rules of an object store's fields (schema.py); validation.py contains the rules
that a CRD can't express. The replica has the same rules in partition_snapshots.destination, because
its commands take a store from flags, without a CRD. tests/unit/test_destination_rules.py compares
the two.
"""

import base64
import binascii
from dataclasses import dataclass, field
from typing import Any

from partition_operator.api import schema, validation
from partition_operator.api.rule import Rule

ACCESS_KEY = "accessKeyId"
SECRET_KEY = "secretAccessKey"  # noqa: S105  # a name
SESSION_TOKEN = "sessionToken"  # noqa: S105  # a name
AUTHORITY = "ca.crt"


@dataclass(frozen=True, slots=True)
class VolumeDestination:
    """The volume of the replica that takes the snapshot."""


@dataclass(frozen=True, slots=True)
class ObjectStore:
    """prefix: the user's prefix, or the whole prefix of one group's store; without slashes at its
    ends. secret: the name of the Secret with the credentials."""

    bucket: str
    secret: str
    endpoint: str = ""
    region: str = ""
    prefix: str = ""
    allow_http: bool = False
    virtual_hosted_style: bool = False

    def body(self) -> dict[str, Any]:
        """Returns the fields as in a spec or status, without empty ones."""
        found: dict[str, Any] = {
            "bucket": self.bucket,
            "credentialsSecretRef": {"name": self.secret},
            "endpoint": self.endpoint,
            "region": self.region,
            "prefix": self.prefix,
            "allowHTTP": self.allow_http,
            "virtualHostedStyle": self.virtual_hosted_style,
        }
        return {key: value for key, value in found.items() if value}


Destination = VolumeDestination | ObjectStore


@dataclass(frozen=True, slots=True)
class S3Credentials:
    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    session_token: str = field(default="", repr=False)
    authority: bytes = field(default=b"", repr=False)
    """The CA in PEM; empty to use the system's CAs."""


@dataclass(frozen=True, slots=True)
class DestinationProblem:
    """Why a destination can't be used. message: what the user must change."""

    reason: str
    message: str


def parse_destination(body: object, where: str) -> Destination:
    """where: the path of the field, for messages. Raises InvalidSpec."""
    return destination_of(validation.checked(schema.Destination, body, where))


def destination_of(body: schema.Destination) -> Destination:
    """Parses a checked body."""
    if "objectStore" not in body:
        return VolumeDestination()
    store = body["objectStore"]
    return _object_store(store, store.get("prefix", ""))


def restore_store(body: schema.RestoreStore) -> ObjectStore:
    """Parses a checked body."""
    return _object_store(body, body["path"])


def parse_stored(body: object, where: str) -> ObjectStore:
    """Parses a store from status. Its prefix is that of a group's store, which may be longer than a
    user's. Raises InvalidSpec."""
    whole = {"prefix": Rule("string", max_length=validation.PATH_MAX)}
    store = validation.checked(schema.ObjectStore, body, where, instead=whole)
    return _object_store(store, store.get("prefix", ""))


def _object_store(body: schema.ObjectStore | schema.RestoreStore, path: str) -> ObjectStore:
    return ObjectStore(
        bucket=body["bucket"],
        secret=body["credentialsSecretRef"]["name"],
        endpoint=body.get("endpoint", ""),
        region=body.get("region", ""),
        prefix=path.strip("/"),
        allow_http=body.get("allowHTTP", False),
        virtual_hosted_style=body.get("virtualHostedStyle", False),
    )


def store_prefix(prefix: str, namespace: str, partition: str, cluster_id: str) -> str:
    """Returns the prefix of one group's store in a bucket. It contains the cluster ID, so a
    recreated Partition never uses the old store."""
    return "/".join(part for part in (prefix.strip("/"), namespace, partition, cluster_id) if part)


def credentials(secret: dict[str, Any] | None, name: str) -> S3Credentials | DestinationProblem:
    """Reads the credentials from a Secret. A problem names the missing key and no other content."""
    wanted = f"keys {ACCESS_KEY} and {SECRET_KEY}, and {SESSION_TOKEN} or {AUTHORITY} if needed"
    if secret is None:
        return DestinationProblem(
            "SecretNotFound",
            f"Secret {name} does not exist in this namespace: create it with {wanted}",
        )
    data = secret.get("data") or {}
    values = {}
    for key in (ACCESS_KEY, SECRET_KEY, SESSION_TOKEN, AUTHORITY):
        try:
            values[key] = base64.b64decode(data.get(key) or "", validate=True).decode()
        except (binascii.Error, ValueError):
            return DestinationProblem(
                "SecretKeyInvalid", f"Secret {name}: {key} is not text; the Secret needs {wanted}"
            )
    for key in (ACCESS_KEY, SECRET_KEY):
        if not values[key]:
            return DestinationProblem(
                "SecretKeyMissing",
                f"Secret {name} has no {key}: add it; the Secret needs {wanted}",
            )
    return S3Credentials(
        values[ACCESS_KEY].strip(),
        values[SECRET_KEY].strip(),
        values[SESSION_TOKEN].strip(),
        values[AUTHORITY].encode(),
    )


def describe(destination: Destination, pod: str = "") -> str:
    """Returns where a snapshot is stored, for messages."""
    if isinstance(destination, ObjectStore):
        return f"s3://{destination.bucket}/{destination.prefix}"
    return f"volume of {pod}" if pod else "volume"
