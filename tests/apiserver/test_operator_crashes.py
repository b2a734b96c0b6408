"""The operator ends by kill -9's equal right after each step took effect, and carries on when it is
started again. Real API server and etcd, real replicas on loopback; every failpoint is tried."""

import asyncio
import base64
import datetime as dt
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
from partition_client.channels import Tls, open_channel
from partition_operator.failpoints import EXIT_CODE, REGISTERED
from partition_operator.resources.certificates import KeyPair, identity, issue
from partition_proto.v1 import log_store_pb2 as api
from partition_proto.v1 import log_store_pb2_grpc, replica_admin_pb2_grpc
from partition_proto.v1 import replica_admin_pb2 as admin

from tests.support.api_server import ApiServer
from tests.support.certificates import write
from tests.support.local_group import eventually
from tests.support.operator_process import Operator
from tests.support.stand_in_nodes import StandInNodes
from tests.support.switch_stage import SWITCHING

pytestmark = [pytest.mark.apiserver, pytest.mark.timeout(600)]

GROWING = (
    "authority.created",
    "RecordCluster",
    "IssueCertificate",
    "Apply.ServiceAccount",
    "Apply.Service",
    "Apply.StatefulSet",
    "Apply.PodDisruptionBudget",
    "MarkClaim",
    "Bootstrap",
    "RecordBootstrapped",
    "Join",
    "AddLearner",
    "PromoteLearner",
    "status.written",
)
SHRINKING = ("RemoveMember", "Delete.PodDisruptionBudget", "TransferLeadership")

PARTITION = """\
apiVersion: logstore.dev/v1alpha1
kind: Partition
metadata: {name: part}
spec: {replicas: 3, storage: {size: 1Gi}}
"""


def test_every_failpoint_is_tried() -> None:
    assert {*GROWING, *SHRINKING, *SWITCHING} == REGISTERED


@pytest.mark.parametrize("failpoint", [*GROWING, *SHRINKING])
async def test_carries_on(server: ApiServer, tmp_path: Path, failpoint: str) -> None:
    namespace = f"t-{uuid.uuid4().hex[:8]}"
    server.kubectl("create", "namespace", namespace)
    operator = Operator(server, namespace, tmp_path / "operator.log")

    async def partition() -> dict[str, Any]:
        return await asyncio.to_thread(
            server.kubectl.json, "-n", namespace, "get", "partition", "part"
        )

    async def ready(wanted: int) -> bool:
        operator.revive()
        status = (await partition()).get("status", {})
        return status.get("state") == "Ready" and status.get("ready") == f"{wanted}/{wanted}"

    async def died() -> bool:
        operator.revive(failpoint)
        assert operator.process is not None
        return operator.process.poll() is not None

    try:
        async with StandInNodes(server.kubectl, namespace, tmp_path / "nodes"):
            server.kubectl("-n", namespace, "apply", "-f", "-", stdin=PARTITION)
            if failpoint in SHRINKING:
                operator.start()
                await eventually(lambda: ready(3), "it is ready", 120)
                if failpoint == "TransferLeadership":
                    await move_leader(server, namespace, tmp_path)
                operator.stop()
                server.kubectl("-n", namespace, "scale", "partition", "part", "--replicas=1")
            operator.start(failpoint)
            await eventually(died, f"the operator reaches {failpoint}", 120)
            assert operator.process is not None
            assert operator.process.returncode == EXIT_CODE
            before = (await partition()).get("status", {}).get("clusterID", "")
            operator.start()
            size = 1 if failpoint in SHRINKING else 3
            await eventually(lambda: ready(size), f"it is ready after {failpoint}", 120)
            status = (await partition())["status"]
            assert len(status["members"]) == size
            assert {m["role"] for m in status["members"]} == {"voter"}
            assert before in ("", status["clusterID"])
            claims = server.kubectl.json("-n", namespace, "get", "pvc")["items"]
            ids = {c["metadata"]["annotations"]["logstore.dev/cluster-id"] for c in claims}
            assert ids == {status["clusterID"]}
    except BaseException:
        print((tmp_path / "operator.log").read_text()[-6000:], file=sys.stderr)
        raise
    finally:
        operator.stop()


async def move_leader(server: ApiServer, namespace: str, folder: Path) -> None:
    """Gives leadership to a replica that scaling down removes, as a deposed operator would not:
    with a certificate of the operator's and a token of the current lease."""
    secret = server.kubectl.json("-n", namespace, "get", "secret", "partition-operator-ca")
    authority = KeyPair(*(base64.b64decode(secret["data"][k]) for k in ("tls.crt", "tls.key")))
    pair = issue(authority, identity(namespace, "part", "operator"), [], dt.datetime.now(dt.UTC))
    pods = server.kubectl.json("-n", namespace, "get", "pods")["items"]
    lease = server.kubectl.json("-n", namespace, "get", "lease", "partition-operator")
    token = admin.LeaseToken(transitions=lease["spec"]["leaseTransitions"], holder="test")
    files = write(folder / "certificate", pair, authority)
    statuses = {}
    for pod in pods:
        name = pod["metadata"]["name"]
        tls = Tls.in_directory(files, f"{name}.part-replicas.{namespace}.svc")
        channel = open_channel(f"{pod['status']['podIP']}:7000", tls)
        statuses[name] = (
            channel,
            await log_store_pb2_grpc.LogStoreStub(channel).GetStatus(api.GetStatusRequest()),
        )
    leader = next(n for n, (_, s) in statuses.items() if s.role == "leader")
    if leader != "part-2":
        channel = statuses[leader][0]
        request = admin.TransferLeadershipRequest(
            lease=token, member_id=statuses["part-2"][1].member_id
        )
        await replica_admin_pb2_grpc.ReplicaAdminStub(channel).TransferLeadership(request)
    for channel, _ in statuses.values():
        await channel.close()
