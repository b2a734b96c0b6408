"""How a Partition's certificates follow the operator's authority. Every step is proven by real
handshakes between all who may still have the former Secrets and all who have the new ones."""

import base64
import datetime as dt
import itertools
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID
from partition_operator.__main__ import parse
from partition_operator.clients.replica import PartitionCertificate
from partition_operator.config import ConfigError
from partition_operator.errors import AuthorityInvalid
from partition_operator.resources import own_certificate, trust
from partition_operator.resources.certificates import (
    KeyPair,
    Lifetimes,
    authority_of,
    authority_secret,
    issue,
    make_authority,
)
from partition_operator.resources.trust import Authority, Phase, Question, TrustStep
from partition_proto.connection import pem

from tests.support.certificates import KnownAuthority
from tests.support.trust_steps import (
    LIFETIMES,
    NOW,
    PARTITION,
    ROLES,
    Secrets,
    act,
    content,
    settle,
    talk,
)


def test_a_change_parts_nobody_who_is_a_step_behind() -> None:
    old, new = make_authority(NOW), make_authority(NOW)
    secrets: Secrets = dict.fromkeys(ROLES)
    assert settle(secrets, Authority(old), NOW) == [TrustStep.NOTHING] * 2
    held = {name: [content(secret)] for name, secret in secrets.items()}
    seen: list[list[TrustStep]] = []
    now = NOW
    for _ in range(4):
        # Certificates are not older than the real time, or the handshakes would refuse them.
        seen.append(settle(secrets, Authority(new), now))
        for name, secret in secrets.items():
            # Who has not seen the last change may be one behind, not two: `spread` has passed.
            held[name] = [held[name][-1], content(secret)]
        replicas, clients = held["cart-replica-tls"], held["cart-client-tls"]
        for server, client in itertools.product(replicas, [*replicas, *clients]):
            assert talk(server, client), f"after {len(seen)} steps"
        now += LIFETIMES.spread
    assert seen == [
        [TrustStep.WAIT] * 2,  # both authorities are trusted
        [TrustStep.WAIT] * 2,  # the certificates are new
        [TrustStep.NOTHING] * 2,  # the old authority is left out
        [TrustStep.NOTHING] * 2,
    ]
    for secret in secrets.values():
        assert content(secret).authority == new.certificate
        assert not talk(content(secret), held_by(old))


def test_a_change_is_in_progress_until_the_old_authority_is_gone() -> None:
    """Also in the turn that issues the new certificates: a user who read "Issued" there would take
    the old authority for gone."""
    old, new = Authority(make_authority(NOW)), Authority(make_authority(NOW))
    secrets: Secrets = dict.fromkeys(ROLES)
    assert trust.look(secrets, Question(old, NOW)).phase is Phase.SETTLED  # the first issue
    settle(secrets, old, NOW)
    turns: list[tuple[bool, bool]] = []
    now = NOW
    for _ in range(8):
        phase = trust.look(secrets, Question(new, now, LIFETIMES)).phase
        alone = all(content(s).authority == new.current.certificate for s in secrets.values())
        turns.append((phase is not Phase.SETTLED, alone))
        act(secrets, new, now)
        now += LIFETIMES.spread
    assert [changing for changing, _ in turns] == [not alone for _, alone in turns]
    assert turns[0] == (True, False)
    assert turns[-1] == (False, True)


def held_by(authority: KeyPair) -> pem.Pem:
    pair = issue(authority, "logstore://shop/cart/replica", ["localhost"], NOW)
    return pem.Pem(pair.certificate, pair.key, authority.certificate)


def test_nothing_waits_for_certificates_that_have_ended() -> None:
    """An authority that is lost while the operator is away for a year."""
    secrets: Secrets = dict.fromkeys(ROLES)
    settle(secrets, Authority(make_authority(NOW)), NOW)
    later = NOW + LIFETIMES.certificate
    new = Authority(make_authority(later))
    assert trust.steps(secrets, new, later) == dict.fromkeys(ROLES, TrustStep.ISSUE)
    settle(secrets, new, later)
    for name, secret in secrets.items():
        held = trust.read(secret)
        assert held.certificate is not None, name
        assert held.certificate.not_valid_after_utc > later


