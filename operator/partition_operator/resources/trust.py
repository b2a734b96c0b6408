"""The certificates in a Partition's Secrets, and how they follow the authority. Pure.

During a change of the authority, a replica with its new Secret and a replica with its old one must
still accept each other. So the change takes three steps, with `Lifetimes.spread` between them:

1. The Secrets trust the new authority beside the old one; the certificates stay.
2. New certificates are issued.
3. The old authority is removed.

Expired certificates are replaced without waiting, because nothing accepts them any more.
"""

import base64
import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization

from partition_operator.api import names
from partition_operator.api.partition import Partition
from partition_operator.resources.certificates import (
    LIFETIMES,
    UNREADABLE,
    KeyPair,
    Lifetimes,
    build_secret,
    issue_for,
)

Secret = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Authority:
    """previous: the authority before the current one, while the operator still has its key."""

    current: KeyPair
    previous: KeyPair | None = None


class TrustStep(Enum):
    """What a Secret needs. WAIT: a change is in progress and must reach every user first."""

    NOTHING = "Nothing"
    WAIT = "Wait"
    TRUST = "Trust"
    ISSUE = "Issue"


@dataclass(frozen=True, slots=True)
class SecretContents:
    """The content of a Secret. certificate: None if it can't be read. changed: when the trusted
    authorities last changed."""

    certificate: x509.Certificate | None
    trusted: tuple[x509.Certificate, ...]
    changed: dt.datetime | None

    def signed_by(self, authority: x509.Certificate) -> bool:
        if self.certificate is None:
            return False
        try:
            self.certificate.verify_directly_issued_by(authority)
        except (*UNREADABLE, InvalidSignature):
            return False
        return True

    def trusts(self, authority: x509.Certificate) -> bool:
        return authority in self.trusted


def read(secret: Secret | None) -> SecretContents:
    data = (secret or {}).get("data") or {}
    annotations = ((secret or {}).get("metadata") or {}).get("annotations") or {}
    try:
        certificate = x509.load_pem_x509_certificate(base64.b64decode(data["tls.crt"]))
        key = serialization.load_pem_private_key(base64.b64decode(data["tls.key"]), None)
        whole = key.public_key() == certificate.public_key()
    except (KeyError, *UNREADABLE):
        whole = False
    try:
        trusted = x509.load_pem_x509_certificates(base64.b64decode(data["ca.crt"]))
    except (KeyError, *UNREADABLE):
        trusted = []
    try:
        text = annotations[names.ANNOTATION_TRUST_CHANGED]
        changed: dt.datetime | None = dt.datetime.fromisoformat(text).astimezone(dt.UTC)
    except (KeyError, ValueError):
        changed = None
    return SecretContents(certificate if whole else None, tuple(trusted), changed)


def steps(
    secrets: Mapping[str, Secret | None],
    authority: Authority,
    now: dt.datetime,
    lifetimes: Lifetimes = LIFETIMES,
) -> dict[str, TrustStep]:
    """Returns the step of each Secret of one Partition, by name. Their users communicate, so each
    step is complete for all Secrets before the next one begins."""
    current = x509.load_pem_x509_certificate(authority.current.certificate)
    held = {name: read(secret) for name, secret in secrets.items()}
    untrusting = any(h.certificate is not None and not h.trusts(current) for h in held.values())
    foreign = [h for h in held.values() if h.certificate is not None and not h.signed_by(current)]
    several = [h for h in held.values() if len(h.trusted) > 1]

    def seen(some: Iterable[SecretContents]) -> bool:
        return not untrusting and all(
            h.changed is None or now >= h.changed + lifetimes.spread for h in some
        )

    return {
        name: _step(
            h,
            current,
            now,
            lifetimes,
            may_issue=seen(foreign),
            may_leave_out=not foreign and seen(several),
        )
        for name, h in held.items()
    }


def expiries(secrets: Mapping[str, Secret | None]) -> dict[str, dt.datetime]:
    """Returns when the certificate of each Secret expires, if it can be read."""
    found = {name: read(secret).certificate for name, secret in secrets.items()}
    return {name: held.not_valid_after_utc for name, held in found.items() if held is not None}


def changing(secrets: Mapping[str, Secret | None], found: Mapping[str, TrustStep]) -> bool:
    """Whether the authority is being replaced: until no Secret trusts several any more. `found`:
    the steps of these Secrets. The turn that issues the new certificates is in the middle."""
    return any(
        step in (TrustStep.WAIT, TrustStep.TRUST)
        or (step is TrustStep.ISSUE and len(read(secrets[name]).trusted) > 1)
        for name, step in found.items()
    )


