"""The operator ends by kill -9's equal right after each step took effect, and carries on when it is
started again. Real API server and etcd, real replicas on loopback; every failpoint is tried."""

import base64
import datetime as dt
from pathlib import Path

import pytest
from partition_client.channels import Tls, open_channel
from partition_operator.failpoints import REGISTERED
from partition_operator.resources.certificates import KeyPair, identity, issue
from partition_proto.v1 import log_store_pb2 as api
from partition_proto.v1 import log_store_pb2_grpc, replica_admin_pb2_grpc
from partition_proto.v1 import replica_admin_pb2 as admin

from tests.support.api_server import ApiServer
from tests.support.certificates import write
from tests.support.switch_stage import SWITCHING, THREE_VOTERS, Stage, stage

pytestmark = [pytest.mark.apiserver, pytest.mark.timeout(600)]

GROWING = (
    "authority.created",
    "RecordCluster",
    "IssueCertificate",
    "Apply.ServiceAccount",
    "Apply.Service",
    "Apply.StatefulSet",
    "Apply.PodDisruptionBudget",
    "AnnotateClaim",
    "Bootstrap",
    "RecordBootstrapped",
    "Join",
    "AddLearner",
    "PromoteLearner",
    "status.written",
)
SHRINKING = ("RemoveMember", "Delete.PodDisruptionBudget", "TransferLeadership")


def test_every_failpoint_is_tried() -> None:
    assert {*GROWING, *SHRINKING, *SWITCHING} == REGISTERED


async def test_a_group_grows_although_the_operator_ends_at_each_step(
    server: ApiServer, tmp_path: Path
) -> None:
    async with stage(server, tmp_path) as found:
        found.kubectl("apply", "-f", "-", stdin=THREE_VOTERS)
        await ended_at_each(found, GROWING)
        found.operator.start()
        await found.ready("Raft", 3)
        await check(found, 3)


async def test_a_group_shrinks_although_the_operator_ends_at_each_step(
    server: ApiServer, tmp_path: Path
) -> None:
    async with stage(server, tmp_path) as found:
        await found.three_voters()
        await move_leader(found)
        found.operator.stop()
        found.kubectl("scale", "partition", "part", "--replicas=1")
        await ended_at_each(found, SHRINKING)
        found.operator.start()
        await found.ready("Raft", 1)
        await check(found, 1)


async def ended_at_each(found: Stage, failpoints: tuple[str, ...]) -> None:
    """The operator ends at each, in whatever order it reaches them. A cluster that has an ID keeps
    it."""
    left, cluster = list(failpoints), ""
    while left:
        found.operator.start(*left)
        left.remove(await found.operator.ended_at(*left))
        seen = (await found.status()).get("clusterID", "")
        assert cluster in ("", seen)
        cluster = seen


async def check(found: Stage, size: int) -> None:
    status = await found.status()
    assert [m["role"] for m in status["members"]] == ["voter"] * size
    claims = found.server.kubectl.json("-n", found.namespace, "get", "pvc")["items"]
    ids = {c["metadata"]["annotations"]["logstore.dev/cluster-id"] for c in claims}
    assert ids == {status["clusterID"]}


async def move_leader(found: Stage) -> None:
    """Gives leadership to a replica that scaling down removes, as a deposed operator would not:
    with a certificate of the operator's and a token of the current lease."""
    server, namespace = found.server, found.namespace
    secret = server.kubectl.json("-n", namespace, "get", "secret", "partition-operator-ca")
    authority = KeyPair(*(base64.b64decode(secret["data"][k]) for k in ("tls.crt", "tls.key")))
    pair = issue(authority, identity(namespace, "part", "operator"), [], dt.datetime.now(dt.UTC))
    pods = server.kubectl.json("-n", namespace, "get", "pods")["items"]
    lease = server.kubectl.json("-n", namespace, "get", "lease", "partition-operator")
    token = admin.FencingToken(transitions=lease["spec"]["leaseTransitions"], holder="test")
    files = write(found.folder / "certificate", pair, authority)
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
