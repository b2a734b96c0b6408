"""`spec.tls` and `spec.clients`: where certificates come from, and who may connect."""

from dataclasses import dataclass

from partition_operator.api import schema


@dataclass(frozen=True, slots=True)
class Client:
    """A client with an identity of its own. rights: Read, Write or Admin. revision: another one
    revokes its certificates."""

    name: str
    rights: str
    revision: int = 1


@dataclass(frozen=True, slots=True)
class Issuer:
    """An issuer of cert-manager."""

    name: str
    kind: str
    group: str


@dataclass(frozen=True, slots=True)
class TlsSource:
    """Where the replicas' certificate comes from: a Secret, or an issuer; the operator's authority
    if there is neither."""

    secret: str = ""
    issuer: Issuer | None = None


def parse_tls(body: schema.Tls) -> TlsSource:
    """body: checked."""
    issuer = body.get("issuerRef")
    if issuer is not None:
        kind, group = issuer.get("kind", "Issuer"), issuer.get("group", "cert-manager.io")
        return TlsSource(issuer=Issuer(issuer["name"], kind, group))
    return TlsSource(secret=body["secretRef"]["name"] if "secretRef" in body else "")


def parse_clients(items: list[schema.Client]) -> tuple[Client, ...]:
    """items: checked."""
    return tuple(Client(c["name"], c["rights"], c.get("revision", 1)) for c in items)
