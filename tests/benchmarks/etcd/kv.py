"""The part of etcd's API (version 3) that the loads need, and the keys that both sides use.

The messages are built here, so that no generated code and no file of etcd is in the project. Field
numbers and types are those of etcd's rpc.proto and kv.proto. Fields that are not listed are
ignored by the parser, as with any older client.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from partition_client import Tls

KEY_BYTES = 32
KEY_SPACE = 1_000_000
"""Number of keys that are written, on both sides."""
ANSWER_S = 30.0
"""A client gives up after it, on both sides."""
CONNECT_S = 120.0
"""A client that starts gives up after it. Many start at the same time, and none is measured yet."""
READ_KEY, READ_VALUE = b"read/0", b"v" * 256

PACKAGE = "etcdserverpb"
FIELD = descriptor_pb2.FieldDescriptorProto
SCALARS = {"bytes": FIELD.TYPE_BYTES, "uint64": FIELD.TYPE_UINT64, "bool": FIELD.TYPE_BOOL}

MESSAGES: dict[str, tuple[tuple[str, str, int], ...]] = {
    "ResponseHeader": (("uint64", "member_id", 2),),
    "KeyValue": (("bytes", "key", 1), ("bytes", "value", 5)),
    "PutRequest": (("bytes", "key", 1), ("bytes", "value", 2)),
    "PutResponse": (),
    "RangeRequest": (("bytes", "key", 1), ("bool", "serializable", 7)),
    "RangeResponse": (("repeated KeyValue", "kvs", 2),),
    "StatusRequest": (),
    "StatusResponse": (("ResponseHeader", "header", 1), ("uint64", "leader", 4)),
}
"""(type, name, number) of each field."""


def _classes() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="etcd.proto", package=PACKAGE, syntax="proto3")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for kind, field, number in fields:
            repeated, _, bare = kind.rpartition(" ")
            added = message.field.add(name=field, number=number)
            added.label = FIELD.LABEL_REPEATED if repeated else FIELD.LABEL_OPTIONAL
            if bare in SCALARS:
                added.type = SCALARS[bare]
            else:
                added.type, added.type_name = FIELD.TYPE_MESSAGE, f".{PACKAGE}.{bare}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}"))
        for name in MESSAGES
    }


CLASSES = _classes()


class Member:
    """One connection to one member of etcd. Its calls raise grpc.aio.AioRpcError."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._put = self._method(channel, "KV", "Put")
        self._range = self._method(channel, "KV", "Range")
        self._status = self._method(channel, "Maintenance", "Status")

    def _method(self, channel: grpc.aio.Channel, service: str, name: str) -> Any:
        return channel.unary_unary(
            f"/{PACKAGE}.{service}/{name}",
            request_serializer=CLASSES[f"{name}Request"].SerializeToString,
            response_deserializer=CLASSES[f"{name}Response"].FromString,
        )

    async def connect(self) -> None:
        """Writes the key that is read. Tries again until it is connected."""
        request = CLASSES["PutRequest"](key=READ_KEY, value=READ_VALUE)
        await self._put(request, timeout=CONNECT_S, wait_for_ready=True)

    async def put(self, key: bytes, value: bytes, timeout_s: float = ANSWER_S) -> None:
        await self._put(CLASSES["PutRequest"](key=key, value=value), timeout=timeout_s)

    async def get(
        self, key: bytes, *, stale: bool = False, timeout_s: float = ANSWER_S
    ) -> bytes | None:
        """Returns the value, or None if the key is absent. `stale`: a serializable read."""
        request = CLASSES["RangeRequest"](key=key, serializable=stale)
        found = (await self._range(request, timeout=timeout_s)).kvs
        return bytes(found[0].value) if found else None

    async def leads(self, timeout_s: float = ANSWER_S) -> bool:
        status = await self._status(CLASSES["StatusRequest"](), timeout=timeout_s)
        return bool(status.leader) and status.leader == status.header.member_id


@asynccontextmanager
async def open_member(endpoint: str, tls: Tls | None) -> AsyncIterator[Member]:
    # As our client does it: gRPC's own pauses between attempts to connect grow to two minutes.
    options = [
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 1_000),
        ("grpc.max_reconnect_backoff_ms", 1_000),
    ]
    if tls is None:
        channel = grpc.aio.insecure_channel(endpoint, options)
    else:
        credentials = grpc.ssl_channel_credentials(
            tls.authority.read_bytes(), tls.key.read_bytes(), tls.certificate.read_bytes()
        )
        channel = grpc.aio.secure_channel(endpoint, credentials, options)
    async with channel:
        yield Member(channel)
