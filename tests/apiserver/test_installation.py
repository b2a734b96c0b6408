"""What the pod of `helm test` runs, against an API server, with the operator's account."""

import asyncio
import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from tests.support.api_server import ApiServer
from tests.support.chart import pod_of_test, render
from tests.support.operator_process import Operator

pytestmark = [pytest.mark.apiserver, pytest.mark.timeout(180)]

SETTINGS = {"PARTITION_OPERATOR_LEASE_SECONDS": "20"}
"""Long enough to keep it on a busy machine. It is renewed every 2.7 s."""


async def run(kubeconfig: Path, home: str) -> tuple[int, list[str]]:
    """Runs the container of the rendered pod as a process. Returns its exit code and its lines."""
    (container,) = pod_of_test(render())["spec"]["containers"]
    settings = {variable["name"]: variable["value"] for variable in container["env"]}
    program, *words = container["command"]
    assert program == "python3"
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, *words],
        env=os.environ
        | settings
        | {"PARTITION_OPERATOR_NAMESPACE": home, "KUBECONFIG": str(kubeconfig)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout.splitlines()


@pytest.fixture
def home(server: ApiServer) -> str:
    name = f"t-{uuid.uuid4().hex[:8]}"
    server.kubectl("create", "namespace", name)
    return name


async def test_an_operator_that_works(server: ApiServer, home: str, tmp_path: Path) -> None:
    operator = Operator(server, home, tmp_path / "operator.log", **SETTINGS)
    operator.start()
    try:
        code, lines = await run(server.operator(home), home)
    finally:
        operator.stop()
    assert code == 0, lines
    served, rights, lease = lines
    assert served == "ok: Partitions and PartitionSnapshots are served"
    assert rights.startswith("ok: the operator has its ")
    assert lease.endswith(" holds the Lease and renews it")


async def test_an_account_without_the_roles(server: ApiServer, home: str) -> None:
    code, lines = await run(server.user(f"nobody-{home}"), home)
    assert code == 1
    assert [line.partition(":")[0] for line in lines] == ["FAILED"] * 3
    served, rights, lease = lines
    assert "partitions" in served
    assert "patch partitions/status.logstore.dev;" in rights
    assert f"update leases.coordination.k8s.io partition-operator in namespace {home}" in rights
    assert "forbidden" in lease
