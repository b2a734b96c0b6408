"""Authorization: the party in the caller's certificate decides which methods it may call.

The roles replica, operator and client have fixed services. A client with a name of its own has the
rights of the operator's list (`client_list`), which is read again when it changes. A stream of such
a client ends when its rights do: with the next message in either direction.

A caller at the Unix domain socket has no certificate. The mode of the socket's file let it in, and
it has the role of a client.
"""

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

import grpc

from partition_replica.transport.client_list import NO_CLIENTS, ClientList, Rights
from partition_replica.transport.refusal_log import RefusalLog

logger = logging.getLogger(__name__)

SCHEME = "logstore://"
AT_SOCKET = "unix:"
"""How gRPC's names of peers at a Unix domain socket begin, and no others. Here also the name of
such a caller, instead of the parties in a certificate."""

ROLES = {
    "/logstore.v1.Peer/": {"replica"},
    "/logstore.v1.ReplicaAdmin/": {"operator"},
    "/logstore.v1.Inspection/": {"replica", "operator"},
    "/logstore.v1.LogStore/": {"client", "replica", "operator"},
    "/grpc.health.v1.Health/": {"client", "replica", "operator"},
    "/grpc.reflection.": {"client", "replica", "operator"},
}

READ = (
    "Read",
    "GetKey",
    "GetFrames",
    "ListKeys",
    "ListTree",
    "ReadFile",
    "ReadState",
    "GetStatus",
    "RegisterConsumer",
    "AcknowledgeConsumer",
    "ListConsumers",
)
WRITE = (
    "OpenSession",
    "CloseSession",
    "Append",
    "AppendFrames",
    "UploadPayload",
    "UploadPayloads",
    "RemoveConsumer",
)
ADMIN = ("TransferLeadership", "StartSnapshotJob", "GetSnapshotJob", "CancelSnapshotJob")
"""Methods of ReplicaAdmin. Membership stays the operator's."""

RIGHTS = {
    **{f"/logstore.v1.LogStore/{method}": Rights.READ for method in READ},
    **{f"/logstore.v1.LogStore/{method}": Rights.WRITE for method in WRITE},
    **{f"/logstore.v1.ReplicaAdmin/{method}": Rights.ADMIN for method in ADMIN},
    "/logstore.v1.Inspection/Verify": Rights.ADMIN,
}
"""By method, the rights that a named client needs."""
OPEN_TO_CLIENTS = ("/grpc.health.v1.Health/", "/grpc.reflection.")
"""Services that every named client may call."""