def test_a_certificate_is_renewed_before_it_ends_and_not_earlier() -> None:
    authority = Authority(make_authority(NOW))
    secrets: Secrets = dict.fromkeys(ROLES)
    settle(secrets, authority, NOW)
    due = NOW + LIFETIMES.certificate - LIFETIMES.renew_before
    before = due - dt.timedelta(minutes=1)
    assert trust.steps(secrets, authority, before) == dict.fromkeys(ROLES, TrustStep.NOTHING)
    assert trust.steps(secrets, authority, due) == dict.fromkeys(ROLES, TrustStep.ISSUE)
    assert settle(secrets, authority, due) == [TrustStep.NOTHING] * 2


def test_a_certificate_that_ends_with_its_authority_is_not_issued_again_and_again() -> None:
    authority = Authority(make_authority(NOW, Lifetimes(authority=dt.timedelta(days=30))))
    secrets: Secrets = dict.fromkeys(ROLES)
    assert settle(secrets, authority, NOW) == [TrustStep.NOTHING] * 2
    held = trust.read(secrets["cart-client-tls"])
    assert held.certificate is not None
    assert held.certificate.not_valid_after_utc == NOW + dt.timedelta(days=30)
    assert own_certificate.ending(authority, NOW, LIFETIMES) == NOW + dt.timedelta(days=30)
    assert own_certificate.ending(Authority(make_authority(NOW)), NOW, LIFETIMES) is None


@pytest.mark.parametrize("key", ["tls.crt", "tls.key", "ca.crt"])
def test_a_secret_that_is_damaged_is_written_anew(key: str) -> None:
    authority = Authority(make_authority(NOW))
    secrets: Secrets = dict.fromkeys(ROLES)
    settle(secrets, authority, NOW)
    damaged = secrets["cart-client-tls"]
    assert damaged is not None
    whole = damaged["data"][key]
    for value in ("", base64.b64encode(base64.b64decode(whole)[:80]).decode(), None):
        damaged["data"][key] = value
        if value is None:
            del damaged["data"][key]
        steps = trust.steps(secrets, authority, NOW)
        assert steps["cart-client-tls"] in (TrustStep.ISSUE, TrustStep.TRUST)
        copy = dict(secrets)
        assert settle(copy, authority, NOW) == [TrustStep.NOTHING] * 2
        pem.check(content(copy["cart-client-tls"]))


P256, OTHER_CURVE = bytes.fromhex("2a8648ce3d030107"), bytes.fromhex("2a8648ce3d030106")
"""Object identifiers of prime256v1, and of prime239v3, which the library does not know."""


def on_another_curve(found: bytes) -> bytes:
    """The same PEM, with a key that says that it is on a curve that the library does not know."""
    head, *lines, tail = found.decode().splitlines()
    der = base64.b64decode("".join(lines)).replace(P256, OTHER_CURVE)
    return "\n".join([head, base64.b64encode(der).decode(), tail, ""]).encode()


@pytest.mark.parametrize("parts", [("tls.crt",), ("tls.key",), ("tls.crt", "tls.key")])
def test_a_secret_with_a_key_of_an_unknown_kind_is_written_anew(parts: tuple[str, ...]) -> None:
    authority = Authority(make_authority(NOW))
    secrets: Secrets = dict.fromkeys(ROLES)
    settle(secrets, authority, NOW)
    strange = secrets["cart-client-tls"]
    assert strange is not None
    for part in parts:
        whole = base64.b64decode(strange["data"][part])
        strange["data"][part] = base64.b64encode(on_another_curve(whole)).decode()
    assert trust.read(strange).certificate is None
    assert trust.steps(secrets, authority, NOW)["cart-client-tls"] is TrustStep.ISSUE
    assert settle(secrets, authority, NOW) == [TrustStep.NOTHING] * 2


def test_nothing_is_signed_by_an_authority_whose_key_is_of_an_unknown_kind() -> None:
    authority = make_authority(NOW)
    secrets: Secrets = dict.fromkeys(ROLES)
    settle(secrets, Authority(authority), NOW)
    held = trust.read(secrets["cart-client-tls"])
    pem_of = x509.load_pem_x509_certificate
    assert held.signed_by(pem_of(authority.certificate))
    assert not held.signed_by(pem_of(on_another_curve(authority.certificate)))


