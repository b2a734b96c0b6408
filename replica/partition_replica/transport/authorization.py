"""Authorization: the role in the caller's certificate decides which services it may call.

A caller at the Unix domain socket has no certificate. The mode of the socket's file let it in, and
it has the role of a client.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import grpc

logger = logging.getLogger(__name__)

SCHEME = "logstore://"
AT_SOCKET = "unix:"
"""How gRPC's names of peers at a Unix domain socket begin, and no others. Here also the name of
such a caller, instead of the parties in a certificate."""

LOGGED_MAX = 100
"""Callers that are logged, at most. The metric counts all of them."""

ROLES = {
    "/logstore.v1.Peer/": {"replica"},
    "/logstore.v1.ReplicaAdmin/": {"operator"},
    "/logstore.v1.Inspection/": {"replica", "operator"},
    "/logstore.v1.LogStore/": {"client", "replica", "operator"},
    "/grpc.health.v1.Health/": {"client", "replica", "operator"},
    "/grpc.reflection.": {"client", "replica", "operator"},
}


class Authorizer(grpc.aio.ServerInterceptor):
    """Refuses callers whose certificate names another role or another partition.

    `partition` is "namespace/name"; a certificate carries `logstore://<namespace>/<name>/<role>`.
    """

    def __init__(self, partition: str, refused: Callable[[str], None] = lambda _: None) -> None:
        """refused: called with the reason of each refused call."""
        self._prefix = f"{SCHEME}{partition}/"
        self._refused = refused
        self._logged: set[tuple[str, ...]] = set()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler
        return self._guarded(handler, str(handler_call_details.method))

    def refusal(self, method: str, names: Iterable[str]) -> str:
        """Returns "" if a certificate with these URI names may call `method`; otherwise the reason
        why not. Counts each refusal, but logs a caller only once per method."""
        parties = [name for name in names if name.startswith(SCHEME) or name == AT_SOCKET]
        # No caller may use a service that is not listed.
        roles = next((r for prefix, r in ROLES.items() if method.startswith(prefix)), set())
        if any(f"{self._prefix}{role}" in parties for role in roles):
            return ""
        if AT_SOCKET in parties and "client" in roles:
            return ""
        self._refused("PERMISSION_DENIED")
        named = ", ".join(parties) or "no party of a partition"
        caller = (method, *parties)
        if caller not in self._logged and len(self._logged) < LOGGED_MAX:
            self._logged.add(caller)
            logger.warning("a certificate of %s may not call %s", named, method)
        return (
            f"a certificate of {named} may not call {method}; "
            f"allowed are {sorted(self._prefix + role for role in roles)}"
        )

    def _guarded(self, handler: Any, method: str) -> Any:
        async def check(context: Any) -> None:
            refusal = self.refusal(method, _names(context))
            if refusal:
                await context.abort(grpc.StatusCode.PERMISSION_DENIED, refusal)

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


def _names(context: Any) -> list[str]:
    """The parties in the caller's certificate; AT_SOCKET if the caller is there. The other names in
    a certificate are left out: users choose some of them, so none may pass for AT_SOCKET."""
    if context.peer().startswith(AT_SOCKET):
        return [AT_SOCKET]
    values = context.auth_context().get("x509_subject_alternative_name", [])
    found = (value.decode(errors="replace") for value in values)
    return [name for name in found if name.startswith(SCHEME)]
