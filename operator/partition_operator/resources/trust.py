"""The certificates in a Partition's Secrets, and how they follow their authorities. Pure.

During a change of an authority, a replica with its new Secret and a replica with its old one must
still accept each other. So a change goes through these phases:

1. Trusting: the Secrets get the new authority beside the old one; the certificates stay.
2. Spreading: nothing changes until every replica reports that it trusts the new authority, and
   `Lifetimes.spread` has passed, because clients can't be asked.
3. Issuing: the Secrets get certificates of the new authority.
4. Overlap: both are trusted until no certificate of the old authority can be in use.
5. The old authority is removed; Settled.

All of it is derived from the Secrets, so an operator that restarts goes on where it was. Expired
certificates are replaced without waiting, because nothing accepts them any more.
"""

import base64
import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum
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

SILENT: None = None
"""Instead of a report: the replica does not answer."""


@dataclass(frozen=True, slots=True)
class Authority:
    """previous: the authority before the current one, while the operator still has its key."""

    current: KeyPair
    previous: KeyPair | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """Where the replicas' certificate comes from if the operator does not issue it. pair: with the
    chain of intermediates; None while it can't be used. authorities: those that verify it."""

    pair: KeyPair | None
    authorities: tuple[x509.Certificate, ...] = ()

    @property
    def leaf(self) -> x509.Certificate | None:
        return None if self.pair is None else certificate_in(self.pair)


@dataclass(frozen=True, slots=True)
class Reported:
    """What a replica reports of its files, as fingerprints: the authorities that it trusts, its own
    certificate, and the list of clients, "" for none. refused_calls: since its start, because of
    the caller's certificate. refused_last: why the last one was refused."""

    trusted: frozenset[str]
    certificate: str
    clients: str = ""
    refused_calls: int = 0
    refused_last: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    """What a Partition's Secrets are compared with.

    replicas: by pod, what its replica reports, or SILENT. A replica of an earlier version reports
    nothing and is left out: time alone counts. sources: by Secret. stale: Secrets whose certificate
    names a party that is no longer wanted. renamed: Secrets whose certificate lacks a host's name.
    """

    authority: Authority
    now: dt.datetime
    lifetimes: Lifetimes = LIFETIMES
    replicas: Mapping[str, Reported | None] = field(default_factory=dict)
    sources: Mapping[str, Source] = field(default_factory=dict)
    stale: frozenset[str] = frozenset()
    renamed: frozenset[str] = frozenset()


class TrustStep(Enum):
    """What a Secret needs. WAIT: a change is in progress and must reach every user first. EXTEND:
    a new certificate of the former authority, because the change takes long."""

    NOTHING = "Nothing"
    WAIT = "Wait"
    TRUST = "Trust"
    ISSUE = "Issue"
    EXTEND = "Extend"


class Phase(StrEnum):
    """Where a Partition's change of authorities is."""

    SETTLED = "Settled"
    TRUSTING = "Trusting"
    SPREADING = "Spreading"
    ISSUING = "Issuing"
    OVERLAP = "Overlap"


@dataclass(frozen=True, slots=True)
class Outlook:
    """steps: by Secret. unseen: pods that were not seen to trust the new authorities, which a
    change waits for. until: when the current phase may end by time alone, None if nothing waits for
    a time."""

    steps: dict[str, TrustStep]
    phase: Phase
    unseen: tuple[str, ...] = ()
    until: dt.datetime | None = None


@dataclass(frozen=True, slots=True)
class SecretContents:
    """The content of a Secret. certificate: None if it can't be read. changed: when the trusted
    authorities last changed. former_ends: when the last certificate of a former authority can be in
    use; None if there is none. brought: somebody else than an operator issued the certificate."""

    certificate: x509.Certificate | None
    trusted: tuple[x509.Certificate, ...]
    changed: dt.datetime | None
    former_ends: dt.datetime | None = None
    brought: bool = False

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
    return SecretContents(
        certificate if whole else None,
        tuple(trusted),
        _time(annotations.get(names.ANNOTATION_TRUST_CHANGED)),
        _time(annotations.get(names.ANNOTATION_FORMER_ENDS)),
        annotations.get(names.ANNOTATION_BROUGHT) == "true",
    )


