"""The operator's certificate authority (CA) and the certificates that it issues. Pure, except for
randomness; the time is an argument.

A URI in the certificate identifies its party: `logstore://<namespace>/<partition>/<role>`. A common
name is limited to 64 characters.
"""

import base64
import datetime as dt
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from partition_operator.api import names
from partition_operator.api.partition import Partition
from partition_operator.errors import AuthorityInvalid
from partition_operator.resources.common import metadata

RSA_BITS_MIN = 2048
COMMON_NAME_MAX = 64
AUTHORITY_NAME = "partition-operator"
"""The common name of an authority that the operator makes, before its number."""
CURVES = (ec.SECP256R1, ec.SECP384R1)
UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""Errors that the library raises for content that is not a certificate or a key, or that it does
not support, such as a key on a rare curve. It parses a certificate's key and extensions only on
access, so loading the certificate may succeed."""


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """How long authorities and certificates live.

    renew_before: a certificate that expires within this time is reissued; authority_renew_before:
    the same for an authority that the operator made. Both are a third of the lifetime by default.
    spread: this long after a change of a Secret, every pod has its new content; the kubelet takes
    at most two minutes. overlap: how long a former authority stays trusted after the last
    certificate was replaced; never longer than its certificates live.
    """

    authority: dt.timedelta = dt.timedelta(days=3650)
    authority_renew_before: dt.timedelta = dt.timedelta(days=3650) / 3
    certificate: dt.timedelta = dt.timedelta(days=90)
    renew_before: dt.timedelta = dt.timedelta(days=30)
    spread: dt.timedelta = dt.timedelta(minutes=10)
    overlap: dt.timedelta = dt.timedelta(days=90)


LIFETIMES = Lifetimes()


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and its key, in PEM."""

    certificate: bytes
    key: bytes


def make_authority(now: dt.datetime, lifetimes: Lifetimes = LIFETIMES) -> KeyPair:
    key = ec.generate_private_key(ec.SECP256R1())
    # Verifiers find an issuer by its name, so two authorities trusted at once need different names.
    serial = x509.random_serial_number()
    common = f"{AUTHORITY_NAME} {serial % 2**32:08x}"
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + lifetimes.authority)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return KeyPair(_pem(builder.sign(key, hashes.SHA256())), _key_pem(key))


def identity(namespace: str, partition: str, role: str) -> str:
    """Returns the URI of a party. role: replica, operator, client, or `client/<name>/<id>`."""
    return f"logstore://{namespace}/{partition}/{role}"


def _common_name(party: str) -> str:
    """Returns a name for people: the role, or the name of a client that has one."""
    role, *rest = party.split("/")[4:] or [party]
    return (rest[0] if rest else role)[:COMMON_NAME_MAX]


def issue(
    authority: KeyPair,
    party: str,
    hosts: list[str],
    now: dt.datetime,
    lifetimes: Lifetimes = LIFETIMES,
) -> KeyPair:
    """Issues a certificate for both sides of a connection. party: its identity. hosts: the names by
    which it is dialled. It does not outlive the authority. Raises AuthorityInvalid if the authority
    has expired."""
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    if why := _unfit(issuer, now):
        raise AuthorityInvalid(why)
    issuer_key = _signing_key(authority)
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _common_name(party))]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(min(now + lifetimes.certificate, issuer.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            ),
            critical=False,
        )
    )
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key())  # type: ignore[arg-type]  # of the kinds that authority_of lets through
    builder = builder.add_extension(identifier, critical=False)
    alternatives = [x509.UniformResourceIdentifier(party), *(x509.DNSName(h) for h in hosts)]
    builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    return KeyPair(_pem(builder.sign(issuer_key, hashes.SHA256())), _key_pem(key))


def replica_hosts(partition: Partition) -> list[str]:
    """Returns the names by which replicas are dialled, that of the clients' Service, and the
    external ones."""
    headless = names.headless_service(partition.name)
    client = names.client_service(partition.name)
    found = ["localhost"]
    service = f"{partition.namespace}.svc"
    for suffix in (service, f"{service}.{partition.cluster_domain}"):
        found += [f"*.{headless}.{suffix}", f"{client}.{suffix}"]
    return [*found, *partition.external_hostnames]