def _step(
    held: SecretContents,
    current: x509.Certificate,
    now: dt.datetime,
    lifetimes: Lifetimes,
    *,
    may_issue: bool,
    may_leave_out: bool,
) -> TrustStep:
    """may_issue: every user trusts the current authority. may_leave_out: no user has a certificate
    of another authority any more."""
    certificate = held.certificate
    if certificate is None or certificate.not_valid_after_utc <= now:
        return TrustStep.ISSUE
    if not held.trusts(current):
        return TrustStep.TRUST
    if not held.signed_by(current):
        return TrustStep.ISSUE if may_issue else TrustStep.WAIT
    # A certificate can't outlive its authority, so a renewal must make it longer.
    longest = min(now + lifetimes.certificate, current.not_valid_after_utc)
    end = certificate.not_valid_after_utc
    if end <= now + lifetimes.renew_before and end < longest - dt.timedelta(seconds=1):
        return TrustStep.ISSUE
    if len(held.trusted) > 1:
        return TrustStep.TRUST if may_leave_out else TrustStep.WAIT
    return TrustStep.NOTHING


def renewed(  # noqa: PLR0913  # a Secret, an authority, a time and a step
    partition: Partition,
    name: str,
    role: str,
    live: Secret | None,
    authority: Authority,
    now: dt.datetime,
    lifetimes: Lifetimes = LIFETIMES,
    *,
    step: TrustStep,
) -> Secret:
    """Returns the Secret after `step`: TRUST changes only the authorities, ISSUE the certificate,
    too."""
    current = x509.load_pem_x509_certificate(authority.current.certificate)
    held = read(live)
    if step is TrustStep.TRUST and held.certificate is not None:
        data = (live or {})["data"]
        pair = KeyPair(base64.b64decode(data["tls.crt"]), base64.b64decode(data["tls.key"]))
        others = () if held.signed_by(current) else _valid(held, current, now)
        return build_secret(partition, name, role, pair, _bundle(current, others), now)
    pair = issue_for(partition, role, authority.current, now, lifetimes)
    others = _valid(held, current, now)
    same = held.signed_by(current) and held.changed is not None
    changed = held.changed if same and held.changed is not None else now
    return build_secret(partition, name, role, pair, _bundle(current, others), changed)


def signer(secret: Secret | None, authority: Authority, now: dt.datetime) -> KeyPair:
    """Returns the authority whose certificates a Secret's user accepts. It is the previous one
    until the Secret has a certificate of the current one, if its key is known and it has not
    expired."""
    if authority.previous is None:
        return authority.current
    held = read(secret)
    previous = x509.load_pem_x509_certificate(authority.previous.certificate)
    usable = held.signed_by(previous) and previous.not_valid_after_utc > now
    return authority.previous if usable else authority.current


def trusted(secret: Secret | None, authority: Authority) -> bytes:
    """Returns the authorities from which the operator accepts a Partition's replicas, in PEM: its
    own and those in the Secret, because a replica may not have received the last change yet."""
    current = x509.load_pem_x509_certificate(authority.current.certificate)
    others = tuple(other for other in read(secret).trusted if other != current)
    return _bundle(current, others)


def ends(pair: KeyPair) -> dt.datetime:
    return x509.load_pem_x509_certificate(pair.certificate).not_valid_after_utc


def ending(authority: Authority, now: dt.datetime, lifetimes: Lifetimes) -> dt.datetime | None:
    """Returns when the authority expires, if a certificate issued now would be renewed later than
    that; otherwise None."""
    end = ends(authority.current)
    return end if end < now + lifetimes.certificate - lifetimes.renew_before else None


def fingerprint(authority: KeyPair) -> str:
    """Returns a short fingerprint, for log lines."""
    certificate = x509.load_pem_x509_certificate(authority.certificate)
    return certificate.fingerprint(hashes.SHA256()).hex()[:16]


def _valid(
    held: SecretContents, current: x509.Certificate, now: dt.datetime
) -> tuple[x509.Certificate, ...]:
    return tuple(c for c in held.trusted if c != current and c.not_valid_after_utc > now)


def _bundle(current: x509.Certificate, others: tuple[x509.Certificate, ...]) -> bytes:
    return b"".join(c.public_bytes(serialization.Encoding.PEM) for c in (current, *others))
