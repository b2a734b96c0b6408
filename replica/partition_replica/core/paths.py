"""Paths of the tree: relative, bytes, separated by '/'."""

from partition_replica.core.limits import PATH_BYTES_MAX
from partition_replica.errors import InvalidArgument


def check_path(path: bytes, what: str = "path") -> None:
    """Refuses what could leave the tree or name one file in two ways."""
    if not path:
        raise InvalidArgument(f"{what} is empty; allowed are 1 to {PATH_BYTES_MAX} bytes")
    if len(path) > PATH_BYTES_MAX:
        raise InvalidArgument(f"{what} has {len(path)} bytes; allowed are 1 to {PATH_BYTES_MAX}")
    if b"\0" in path:
        raise InvalidArgument(f"{what} {path!r} contains a NUL byte")
    if path.startswith(b"/"):
        raise InvalidArgument(f"{what} {path!r} is absolute; paths are relative to the tree's root")
    for component in path.split(b"/"):
        if component in (b"", b".", b".."):
            raise InvalidArgument(
                f"{what} {path!r} has the component {component.decode()!r}; "
                "empty, '.' and '..' are not allowed"
            )


def parent(path: bytes) -> bytes:
    """The directory that holds `path`; b"" is the root."""
    return path.rpartition(b"/")[0]