def _time(text: object) -> dt.datetime | None:
    try:
        return dt.datetime.fromisoformat(str(text)).astimezone(dt.UTC)
    except ValueError:
        return None


# --- the plan ---------------------------------------------------------------------------------


def steps(
    secrets: Mapping[str, Secret | None],
    authority: Authority,
    now: dt.datetime,
    lifetimes: Lifetimes = LIFETIMES,
) -> dict[str, TrustStep]:
    """Returns the step of each Secret, if the operator issues all and no replica is asked."""
    return look(secrets, Question(authority, now, lifetimes)).steps


def look(secrets: Mapping[str, Secret | None], question: Question) -> Outlook:
    """Returns what the Secrets of one Partition need, by name. Their users communicate, so each
    step is complete for all Secrets before the next one begins."""
    held = {name: read(secret) for name, secret in secrets.items()}
    wanted = _wanted(question)
    now, spread = question.now, question.lifetimes.spread
    filled = [h for h in held.values() if h.certificate is not None]
    untrusting = any(not all(h.trusts(w) for w in wanted) for h in filled)
    own = {name: h.certificate is None or _is_own(name, h, question) for name, h in held.items()}
    foreign = [h for name, h in held.items() if not own[name]]
    several = [h for h in filled if len(h.trusted) > len(wanted)]
    unseen = _unseen(question, wanted)
    # A change of the trust is seen by clients after `spread`, and by replicas when they say so.
    spread_at = _latest(h.changed + spread for h in filled if h.changed is not None)
    over_at = _latest([spread_at, *(h.former_ends for h in filled)])
    usable = all(source.pair is not None for source in question.sources.values())
    # The authorities of a source that can't be read may be the ones that its certificate needs.
    over = (
        usable
        and not foreign
        and not _behind(question, filled)
        and (over_at is None or now >= over_at)
    )
    reached = not untrusting and (spread_at is None or now >= spread_at)
    ready = reached and not unseen
    decided = {
        name: _step(
            name,
            h,
            question,
            wanted,
            may_issue=ready,
            may_leave_out=reached and over,
            by_former=bool(foreign) and not ready and _former_serves(foreign, question),
        )
        for name, h in held.items()
    }
    if untrusting:
        return Outlook(decided, Phase.TRUSTING)
    if foreign and not ready:
        return Outlook(decided, Phase.SPREADING, unseen, spread_at)
    if foreign:
        return Outlook(decided, Phase.ISSUING)
    if several:
        return Outlook(decided, Phase.OVERLAP, until=over_at)
    return Outlook(decided, Phase.SETTLED)


def _wanted(question: Question) -> tuple[x509.Certificate, ...]:
    """Returns the authorities that every user shall trust, the operator's first."""
    found = [certificate_in(question.authority.current)]
    for source in question.sources.values():
        found += [c for c in source.authorities if c not in found]
    return tuple(found)


def _unseen(question: Question, wanted: tuple[x509.Certificate, ...]) -> tuple[str, ...]:
    prints = {mark(certificate) for certificate in wanted}
    return tuple(
        pod
        for pod, reported in sorted(question.replicas.items())
        if reported is SILENT or not prints <= reported.trusted
    )


def _behind(question: Question, filled: list[SecretContents]) -> bool:
    """Whether a replica has not been seen with its newest certificate."""
    newest = {mark(h.certificate) for h in filled if h.certificate is not None}
    reports = question.replicas.values()
    return any(reported is SILENT or reported.certificate not in newest for reported in reports)


def _source(name: str, held: SecretContents, question: Question) -> Source | None:
    """Returns the source of a Secret's certificate; None if the operator issues it. While a source
    can't be used, a certificate of the operator is followed as if there were none."""
    source = question.sources.get(name)
    if source is None or source.pair is not None:
        return source
    return None if held.certificate is not None and not held.brought else source


def _is_own(name: str, held: SecretContents, question: Question) -> bool:
    """Whether a Secret's certificate comes from the authority that it shall come from."""
    source = _source(name, held, question)
    if source is None:
        return held.signed_by(certificate_in(question.authority.current))
    if source.leaf is None:
        return True  # it stays until the source can be used
    return held.certificate is not None and _same_issuer(held.certificate, source.leaf)


