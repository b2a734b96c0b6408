"""The status and the Secrets of one Partition, looked at while an operator works on it."""

import asyncio
import base64
from pathlib import Path
from typing import Any

from partition_operator.resources.certificates import KeyPair

from tests.support.api_server import ApiServer
from tests.support.certificates import mount
from tests.support.local_group import eventually
from tests.support.operator_process import Operator

AUTHORITY = "partition-operator-ca"
PARTITION = """\
apiVersion: logstore.dev/v1alpha1
kind: Partition
metadata: {name: part}
spec: {replicas: 3, storage: {size: 1Gi}}
"""
SETTINGS = {
    "PARTITION_OPERATOR_TRUST_SPREAD_SECONDS": "5",
    "PARTITION_OPERATOR_AUTHORITY_LOOK_SECONDS": "1",
    "PARTITION_OPERATOR_AUTHORITY_OVERLAP_SECONDS": "5",
    "PARTITION_OPERATOR_RESYNC_SECONDS": "2",
    "PARTITION_OPERATOR_LEASE_SECONDS": "8",
}


class Seen:
    """Looks at the Partition, and at its client Secret as the kubelet would bring it."""

    def __init__(self, server: ApiServer, namespace: str, folder: Path, operator: Operator) -> None:
        self._server = server
        self._operator = operator
        self._namespace = namespace
        self._folder = folder
        self.words: list[tuple[str, str]] = []
        """(STATUS, reason of CertificatesReady), each change of them."""

    def secret(self, name: str) -> dict[str, bytes]:
        found = self._server.kubectl.json("-n", self._namespace, "get", "secret", name)
        return {key: base64.b64decode(value) for key, value in found["data"].items()}

    def bring(self) -> Path:
        data = self.secret("part-client-tls")
        known = self._folder / "tls.crt", self._folder / "ca.crt"
        if not self._folder.exists() or [p.read_bytes() for p in known] != [
            data["tls.crt"],
            data["ca.crt"],
        ]:
            mount(self._folder, KeyPair(data["tls.crt"], data["tls.key"]), data["ca.crt"])
        return self._folder

    def look(self) -> tuple[str, str]:
        found = self._server.kubectl.json("-n", self._namespace, "get", "partition", "part")
        status: dict[str, Any] = found.get("status", {})
        conditions = {c["type"]: c for c in status.get("conditions", [])}
        word = status.get("state", ""), conditions.get("CertificatesReady", {}).get("reason", "")
        if not self.words or self.words[-1] != word:
            self.words.append(word)
        return word

    async def comes(self, state: str, reason: str) -> None:
        async def there() -> bool:
            self._operator.revive()
            if (self._folder / "tls.crt").exists():
                await asyncio.to_thread(self.bring)
            return await asyncio.to_thread(self.look) == (state, reason)

        await eventually(there, f"the Partition is {state}, certificates {reason}", 180)
