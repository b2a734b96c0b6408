"""A group whose authority changes, as hypothesis drives it: Secrets that the operator writes, and
parties that receive them late. Time is a number here; nobody shakes hands."""

import base64
import datetime as dt
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from cryptography import x509
from partition_operator.api.partition import Partition
from partition_operator.resources import own_certificate, rotation, trust
from partition_operator.resources.certificates import (
    Lifetimes,
    authority_secret,
    make_authority,
)
from partition_operator.resources.rotation import RotationStep
from partition_operator.resources.trust import Authority, Phase, Question, Reported, TrustStep

from tests.support.authority_secrets import merged, partition

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)
LIFETIMES = Lifetimes(
    authority=2000 * HOUR,
    authority_renew_before=700 * HOUR,
    certificate=300 * HOUR,
    renew_before=100 * HOUR,
    spread=2 * HOUR,
    overlap=40 * HOUR,
)
CART = Partition("shop", "cart", "uid", 1, deleting=False, body={})
REPLICA, CLIENT = "cart-replica-tls", "cart-client-tls"
ROLES = {REPLICA: "replica", CLIENT: "client"}
WRITES = {TrustStep.ISSUE, TrustStep.EXTEND, TrustStep.TRUST}


@dataclass
class Party:
    """A pod with the content of a Secret that the kubelet brought last. Of a client the operator
    knows only that it is at most `spread` behind."""

    name: str
    secret: str
    held: trust.SecretContents
    silent: bool = False


@dataclass
class Model:
    """behind: since when a party lacks the newest content, by its name."""

    now: dt.datetime = START
    parties: list[Party] = field(default_factory=list)
    behind: dict[str, dt.datetime] = field(default_factory=dict)
    renewals: int = 0

    def __post_init__(self) -> None:
        made = make_authority(self.now, LIFETIMES)
        self.kept = authority_secret("system", "partition-operator-ca", made)
        self.authority = Authority(made)
        self.secrets: dict[str, dict[str, Any] | None] = dict.fromkeys(ROLES)
        while self.step():
            pass
        for name, secret in (("cart-0", REPLICA), ("cart-1", REPLICA), ("app", CLIENT)):
            self.parties.append(Party(name, secret, trust.read(self.secrets[secret])))

    # --- the operator -------------------------------------------------------------------------

    def question(self) -> Question:
        reports = {p.name: self.report(p) for p in self.parties if p.secret == REPLICA}
        return Question(self.authority, self.now, LIFETIMES, reports)

    def report(self, party: Party) -> Reported | None:
        if party.silent:
            return trust.SILENT
        certificate = party.held.certificate
        assert certificate is not None
        trusted = frozenset(trust.mark(c) for c in party.held.trusted)
        return Reported(trusted, trust.mark(certificate))

    def step(self) -> bool:
        """One write of the operator. Returns whether there was one."""
        question = self.question()
        for name, step in trust.look(self.secrets, question).steps.items():
            if step in WRITES:
                live = self.secrets[name]
                self.secrets[name] = trust.renewed(CART, name, ROLES[name], live, question, step)
                for party in self.parties:
                    if party.secret == name:
                        self.behind.setdefault(party.name, self.now)
                return True
        return False

    def rotate(self) -> bool:
        """One look at the authority's Secret, as a new process has it. Returns whether it wrote."""
        record = rotation.record_of(self.kept, self.now)
        self.authority = record.authority
        moved = rotation.have_moved([self.status()], "system", record.authority.current)
        step = rotation.next_step(record, self.now, LIFETIMES, moved=moved)
        if step is RotationStep.NOTHING:
            return False
        change = rotation.remembering(None)
        if step is RotationStep.RENEW:
            change = rotation.renewal(record, make_authority(self.now, LIFETIMES))
            self.renewals += 1
        self.kept = merged(self.kept, change)
        self.authority = rotation.record_of(self.kept, self.now).authority
        return True

    def ask(self, word: str) -> None:
        """A user asks for a renewal."""
        mark = {"metadata": {"annotations": {rotation.names.ANNOTATION_RENEW: word}}}
        self.kept = merged(self.kept, mark)

    def status(self) -> Partition:
        phase = trust.look(self.secrets, self.question()).phase
        body = partition("cart", trust.fingerprint(self.authority.current), phase)
        return rotation_partition(body)

    # --- the kubelets -------------------------------------------------------------------------

    def bring(self, party: Party) -> None:
        """The kubelet brings the newest content."""
        party.held = trust.read(self.secrets[party.secret])
        self.behind.pop(party.name, None)

    def tick(self) -> None:
        """A quarter of `spread` passes. Nobody who is asked by time alone is behind for longer than
        that, and no replica without being silent."""
        self.now += LIFETIMES.spread / 4
        for party in self.parties:
            since = self.behind.get(party.name)
            # Replicas are quick here, so that a change that waits for them alone is too early.
            late = LIFETIMES.spread / (4 if party.secret == REPLICA else 1)
            if since is not None and not party.silent and self.now - since >= late:
                self.bring(party)

    def act(self) -> bool:
        """One write of the operator. Returns whether there was one."""
        return self.rotate() or self.step()

    def pass_time(self, hours: float) -> None:
        end = self.now + hours * HOUR
        while self.now < end:
            self.tick()
            while self.act():
                pass
            self.check()

    # --- what has to hold ---------------------------------------------------------------------

    def check(self) -> None:
        """Each party accepts each other one, and the operator. One that the operator does not reach
        has a certificate that may expire, but still of an authority that the others trust."""
        signer = own_certificate.signer(trust.read(self.secrets[CLIENT]), self.authority, self.now)
        mine = x509.load_pem_x509_certificate(signer.certificate)
        for one in self.parties:
            assert one.secret == CLIENT or mine in one.held.trusted, f"{one.name} and the operator"
            for other in self.parties:
                if one is not other and REPLICA in (one.secret, other.secret):
                    assert accepts(one, other, self.now), f"{one.name} refuses {other.name}"

    @property
    def phase(self) -> Phase:
        return trust.look(self.secrets, self.question()).phase


def accepts(one: Party, other: Party, now: dt.datetime) -> bool:
    certificate = other.held.certificate
    assert certificate is not None
    valid = certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc
    known = any(signed(other.held, authority) for authority in one.held.trusted)
    return known and (valid or other.silent)


@lru_cache(maxsize=1000)
def signed(held: trust.SecretContents, authority: x509.Certificate) -> bool:
    return held.signed_by(authority)


def rotation_partition(body: dict[str, Any]) -> Partition:
    metadata = body["metadata"]
    return Partition(metadata["namespace"], metadata["name"], "uid", 1, deleting=False, body=body)


def trusted_by(secret: dict[str, Any] | None) -> int:
    """How many authorities a Secret trusts."""
    assert secret is not None
    return base64.b64decode(secret["data"]["ca.crt"]).count(b"BEGIN CERTIFICATE")