def _same_issuer(one: x509.Certificate, other: x509.Certificate) -> bool:
    return one.issuer == other.issuer and _issuer_key(one) == _issuer_key(other)


def _issuer_key(certificate: x509.Certificate) -> bytes | None:
    try:
        extension = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    except (x509.ExtensionNotFound, *UNREADABLE):
        return None
    return extension.value.key_identifier


def _latest(times: Iterable[dt.datetime | None]) -> dt.datetime | None:
    return max((time for time in times if time is not None), default=None)


def _step(  # noqa: PLR0911  # the order of concerns: one return for each
    name: str,
    held: SecretContents,
    question: Question,
    wanted: tuple[x509.Certificate, ...],
    *,
    may_issue: bool,
    may_leave_out: bool,
    by_former: bool,
) -> TrustStep:
    """may_issue: every user trusts the wanted authorities. may_leave_out: no user has a certificate
    of another authority any more. by_former: the former authority can issue, and not every user
    trusts the current one yet."""
    certificate, now = held.certificate, question.now
    source = _source(name, held, question)
    unusable = source is not None and source.pair is None
    if certificate is None or certificate.not_valid_after_utc <= now or name in question.stale:
        if unusable:
            return TrustStep.WAIT  # the operator's certificate is not what the spec asks for
        return TrustStep.EXTEND if by_former and source is None else TrustStep.ISSUE
    if not all(held.trusts(w) for w in wanted):
        return TrustStep.TRUST
    if not _is_own(name, held, question):
        if may_issue:
            return TrustStep.ISSUE
        extends = by_former and _ends_soon(certificate, _previous(question), question)
        return TrustStep.EXTEND if extends and source is None else TrustStep.WAIT
    if name in question.renamed or _is_due(name, held, question):
        return TrustStep.ISSUE
    if len(held.trusted) > len(wanted):
        return TrustStep.TRUST if may_leave_out else TrustStep.WAIT
    return TrustStep.NOTHING


def _is_due(name: str, held: SecretContents, question: Question) -> bool:
    """Whether a certificate of the right authority is to be replaced by another one."""
    source, certificate = _source(name, held, question), held.certificate
    assert certificate is not None, "the caller has checked it"
    if source is not None:
        return source.leaf is not None and certificate != source.leaf
    return _ends_soon(certificate, question.authority.current, question)


def _ends_soon(certificate: x509.Certificate, signer: KeyPair, question: Question) -> bool:
    now, lifetimes, end = question.now, question.lifetimes, certificate.not_valid_after_utc
    # A certificate can't outlive its authority, so a renewal must make it longer.
    longest = min(now + lifetimes.certificate, ends(signer))
    return end <= now + lifetimes.renew_before and end < longest - dt.timedelta(seconds=1)


def _former_serves(foreign: list[SecretContents], question: Question) -> bool:
    """Whether the Secrets have certificates of the former authority, and it can issue others."""
    previous = question.authority.previous
    if previous is None or ends(previous) <= question.now:
        return False
    return any(h.signed_by(certificate_in(previous)) for h in foreign)


def _previous(question: Question) -> KeyPair:
    previous = question.authority.previous
    assert previous is not None, "by_former says so"
    return previous


# --- the steps --------------------------------------------------------------------------------


def renewed(
    partition: Partition,
    name: str,
    role: str,
    live: Secret | None,
    question: Question,
    step: TrustStep,
) -> Secret:
    """Returns the Secret after `step`: TRUST changes only the authorities, ISSUE and EXTEND the
    certificate, too. role: replica, client, or `client/<name>/<id>`."""
    wanted, now, held = _wanted(question), question.now, read(live)
    annotations: dict[str, str] = {}
    if step is TrustStep.TRUST and held.certificate is not None:
        data = (live or {})["data"]
        pair = KeyPair(base64.b64decode(data["tls.crt"]), base64.b64decode(data["tls.key"]))
        is_brought = held.brought
        removes = _is_own(name, held, question) and _complete(held, wanted)
        # Nobody has to hear of an authority that is removed.
        others, changed = ((), held.changed or now) if removes else (held.trusted, now)
        former = held.former_ends if others else None
    else:
        pair = _next_pair(partition, name, role, question, step)
        source = question.sources.get(name)
        is_brought = source is not None and source.pair is not None
        others, changed = held.trusted, _change_time(held, wanted, now)
        if step is TrustStep.EXTEND:
            others = (*others, certificate_in(_previous(question)))
        former = _former_ends(held, pair, question)
    if is_brought:
        annotations[names.ANNOTATION_BROUGHT] = "true"
    if former is not None:
        annotations[names.ANNOTATION_FORMER_ENDS] = former.isoformat()
    annotations[names.ANNOTATION_TRUST_CHANGED] = changed.isoformat()
    known = bundle(wanted, _valid(others, wanted, now))
    body = build_secret(partition, name, role, pair, known, annotations)
    return _with_clients(body, live)


