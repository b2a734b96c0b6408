"""The Secret of the operator's authority without an API server, and Partitions that follow it."""

from typing import Any

from partition_operator.clients.authority import AuthorityKeeper
from partition_operator.config import OperatorConfig


def merged(live: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """As a merge patch: None removes a field."""
    found = dict(live)
    for key, value in change.items():
        if value is None:
            found.pop(key, None)
        elif isinstance(value, dict):
            found[key] = merged(dict(found.get(key) or {}), value)
        else:
            found[key] = value
    return found


class FakeKube:
    """Secrets alone."""

    def __init__(self) -> None:
        self.secret: dict[str, Any] | None = None
        self.partitions: list[dict[str, Any]] = []
        self.merges = 0

    async def get(self, kind: str, namespace: str, name: str) -> dict[str, Any] | None:
        assert (kind, namespace, name) == ("Secret", "system", "partition-operator-ca")
        return self.secret

    async def create(self, body: dict[str, Any]) -> dict[str, Any]:
        assert self.secret is None
        self.secret = body
        return body

    async def merge(
        self, kind: str, live: dict[str, Any], change: dict[str, Any]
    ) -> dict[str, Any]:
        assert live == self.secret
        self.secret = merged(live, change)
        self.merges += 1
        return self.secret

    async def list_everything(self, plural: str, namespace: str) -> list[dict[str, Any]]:
        return self.partitions


async def opened(kube: FakeKube, **settings: Any) -> AuthorityKeeper:
    config = OperatorConfig("system", "me", "image:1", authority_look_s=1e-9, **settings)
    found = AuthorityKeeper(kube, config)  # type: ignore[arg-type]
    await found.open()
    return found


def partition(name: str, authority: str, phase: str, operator: str = "system") -> dict[str, Any]:
    """A Partition whose certificates come from `authority`, a fingerprint."""
    status = {
        "operator": operator,
        "clusterID": "6f1c2b3a-0000-4000-8000-000000000000",
        "certificates": {"authority": authority, "phase": phase},
    }
    metadata = {"name": name, "namespace": "shop", "uid": name, "generation": 1}
    spec = {"replicas": 3, "storage": {"size": "1Gi"}}
    return {"metadata": metadata, "spec": spec, "status": status}
