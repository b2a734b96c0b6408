"""Error details of a replica: an ErrorDetail (types.proto) in the trailing metadata of a gRPC
call."""

from collections.abc import Iterable

from partition_proto.v1 import types_pb2 as types

KEY = "logstore-error-bin"
"""gRPC carries values of keys that end in -bin as bytes."""


def attach(detail: types.ErrorDetail) -> tuple[tuple[str, bytes], ...]:
    """Returns trailing metadata that carries `detail`, as (key, value) pairs."""
    return ((KEY, detail.SerializeToString()),)


def find(metadata: Iterable[tuple[str, str | bytes]] | None) -> types.ErrorDetail | None:
    """Returns the detail in a call's trailing metadata. Returns None if the metadata has no detail,
    because the error is the network's or gRPC's. Raises google.protobuf.message.DecodeError if the
    bytes are not a valid ErrorDetail."""
    for key, value in metadata or ():
        if key == KEY and isinstance(value, bytes):
            return types.ErrorDetail.FromString(value)
    return None
