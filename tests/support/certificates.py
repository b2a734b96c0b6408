"""Certificates for groups on loopback, from the operator's own authority."""

import datetime as dt
import shutil
import uuid
from pathlib import Path

from partition_client import Tls
from partition_operator.api.names import CLIENTS_FILE
from partition_operator.clients.authority import AuthorityKeeper
from partition_operator.resources.certificates import (
    KeyPair,
    Lifetimes,
    identity,
    issue,
    make_authority,
)
from partition_operator.resources.trust import Authority


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


def mount(folder: Path, pair: KeyPair, trusted: bytes, clients: bytes = b"") -> Path:
    """Writes files as the kubelet does for a Secret: all of them are exchanged at once.

    clients: the content of clients.json; without it there is no such file."""
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / f"..{uuid.uuid4().hex}"
    data.mkdir()
    (data / "tls.crt").write_bytes(pair.certificate)
    (data / "tls.key").write_bytes(pair.key)
    (data / "ca.crt").write_bytes(trusted)
    if clients:
        (data / CLIENTS_FILE).write_bytes(clients)
    link = folder / "..new"
    link.symlink_to(data.name)
    old = (folder / "..data").resolve() if (folder / "..data").exists() else None
    link.rename(folder / "..data")
    for name in ("tls.crt", "tls.key", "ca.crt", *([CLIENTS_FILE] if clients else [])):
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")
    if old is not None:
        shutil.rmtree(old)
    return folder


class MountedCertificates:
    """Certificates of a group on loopback that live `lifetime`, in files as the kubelet mounts
    them. `renew` issues all of them anew."""

    def __init__(self, root: Path, partition: str, replicas: int, lifetime: dt.timedelta) -> None:
        self._namespace, _, self._name = partition.partition("/")
        self.lifetimes = Lifetimes(certificate=lifetime, renew_before=lifetime / 2)
        self.authority = make_authority(dt.datetime.now(dt.UTC))
        self.folders = {f"replica-{n}": root / f"tls-{n}" for n in range(replicas)}
        self._parties = {root / role: role for role in ("operator", "client")}
        self.renew()
        self.tls = {role: Tls.in_directory(folder) for folder, role in self._parties.items()}

    def renew(self) -> dt.datetime:
        """Returns when the first of them ends."""
        now = dt.datetime.now(dt.UTC)
        self._write(now)
        return now + self.lifetimes.certificate

    def expire(self) -> None:
        """Puts certificates that have expired in the place of all, as if nobody had renewed any."""
        minute = dt.timedelta(minutes=1)
        current = self.lifetimes
        self.lifetimes = Lifetimes(certificate=2 * minute, renew_before=minute)
        self._write(dt.datetime.now(dt.UTC) - 30 * minute)
        self.lifetimes = current

    def _write(self, now: dt.datetime) -> None:
        for folder, role in self._parties.items():
            mount(folder, self._issue(role, [], now), self.authority.certificate)
        for folder in self.folders.values():
            pair = self._issue("replica", ["localhost"], now)
            mount(folder, pair, self.authority.certificate)

    def _issue(self, role: str, hosts: list[str], now: dt.datetime) -> KeyPair:
        party = identity(self._namespace, self._name, role)
        return issue(self.authority, party, hosts, now, self.lifetimes)


class KnownAuthority(AuthorityKeeper):
    """An authority without a Secret behind it."""

    def __init__(self, authority: Authority) -> None:
        self._value = authority
        self.problem = ""

    async def refresh(self) -> None:
        """There is nothing to look at."""
