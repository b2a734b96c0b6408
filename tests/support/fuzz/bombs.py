"""Inputs made to be expensive, and what decoding them costs.

`python -m tests.support.fuzz.bombs` decodes each in a child, whose address space may grow by no
more than the size of the input allows, and prints a line for each: decoder, bomb, outcome.
"""

import ctypes
import json
import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path

from tests.support.fuzz.decoders import DECODERS, Decoder
from tests.support.fuzz.inputs import delimited, field, outcome, varint

SIZE = 1024**2
BYTES_A_BYTE_MAX = 64
BYTES_BASE_MAX = 16 * 1024**2
"""rust-protobuf sets 10 MB aside for a length that it only reads, whatever the input's."""


def repeated(piece: bytes) -> bytes:
    return piece * (SIZE // len(piece))


def nested(number: int, levels: int) -> bytes:
    """A message in a message in a message."""
    content = b""
    for _ in range(levels):
        content = delimited(number, content)
    return content


BOMBS: dict[str, Callable[[], bytes]] = {
    # Groups, in fields that are known and that are not: a decoder that recurses runs out of stack.
    **{f"groups in {n}": lambda n=n: repeated(field(n, 3, b"")) for n in (1, 2, 5, 7, 9, 15, 999)},
    "groups that end": lambda: field(15, 3, b"") * (SIZE // 2) + field(15, 4, b"") * (SIZE // 2),
    "group in an entry": lambda: delimited(7, repeated(field(15, 3, b""))),
    "group in a snapshot": lambda: delimited(9, delimited(2, repeated(field(15, 3, b"")))),
    # Messages in messages, as deep as the input allows.
    **{f"nested in {n}": lambda n=n: nested(n, 20_000) for n in (1, 2, 5, 6, 9)},
    # Lengths and counts that are not there.
    **{
        f"length of {n}": lambda n=n: field(n, 2, varint((1 << 32) - 1))
        for n in (1, 4, 5, 6, 7, 9, 10)
    },
    "length of 2^63": lambda: field(4, 2, varint((1 << 63) - 1)),
    "length of 2^64": lambda: field(4, 2, b"\xff" * 9 + b"\x01"),
    "endless number": lambda: repeated(b"\xff"),
    "context of 2^32": lambda: bytes(9) + b"\xff" * 4,
    # Many of the smallest: each costs an object.
    **{f"empty {n}": lambda n=n: repeated(delimited(n, b"")) for n in (1, 2, 3, 4, 5, 6, 7, 9, 10)},
    **{f"empty in {n}": lambda n=n: delimited(n, repeated(b"\x2a\0")) for n in (1, 3, 5, 7, 9)},
    **{f"packed {n}": lambda n=n: delimited(n, repeated(b"\x01")) for n in (1, 2, 3, 4, 9)},
    "packed voters": lambda: delimited(9, delimited(2, delimited(1, delimited(1, repeated(b"1"))))),
    "numbers": lambda: repeated(b"\x08\x01"),
    "unknown": lambda: repeated(field(12345, 0, b"\x01")),
    "unknown empty": lambda: repeated(delimited(100, b"")),
    "slashes": lambda: repeated(b"a/"),
    "zeros": lambda: bytes(SIZE),
}


def bound(size: int) -> None:
    """Allows this process to grow by what `size` bytes of input may take."""
    ctypes.CDLL(None).malloc_trim(0)  # what it has to spare would not count
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    most = now + BYTES_A_BYTE_MAX * size + BYTES_BASE_MAX
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))


def unbound() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def decode(decoder: Decoder, data: bytes) -> str:
    bound(len(data))
    bounded = outcome(decoder.decode, data)
    unbound()
    if not isinstance(bounded, type):
        return "decoded"
    # Out of memory may look like bytes that do not decode: not if they do with more.
    again = outcome(decoder.decode, data)
    if again is not bounded:
        return f"{bounded.__name__} in bounded memory, else {again!r:.60}"
    return "refused" if issubclass(bounded, decoder.raises) else f"raised {bounded.__name__}"


def drop(name: str, bombs: dict[str, bytes]) -> list[str]:
    """Decodes in a child; the outcomes up to the one that ended it."""
    receiving, sending = os.pipe()
    child = os.fork()
    if not child:
        for data in bombs.values():
            resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + 5, 600))
            os.write(sending, f"{decode(DECODERS[name], data)}\n".encode())
        os._exit(0)
    os.close(sending)
    with os.fdopen(receiving) as pipe:
        found = pipe.read().splitlines()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        found.append(f"ended by {signal.Signals(os.WTERMSIG(status)).name}")
    return found


def main() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    bombs = {bomb: make() for bomb, make in BOMBS.items()}
    for name in DECODERS:
        left = dict(bombs)
        while left:
            for bomb, found in zip(list(left), drop(name, left), strict=False):
                del left[bomb]
                print(json.dumps([name, bomb, found]), flush=True)


if __name__ == "__main__":
    main()
