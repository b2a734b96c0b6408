"""Where stored snapshots lie: a replica's volume, or an S3-compatible object store with credentials
from a Secret. Pure; what is secret is never in a repr."""

import base64
import binascii
import re
from dataclasses import dataclass, field
from typing import Any

from partition_operator.errors import InvalidSpec

ACCESS_KEY = "accessKeyId"
SECRET_KEY = "secretAccessKey"  # noqa: S105  # a name
SESSION_TOKEN = "sessionToken"  # noqa: S105  # a name
AUTHORITY = "ca.crt"

PREFIX_MAX = 300
PATH_MAX = 512
"""Of a user's prefix, and with the group's own part after it."""

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX = re.compile(r"[A-Za-z0-9!_.*'()-]+(/[A-Za-z0-9!_.*'()-]+)*")


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
class Credentials:
    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    session_token: str = field(default="", repr=False)
    authority: bytes = field(default=b"", repr=False)
    """PEM; empty for the system's authorities."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why something can't be done until somebody changes something; `message` says what."""

    reason: str
    message: str


def parse_destination(body: dict[str, Any], where: str) -> Destination:
    """`where`: the field, for messages. Raises InvalidSpec."""
    kinds = sorted(body)
    if kinds == ["volume"]:
        return VolumeDestination()
    if kinds == ["objectStore"]:
        return parse_object_store(body["objectStore"] or {}, f"{where}.objectStore")
    raise InvalidSpec(f"{where}: one of volume and objectStore is wanted, not {kinds or 'nothing'}")


def parse_object_store(body: dict[str, Any], where: str, *, prefix: str = "prefix") -> ObjectStore:
    """`prefix`: the field that holds it. Raises InvalidSpec."""
    bucket = str(body.get("bucket", ""))
    if not _BUCKET.fullmatch(bucket):
        raise InvalidSpec(
            f"{where}.bucket {bucket!r}: 3 to 63 lower-case letters, digits, '.' and '-'"
        )
    endpoint = str(body.get("endpoint", ""))
    allow_http = bool(body.get("allowHTTP", False))
    if endpoint and not endpoint.startswith(("https://", "http://")):
        raise InvalidSpec(f"{where}.endpoint {endpoint!r}: a URL such as https://s3.example.org")
    if endpoint.startswith("http://") and not allow_http:
        raise InvalidSpec(
            f"{where}.endpoint {endpoint!r}: use https://, or set allowHTTP to true to send data "
            "and requests in the clear"
        )
    path = str(body.get(prefix, "")).strip("/")
    dots = any(part in (".", "..") for part in path.split("/"))
    if path and (not _PREFIX.fullmatch(path) or dots or len(path) > PATH_MAX):
        raise InvalidSpec(
            f"{where}.{prefix} {path!r}: at most {PREFIX_MAX} letters, digits and !_.*'()-, in "
            "parts separated by '/'"
        )
    secret = str((body.get("credentialsSecretRef") or {}).get("name", ""))
    if not secret:
        raise InvalidSpec(
            f"{where}.credentialsSecretRef.name: the name of a Secret with the keys {ACCESS_KEY} "
            f"and {SECRET_KEY} is wanted"
        )
    return ObjectStore(
        bucket=bucket,
        secret=secret,
        endpoint=endpoint,
        region=str(body.get("region", "")),
        prefix=path,
        allow_http=allow_http,
        virtual_hosted_style=bool(body.get("virtualHostedStyle", False)),
    )


def store_prefix(prefix: str, namespace: str, partition: str, cluster_id: str) -> str:
    """Of one group's store in a bucket: a Partition that is made anew never meets the old one's."""
    return "/".join(part for part in (prefix.strip("/"), namespace, partition, cluster_id) if part)


def credentials(secret: dict[str, Any] | None, name: str) -> Credentials | Refusal:
    """Reads a Secret; says which key is missing, never what another one holds."""
    wanted = f"keys {ACCESS_KEY} and {SECRET_KEY}, and {SESSION_TOKEN} or {AUTHORITY} where needed"
    if secret is None:
        return Refusal(
            "SecretNotFound", f"Secret {name} does not exist in this namespace: create it; {wanted}"
        )
    data = secret.get("data") or {}
    values = {}
    for key in (ACCESS_KEY, SECRET_KEY, SESSION_TOKEN, AUTHORITY):
        try:
            values[key] = base64.b64decode(data.get(key) or "", validate=True).decode()
        except (binascii.Error, ValueError):
            return Refusal("SecretKeyInvalid", f"Secret {name}: {key} is not text; {wanted}")
    for key in (ACCESS_KEY, SECRET_KEY):
        if not values[key]:
            return Refusal(
                "SecretKeyMissing", f"Secret {name} has no {key}: add it; it needs the {wanted}"
            )
    return Credentials(
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
