"""The reader of a runbook: a shell with the commands that a runbook names, beside a cluster."""

import asyncio
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from dev.cluster.layout import STATE
from dev.object_store import ObjectStoreServer
from tests.support.cluster import BUCKET, Namespace
from tests.support.local_group import eventually
from tests.support.pages import Page, Terminal

PARTITION = """\
apiVersion: logstore.dev/v1alpha1
kind: Partition
metadata: {{name: example}}
spec:
  replicas: 3
  storage: {{size: 512Mi}}
  snapshots:
    destination:
      objectStore:
        endpoint: {endpoint}
        allowHTTP: true
        bucket: {bucket}
        prefix: partitions
        credentialsSecretRef: {{name: backups}}
"""


class Desk:
    """Whoever reads the runbook: a shell with kubectl, partitionctl and partition-replica. The
    last two run where the object store is reached, on the nodes' network."""

    def __init__(self, namespace: Namespace, store: ObjectStoreServer, directory: Path) -> None:
        self.namespace = namespace
        self.store = store
        self.directory = directory
        kubeconfig, tools = directory / "kubeconfig", directory / "bin"
        shutil.copy(namespace.cluster.layout.kubeconfig, kubeconfig)
        tools.mkdir()
        inner = (STATE / "inner.pid").read_text().strip()
        for name in ("partitionctl", "partition-replica"):
            command = Path(sys.executable).parent / name
            script = tools / name
            script.write_text(
                f'#!/bin/sh\nexec nsenter --net=/proc/{inner}/ns/net {command} "$@"\n'
            )
            script.chmod(0o755)
        program = shutil.which(namespace.cluster.kubectl.command()[0])
        assert program is not None
        (tools / "kubectl").symlink_to(program)
        path = f"{tools}:{os.environ['PATH']}"
        environment = {"PATH": path, "KUBECONFIG": str(kubeconfig), "HOME": str(directory)}
        self.terminal = Terminal(directory, environment)
        self.terminal.run(f"kubectl config set-context --current --namespace={namespace.name}")

    def runbook(self, name: str, test: str) -> Page:
        return Page(f"runbooks/{name}", test, self.terminal)

    @property
    def keys(self) -> tuple[str, str]:
        return self.store.access_key_id, self.store.secret_access_key

    def make_secret(self, secret_key: str = "") -> None:
        key, right = self.keys
        self.namespace.kubectl(
            "create", "secret", "generic", "backups", f"--from-literal=accessKeyId={key}",
            f"--from-literal=secretAccessKey={secret_key or right}",
        )  # fmt: skip

    async def make_partition(self) -> None:
        text = PARTITION.format(endpoint=self.store.endpoint, bucket=BUCKET)
        self.namespace.kubectl("apply", "-f", "-", stdin=text)
        await self.ready("example")

    async def ready(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = await asyncio.to_thread(self.namespace.ready, name, 300)
        return found

    async def status(self, kind: str, name: str) -> dict[str, Any]:
        """{} while it does not exist."""
        words = ("get", kind, name, "-o", "json", "--ignore-not-found")
        found = await asyncio.to_thread(self.namespace.kubectl, *words)
        status: dict[str, Any] = json.loads(found or "{}").get("status", {})
        return status

    async def until(self, kind: str, name: str, *states: str) -> dict[str, Any]:
        async def there() -> dict[str, Any]:
            found = await self.status(kind, name)
            return found if found.get("state") in states else {}

        return await eventually(there, f"{kind} {name} is {' or '.join(states)}", 300)

    def take(self, name: str) -> None:
        body = {
            "apiVersion": "logstore.dev/v1alpha1",
            "kind": "PartitionSnapshot",
            "metadata": {"name": name},
            "spec": {"partitionRef": {"name": "example"}},
        }
        self.namespace.kubectl("apply", "-f", "-", stdin=json.dumps(body))