def lacks_names(certificate: x509.Certificate, partition: Partition) -> bool:
    """Whether a replica's certificate lacks a name by which replicas are dialled."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, *UNREADABLE):
        return True
    return not set(replica_hosts(partition)) <= set(found.get_values_for_type(x509.DNSName))


def build_secret(
    partition: Partition,
    name: str,
    role: str,
    pair: KeyPair,
    trusted: bytes,
    annotations: dict[str, str],
) -> dict[str, Any]:
    """Returns a kubernetes.io/tls Secret. role: replica, client, or `client/<name>/<id>`. trusted:
    the authorities, in PEM."""
    described = metadata(partition, name, component_of(role))
    described["annotations"] = annotations
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": described,
        "type": "kubernetes.io/tls",
        "data": {
            "tls.crt": _base64(pair.certificate),
            "tls.key": _base64(pair.key),
            "ca.crt": _base64(trusted),
        },
    }


def component_of(role: str) -> str:
    """Returns the component in the labels of a role's Secret: replica or client."""
    return role.partition("/")[0]


def issue_for(
    partition: Partition, role: str, authority: KeyPair, now: dt.datetime, lifetimes: Lifetimes
) -> KeyPair:
    """Issues a certificate for a Partition. role: replica, client, or `client/<name>/<id>`. Raises
    AuthorityInvalid."""
    hosts = replica_hosts(partition) if role == "replica" else []
    party = identity(partition.namespace, partition.name, role)
    return issue(authority, party, hosts, now, lifetimes)


def authority_secret(namespace: str, name: str, authority: KeyPair) -> dict[str, Any]:
    """Returns the Secret with the operator's authority."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {"app.kubernetes.io/managed-by": names.MANAGED_BY},
        },
        "type": "kubernetes.io/tls",
        "data": {
            "tls.crt": _base64(authority.certificate),
            "tls.key": _base64(authority.key),
        },
    }


def authority_of(secret: dict[str, Any], now: dt.datetime) -> KeyPair:
    """Returns the authority in a Secret, made by the operator or by a user. Raises
    AuthorityInvalid.
    """
    metadata, data = secret["metadata"], secret.get("data") or {}
    where = f"Secret {metadata['namespace']}/{metadata['name']}"
    for part in ("tls.crt", "tls.key"):
        if not data.get(part):
            raise AuthorityInvalid(
                f"{where}: {part} is missing or empty; put the authority's certificate into "
                "tls.crt and its key into tls.key"
            )
    try:
        pair = KeyPair(base64.b64decode(data["tls.crt"]), base64.b64decode(data["tls.key"]))
        certificate = x509.load_pem_x509_certificate(pair.certificate)
        public_key = certificate.public_key()
        key = _signing_key(pair)
    except UNREADABLE as error:
        raise AuthorityInvalid(
            f"{where}: tls.crt and tls.key must be PEM, the key without a password: {error}"
        ) from error
    if key.public_key() != public_key:
        raise AuthorityInvalid(f"{where}: tls.key is not the key of tls.crt")
    if why := _unfit(certificate, now):
        raise AuthorityInvalid(f"{where}: {why}")
    return pair


def _unfit(certificate: x509.Certificate, now: dt.datetime) -> str:
    """Why a certificate can't be an authority; "" if it can."""
    try:
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        basic = None
    except UNREADABLE as error:
        return f"the extensions of tls.crt can't be read: {error}"
    if basic is None or not basic.ca:
        return "tls.crt is not an authority: it needs the extension basicConstraints with CA:TRUE"
    if certificate.not_valid_after_utc <= now:
        return f"the authority expired at {certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}"
    if certificate.not_valid_before_utc > now:
        start = certificate.not_valid_before_utc
        return f"the authority is not valid before {start:%Y-%m-%dT%H:%M:%SZ}; compare the clocks"
    return ""


def _signing_key(pair: KeyPair) -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey:
    """Raises ValueError for a kind of key that gRPC's TLS does not verify."""
    key = serialization.load_pem_private_key(pair.key, None)
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, CURVES):
        return key
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= RSA_BITS_MIN:
        return key
    raise ValueError(
        "the kind of key is not supported; allowed are ECDSA with P-256 or P-384, and RSA with "
        f"{RSA_BITS_MIN} bits or more"
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
