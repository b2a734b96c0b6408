"""A certificate for the replicas that somebody else issues: a user's Secret, or cert-manager's.

It is checked as the replicas would check it, before any of them gets it: a certificate that does
not work is refused here, and the replicas keep the one that they have. Pure, except for a handshake
in memory.
"""

import base64
import datetime as dt
import ssl
from typing import Any

from cryptography import x509
from partition_proto.connection import contexts, pem

from partition_operator.api import names
from partition_operator.api.partition import Partition
from partition_operator.api.tls import Issuer
from partition_operator.errors import OperatorError
from partition_operator.resources.certificates import (
    UNREADABLE,
    KeyPair,
    Lifetimes,
    identity,
    replica_hosts,
)
from partition_operator.resources.common import metadata
from partition_operator.resources.trust import Source

PARTS = ("tls.crt", "tls.key", "ca.crt")
CERTIFICATE_API = "cert-manager.io/v1"
ROUNDS = 6
"""More than a handshake has messages in each direction."""


class SourceInvalid(OperatorError):
    """A certificate that was brought along can't be used. The message says why, what is wanted, and
    what to do."""


def source_of(
    partition: Partition, name: str, secret: dict[str, Any] | None, now: dt.datetime
) -> Source:
    """Returns the certificate in a Secret, checked. name: of the Secret. Raises SourceInvalid."""
    where = f"Secret {partition.namespace}/{name}"
    if secret is None:
        raise SourceInvalid(f"{where} does not exist: it needs {', '.join(PARTS)}")
    data = secret.get("data") or {}
    if missing := [part for part in PARTS if not data.get(part)]:
        raise SourceInvalid(f"{where}: {', '.join(missing)} missing or empty; it needs {PARTS}")
    try:
        certificate, key, authority = (base64.b64decode(data[part]) for part in PARTS)
        found = pem.Pem(certificate, key, authority)
        pem.check(found)
        leaf = x509.load_pem_x509_certificate(certificate)
        authorities = tuple(x509.load_pem_x509_certificates(authority))
    except (pem.BadPem, *UNREADABLE) as error:
        raise SourceInvalid(f"{where}: {error}") from error
    for why in (_untimely(leaf, now), _nameless(partition, leaf), _unfit(partition, found)):
        if why:
            raise SourceInvalid(f"{where}: {why}; the certificate before stays in use")
    return Source(KeyPair(certificate, key), authorities)


def _untimely(leaf: x509.Certificate, now: dt.datetime) -> str:
    if leaf.not_valid_after_utc <= now:
        return f"the certificate expired at {leaf.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}; renew it"
    if leaf.not_valid_before_utc > now:
        start = leaf.not_valid_before_utc
        return f"the certificate is not valid before {start:%Y-%m-%dT%H:%M:%SZ}; compare the clocks"
    return ""


def _nameless(partition: Partition, leaf: x509.Certificate) -> str:
    wanted = identity(partition.namespace, partition.name, "replica")
    try:
        found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = found.get_values_for_type(x509.UniformResourceIdentifier)
    except x509.ExtensionNotFound:
        uris = []
    except UNREADABLE as error:
        return f"the extensions of the certificate can't be read: {error}"
    if wanted in uris:
        return ""
    return f"the certificate has no URI {wanted} as an alternative name, which replicas ask for"


def _unfit(partition: Partition, found: pem.Pem) -> str:
    """Returns why two replicas with this certificate could not connect; "" if they could."""
    size = partition.asked.replicas if partition.asked is not None else 1
    hosts = [names.host(partition.name, partition.namespace, n) for n in range(size)]
    for host in (*hosts, f"{names.client_service(partition.name)}.{partition.namespace}.svc"):
        try:
            _shake_hands(found, host)
        except ssl.SSLCertVerificationError as error:
            return f"a connection to {host} would fail: {error.verify_message}"
        except ssl.SSLError as error:
            return f"a connection to {host} would fail: {error.reason or error}"
    return ""


def _shake_hands(found: pem.Pem, host: str) -> None:
    """Raises ssl.SSLError if a mutual handshake of two parties with these files fails."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    near, far = contexts.client_context(found), contexts.server_context(found)
    sides = [
        near.wrap_bio(to_client, to_server, server_hostname=host),
        far.wrap_bio(to_server, to_client, server_side=True),
    ]
    done: set[int] = set()
    for _ in range(ROUNDS):
        for number, side in enumerate(sides):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            done.add(number)
    if len(done) < len(sides):
        raise ssl.SSLError("the handshake does not end")


def build_certificate(partition: Partition, issuer: Issuer, lifetimes: Lifetimes) -> dict[str, Any]:
    """Returns the Certificate that asks cert-manager for the replicas' certificate."""
    described = metadata(partition, names.certificate(partition.name))
    return {
        "apiVersion": CERTIFICATE_API,
        "kind": "Certificate",
        "metadata": described,
        "spec": {
            "secretName": names.issued_secret(partition.name),
            "issuerRef": {"name": issuer.name, "kind": issuer.kind, "group": issuer.group},
            "duration": _duration(lifetimes.certificate),
            "renewBefore": _duration(lifetimes.renew_before),
            "uris": [identity(partition.namespace, partition.name, "replica")],
            "dnsNames": replica_hosts(partition),
            "usages": ["digital signature", "server auth", "client auth"],
            "privateKey": {"algorithm": "ECDSA", "size": 256, "rotationPolicy": "Always"},
        },
    }


def _duration(time: dt.timedelta) -> str:
    """Returns a duration as Kubernetes writes it back, such as 2160h0m0s."""
    minutes, seconds = divmod(int(time.total_seconds()), 60)
    return f"{minutes // 60}h{minutes % 60}m{seconds}s"
