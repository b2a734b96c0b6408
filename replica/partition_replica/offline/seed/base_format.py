"""The format of the seed's snapshots: their names, and the encoding of keys. Pure.

A snapshot is a tar: first the file `kv-state` with all keys, then the tree below `fs/`. Its name
contains partition and position: `<partition>-<term>-<index>.snap`, each number with at least 16
decimal digits.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet
from partition_proto.v1 import seed_pb2 as seed

from partition_replica.core import limits
from partition_replica.core.model import Position
from partition_replica.core.paths import check_path
from partition_replica.core.validation import check_key
from partition_replica.errors import ImportRefused, InvalidArgument
from partition_replica.ids import LSN, Term
from partition_replica.offline.seed.layout import LSN_MAX

KEYS = "kv-state"
TREE = "fs"

PAIR_BYTES_MAX = limits.KEY_BYTES_MAX + limits.VALUE_BYTES_MAX + 16
"""The maximum size of a key and its value, with their tags and lengths."""

_NAME = re.compile(r"([0-9]{16,19})-([0-9]{16,19})-([0-9]{16,19})\.snap")
_VARINT_BYTES_MAX = 5
"""The maximum size of a pair's length: more than PAIR_BYTES_MAX needs."""
_VARINT_BITS = 7
"""Bits of the number per byte of a varint."""
_VARINT_MASK = 0x7F
_VARINT_MORE = 0x80
"""Set in every byte except the last one."""


@dataclass(frozen=True, slots=True)
class SnapshotName:
    """The partition and the position in a snapshot's name."""

    partition: int
    position: Position


def snapshot_name(partition: int, position: Position) -> str:
    return f"{partition:016d}-{position.term:016d}-{position.index:016d}.snap"


def parse_snapshot_name(name: str) -> SnapshotName:
    """Parses a snapshot's name. Raises ImportRefused if it is not valid."""
    found = _NAME.fullmatch(name)
    if found is None:
        raise ImportRefused(
            f"the base {name!r} is a file whose name is not a snapshot's; allowed is "
            "<partition>-<term>-<index>.snap with 16 decimal digits each, because only the name "
            "contains the position of the state: give the file its original name"
        )
    partition, term, index = map(int, found.groups())
    if not 1 <= index <= LSN_MAX or term > LSN_MAX:
        raise ImportRefused(
            f"the base {name!r} is a state as of entry {index} in term {term}; allowed are entries "
            "1 to 2^63 - 1 and terms 0 to 2^63 - 1. If the log begins at entry 1, it needs no "
            "base: import it without one"
        )
    return SnapshotName(partition, Position(LSN(index), Term(term)))


# --- keys -------------------------------------------------------------------------------------


def encode_pair(key: bytes, value: bytes) -> bytes:
    """A key and its value as in `kv-state`, after their length."""
    # A field with its default value is omitted, as by the seed.
    message = seed.KeyValue(key=key, value=value or None).SerializeToString(deterministic=True)
    length = bytearray()
    size = len(message)
    while size > _VARINT_MASK:
        length.append(size & _VARINT_MASK | _VARINT_MORE)
        size >>= _VARINT_BITS
    length.append(size)
    return bytes(length) + message


def read_pairs(read: Callable[[int], bytes], what: str) -> Iterator[tuple[bytes, bytes]]:
    """Every (key, value) of `kv-state`. `read(n)` returns n bytes, and fewer at the end only.
    `what`: the file's name in messages. Raises ImportRefused."""
    number = 0
    while True:
        number += 1
        where = f"pair {number} of {what}"
        size = _read_length(read, where)
        if size is None:
            return
        if size > PAIR_BYTES_MAX:
            raise ImportRefused(
                f"{where} has {size} bytes; at most {PAIR_BYTES_MAX} are allowed, so the file is "
                "damaged or contains a larger value: use another copy of it"
            )
        content = read(size)
        if len(content) < size:
            raise ImportRefused(
                f"{where} has {size} bytes and only {len(content)} are left: the file is "
                "truncated; use another copy of it"
            )
        yield _parse_pair(content, where)


def _read_length(read: Callable[[int], bytes], where: str) -> int | None:
    """Reads a varint; returns None at the end of the file."""
    size = 0
    for shift in range(_VARINT_BYTES_MAX):
        byte = read(1)
        if not byte:
            if not shift:
                return None
            raise ImportRefused(
                f"{where} ends inside its length: the file is truncated; use another copy of it"
            )
        size |= (byte[0] & _VARINT_MASK) << (_VARINT_BITS * shift)
        if byte[0] < _VARINT_MORE:
            return size
    raise ImportRefused(
        f"the length of {where} takes more than {_VARINT_BYTES_MAX} bytes: the file is damaged, or "
        "not a file of keys; use another copy of it"
    )


def _parse_pair(content: bytes, where: str) -> tuple[bytes, bytes]:
    pair = seed.KeyValue()
    try:
        pair.ParseFromString(content)
    except DecodeError as error:
        raise ImportRefused(
            f"{where} does not decode as a key and its value ({error}): use another copy of it"
        ) from error
    if len(UnknownFieldSet(pair)):
        raise ImportRefused(
            f"{where} has a field that this version does not know; allowed are key and value: try "
            "a newer version"
        )
    try:
        check_key(pair.key, where)
    except InvalidArgument as error:
        raise ImportRefused(f"{error}; this state cannot be imported") from error
    if len(pair.value) > limits.VALUE_BYTES_MAX:
        raise ImportRefused(
            f"{where}: the value of key {pair.key!r} has {len(pair.value)} bytes; at most "
            f"{limits.VALUE_BYTES_MAX} are allowed: this state cannot be imported"
        )
    return pair.key, pair.value


# --- the tree ---------------------------------------------------------------------------------


def member_path(member: bytes, what: str) -> bytes:
    """The path in the tree of a tar member; b"" is the root. Raises ImportRefused if it is outside
    the tree."""
    root, slash, path = member.partition(b"/")
    if root != TREE.encode() or (slash and not path):
        raise ImportRefused(
            f"{what} contains {member!r}; allowed are {KEYS} as the first member, and {TREE} with "
            "paths below it: the file is damaged or not a snapshot of the seed; use another copy "
            "of it"
        )
    if path:
        check_tree_path(path, what)
    return path


def check_tree_path(path: bytes, what: str) -> None:
    """Raises ImportRefused if the path is too long or could leave the tree."""
    try:
        check_path(path, f"{what}: path")
    except InvalidArgument as error:
        raise ImportRefused(f"{error}; this state cannot be imported") from error
