"""Paths of the tree and ranges of keys: what users write, and what replicas accept.

Replicas accept relative paths without empty, "." or ".." components. Users also write `site/`,
`./site`, `/site`, `.` and `/`; these name the same entries here. The tree's root is b"".
"""

import os
from pathlib import PurePosixPath

from partition_client.errors import RequestRefused


def tree_path(text: bytes, what: str = "path") -> bytes:
    """Returns the path that replicas accept, without "." components and without repeated, leading
    or trailing slashes.

    Returns b"" for the root. Raises RequestRefused for a path with "..".
    """
    parts = [part for part in PurePosixPath(os.fsdecode(text)).parts if part.strip("/")]
    if ".." in parts:
        raise RequestRefused(
            f"{what} {text!r} contains '..'; name the entry by its path from the tree's root",
            "INVALID_ARGUMENT",
        )
    return os.fsencode("/".join(parts))


def file_path(text: bytes) -> bytes:
    """As `tree_path`, for a file. Raises RequestRefused for paths of directories: the root, and
    paths that end in "/" or "/."."""
    found = tree_path(text)
    if not found or text.endswith((b"/", b"/.")):
        raise RequestRefused(
            f"path {text!r} names a directory; name a file of the tree", "INVALID_ARGUMENT"
        )
    return found


def relative(path: bytes, under: bytes) -> bytes:
    """Returns an entry's path relative to the directory `under`, which contains it."""
    return os.fsencode(PurePosixPath(os.fsdecode(path)).relative_to(os.fsdecode(under)))


def parent(path: bytes) -> bytes:
    """The directory that holds `path`; b"" is the root."""
    return tree_path(os.fsencode(PurePosixPath(os.fsdecode(path)).parent))


def ancestors(path: bytes) -> list[bytes]:
    """Returns the directories above `path`, the root's child first, and `path` itself."""
    parts = PurePosixPath(os.fsdecode(path))
    found = [parent for parent in (parts, *parts.parents) if parent.parts]
    return [os.fsencode(one) for one in reversed(found)]


def prefix_end(prefix: bytes) -> bytes:
    """The end of the range of keys that begin with `prefix`, for `list_keys(prefix, end)`.

    Returns b"" (no end) if the prefix is empty or has only 0xff bytes, because all keys from such
    a prefix on begin with it.
    """
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else b""
