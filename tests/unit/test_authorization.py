"""Each RPC of each service, by each role: who is let in is written here, and nobody else is."""

import pytest
from grpc_health.v1 import health_pb2
from partition_proto.v1 import inspection_pb2, log_store_pb2, peer_pb2, replica_admin_pb2

from tests.support.authorized_calls import PARTITION, let_in

ALLOWED = {
    "logstore.v1.Peer": {"replica"},
    "logstore.v1.ReplicaAdmin": {"operator"},
    "logstore.v1.Inspection": {"replica", "operator"},
    "logstore.v1.LogStore": {"client", "replica", "operator"},
    "grpc.health.v1.Health": {"client", "replica", "operator"},
}
METHODS = [
    (service.full_name, method.name)
    for description in (
        peer_pb2,
        replica_admin_pb2,
        inspection_pb2,
        log_store_pb2,
        health_pb2,
    )
    for service in description.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]
CALLERS = [
    *(f"logstore://{PARTITION}/{role}" for role in ("client", "replica", "operator", "")),
    *(f"logstore://shop/other/{role}" for role in ("client", "replica", "operator")),
    f"logstore://{PARTITION}/replica/more",
    f"logstore://{PARTITION}",
    f"logstore://x/logstore://{PARTITION}/replica",
    f"https://{PARTITION}/replica",
    "unix:",
    "",
]


def test_all_services_are_here() -> None:
    assert {service for service, _ in METHODS} == set(ALLOWED)


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize(("service", "method"), METHODS)
async def test_a_call_needs_a_role_that_may_make_it(
    service: str, method: str, streams: bool
) -> None:
    found = {i for i in CALLERS if await let_in(service, method, i, streams=streams)}
    assert found == {f"logstore://{PARTITION}/{role}" for role in ALLOWED[service]}


@pytest.mark.parametrize(("service", "method"), METHODS)
async def test_a_caller_at_the_socket_is_a_client(service: str, method: str) -> None:
    found = await let_in(service, method, "", peer="unix:")
    assert found == ("client" in ALLOWED[service])


async def test_a_service_that_nobody_thought_of_is_closed() -> None:
    for identity in CALLERS:
        assert not await let_in("logstore.v1.New", "Call", identity)
