"""Where stored snapshots lie: a replica's volume, or an S3-compatible object store with credentials
from a Secret. Pure; what is secret is never in a repr.

The rules of an object store's fields come from the CRD (schema.py), and those that it can't say are
in validation.py. The replica has the same in partition_snapshots.destination, because its commands
take a store from flags, without a CRD. tests/unit/test_destination_rules.py compares the two.
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
    """prefix: of the whole, as the user wrote it, or of one group's store; without slashes at its
    ends. secret: the name of the Secret with the credentials."""

    bucket: str
    secret: str
    endpoint: str = ""
    region: str = ""
    prefix: str = ""
    allow_http: bool = False
    virtual_hosted_style: bool = False

    def body(self) -> dict[str, Any]:
        """As it stands in a spec or status; without what is empty."""
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
    """PEM; empty for the system's authorities."""


@dataclass(frozen=True, slots=True)
class DestinationProblem:
    """Why something can't be done until somebody changes something; `message` says what."""

    reason: str
    message: str


def parse_destination(body: object, where: str) -> Destination:
    """`where`: the field, for messages. Raises InvalidSpec."""
    return destination_of(validation.checked(schema.Destination, body, where))


def destination_of(body: schema.Destination) -> Destination:
    """Of a body that is checked."""
    if "objectStore" not in body:
        return VolumeDestination()
    store = body["objectStore"]
    return _object_store(store, store.get("prefix", ""))


def restore_store(body: schema.RestoreStore) -> ObjectStore:
    """Of a body that is checked."""
    return _object_store(body, body["path"])


def parse_stored(body: object, where: str) -> ObjectStore:
    """As status has it, with the whole prefix of a group's store, which is longer than a user's may
    be. Raises InvalidSpec."""
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
    """Of one group's store in a bucket: a Partition that is made anew never meets the old one's."""
    return "/".join(part for part in (prefix.strip("/"), namespace, partition, cluster_id) if part)


def credentials(secret: dict[str, Any] | None, name: str) -> S3Credentials | DestinationProblem:
    """Reads a Secret; says which key is missing, never what another one holds."""
    wanted = f"keys {ACCESS_KEY} and {SECRET_KEY}, and {SESSION_TOKEN} or {AUTHORITY} where needed"
    if secret is None:
        return DestinationProblem(
            "SecretNotFound", f"Secret {name} does not exist in this namespace: create it; {wanted}"
        )
    data = secret.get("data") or {}
    values = {}
    for key in (ACCESS_KEY, SECRET_KEY, SESSION_TOKEN, AUTHORITY):
        try:
            values[key] = base64.b64decode(data.get(key) or "", validate=True).decode()
        except (binascii.Error, ValueError):
            return DestinationProblem(
                "SecretKeyInvalid", f"Secret {name}: {key} is not text; {wanted}"
            )
    for key in (ACCESS_KEY, SECRET_KEY):
        if not values[key]:
            return DestinationProblem(
                "SecretKeyMissing", f"Secret {name} has no {key}: add it; it needs the {wanted}"
            )
    return S3Credentials(
        values[ACCESS_KEY].strip(),
        values[SECRET_KEY].strip(),
        values[SESSION_TOKEN].strip(),
        values[AUTHORITY].encode(),
    )


def describe(destination: Destination, pod: str = "") -> str:
    """For people: where a snapshot lies."""
    if isinstance(destination, ObjectStore):
        return f"s3://{destination.bucket}/{destination.prefix}"
    return f"volume of {pod}" if pod else "volume"