class Authorizer(grpc.aio.ServerInterceptor):
    """Refuses callers whose certificate names another role or another partition.

    `partition` is "namespace/name"; a certificate carries `logstore://<namespace>/<name>/<role>`,
    or `…/client/<name>/<id>` for a client of the operator's list.
    """

    def __init__(
        self,
        partition: str,
        refused: Callable[[str], None] = lambda _: None,
        clients: Callable[[], ClientList] = lambda: NO_CLIENTS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """refused: called with the reason of each refused call. clients: the current list."""
        self._prefix = f"{SCHEME}{partition}/"
        self._partition = partition.partition("/")[2]
        self._refused = refused
        self._clients = clients
        self._log = RefusalLog(clock)
        self.refused_calls = 0
        self.refused_last = ""

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
        why not. Counts each refusal, but logs a caller only now and then per method."""
        parties = [name for name in names if name.startswith(SCHEME) or name == AT_SOCKET]
        # No caller may use a service that is not listed.
        roles = next((r for prefix, r in ROLES.items() if method.startswith(prefix)), set())
        if any(f"{self._prefix}{role}" in parties for role in roles):
            return ""
        if AT_SOCKET in parties and "client" in roles:
            return ""
        client = self._named(parties)
        why = self._why_not(client, method) if client else ""
        if client and not why:
            return ""
        named = ", ".join(parties) or "no party of a partition"
        allowed = f"allowed are {sorted(self._prefix + role for role in roles)}"
        text = f"a certificate of {named} may not call {method}; {why or allowed}"
        self._count((method, *parties), text)
        return text

    def is_client(self, context: Any) -> bool:
        """Whether the caller is a client of the list, and not the operator."""
        parties = _names(context)
        return f"{self._prefix}operator" not in parties and bool(self._named(parties))

    def _named(self, parties: list[str]) -> tuple[str, str] | None:
        """Returns (name, ID) of a named client; None if the certificate is none of such a one."""
        prefix = f"{self._prefix}client/"
        for party in parties:
            if party.startswith(prefix):
                name, _, identity = party.removeprefix(prefix).partition("/")
                return name, identity
        return None

    def _why_not(self, caller: tuple[str, str], method: str) -> str:
        name, identity = caller
        client = self._clients().by_name.get(name)
        if client is None:
            return (
                f"the Partition has no client {name}: it was revoked, or this replica has not "
                "received it yet; see spec.clients"
            )
        if client.id != identity:
            return (
                f"this certificate of client {name} was revoked: take the current files of Secret "
                f"{self._partition}-client-{name}"
            )
        if method.startswith(OPEN_TO_CLIENTS):
            return ""
        needed = RIGHTS.get(method)
        if needed is None:
            return "no rights of a client allow it"
        if client.rights < needed:
            has, needs = client.rights.name.capitalize(), needed.name.capitalize()
            return f"client {name} has the rights {has}, and {needs} is needed: see spec.clients"
        return ""

    def _count(self, caller: tuple[str, ...], text: str) -> None:
        self.refused_calls += 1
        self.refused_last = text
        self._refused("PERMISSION_DENIED")
        if self._log.due(caller):
            logger.warning("%s", text)

    # --- calls --------------------------------------------------------------------------------

    def _guarded(self, handler: Any, method: str) -> Any:
        if handler.response_streaming:
            inner = handler.stream_stream or handler.unary_stream
            return _rebuild(handler, self._streaming(inner, method, handler.request_streaming))
        inner = handler.stream_unary or handler.unary_unary
        return _rebuild(handler, self._single(inner, method, handler.request_streaming))

    def _streaming(self, inner: Any, method: str, requests: bool) -> Any:
        async def streaming(request: Any, context: Any) -> Any:
            watched = await self._check(method, context)
            if watched is None:
                async for message in inner(request, context):
                    yield message
                return
            async for message in inner(watched.given(request) if requests else request, context):
                await watched.check()
                yield message
            await watched.check()

        return streaming

    def _single(self, inner: Any, method: str, requests: bool) -> Any:
        async def single(request: Any, context: Any) -> Any:
            watched = await self._check(method, context)
            if watched is None or not requests:
                return await inner(request, context)
            answer = await inner(watched.given(request), context)
            await watched.check()
            return answer

        return single

    async def _check(self, method: str, context: Any) -> "_Watched | None":
        """Aborts a call that is refused. Returns what watches a client whose rights may end."""
        names = _names(context)
        refusal = self.refusal(method, names)
        if refusal:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, refusal)
        return _Watched(self, method, context) if self._named(names) else None

    def list_in_use(self) -> ClientList:
        return self._clients()


class _Watched:
    """One stream of a named client, whose rights may end while it is open."""

    def __init__(self, authorizer: Authorizer, method: str, context: Any) -> None:
        self._authorizer = authorizer
        self._method = method
        self._context = context
        self._names = _names(context)
        self._seen = authorizer.list_in_use()
        self._why = ""

    def _refusal(self) -> str:
        current = self._authorizer.list_in_use()
        if current is not self._seen and not self._why:
            self._seen = current
            self._why = self._authorizer.refusal(self._method, self._names)
        return self._why

    async def check(self) -> None:
        refusal = self._refusal()
        if refusal:
            await self._context.abort(grpc.StatusCode.PERMISSION_DENIED, refusal)

    async def given(self, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """Yields the requests until the rights end. The answer then ends with the reason."""
        async for request in requests:
            if self._refusal():
                return
            yield request


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
