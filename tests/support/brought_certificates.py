"""Certificates that somebody else than the operator issues: a user, or what stands in for
cert-manager."""

import base64
import datetime as dt
from typing import Any

from partition_operator.resources.certificates import KeyPair, identity, issue, make_authority

from tests.support.operator_turns import Turns

CERTIFICATES = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "certificates.cert-manager.io"},
    "spec": {
        "group": "cert-manager.io",
        "scope": "Namespaced",
        "names": {"kind": "Certificate", "plural": "certificates", "singular": "certificate"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "x-kubernetes-preserve-unknown-fields": True,
                    }
                },
            }
        ],
    },
}
"""The kind alone, without cert-manager's schema."""

DAY = dt.timedelta(days=1)


def secret(name: str, pair: KeyPair, authority: KeyPair) -> dict[str, Any]:
    """A Secret with a certificate and the authority that verifies it."""
    parts = {
        "tls.crt": pair.certificate,
        "tls.key": pair.key,
        "ca.crt": authority.certificate,
    }
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name},
        "type": "kubernetes.io/tls",
        "data": {key: base64.b64encode(value).decode() for key, value in parts.items()},
    }


def hosts(namespace: str, name: str) -> list[str]:
    return [f"*.{name}-replicas.{namespace}.svc", f"{name}.{namespace}.svc"]


class Corp:
    """An authority of a user's own."""

    def __init__(self, now: dt.datetime) -> None:
        self.now = now
        self.authority = make_authority(now - 1000 * DAY)

    def pair(
        self,
        namespace: str = "shop",
        name: str = "cart",
        *,
        role: str = "replica",
        later: dt.timedelta = dt.timedelta(),
        names: list[str] | None = None,
    ) -> KeyPair:
        found = hosts(namespace, name) if names is None else names
        return issue(self.authority, identity(namespace, name, role), found, self.now + later)

    def secret(self, pair: KeyPair, name: str = "corp") -> dict[str, Any]:
        return secret(name, pair, self.authority)


async def sign_as_cert_manager(turns: Turns, corp: Corp, name: str) -> dict[str, Any]:
    """Does what cert-manager does with a Certificate: returns the Secret that it writes."""
    asked = (await turns.get("Certificate", name))["spec"]
    (uri,) = asked["uris"]
    pair = issue(corp.authority, uri, asked["dnsNames"], corp.now)
    return secret(asked["secretName"], pair, corp.authority)
