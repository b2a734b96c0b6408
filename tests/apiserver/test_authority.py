"""The operator's authority is lost with the operator, and is another one afterwards: the group
serves through the change, the status says what is going on, and a restarted replica is let in."""

import asyncio
import base64
import sys
import uuid
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from partition_client import AsyncClient, Tls
from partition_operator.api import names
from partition_operator.failpoints import CERTIFICATES, EXIT_CODE
from partition_operator.resources.certificates import KeyPair

from tests.support.api_server import ApiServer
from tests.support.certificates import mount
from tests.support.local_group import eventually
from tests.support.operator_process import Operator
from tests.support.stand_in_nodes import StandInNodes

pytestmark = [pytest.mark.apiserver, pytest.mark.timeout(600)]

AUTHORITY = "partition-operator-ca"
PARTITION = """\
apiVersion: logstore.dev/v1alpha1
kind: Partition
metadata: {name: part}
spec: {replicas: 3, storage: {size: 1Gi}}
"""
SETTINGS = {
    "PARTITION_OPERATOR_TRUST_SPREAD_SECONDS": "8",
    "PARTITION_OPERATOR_AUTHORITY_LOOK_SECONDS": "1",
    "PARTITION_OPERATOR_RESYNC_SECONDS": "2",
    "PARTITION_OPERATOR_LEASE_SECONDS": "8",
}
FAILPOINT = "TrustAuthority"


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


def test_the_failpoint_is_tried() -> None:
    assert {FAILPOINT} == CERTIFICATES


async def test_an_authority_that_is_lost(server: ApiServer, tmp_path: Path) -> None:
    namespace = f"t-{uuid.uuid4().hex[:8]}"
    server.kubectl("create", "namespace", namespace)
    operator = Operator(server, namespace, tmp_path / "operator.log", **SETTINGS)
    seen = Seen(server, namespace, tmp_path / "client", operator)

    async def died() -> bool:
        assert operator.process is not None
        return operator.process.poll() is not None

    try:
        async with (
            StandInNodes(server.kubectl, namespace, tmp_path / "nodes", refresh=True) as nodes,
            AsyncExitStack() as stack,
        ):
            server.kubectl("-n", namespace, "apply", "-f", "-", stdin=PARTITION)
            operator.start()
            await seen.comes("Ready", "Issued")
            old = seen.secret(AUTHORITY)
            tls = Tls.in_directory(seen.bring(), names.host("part", namespace, 0))
            endpoints = [nodes.endpoint(n) for n in range(3)]
            client = AsyncClient(endpoints, tls, deadline_s=30.0, follow_hints=False)
            await stack.enter_async_context(client)
            await client.set_key(b"k", b"before")
            operator.stop()
            server.kubectl("-n", namespace, "delete", "secret", AUTHORITY)
            operator.start(FAILPOINT)
            await eventually(died, "the operator trusts the new authority", 120)
            assert operator.process is not None
            assert operator.process.returncode == EXIT_CODE
            operator.start()
            await seen.comes("Ready", "AuthorityChanging")
            nodes.kill("part-1")
            await client.set_key(b"k", b"during")
            await seen.comes("Ready", "Issued")
            new = seen.secret(AUTHORITY)
            assert new["tls.crt"] != old["tls.crt"]
            for name in ("part-client-tls", "part-replica-tls"):
                assert seen.secret(name)["ca.crt"] == new["tls.crt"]
            nodes.kill("part-2")

            async def restarted() -> bool:
                return nodes.restarts.get("part-2", 0) > 0

            await eventually(restarted, "part-2 is started again")
            await seen.comes("Ready", "Issued")
            await client.set_key(b"k", b"after")
            assert await client.get_key(b"k") == b"after"
            assert "NoLeader" not in {state for state, _ in seen.words}, seen.words
    except BaseException:
        print(seen.words, (tmp_path / "operator.log").read_text()[-6000:], file=sys.stderr)
        raise
    finally:
        operator.stop()