def test_authorities_that_cannot_be_read_are_trusted_anew() -> None:
    """A certificate of version 9, which is an error of its own kind."""
    authority = Authority(make_authority(NOW))
    secrets: Secrets = dict.fromkeys(ROLES)
    settle(secrets, authority, NOW)
    strange = secrets["cart-client-tls"]
    assert strange is not None
    head, *lines, tail = base64.b64decode(strange["data"]["ca.crt"]).decode().splitlines()
    der = base64.b64decode("".join(lines)).replace(
        b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x08", 1
    )
    text = "\n".join([head, base64.b64encode(der).decode(), tail, ""])
    strange["data"]["ca.crt"] = base64.b64encode(text.encode()).decode()
    assert trust.read(strange).trusted == ()
    assert trust.steps(secrets, authority, NOW)["cart-client-tls"] is TrustStep.TRUST


# --- the operator's own -----------------------------------------------------------------------


def test_the_operators_certificate_is_renewed_while_it_runs() -> None:
    now = NOW
    authority = make_authority(NOW)
    mine = PartitionCertificate(
        PARTITION.key, KnownAuthority(Authority(authority)), LIFETIMES, now=lambda: now
    )
    first, _ = mine.current()
    for days in range(0, 800, 20):
        now = NOW + dt.timedelta(days=days)
        mine.current()
        leaf = pem.leaf(mine.pem())
        assert leaf is not None
        assert leaf.not_after >= now + LIFETIMES.renew_before
    assert mine.current()[0] - first == 780 // 60
    assert mine.current() == mine.current()


def test_an_authority_that_has_ended_leaves_the_operator_what_it_has() -> None:
    now = NOW
    authority = make_authority(NOW, Lifetimes(authority=dt.timedelta(days=30)))
    mine = PartitionCertificate(
        PARTITION.key, KnownAuthority(Authority(authority)), LIFETIMES, now=lambda: now
    )
    mine.current()
    now = NOW + dt.timedelta(days=31)
    last = mine.current()
    now += dt.timedelta(days=1)
    assert mine.current() == last
    with pytest.raises(AuthorityInvalid, match="authority expired"):
        issue(authority, "logstore://shop/cart/replica", [], now)


def test_the_operator_is_accepted_during_a_change() -> None:
    """By replicas that have not seen the change yet, and by those that have."""
    old, new = make_authority(NOW), make_authority(NOW)
    secrets: Secrets = dict.fromkeys(ROLES)
    settle(secrets, Authority(old), NOW)
    authority = Authority(new, previous=old)
    mine = PartitionCertificate(PARTITION.key, KnownAuthority(authority), LIFETIMES)
    before = content(secrets["cart-replica-tls"])
    now = NOW
    for _ in range(4):
        settle(secrets, authority, now)
        mine.follow(secrets["cart-replica-tls"])
        after = content(secrets["cart-replica-tls"])
        for replica in (before, after):
            assert talk(replica, mine.pem())
        before = after
        now += LIFETIMES.spread


def test_the_operator_trusts_a_group_whose_authority_was_lost() -> None:
    """It has no key that the replicas trust until they see their new Secret, then it has."""
    old, new = make_authority(NOW), make_authority(NOW)
    secrets: Secrets = dict.fromkeys(ROLES)
    settle(secrets, Authority(old), NOW)
    mine = PartitionCertificate(PARTITION.key, KnownAuthority(Authority(new)), LIFETIMES)
    mine.follow(secrets["cart-replica-tls"])
    assert not talk(content(secrets["cart-replica-tls"]), mine.pem())
    settle(secrets, Authority(new), NOW)
    mine.follow(secrets["cart-replica-tls"])
    assert talk(content(secrets["cart-replica-tls"]), mine.pem())


# --- the authority's Secret -------------------------------------------------------------------


