"""`kubectl partition` as a process, against the API server of the tests."""

import asyncio
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from dev.cluster.layout import BIN
from tests.support.api_server import ApiServer

READER = """\
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {{name: {user}}}
rules:
{rules}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{name: {user}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {user}}}
subjects: [{{apiGroup: rbac.authorization.k8s.io, kind: User, name: {user}}}]
"""


@dataclass(frozen=True, slots=True)
class Said:
    code: int
    out: str
    err: str


def user(server: ApiServer, name: str, *rules: str) -> Path:
    """The kubeconfig of a user with these rules of RBAC alone, each as inline YAML."""
    text = "\n".join(f"- {rule}" for rule in rules)
    server.kubectl("apply", "-f", "-", stdin=READER.format(user=name, rules=text))
    return server.user(name)


async def plugin(kubeconfig: Path, namespace: str, *words: str) -> Said:
    flags = [f"--kubeconfig={kubeconfig}", f"--namespace={namespace}"]
    return await _run("partition_kubectl", *words, *flags, KUBECTL=str(BIN / "kubectl"))


async def plan(kubeconfig: Path, namespace: str, *words: str) -> Said:
    """What the operator says in its pod when the plugin asks for a plan."""
    return await _run(
        "partition_operator",
        *("plan", f"--namespace={namespace}", *words),
        KUBECONFIG=str(kubeconfig),
        PARTITION_OPERATOR_NAMESPACE=namespace,
        PARTITION_OPERATOR_IMAGE="image:1",
    )


async def _run(module: str, *words: str, **environment: str) -> Said:
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", module, *words],
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    return Said(done.returncode, done.stdout, done.stderr)
