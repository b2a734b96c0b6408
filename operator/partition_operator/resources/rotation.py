"""The renewal of the operator's authority, as its Secret records it. Pure.

The Secret has the current authority (tls.crt, tls.key). During a change it also has the previous
one (previous.crt, previous.key), so that the operator can still identify itself to replicas that
don't trust the new one yet, also after a restart.

    current alone -- due, or asked for --> current and previous
    current and previous -- every Partition has certificates of current --> current alone

Each transition is one write of the Secret at the version that was read. Where the Partitions are is
in their status, so nothing else is remembered.
"""

import base64
import datetime as dt
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from cryptography import x509
from cryptography.x509.oid import NameOID

from partition_operator.api import names
from partition_operator.api.partition import Partition
from partition_operator.errors import AuthorityInvalid
from partition_operator.resources.certificates import (
    AUTHORITY_NAME,
    KeyPair,
    Lifetimes,
    authority_of,
)
from partition_operator.resources.trust import Authority, Phase, ends, fingerprint

CURRENT, PREVIOUS = ("tls.crt", "tls.key"), ("previous.crt", "previous.key")
"""The keys of the Secret's data: a certificate and its key."""

MOVED = frozenset({Phase.OVERLAP, Phase.SETTLED})
"""The phases in which all certificates of a Partition come from the authority in its status."""


class RotationStep(Enum):
    """What the authority's Secret needs."""

    NOTHING = "Nothing"
    RENEW = "Renew"
    FORGET = "Forget"


@dataclass(frozen=True, slots=True)
class AuthorityRecord:
    """The content of the authority's Secret. asked, followed: the annotations that ask for a
    renewal, and which one was followed last."""

    authority: Authority
    asked: str = ""
    followed: str = ""


def record_of(secret: dict[str, Any], now: dt.datetime) -> AuthorityRecord:
    """Raises AuthorityInvalid if the current authority can't be used. A previous authority that
    can't be used counts as lost."""
    annotations = secret["metadata"].get("annotations") or {}
    return AuthorityRecord(
        Authority(authority_of(secret, now), _previous(secret, now)),
        str(annotations.get(names.ANNOTATION_RENEW) or ""),
        str(annotations.get(names.ANNOTATION_RENEWED) or ""),
    )


def _previous(secret: dict[str, Any], now: dt.datetime) -> KeyPair | None:
    data = secret.get("data") or {}
    if not any(data.get(key) for key in PREVIOUS):
        return None
    moved = {key: data.get(old, "") for key, old in zip(CURRENT, PREVIOUS, strict=True)}
    try:
        return authority_of(secret | {"data": moved}, now)
    except AuthorityInvalid:
        return None


def next_step(
    record: AuthorityRecord, now: dt.datetime, lifetimes: Lifetimes, *, moved: bool
) -> RotationStep:
    """moved: whether every Partition has left the previous authority; asked only if there is one.
    A renewal that is due during a change begins after it."""
    if record.authority.previous is not None:
        gone = moved or ends(record.authority.previous) <= now
        return RotationStep.FORGET if gone else RotationStep.NOTHING
    asked = bool(record.asked) and record.asked != record.followed
    return RotationStep.RENEW if asked or _is_due(record, now, lifetimes) else RotationStep.NOTHING


def _is_due(record: AuthorityRecord, now: dt.datetime, lifetimes: Lifetimes) -> bool:
    """An authority of a user's own is never replaced unasked."""
    current = record.authority.current
    return is_ours(current) and ends(current) <= now + lifetimes.authority_renew_before


def is_ours(authority: KeyPair) -> bool:
    """Whether an operator made this authority: it has the name that make_authority gives."""
    certificate = x509.load_pem_x509_certificate(authority.certificate)
    found = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    text = str(found[0].value) if found else ""
    named = re.fullmatch(re.escape(AUTHORITY_NAME) + r" [0-9a-f]{8}", text)
    return named is not None and certificate.subject == certificate.issuer


def renewal(record: AuthorityRecord, made: KeyPair) -> dict[str, Any]:
    """Returns the merge patch that makes `made` the current authority."""
    change = {"data": _data(CURRENT, made) | _data(PREVIOUS, record.authority.current)}
    mark = {names.ANNOTATION_RENEWED: record.asked or None}
    return change | {"metadata": {"annotations": mark}}


def remembering(previous: KeyPair | None) -> dict[str, Any]:
    """Returns the merge patch that writes the previous authority, or removes it."""
    if previous is None:
        return {"data": dict.fromkeys(PREVIOUS)}
    return {"data": _data(PREVIOUS, previous)}


def have_moved(partitions: Iterable[Partition], operator: str, authority: KeyPair) -> bool:
    """Whether all certificates of the Partitions that this operator manages come from `authority`.
    operator: its namespace. A Partition without a cluster ID has no certificates yet."""
    return all(
        _has_moved(p, fingerprint(authority))
        for p in partitions
        if p.whole_status.get("operator") == operator and p.status.get("clusterID")
    )


def _has_moved(partition: Partition, authority: str) -> bool:
    found = partition.status.get("certificates", {})
    return found.get("authority") == authority and found.get("phase") in MOVED


def _data(keys: tuple[str, str], pair: KeyPair) -> dict[str, str]:
    parts = (pair.certificate, pair.key)
    return {k: base64.b64encode(part).decode() for k, part in zip(keys, parts, strict=True)}
