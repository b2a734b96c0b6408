"""Bytes to decode: anything, anything in protobuf's wire format, and damaged messages."""

import os
from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "50"))

fuzzing = settings(
    max_examples=EXAMPLES,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

EDGES = [0, 1, 2, 127, 128, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, (1 << 63) - 1, (1 << 64) - 1]
NUMBERS = st.one_of(st.sampled_from(EDGES), st.integers(0, (1 << 64) - 1), st.integers(0, 5))
SHORT = st.one_of(
    st.sampled_from([b"", b"a", b"a/b", b"\xff\0", b"x" * 32]), st.binary(max_size=40)
)


def varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def field(number: int, wire_type: int, content: bytes) -> bytes:
    return varint(number << 3 | wire_type) + content


def delimited(number: int, content: bytes) -> bytes:
    return field(number, 2, varint(len(content)) + content)


NUMBER = st.integers(1, 12)
LEAVES = st.one_of(
    st.builds(lambda n, v: field(n, 0, varint(v)), NUMBER, NUMBERS),
    st.builds(delimited, NUMBER, SHORT),
    st.builds(lambda n, v: field(n, 1, v), NUMBER, st.binary(min_size=8, max_size=8)),
    st.builds(lambda n, v: field(n, 5, v), NUMBER, st.binary(min_size=4, max_size=4)),
    # What is not what it says: lengths without content, groups, types that do not exist.
    st.builds(lambda n, v: field(n, 2, varint(v)), NUMBER, NUMBERS),
    st.builds(lambda n, t: field(n, t, b""), NUMBER, st.sampled_from([3, 4, 6, 7])),
)
WIRE: st.SearchStrategy[bytes] = st.recursive(
    LEAVES,
    lambda inner: st.builds(
        lambda n, parts: delimited(n, b"".join(parts)), NUMBER, st.lists(inner)
    ),
    max_leaves=30,
)


@st.composite
def messages(draw: st.DrawFn, kind: type[Message]) -> Any:
    """A message with any of its fields set to anything."""
    message = kind()
    _fill(draw, message, kind.DESCRIPTOR, 4)
    return message


def _fill(draw: st.DrawFn, message: Any, descriptor: Descriptor, depth: int) -> None:
    for found in descriptor.fields:
        repeated = found.is_repeated
        count = draw(st.integers(0, 3 if repeated else 1))
        if found.message_type is not None:
            for _ in range(count if depth else 0):
                inner = getattr(message, found.name)
                inner = inner.add() if repeated else inner
                inner.SetInParent() if not repeated else None
                _fill(draw, inner, found.message_type, depth - 1)
            continue
        values = [draw(_values(found)) for _ in range(count)]
        if repeated:
            getattr(message, found.name).extend(values)
        elif values:
            setattr(message, found.name, values[0])


def _values(found: FieldDescriptor) -> st.SearchStrategy[Any]:
    match found.type:
        case FieldDescriptor.TYPE_BYTES:
            return SHORT
        case FieldDescriptor.TYPE_STRING:
            return st.text(max_size=10)
        case FieldDescriptor.TYPE_BOOL:
            return st.booleans()
        case FieldDescriptor.TYPE_UINT32:
            return NUMBERS.map(lambda value: value & 0xFFFFFFFF)
        case FieldDescriptor.TYPE_UINT64:
            return NUMBERS
        case FieldDescriptor.TYPE_ENUM:
            return st.sampled_from([value.number for value in found.enum_type.values])
    raise NotImplementedError(found.full_name)


@st.composite
def damaged(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> bytes:
    """Some bytes with a piece flipped, cut out, put in twice, or replaced."""
    data = bytearray(draw(whole))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 8)))
        match draw(st.sampled_from(["flip", "cut", "twice", "replace"])):
            case "flip" if start < len(data):
                data[start] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del data[start:end]
            case "twice":
                data[start:start] = data[start:end]
            case _:
                data[start:end] = draw(st.binary(max_size=8))
    return bytes(data)


def encoded(kind: type[Message]) -> st.SearchStrategy[bytes]:
    """Bytes for a decoder of `kind`."""
    whole = messages(kind).map(_serialize)
    fields = st.lists(WIRE, max_size=8).map(b"".join)
    return st.one_of(whole, damaged(whole), fields, st.binary(max_size=200))


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()


def outcome(decode: Callable[[bytes], object], data: bytes) -> object:
    """What it returned, or the kind of what it raised."""
    try:
        return decode(data)
    except Exception as error:
        return type(error)
