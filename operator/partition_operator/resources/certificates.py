"""Certificates: an authority of the operator's own, and what it issues. Pure but for randomness;
the clock is an argument.

A party is known by a URI in its certificate, `logstore://<namespace>/<partition>/<role>`: a common
name has room for 64 characters only.
"""

import base64
import datetime as dt
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from partition_operator.api import names
from partition_operator.api.partition import Partition
from partition_operator.resources.common import metadata

AUTHORITY_DAYS = 3650
CERTIFICATE_DAYS = 365
RENEW_DAYS = 120
"""A certificate that ends within this is issued anew."""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """PEM."""

    certificate: bytes
    key: bytes


def make_authority(now: dt.datetime) -> KeyPair:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "partition-operator")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
    )
    return KeyPair(_pem(builder.sign(key, hashes.SHA256())), _key_pem(key))


def identity(namespace: str, partition: str, role: str) -> str:
    """What names a party: role is replica, operator or client."""
    return f"logstore://{namespace}/{partition}/{role}"


def issue(authority: KeyPair, party: str, hosts: list[str], now: dt.datetime) -> KeyPair:
    """A certificate of `party`, an identity, for both sides of a connection; `hosts` are the names
    by which it is dialled."""
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    issuer_key = serialization.load_pem_private_key(authority.key, None)
    assert isinstance(issuer_key, ec.EllipticCurvePrivateKey), "we made it"
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateBuilder()
        .subject_name(
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, party.rpartition("/")[2])])
        )
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=CERTIFICATE_DAYS))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            ),
            critical=False,
        )
    )
    alternatives = [x509.UniformResourceIdentifier(party), *(x509.DNSName(h) for h in hosts)]
    builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    return KeyPair(_pem(builder.sign(issuer_key, hashes.SHA256())), _key_pem(key))


def replica_hosts(partition: Partition) -> list[str]:
    """The names by which replicas are dialled: each one's, and the clients' Service's."""
    headless = names.headless_service(partition.name)
    client = names.client_service(partition.name)
    found = ["localhost"]
    for suffix in (f"{partition.namespace}.svc", f"{partition.namespace}.svc.cluster.local"):
        found += [f"*.{headless}.{suffix}", f"{client}.{suffix}"]
    return found


def build_secret(
    partition: Partition, name: str, role: str, authority: KeyPair, now: dt.datetime
) -> dict[str, Any]:
    """A kubernetes.io/tls Secret with the authority beside, for `role`: replica or client."""
    hosts = replica_hosts(partition) if role == "replica" else []
    party = identity(partition.namespace, partition.name, role)
    pair = issue(authority, party, hosts, now)
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata(partition, name, role),
        "type": "kubernetes.io/tls",
        "data": {
            "tls.crt": _base64(pair.certificate),
            "tls.key": _base64(pair.key),
            "ca.crt": _base64(authority.certificate),
        },
    }


def secret_is_good(secret: dict[str, Any] | None, authority: KeyPair, now: dt.datetime) -> bool:
    """Whether a Secret holds a certificate of this authority that is good for a while."""
    data = (secret or {}).get("data") or {}
    if data.get("ca.crt") != _base64(authority.certificate):
        return False
    try:
        certificate = x509.load_pem_x509_certificate(base64.b64decode(data["tls.crt"]))
    except (KeyError, ValueError):
        return False
    return certificate.not_valid_after_utc > now + dt.timedelta(days=RENEW_DAYS)


def authority_secret(namespace: str, name: str, authority: KeyPair) -> dict[str, Any]:
    """The Secret in which the operator keeps its authority."""
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


def authority_of(secret: dict[str, Any]) -> KeyPair:
    data = secret["data"]
    return KeyPair(base64.b64decode(data["tls.crt"]), base64.b64decode(data["tls.key"]))


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
