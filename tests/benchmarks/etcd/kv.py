"""The part of etcd's KV service that the loads need, and the keys that both sides use.

Field numbers are those of etcd's rpc.proto and kv.proto (API version 3).
"""

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

KEY_BYTES = 32
KEY_SPACE = 1_000_000
"""Number of keys that are written, on both sides."""
ANSWER_S = 30.0
"""A client gives up after it, on both sides."""
READ_KEY, READ_VALUE = b"read/0", b"v" * 256

BYTES = descriptor_pb2.FieldDescriptorProto.TYPE_BYTES

MESSAGES = {
    "PutRequest": (("key", 1), ("value", 2)),
    "PutResponse": (),
    "RangeRequest": (("key", 1),),
    "RangeResponse": (),
}


def _classes() -> dict[str, type]:
    file = descriptor_pb2.FileDescriptorProto(name="etcd_kv.proto", package="etcdserverpb")
    file.syntax = "proto3"
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number in fields:
            message.field.add(name=field, number=number, type=BYTES, label=1)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"etcdserverpb.{name}"))
        for name in MESSAGES
    }


CLASSES = _classes()


class KeyValue:
    """One connection to one member."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._put = self._method(channel, "Put")
        self._range = self._method(channel, "Range")

    def _method(self, channel: grpc.aio.Channel, name: str) -> grpc.aio.UnaryUnaryMultiCallable:
        request = CLASSES[f"{name}Request"]
        return channel.unary_unary(
            f"/etcdserverpb.KV/{name}",
            request_serializer=request.SerializeToString,  # type: ignore[attr-defined]
            response_deserializer=CLASSES[f"{name}Response"].FromString,  # type: ignore[attr-defined]
        )

    async def put(self, key: bytes, value: bytes, timeout_s: float = ANSWER_S) -> None:
        await self._put(CLASSES["PutRequest"](key=key, value=value), timeout=timeout_s)

    async def get(self, key: bytes, timeout_s: float = ANSWER_S) -> None:
        await self._range(CLASSES["RangeRequest"](key=key), timeout=timeout_s)
