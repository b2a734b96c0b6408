"""The client identities that the operator allows, and their rights.

The operator writes the list into the Secret with the replica's certificate, as `clients.json`. The
kubelet mounts it beside the certificate. A certificate of such a client carries
`logstore://<namespace>/<partition>/client/<name>/<id>`. The ID differs after each revocation.

    {"version": 1, "clients": [{"name": "billing", "id": "5f2c…", "rights": "Read"}]}
"""

import hashlib
import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

FILE = "clients.json"
VERSION = 1
LOOK_S = 0.5
"""The least time between two checks whether the file changed."""
BYTES_MAX = 256 * 1024
"""A Secret has at most 1 MiB."""


class Rights(IntEnum):
    """What a client may do. Each includes the ones before."""

    READ = 1
    WRITE = 2
    ADMIN = 3


WORDS = {"Read": Rights.READ, "Write": Rights.WRITE, "Admin": Rights.ADMIN}


class BadClientList(Exception):
    """The file can't be used. The message says why."""


@dataclass(frozen=True, slots=True)
class Client:
    """One identity. id: only certificates with this ID are allowed."""

    name: str
    id: str
    rights: Rights


@dataclass(frozen=True, slots=True)
class ClientList:
    """by_name: the allowed identities. fingerprint: SHA-256 of the file, "" without a file."""

    by_name: Mapping[str, Client]
    fingerprint: str = ""


NO_CLIENTS = ClientList({})


def parse(content: bytes) -> ClientList:
    """Raises BadClientList. An entry with rights that this version does not know is left out: its
    client is refused."""
    if len(content) > BYTES_MAX:
        raise BadClientList(f"{len(content)} bytes; at most {BYTES_MAX} are allowed")
    try:
        found = json.loads(content)
        version, items = found["version"], found["clients"]
        clients = [(str(item["name"]), str(item["id"]), item["rights"]) for item in items]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadClientList(f"not a list of clients: {error!r}") from error
    if version != VERSION:
        raise BadClientList(f"version {version!r}; this replica reads version {VERSION}")
    by_name = {
        name: Client(name, identity, WORDS[rights])
        for name, identity, rights in clients
        if rights in WORDS and name and identity
    }
    return ClientList(by_name, hashlib.sha256(content).hexdigest())


class ClientLists:
    """The list in a file, read again when it changes. Safe for threads. A file that can't be used
    leaves the previous list in use; without a file no client is allowed."""

    def __init__(
        self,
        path: Path,
        heard: Callable[[BadClientList | None], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """heard: called with the reason if a changed file can't be used, once per reason, and with
        None when it can again."""
        self._path = path
        self._heard = heard
        self._clock = clock
        self._lock = threading.Lock()
        self._looked = float("-inf")
        self._stamp: tuple[int, ...] | None = None
        self._bad = ""
        self._found = NO_CLIENTS

    def current(self) -> ClientList:
        with self._lock:
            now = self._clock()
            if now - self._looked >= LOOK_S:
                self._looked = now
                self._look()
            return self._found

    def _look(self) -> None:
        try:
            stat = self._path.stat()
            stamp: tuple[int, ...] = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
            if stamp == self._stamp:
                return
            found = parse(self._path.read_bytes())
        except FileNotFoundError:
            stamp, found = (), NO_CLIENTS
        except OSError as error:
            self._refuse(BadClientList(f"{error.filename}: {error.strerror}"))
            return
        except BadClientList as error:
            self._refuse(error)
            return
        self._stamp, self._found = stamp, found
        if self._bad:
            self._bad = ""
            self._heard(None)

    def _refuse(self, error: BadClientList) -> None:
        if str(error) != self._bad:
            self._bad = str(error)
            self._heard(error)
