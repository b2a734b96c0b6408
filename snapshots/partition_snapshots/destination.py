"""The description of a store. It is passed to processes as arguments and environment."""

import argparse
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from partition_snapshots.errors import InvalidDestination
from partition_snapshots.limits import SnapshotLimits
from partition_snapshots.store import Store

ACCESS_KEY_ID = "AWS_ACCESS_KEY_ID"
SECRET_ACCESS_KEY = "AWS_SECRET_ACCESS_KEY"  # noqa: S105  # a variable's name
SESSION_TOKEN = "AWS_SESSION_TOKEN"  # noqa: S105  # a variable's name

CA_BYTES_MAX = 1 << 20
PREFIX_BYTES_MAX = 512
ENDPOINT_CHARACTERS_MAX = 2048

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX_PART = re.compile(r"[A-Za-z0-9!_.*'()-]+")
_HEADER = re.compile(r"[\x21-\x7e]+")
_REGION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


@dataclass(frozen=True)
class DirectoryDestination:
    """A directory. The first write creates it if it is missing; its parent must exist."""

    path: Path

    def __str__(self) -> str:
        return f"directory {self.path}"

    def to_arguments(self) -> tuple[list[str], dict[str, str]]:
        """Returns (arguments, environment) from which `from_arguments` makes an equal value."""
        return ["--directory", str(self.path)], {}


@dataclass(frozen=True)
class S3Destination:
    """A prefix in a bucket. Secrets are not in repr and arguments.

    endpoint: a URL; "" is Amazon S3 in the region. An http:// endpoint also needs `allow_http`.
    ca_certificate: PEM, trusted in addition to the system's CAs.
    virtual_hosted_style: requests name the bucket in the host instead of the path.
    """

    bucket: str
    access_key_id: str
    secret_access_key: str = field(repr=False)
    endpoint: str = ""
    region: str = "us-east-1"
    prefix: str = ""
    session_token: str = field(default="", repr=False)
    ca_certificate: bytes = field(default=b"", repr=False)
    ca_file: Path | None = None
    allow_http: bool = False
    virtual_hosted_style: bool = False

    def __post_init__(self) -> None:
        """Raises InvalidDestination; the message names the mistake."""
        if not _BUCKET.fullmatch(self.bucket):
            raise InvalidDestination(
                f"{self.bucket!r} is not a bucket name; use 3 to 63 of a-z, 0-9, '.' and '-'"
            )
        object.__setattr__(self, "prefix", self.prefix.strip("/"))
        self._check_prefix()
        if not _REGION.fullmatch(self.region):
            raise InvalidDestination(
                f"{self.region[:80]!r} is not a region; use 1 to 63 letters, digits, '.', '_' and "
                "'-', the first a letter or digit"
            )
        self._check_endpoint()
        self._check_credentials()

    def _check_prefix(self) -> None:
        if len(self.prefix) > PREFIX_BYTES_MAX:
            raise InvalidDestination(
                f"the prefix has {len(self.prefix)} characters; at most {PREFIX_BYTES_MAX} are "
                "allowed"
            )
        if self.prefix.startswith("-"):
            raise InvalidDestination(
                f"prefix {self.prefix!r} begins with '-', as flags do; choose another prefix"
            )
        for part in self.prefix.split("/") if self.prefix else []:
            if part in (".", "..") or not _PREFIX_PART.fullmatch(part):
                raise InvalidDestination(
                    f"prefix {self.prefix!r}: {part!r} is not allowed between slashes; use only "
                    "letters, digits and !_.*'()-"
                )

    def _check_endpoint(self) -> None:
        if not self.endpoint:
            return
        if len(self.endpoint) > ENDPOINT_CHARACTERS_MAX or not _HEADER.fullmatch(self.endpoint):
            raise InvalidDestination(
                "the endpoint contains a space or another character that is not allowed in a URL, "
                f"or has more than {ENDPOINT_CHARACTERS_MAX} characters"
            )
        try:
            url = urlsplit(self.endpoint)
            _ = url.port  # raises if it is not a number
        except ValueError as error:
            raise InvalidDestination(f"the endpoint is not a URL: {error}") from error
        if url.scheme not in ("http", "https") or not url.hostname:
            raise InvalidDestination(
                "the endpoint must be a URL: https://host or https://host:port"
            )
        if url.username or url.password or url.query or url.fragment:
            raise InvalidDestination(
                "the endpoint contains more than scheme, host, port and path; remove the rest"
            )
        if url.scheme == "http" and not self.allow_http:
            raise InvalidDestination(
                f"{self.endpoint} has no TLS; use https://, or explicitly allow HTTP"
            )

    def _check_credentials(self) -> None:
        for name, value in (
            (ACCESS_KEY_ID, self.access_key_id),
            (SECRET_ACCESS_KEY, self.secret_access_key),
        ):
            if not value:
                raise InvalidDestination(f"{name} is empty; give the store's credentials")
            if not _HEADER.fullmatch(value):
                raise InvalidDestination(
                    f"{name} contains a space, a line break or another character that is not "
                    "allowed in a key"
                )
        if self.session_token and not _HEADER.fullmatch(self.session_token):
            raise InvalidDestination(
                f"{SESSION_TOKEN} contains a space, a line break or another character that is not "
                "allowed in a token"
            )
        if len(self.ca_certificate) > CA_BYTES_MAX:
            raise InvalidDestination(
                f"the CA file has more than {CA_BYTES_MAX} bytes; give only the store's CA"
            )
        if self.ca_certificate and b"-----BEGIN CERTIFICATE-----" not in self.ca_certificate:
            raise InvalidDestination("the CA file contains no PEM certificate; give the store's CA")

    def __str__(self) -> str:
        where = f" at {self.endpoint}" if self.endpoint else ""
        return f"bucket {self.bucket}{where}, prefix {self.prefix or '(none)'}"

    def to_arguments(self) -> tuple[list[str], dict[str, str]]:
        """Returns (arguments, environment). Secrets are in the environment only. A CA certificate
        is passed as the file `ca_file`, which the caller writes."""
        arguments = ["--s3-bucket", self.bucket, "--s3-prefix", self.prefix]
        arguments += ["--s3-region", self.region]
        if self.endpoint:
            arguments += ["--s3-endpoint", self.endpoint]
        if self.allow_http:
            arguments.append("--s3-allow-http")
        if self.virtual_hosted_style:
            arguments.append("--s3-virtual-hosted-style")
        if self.ca_certificate:
            if self.ca_file is None:
                raise InvalidDestination("the CA certificate is not in a file; set ca_file")
            arguments += ["--s3-ca-file", str(self.ca_file)]
        environment = {
            ACCESS_KEY_ID: self.access_key_id,
            SECRET_ACCESS_KEY: self.secret_access_key,
        }
        if self.session_token:
            environment[SESSION_TOKEN] = self.session_token
        return arguments, environment


