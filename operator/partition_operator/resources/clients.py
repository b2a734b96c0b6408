"""The list of client identities in the replicas' Secret, and what it needs. Pure, except for the
IDs that are drawn.

A certificate of a client carries `client/<name>/<id>`; replicas let in only the IDs of the list. So
a new list revokes, without knowing the certificates that were issued. A client that is removed
stays in the list with the rights None until its Secret is deleted, so that no Secret is forgotten.
"""

import base64
import datetime as dt
import hashlib
import json
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from cryptography import x509

from partition_operator.api import names, schema
from partition_operator.api.partition import Partition
from partition_operator.api.tls import Client
from partition_operator.resources import trust
from partition_operator.resources.certificates import UNREADABLE, identity
from partition_operator.resources.trust import SILENT, Reported

VERSION: Final = 1
REVOKED: Final = "None"
"""The rights of a client that is no longer in the spec."""
ID_BYTES = 8

PENDING, READY, REVOKING = "Pending", "Ready", "Revoking"


@dataclass(frozen=True, slots=True)
class Entry:
    """One client of the list."""

    name: str
    id: str
    rights: str
    revision: int

    @property
    def role(self) -> str:
        """The last part of the URI in its certificate."""
        return f"client/{self.name}/{self.id}"


@dataclass(frozen=True, slots=True)
class Listing:
    """The list as the Secret has it. changed: when it was written."""

    entries: tuple[Entry, ...] = ()
    fingerprint: str = ""
    changed: dt.datetime | None = None

    def entry(self, name: str) -> Entry | None:
        return next((e for e in self.entries if e.name == name), None)


@dataclass(frozen=True, slots=True)
class ClientsOutlook:
    """What clients need. differs: the list must be written. known: every replica has the list.
    states: for status."""

    listing: Listing
    differs: bool
    known: bool
    states: tuple[schema.ClientState, ...]


def asked(partition: Partition, listing: Listing) -> tuple[Client, ...]:
    """Returns the clients of the spec. While the spec is not valid, those of the list stay."""
    if partition.asked is not None:
        return partition.asked.clients
    return tuple(
        Client(e.name, e.rights, e.revision) for e in listing.entries if e.rights != REVOKED
    )


def draw() -> str:
    return secrets.token_hex(ID_BYTES)


def read(secret: dict[str, Any] | None) -> Listing:
    """Returns the list in a Secret. One that can't be read is empty: its clients get new IDs."""
    data = (secret or {}).get("data") or {}
    marks = ((secret or {}).get("metadata") or {}).get("annotations") or {}
    try:
        content = base64.b64decode(data[names.CLIENTS_FILE])
        found = json.loads(content)["clients"]
        entries = tuple(
            Entry(str(c["name"]), str(c["id"]), str(c["rights"]), int(c["revision"])) for c in found
        )
    except (KeyError, ValueError, TypeError):
        return Listing()
    try:
        text = str(marks.get(names.ANNOTATION_CLIENTS_CHANGED))
        changed: dt.datetime | None = dt.datetime.fromisoformat(text).astimezone(dt.UTC)
    except ValueError:
        changed = None
    return Listing(entries, hashlib.sha256(content).hexdigest(), changed)


def wanted(
    asked: Iterable[Client],
    listing: Listing,
    existing: Iterable[str],
    *,
    known: bool,
    drawn: Callable[[], str] = draw,
) -> tuple[Entry, ...]:
    """Returns the entries of the next list. existing: names of clients whose Secret exists. known:
    whether every replica has the present list."""
    found, kept = [], set(existing)
    for client in asked:
        old = listing.entry(client.name)
        same = old is not None and (old.revision, old.rights == REVOKED) == (client.revision, False)
        identity = old.id if old is not None and same else drawn()
        found.append(Entry(client.name, identity, client.rights, client.revision))
    names_asked = {entry.name for entry in found}
    for old in listing.entries:
        told = old.rights == REVOKED and known
        if old.name not in names_asked and (not told or old.name in kept):
            found.append(Entry(old.name, old.id, REVOKED, old.revision))
    return tuple(sorted(found, key=lambda entry: entry.name))


def content(entries: Iterable[Entry]) -> bytes:
    """Returns the file that replicas read."""
    items = [
        {"name": e.name, "id": e.id, "rights": e.rights, "revision": e.revision} for e in entries
    ]
    return json.dumps({"version": VERSION, "clients": items}, sort_keys=True).encode()


def patch(entries: Iterable[Entry], now: dt.datetime) -> dict[str, Any]:
    """Returns the merge patch that writes the list into the replicas' Secret."""
    data = {names.CLIENTS_FILE: base64.b64encode(content(entries)).decode()}
    marks = {names.ANNOTATION_CLIENTS_CHANGED: now.isoformat()}
    return {"metadata": {"annotations": marks}, "data": data}


def look(  # what is asked, what there is, and who knows it
    wanted_clients: tuple[Client, ...],
    listing: Listing,
    existing: frozenset[str],
    reports: Mapping[str, Reported | None],
    *,
    timed: bool,
    late: bool,
) -> ClientsOutlook:
    """existing: clients whose Secret exists. reports: by pod; see trust.Question. timed: a replica
    of an earlier version reports nothing. late: the list was written so long ago that every pod has
    it."""
    prints = [None if report is SILENT else report.clients for report in reports.values()]
    known = late or (not timed and all(found == listing.fingerprint for found in prints))
    next_list = wanted(wanted_clients, listing, existing, known=known, drawn=lambda: "")
    differs = next_list != listing.entries
    listed = {entry.name: entry for entry in listing.entries}
    states: list[schema.ClientState] = []
    for client in wanted_clients:
        entry = listed.get(client.name)
        ready = entry is not None and entry.rights == client.rights and known
        ready = ready and client.name in existing and not differs
        states.append(
            {"name": client.name, "rights": client.rights, "state": READY if ready else PENDING}
        )
    gone = [e for e in listing.entries if e.name not in {c.name for c in wanted_clients}]
    for entry in gone:
        states.append({"name": entry.name, "rights": REVOKED, "state": REVOKING})
    return ClientsOutlook(listing, differs, known, tuple(states))


def has_role(partition: Partition, secret: dict[str, Any] | None, role: str) -> bool:
    """Whether the Secret's certificate names a role of the Partition, or can't be read at all."""
    certificate = trust.read(secret).certificate
    if certificate is None:
        return True
    try:
        kind = x509.SubjectAlternativeName
        found = certificate.extensions.get_extension_for_class(kind).value
    except (x509.ExtensionNotFound, *UNREADABLE):
        return False
    wanted = identity(partition.namespace, partition.name, role)
    return wanted in found.get_values_for_type(x509.UniformResourceIdentifier)
