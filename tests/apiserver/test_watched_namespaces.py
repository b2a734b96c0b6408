"""An operator that watches some namespaces, with the rights that the chart grants and no others."""

import asyncio
import json
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.support.api_server import ApiServer
from tests.support.local_group import eventually
from tests.support.operator_process import UNHURRIED, Operator
from tests.support.rights import rules

pytestmark = [pytest.mark.apiserver, pytest.mark.timeout(300)]

PARTITION = """\
apiVersion: logstore.dev/v1alpha1
kind: Partition
metadata: {name: part}
spec: {replicas: 1, storage: {size: 1Gi}}
"""
CLUSTER_WIDE = {"customresourcedefinitions"}
"""What an operator of some namespaces has no rights on."""


def grant(server: ApiServer, namespace: str, user: str, rules: list[dict[str, Any]]) -> None:
    name = {"name": "granted", "namespace": namespace}
    group = "rbac.authorization.k8s.io"
    role = {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": name, "rules": rules}
    binding = {
        "apiVersion": f"{group}/v1",
        "kind": "RoleBinding",
        "metadata": name,
        "roleRef": {"apiGroup": group, "kind": "Role", "name": "granted"},
        "subjects": [{"apiGroup": group, "kind": "User", "name": user}],
    }
    body = {"apiVersion": "v1", "kind": "List", "items": [role, binding]}
    server.kubectl("apply", "-f", "-", stdin=json.dumps(body))


async def test_a_namespace_that_is_gone_holds_nobody_up(server: ApiServer, tmp_path: Path) -> None:
    mark = uuid.uuid4().hex[:8]
    home, here, gone = (f"t-{mark}-{name}" for name in ("home", "here", "gone"))
    user = f"operator-{mark}"
    for namespace in (home, here):
        server.kubectl("create", "namespace", namespace)
    watched = [r for r in rules("ClusterRole") if not set(r["resources"]) & CLUSTER_WIDE]
    grant(server, home, user, rules("Role"))
    grant(server, here, user, watched)
    settings = UNHURRIED | {"KUBECONFIG": str(server.user(user))}
    settings |= {"PARTITION_OPERATOR_WATCH": f"{gone},{here}"}
    log = tmp_path / "operator.log"
    operator = Operator(server, home, log, **settings)

    async def seen(namespace: str) -> bool:
        words = ("-n", namespace, "get", "partition", "part")
        found = await asyncio.to_thread(server.kubectl.json, *words)
        return bool(found.get("status", {}).get("clusterID"))

    async def ended() -> bool:
        assert operator.process is not None
        return operator.process.poll() is not None

    try:
        server.kubectl("-n", here, "apply", "-f", "-", stdin=PARTITION)
        operator.start()
        # Well below the half minute that it takes to find out that namespaces can't be listed.
        await eventually(lambda: seen(here), "the other namespace is looked at", 20)
        assert f"can't watch namespace {gone}" in log.read_text()
        # It is made again, and watched without a restart.
        server.kubectl("create", "namespace", gone)
        grant(server, gone, user, watched)
        server.kubectl("-n", gone, "apply", "-f", "-", stdin=PARTITION)
        await eventually(lambda: seen(gone), "the namespace that came back is looked at", 60)
        assert operator.process is not None
        operator.process.terminate()
        await eventually(ended, "the operator ends when it is told to", 30)
        assert operator.process.returncode == 0
        lease = server.kubectl.json("-n", home, "get", "lease", "partition-operator")
        assert not lease["spec"].get("holderIdentity"), "the next one may take over at once"
    except BaseException:
        print(log.read_text()[-6000:], file=sys.stderr)
        raise
    finally:
        operator.stop()