Destination = DirectoryDestination | S3Destination


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that `from_arguments` reads."""
    group = parser.add_argument_group(
        "destination",
        "either a directory or a bucket. Credentials of a bucket are read from the environment: "
        f"{ACCESS_KEY_ID}, {SECRET_ACCESS_KEY}, {SESSION_TOKEN}",
    )
    group.add_argument("--directory", type=Path, default=None, help="the store's directory")
    group.add_argument("--s3-bucket", default="", help="the bucket that holds the store")
    group.add_argument("--s3-prefix", default="", help="the store's root in the bucket")
    group.add_argument("--s3-endpoint", default="", help="URL; default Amazon S3 in the region")
    group.add_argument(
        "--s3-region", default="us-east-1", help="the bucket's region; default us-east-1"
    )
    group.add_argument(
        "--s3-allow-http", action="store_true", help="allow an http:// endpoint, without TLS"
    )
    group.add_argument(
        "--s3-virtual-hosted-style",
        action="store_true",
        help="name the bucket in the host, not in the path",
    )
    group.add_argument(
        "--s3-ca-file",
        type=Path,
        default=None,
        help="PEM file of CA certificates to trust in addition to the system's",
    )


def from_arguments(options: argparse.Namespace, environ: Mapping[str, str]) -> Destination:
    """Returns the destination that flags and environment describe. Raises InvalidDestination."""
    if options.directory is not None and options.s3_bucket:
        raise InvalidDestination("--directory and --s3-bucket are both given; give only one")
    if options.directory is not None:
        return DirectoryDestination(options.directory)
    if not options.s3_bucket:
        raise InvalidDestination(
            "no destination is given; give --directory DIR or --s3-bucket BUCKET"
        )
    certificate = b""
    if options.s3_ca_file is not None:
        try:
            with options.s3_ca_file.open("rb") as file:
                certificate = file.read(CA_BYTES_MAX + 1)
        except OSError as error:
            raise InvalidDestination(f"--s3-ca-file: {error}") from error
    return S3Destination(
        bucket=options.s3_bucket,
        access_key_id=environ.get(ACCESS_KEY_ID, ""),
        secret_access_key=environ.get(SECRET_ACCESS_KEY, ""),
        session_token=environ.get(SESSION_TOKEN, ""),
        endpoint=options.s3_endpoint,
        region=options.s3_region,
        prefix=options.s3_prefix,
        ca_certificate=certificate,
        ca_file=options.s3_ca_file,
        allow_http=options.s3_allow_http,
        virtual_hosted_style=options.s3_virtual_hosted_style,
    )


def open_store(destination: Destination, limits: SnapshotLimits) -> Store:
    """Opens a store. Sends and reads nothing; the first write creates a missing directory. Raises
    InvalidDestination."""
    # Imported here, so that a directory does not load the libraries for S3.
    if isinstance(destination, DirectoryDestination):
        from partition_snapshots.directory_store import DirectoryStore  # noqa: PLC0415

        return DirectoryStore(destination.path, limits)
    from partition_snapshots.s3_store import S3Store  # noqa: PLC0415

    return S3Store(destination, limits)
