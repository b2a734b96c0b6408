"""Keys and paths that are longer than LMDB's keys, and the entries that make them."""

import random

from partition_proto.v1 import types_pb2 as types

from tests.support.proposals import (
    body,
    copy,
    delete_key,
    link,
    mkdir,
    opening,
    payload,
    proposal,
    set_key,
)

TERM = 3
SHARED = b"s" * 510
KEYS = {
    b"short": b"1",
    SHARED: b"2",
    SHARED + b"\0": b"3",
    SHARED + b"long": b"4",
    SHARED * 2 + b"longer": b"5",
    b"t" * 903: b"6",
    b"u" * 65_000: b"7" * 1000,
}


def nested(depth: int) -> list[bytes]:
    """Directories, each in the one before it."""
    return [b"/".join([b"d" * 60] * level) for level in range(1, depth + 1)]


TREE = nested(67)
"""The deepest path has 4,086 bytes."""

FILE = TREE[-1] + b"/f"
PATHS: dict[bytes, bytes | None] = dict.fromkeys(TREE) | {FILE: b"sha", b"copy": b"sha"}


def bodies() -> list[types.EntryBody]:
    sets = [set_key(key, value) for key, value in KEYS.items()]
    random.Random(1).shuffle(sets)
    files = [*(mkdir(path) for path in TREE), link(FILE), copy(FILE, b"copy")]
    return [
        opening(time_ms=5000),
        body(proposal(2, 1, sets)),
        body(proposal(2, 2, files, [payload(b"sha")])),
        body(proposal(2, 3, [set_key(b"gone" * 1000, b""), delete_key(b"gone" * 1000)])),
    ]
