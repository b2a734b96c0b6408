"""Certificates for groups on loopback, from the operator's own authority."""

import datetime as dt
from pathlib import Path

from partition_client import Tls
from partition_operator.resources.certificates import KeyPair, identity, issue, make_authority


def write(folder: Path, pair: KeyPair, authority: KeyPair) -> Path:
    folder.mkdir(parents=True)
    (folder / "tls.crt").write_bytes(pair.certificate)
    (folder / "tls.key").write_bytes(pair.key)
    (folder / "ca.crt").write_bytes(authority.certificate)
    return folder


def make(root: Path, partition: str, replicas: int) -> tuple[dict[str, Tls], dict[str, Path]]:
    """(the operator's and a client's, each replica's folder) for "namespace/name"."""
    namespace, _, name = partition.partition("/")
    now = dt.datetime.now(dt.UTC)
    authority = make_authority(now)
    found = {
        role: Tls.in_directory(
            write(
                root / role, issue(authority, identity(namespace, name, role), [], now), authority
            )
        )
        for role in ("operator", "client")
    }
    stranger = issue(authority, identity(namespace, "other", "client"), [], now)
    found["stranger"] = Tls.in_directory(write(root / "stranger", stranger, authority))
    folders = {}
    for number in range(replicas):
        pair = issue(authority, identity(namespace, name, "replica"), ["localhost"], now)
        folders[f"replica-{number}"] = write(root / f"tls-{number}", pair, authority)
    return found, folders