def own(key: Any, *, ca: bool = True, days: int = 3650, start: int = -1) -> dict[str, Any]:
    """A Secret with an authority of one's own, as openssl makes it: without key identifiers."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "corp")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW + dt.timedelta(days=start))
        .not_valid_after(NOW + dt.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256())
    )
    pair = KeyPair(
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )
    return authority_secret("system", "partition-operator-ca", pair)


def with_unknown_key() -> dict[str, Any]:
    """A certificate whose key the library does not know, with a good key beside it."""
    made = make_authority(NOW)
    pair = KeyPair(on_another_curve(made.certificate), made.key)
    return authority_secret("system", "partition-operator-ca", pair)


def with_an_extension_twice() -> dict[str, Any]:
    """The subject key identifier's place is taken by a second list of usages."""
    made = make_authority(NOW)
    head, *lines, tail = made.certificate.decode().splitlines()
    der = base64.b64decode("".join(lines)).replace(b"\x06\x03\x55\x1d\x0e", b"\x06\x03\x55\x1d\x0f")
    text = "\n".join([head, base64.b64encode(der).decode(), tail, ""])
    return authority_secret("system", "partition-operator-ca", KeyPair(text.encode(), made.key))


RSA = rsa.generate_private_key(65537, 2048)


@pytest.mark.parametrize(
    "key",
    [RSA, ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP384R1())],
    ids=["RSA", "P-256", "P-384"],
)
def test_an_authority_of_ones_own_works(key: Any) -> None:
    authority = authority_of(own(key), NOW)
    assert talk(held_by(authority), held_by(authority))


@pytest.mark.parametrize(
    ("secret", "words"),
    [
        (own(ed25519.Ed25519PrivateKey.generate()), "ECDSA with P-256 or P-384, and RSA"),
        (own(ec.generate_private_key(ec.SECP521R1())), "ECDSA with P-256 or P-384, and RSA"),
        (own(RSA, ca=False), "CA:TRUE"),
        (own(RSA, start=-9, days=-1), "authority expired"),
        (own(RSA, start=5), "compare the clocks"),
        (with_unknown_key(), "tls.crt and tls.key must be PEM"),
        (with_an_extension_twice(), "extensions of tls.crt"),
    ],
    ids=[
        "Ed25519",
        "P-521",
        "no CA",
        "ended",
        "not yet valid",
        "unknown curve",
        "one extension twice",
    ],
)
def test_an_authority_that_cannot_work_is_refused_by_name(
    secret: dict[str, Any], words: str
) -> None:
    with pytest.raises(AuthorityInvalid, match=r"Secret system/partition-operator-ca: ") as caught:
        authority_of(secret, NOW)
    assert words in str(caught.value)


def test_lifetimes_are_settings() -> None:
    needed = {"PARTITION_OPERATOR_NAMESPACE": "n", "PARTITION_OPERATOR_IMAGE": "i"}
    assert parse(needed).lifetimes == Lifetimes()
    seconds = {"PARTITION_OPERATOR_CERTIFICATE_SECONDS": "90"}
    found = parse(needed | seconds).lifetimes
    assert found.certificate == found.overlap == dt.timedelta(seconds=90)
    assert found.renew_before == dt.timedelta(seconds=30)
    with pytest.raises(ConfigError, match="less than the lifetime"):
        parse(needed | seconds | {"PARTITION_OPERATOR_CERTIFICATE_RENEW_SECONDS": "90"})
    with pytest.raises(ConfigError, match=r"RENEW_SECONDS=270: must be less than the lifetime"):
        authority = {"PARTITION_OPERATOR_AUTHORITY_SECONDS": "270"}
        parse(needed | seconds | authority | {"PARTITION_OPERATOR_AUTHORITY_RENEW_SECONDS": "270"})


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("CERTIFICATE", "59", "60 to 7.128e\\+07 seconds"),
        ("CERTIFICATE", "99999999", "60 to"),
        ("AUTHORITY", "7776001", "at least 3 times the lifetime of a certificate"),
        ("TRUST_SPREAD", "0.5", "1 to 86400 seconds"),
        ("AUTHORITY_OVERLAP", "0.5", "1 to"),
    ],
)
def test_lifetimes_have_ranges(variable: str, value: str, words: str) -> None:
    needed = {"PARTITION_OPERATOR_NAMESPACE": "n", "PARTITION_OPERATOR_IMAGE": "i"}
    with pytest.raises(ConfigError, match=words):
        parse(needed | {f"PARTITION_OPERATOR_{variable}_SECONDS": value})
