"""Each RPC of each service, by each role: who is let in is written here, and nobody else is."""

from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from partition_proto.v1 import inspection_pb2, log_store_pb2, peer_pb2, replica_admin_pb2
from partition_replica.transport.authorization import Authorizer

PARTITION = "shop/orders"
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
    "",
]


class Denied(Exception):
    pass


class Context:
    def __init__(self, identity: str) -> None:
        self._identity = identity

    def auth_context(self) -> dict[str, list[bytes]]:
        names = [self._identity.encode()] if self._identity else []
        return {"x509_subject_alternative_name": [b"localhost", *names]}

    async def abort(self, code: grpc.StatusCode, text: str) -> None:
        assert code == grpc.StatusCode.PERMISSION_DENIED
        raise Denied(text)


async def let_in(service: str, method: str, identity: str, *, streams: bool = False) -> bool:
    async def single(request: Any, context: Any) -> str:
        return "served"

    async def several(request: Any, context: Any) -> Any:
        yield "served"

    make = grpc.unary_stream_rpc_method_handler if streams else grpc.unary_unary_rpc_method_handler
    handler: Any = make(several if streams else single)

    async def continuation(_: Any) -> Any:
        return handler

    details: Any = SimpleNamespace(method=f"/{service}/{method}")
    guarded = await Authorizer(PARTITION).intercept_service(continuation, details)
    try:
        if streams:
            return [m async for m in guarded.unary_stream(None, Context(identity))] == ["served"]
        return bool(await guarded.unary_unary(None, Context(identity)) == "served")
    except Denied:
        return False


def test_all_services_are_here() -> None:
    assert {service for service, _ in METHODS} == set(ALLOWED)


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize(("service", "method"), METHODS)
async def test_a_call_needs_a_role_that_may_make_it(
    service: str, method: str, streams: bool
) -> None:
    found = {i for i in CALLERS if await let_in(service, method, i, streams=streams)}
    assert found == {f"logstore://{PARTITION}/{role}" for role in ALLOWED[service]}


async def test_a_service_that_nobody_thought_of_is_closed() -> None:
    for identity in CALLERS:
        assert not await let_in("logstore.v1.New", "Call", identity)