def _with_clients(body: Secret, live: Secret | None) -> Secret:
    """Returns the body with the list of clients of the live Secret: an apply without it would
    remove it."""
    given = ((live or {}).get("data") or {}).get(names.CLIENTS_FILE)
    marks = ((live or {}).get("metadata") or {}).get("annotations") or {}
    if given is not None:
        body["data"][names.CLIENTS_FILE] = given
    if written := marks.get(names.ANNOTATION_CLIENTS_CHANGED):
        body["metadata"]["annotations"][names.ANNOTATION_CLIENTS_CHANGED] = written
    return body


def _complete(held: SecretContents, wanted: tuple[x509.Certificate, ...]) -> bool:
    return all(held.trusts(w) for w in wanted)


def _change_time(
    held: SecretContents, wanted: tuple[x509.Certificate, ...], now: dt.datetime
) -> dt.datetime:
    same = held.certificate is not None and _complete(held, wanted)
    return held.changed if same and held.changed is not None else now


def _next_pair(
    partition: Partition, name: str, role: str, question: Question, step: TrustStep
) -> KeyPair:
    source, authority = question.sources.get(name), question.authority
    if source is not None and source.pair is not None:
        return source.pair
    extend = step is TrustStep.EXTEND
    issuer = _previous(question) if extend else authority.current
    return issue_for(partition, role, issuer, question.now, question.lifetimes)


def still_fits(live: Secret | None, question: Question, step: TrustStep) -> bool:
    """Whether `step` may be taken on a Secret that was read again: the authority or the source may
    have changed since, and not every user may trust the new one."""
    held = read(live)
    if step is not TrustStep.ISSUE or held.certificate is None:
        return True
    expired = held.certificate.not_valid_after_utc <= question.now
    return expired or _complete(held, _wanted(question))


def _former_ends(held: SecretContents, pair: KeyPair, question: Question) -> dt.datetime | None:
    """Returns when the last certificate of a former authority that this Secret had can be in use;
    None if there was none."""
    old, new = held.certificate, certificate_in(pair)
    if old is None or _same_issuer(old, new):
        return held.former_ends
    lifetimes = question.lifetimes
    overlap = max(lifetimes.overlap, lifetimes.spread)
    ends_at = min(old.not_valid_after_utc, question.now + overlap)
    return _latest([held.former_ends, ends_at])


# --- certificates -----------------------------------------------------------------------------


def ends(pair: KeyPair) -> dt.datetime:
    return certificate_in(pair).not_valid_after_utc


def fingerprint(authority: KeyPair) -> str:
    """Returns a short fingerprint, for log lines and status."""
    return mark(certificate_in(authority))[:16]


def mark(certificate: x509.Certificate) -> str:
    """Returns the whole fingerprint, SHA-256 in hexadecimal, as replicas report it."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def certificate_in(pair: KeyPair) -> x509.Certificate:
    """Returns the certificate of a pair, without its chain."""
    return x509.load_pem_x509_certificate(pair.certificate)


def _valid(
    some: tuple[x509.Certificate, ...], wanted: tuple[x509.Certificate, ...], now: dt.datetime
) -> tuple[x509.Certificate, ...]:
    others = dict.fromkeys(c for c in some if c not in wanted and c.not_valid_after_utc > now)
    return tuple(others)


def bundle(wanted: tuple[x509.Certificate, ...], others: tuple[x509.Certificate, ...]) -> bytes:
    """Returns authorities in PEM."""
    return b"".join(c.public_bytes(serialization.Encoding.PEM) for c in (*wanted, *others))
