"""Paths of the tree (relative, bytes, separated by '/'), and the form of keys and paths in
messages."""

from partition_replica.core.limits import PATH_BYTES_MAX, PATH_COMPONENT_BYTES_MAX
from partition_replica.errors import InvalidArgument

SHOWN_BYTES = 100
"""The maximum bytes of a key or a path in a message: gRPC does not deliver a status with some KiB
of text."""


def shown(name: bytes) -> str:
    """A key or a path for messages: all of it, or its beginning and its length."""
    if len(name) <= SHOWN_BYTES:
        return repr(bytes(name))
    return f"{bytes(name[:SHOWN_BYTES])!r}… ({len(name)} bytes)"


def check_path(path: bytes, what: str = "path") -> None:
    """Raises InvalidArgument for a path that could leave the tree, or a second name of a path.
    `what`: the path's name in messages."""
    if not path:
        raise InvalidArgument(f"{what} is empty; allowed are 1 to {PATH_BYTES_MAX} bytes")
    if len(path) > PATH_BYTES_MAX:
        raise InvalidArgument(f"{what} has {len(path)} bytes; allowed are 1 to {PATH_BYTES_MAX}")
    if b"\0" in path:
        raise InvalidArgument(f"{what} {shown(path)} contains a NUL byte, which is not allowed")
    if path.startswith(b"/"):
        raise InvalidArgument(
            f"{what} {shown(path)} is absolute; paths are relative to the tree's root"
        )
    for component in path.split(b"/"):
        if component in (b"", b".", b".."):
            raise InvalidArgument(
                f"{what} {shown(path)} has the component {component.decode()!r}; "
                "empty, '.' and '..' are not allowed"
            )


def check_name(path: bytes, what: str = "path") -> None:
    """Raises InvalidArgument for the last name of a new path if it is too long for file systems.
    Trees of format 1 may contain longer names; they can still be read and removed."""
    name = path.rpartition(b"/")[2]
    if len(name) > PATH_COMPONENT_BYTES_MAX:
        raise InvalidArgument(
            f"{what} {shown(path)} has a component of {len(name)} bytes; allowed are 1 to "
            f"{PATH_COMPONENT_BYTES_MAX}: shorten the name, or split it into directories"
        )


def parent(path: bytes) -> bytes:
    """The directory that contains `path`; b"" is the root."""
    return path.rpartition(b"/")[0]
