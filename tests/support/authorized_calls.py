"""A call through the authorizer, as the owner of a certificate makes it."""

from types import SimpleNamespace
from typing import Any

import grpc
from partition_replica.transport.authorization import Authorizer

PARTITION = "shop/orders"


class Denied(Exception):
    pass


class Context:
    def __init__(self, identity: str, peer: str = "ipv4:127.0.0.1:1") -> None:
        self._identity = identity
        self._peer = peer

    def peer(self) -> str:
        return self._peer

    def auth_context(self) -> dict[str, list[bytes]]:
        names = [self._identity.encode()] if self._identity else []
        return {"x509_subject_alternative_name": [b"localhost", *names]}

    async def abort(self, code: grpc.StatusCode, text: str) -> None:
        assert code == grpc.StatusCode.PERMISSION_DENIED
        raise Denied(text)


async def let_in(
    service: str,
    method: str,
    identity: str,
    *,
    streams: bool = False,
    authorizer: Authorizer | None = None,
    peer: str = "ipv4:127.0.0.1:1",
) -> bool:
    async def single(request: Any, context: Any) -> str:
        return "served"

    async def several(request: Any, context: Any) -> Any:
        yield "served"

    make = grpc.unary_stream_rpc_method_handler if streams else grpc.unary_unary_rpc_method_handler
    handler: Any = make(several if streams else single)

    async def continuation(_: Any) -> Any:
        return handler

    details: Any = SimpleNamespace(method=f"/{service}/{method}")
    guarded = await (authorizer or Authorizer(PARTITION)).intercept_service(continuation, details)
    try:
        if streams:
            context = Context(identity, peer)
            return [m async for m in guarded.unary_stream(None, context)] == ["served"]
        return bool(await guarded.unary_unary(None, Context(identity, peer)) == "served")
    except Denied:
        return False


async def guarded_stream(authorizer: Authorizer, method: str, inner: Any) -> Any:
    """A stream in both directions, as the authorizer passes it on."""
    handler: Any = grpc.stream_stream_rpc_method_handler(inner)

    async def continuation(_: Any) -> Any:
        return handler

    details: Any = SimpleNamespace(method=method)
    return (await authorizer.intercept_service(continuation, details)).stream_stream
