"""etcd's KV service as far as the loads need it: two messages, built here, over grpc.aio.

Field numbers are those of etcd's rpc.proto and kv.proto (API version 3).
"""

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

BYTES, BOOL = (
    descriptor_pb2.FieldDescriptorProto.TYPE_BYTES,
    descriptor_pb2.FieldDescriptorProto.TYPE_BOOL,
)

MESSAGES = {
    "PutRequest": (("key", 1, BYTES), ("value", 2, BYTES)),
    "PutResponse": (),
    "RangeRequest": (("key", 1, BYTES), ("serializable", 7, BOOL)),
    "RangeResponse": (),
}


def _classes() -> dict[str, type]:
    file = descriptor_pb2.FileDescriptorProto(name="etcd_kv.proto", package="etcdserverpb")
    file.syntax = "proto3"
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind in fields:
            message.field.add(name=field, number=number, type=kind, label=1)
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

    async def put(self, key: bytes, value: bytes, timeout_s: float = 30.0) -> None:
        await self._put(CLASSES["PutRequest"](key=key, value=value), timeout=timeout_s)

    async def get(self, key: bytes, *, stale: bool = False, timeout_s: float = 30.0) -> None:
        await self._range(CLASSES["RangeRequest"](key=key, serializable=stale), timeout=timeout_s)
