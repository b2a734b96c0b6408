"""Paths of the tree: relative, bytes, separated by '/'. And how messages show paths and keys."""

from partition_replica.core.limits import PATH_BYTES_MAX, PATH_COMPONENT_BYTES_MAX
from partition_replica.errors import InvalidArgument

SHOWN_BYTES = 100
"""Of a key or a path in a message: a gRPC status with some KiB of text is not delivered."""


def shown(name: bytes) -> str:
    """A key or a path as messages have it: whole, or its beginning and its length."""
    if len(name) <= SHOWN_BYTES:
        return repr(bytes(name))
    return f"{bytes(name[:SHOWN_BYTES])!r}… ({len(name)} bytes)"


def check_path(path: bytes, what: str = "path") -> None:
    """Refuses what could leave the tree or name one file in two ways."""
    if not path:
        raise InvalidArgument(f"{what} is empty; allowed are 1 to {PATH_BYTES_MAX} bytes")
    if len(path) > PATH_BYTES_MAX:
        raise InvalidArgument(f"{what} has {len(path)} bytes; allowed are 1 to {PATH_BYTES_MAX}")
    if b"\0" in path:
        raise InvalidArgument(f"{what} {shown(path)} contains a NUL byte")
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
    """Refuses a name that file systems don't take, of a path that is to be created. Trees of format
    1 may hold such names; they are still read and removed."""
    name = path.rpartition(b"/")[2]
    if len(name) > PATH_COMPONENT_BYTES_MAX:
        raise InvalidArgument(
            f"{what} {shown(path)} has a component of {len(name)} bytes; allowed are 1 to "
            f"{PATH_COMPONENT_BYTES_MAX}: shorten the name, or spread it over directories"
        )


def parent(path: bytes) -> bytes:
    """The directory that holds `path`; b"" is the root."""
    return path.rpartition(b"/")[0]
