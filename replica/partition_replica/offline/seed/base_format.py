"""The state beside a log of the seed: what its snapshots are called and how they hold keys. Pure.

A snapshot is a tar: `kv-state` with every key first, then the tree below `fs/`. Its name says what
it is a state of: `<partition>-<term>-<index>.snap`, each number of 16 decimal digits or more.
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
"""Of a key and its value with their tags and lengths."""

_NAME = re.compile(r"([0-9]{16,19})-([0-9]{16,19})-([0-9]{16,19})\.snap")
_VARINT_BYTES_MAX = 5
"""Of a pair's length: more than PAIR_BYTES_MAX needs."""
_VARINT_BITS = 7
"""Of the number in each byte of a varint."""
_VARINT_MASK = 0x7F
_VARINT_MORE = 0x80
"""Set in every byte but the last one."""


@dataclass(frozen=True, slots=True)
class SnapshotName:
    """What a snapshot's name says: of which partition, and as of which entry."""

    partition: int
    position: Position


def snapshot_name(partition: int, position: Position) -> str:
    return f"{partition:016d}-{position.term:016d}-{position.index:016d}.snap"


def parse_snapshot_name(name: str) -> SnapshotName:
    """Raises ImportRefused for a name that no snapshot of the seed has."""
    found = _NAME.fullmatch(name)
    if found is None:
        raise ImportRefused(
            f"the base {name!r} is a file, and its name is not a snapshot's; allowed is "
            "<partition>-<term>-<index>.snap with 16 decimal digits each, because the name alone "
            "says which entry the state is as of: give the file the name that it was written under"
        )
    partition, term, index = map(int, found.groups())
    if not 1 <= index <= LSN_MAX or term > LSN_MAX:
        raise ImportRefused(
            f"the base {name!r} is a state at entry {index} in term {term}; allowed are entries 1 "
            "to 2^63 - 1 and terms 0 to 2^63 - 1. A log that begins at entry 1 needs no base: "
            "import it without one"
        )
    return SnapshotName(partition, Position(LSN(index), Term(term)))


# --- keys -------------------------------------------------------------------------------------


def encode_pair(key: bytes, value: bytes) -> bytes:
    """A key of `kv-state`, with its length in front."""
    # A field at its default is left out, as the seed's writer does.
    message = seed.KeyValue(key=key, value=value or None).SerializeToString(deterministic=True)
    length = bytearray()
    size = len(message)
    while size > _VARINT_MASK:
        length.append(size & _VARINT_MASK | _VARINT_MORE)
        size >>= _VARINT_BITS
    length.append(size)
    return bytes(length) + message


def read_pairs(read: Callable[[int], bytes], what: str) -> Iterator[tuple[bytes, bytes]]:
    """Every (key, value) of `kv-state`. `read`: returns that many bytes, fewer at the end only.
    `what`: how messages name it. Raises ImportRefused."""
    number = 0
    while True:
        number += 1
        where = f"pair {number} of {what}"
        size = _read_length(read, where)
        if size is None:
            return
        if size > PAIR_BYTES_MAX:
            raise ImportRefused(
                f"{where} has {size} bytes; allowed are {PAIR_BYTES_MAX}, so the file is damaged "
                "or holds a larger value: use another copy of it"
            )
        content = read(size)
        if len(content) < size:
            raise ImportRefused(
                f"{where} has {size} bytes and {len(content)} are left: the file is cut; use "
                "another copy of it"
            )
        yield _parse_pair(content, where)


def _read_length(read: Callable[[int], bytes], where: str) -> int | None:
    """A varint; None at the end."""
    size = 0
    for shift in range(_VARINT_BYTES_MAX):
        byte = read(1)
        if not byte:
            if not shift:
                return None
            raise ImportRefused(f"{where} ends in its length: the file is cut; use another copy")
        size |= (byte[0] & _VARINT_MASK) << (_VARINT_BITS * shift)
        if byte[0] < _VARINT_MORE:
            return size
    raise ImportRefused(
        f"{where} has a length of more than {_VARINT_BYTES_MAX} bytes: the file is damaged, or no "
        "list of keys; use another copy of it"
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
            f"{where} has a field that is unknown here; allowed are key and value: a newer version "
            "may import it"
        )
    try:
        check_key(pair.key, where)
    except InvalidArgument as error:
        raise ImportRefused(f"{error}; such a state can't be imported") from error
    if len(pair.value) > limits.VALUE_BYTES_MAX:
        raise ImportRefused(
            f"{where}: the value of key {pair.key!r} has {len(pair.value)} bytes; allowed are "
            f"{limits.VALUE_BYTES_MAX}: such a state can't be imported"
        )
    return pair.key, pair.value


# --- the tree ---------------------------------------------------------------------------------


def member_path(member: bytes, what: str) -> bytes:
    """The path of the tree that a tar's member stands for; b"" is the root. Raises ImportRefused
    for one outside of the tree."""
    root, slash, path = member.partition(b"/")
    if root != TREE.encode() or (slash and not path):
        raise ImportRefused(
            f"{what} holds {member!r}; allowed are {KEYS} as the first member, and {TREE} with "
            f"paths below it: it is not a snapshot of the seed, or it is damaged"
        )
    if path:
        check_tree_path(path, what)
    return path


def check_tree_path(path: bytes, what: str) -> None:
    """Raises ImportRefused for a path that could leave the tree, or is too long."""
    try:
        check_path(path, f"{what}: path")
    except InvalidArgument as error:
        raise ImportRefused(f"{error}; such a state can't be imported") from error
