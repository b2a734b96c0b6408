"""Who may call which service: by the role in the caller's certificate, for this partition only."""

from collections.abc import Awaitable, Callable
from typing import Any

import grpc

ROLES = {
    "/logstore.v1.Peer/": {"replica"},
    "/logstore.v1.ReplicaAdmin/": {"operator"},
    "/logstore.v1.LogStore/": {"client", "replica", "operator"},
    "/grpc.health.v1.Health/": {"client", "replica", "operator"},
    "/grpc.reflection.": {"client", "replica", "operator"},
}


class Authorizer(grpc.aio.ServerInterceptor):
    """Refuses callers whose certificate names another role or another partition.

    `partition` is "namespace/name"; a common name is `<role>.<name>.<namespace>`.
    """

    def __init__(self, partition: str) -> None:
        namespace, _, name = partition.partition("/")
        self._suffix = f"{name}.{namespace}"

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        method = str(handler_call_details.method)
        roles = next((r for prefix, r in ROLES.items() if method.startswith(prefix)), None)
        if handler is None or roles is None:
            return handler
        return self._guarded(handler, roles, method)

    def _guarded(self, handler: Any, roles: set[str], method: str) -> Any:
        async def check(context: Any) -> None:
            name = _common_name(context)
            role, _, suffix = name.partition(".")
            if suffix != self._suffix or role not in roles:
                await context.abort(
                    grpc.StatusCode.PERMISSION_DENIED,
                    f"certificate {name or '(none)'!r} may not call {method} of {self._suffix}; "
                    f"allowed are {sorted(f'{r}.{self._suffix}' for r in roles)}",
                )

        if handler.response_streaming:
            inner = handler.stream_stream or handler.unary_stream

            async def streaming(request: Any, context: Any) -> Any:
                await check(context)
                async for message in inner(request, context):
                    yield message

            behaviour: Any = streaming
        else:
            inner = handler.stream_unary or handler.unary_unary

            async def single(request: Any, context: Any) -> Any:
                await check(context)
                return await inner(request, context)

            behaviour = single
        return _rebuild(handler, behaviour)


def _rebuild(handler: Any, behaviour: Any) -> Any:
    make = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[handler.request_streaming, handler.response_streaming]
    return make(behaviour, handler.request_deserializer, handler.response_serializer)


def _common_name(context: Any) -> str:
    values = context.auth_context().get("x509_common_name", [])
    return values[0].decode(errors="replace") if values else ""
