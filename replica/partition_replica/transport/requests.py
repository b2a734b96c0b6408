"""A check of every request of every service.

proto3 keeps an enum number that this version does not know. Without this check, code could treat
the number as one of the values that it knows.
"""

from collections.abc import AsyncIterator
from functools import cache
from typing import Any

from google.protobuf.descriptor import Descriptor, EnumDescriptor
from google.protobuf.message import DecodeError, Message

from partition_replica.errors import InvalidArgument


def check_request(message: Message) -> None:
    """Raises InvalidArgument if an enum field has a number that this version does not know."""
    if not _can_hold_enums(message.DESCRIPTOR):
        return
    for field, value in message.ListFields():
        values = value if field.is_repeated else (value,)
        if field.enum_type is not None:
            for number in values:
                _check_enum(field.name, field.enum_type, number)
        elif field.message_type is not None:
            for inner in values:
                check_request(inner)


async def checked(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """Yields the same messages. Raises InvalidArgument at the first one that is refused."""
    try:
        async for message in requests:
            check_request(message)
            yield message
    except DecodeError as error:
        raise InvalidArgument(f"a message of the stream cannot be decoded: {error}") from error


def _check_enum(name: str, kind: EnumDescriptor, number: int) -> None:
    known = kind.values_by_number
    if number not in known:
        allowed = ", ".join(f"{value.name} ({n})" for n, value in sorted(known.items()))
        raise InvalidArgument(
            f"{name} is {number}, which this version does not know; allowed are {allowed}"
        )


@cache
def _can_hold_enums(kind: Descriptor) -> bool:
    """Cached, because most message types can't: their messages need no check."""
    return _finds_enum(kind, set())


def _finds_enum(kind: Descriptor, seen: set[str]) -> bool:
    if kind.full_name in seen:
        return False
    seen.add(kind.full_name)
    return any(
        field.enum_type is not None
        or (field.message_type is not None and _finds_enum(field.message_type, seen))
        for field in kind.fields
    )
