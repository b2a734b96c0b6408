"""Reads the untrusted state that a pruned log of the seed continues from: a snapshot of the seed,
or a directory tree and a file of keys. `base_format` has the names and encodings.

Both are read twice, as the log is: once to check everything, once to write it. Hostile archives
cannot exhaust resources: unpacked bytes are bounded by the volume's free space, headers and
key-value pairs by their own limits, and memory does not grow with the number of members.
"""

import gzip
import hashlib
import io
import os
import stat
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol, cast

from partition_replica.core import limits
from partition_replica.core.model import Position
from partition_replica.errors import ImportRefused
from partition_replica.ids import LSN, Term
from partition_replica.offline.seed import base_format
from partition_replica.offline.seed.base_format import KEYS, TREE
from partition_replica.offline.seed.source_files import (
    CHUNK_BYTES,
    DIRECTORY_FLAGS,
    Identity,
    changed,
    identity_of,
    kind_of,
    open_at,
    open_regular,
    read_unchanged,
    refused_on_failure,
)

HEADER_BYTES_MAX = 1024 * 1024
"""The maximum size of a header with the long names before it, which tarfile reads at once."""

_BLOCK_BYTES = 512
_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_OTHERS = {
    _ZSTD: "zstd -d",
    b"\xfd7zXZ\x00": "xz -d",
    b"BZh": "bzip2 -d",
    b"\x04\x22\x4d\x18": "lz4 -d",
}
_MODES = 0o777
ANY_BYTES = "surrogateescape"

Done = Callable[[int], None]
"""(the amount read, in the unit of `SeedBase.total`)."""


@dataclass(frozen=True, slots=True)
class BaseNode:
    """A file or a directory of the tree. mode: permission bits; special_bits: whether it has other
    mode bits; chunks: a file's content, which must be read before the next node."""

    path: bytes
    directory: bool
    mode: int
    special_bits: bool
    size: int
    chunks: Iterator[bytes]
    identity: Identity = ()


@dataclass(frozen=True, slots=True)
class BaseContents:
    """An open base. All pairs must be read before the first node."""

    pairs: Iterator[tuple[bytes, bytes]]
    nodes: Iterator[BaseNode]


class SeedBase(Protocol):
    """A state as of `position`. Its term is an upper bound of the entry's term; 0 means unknown.
    total: the total of the progress that `open` reports, 0 if unknown; unverified: facts that this
    format gives no way to check."""

    position: Position
    what: str
    total: int
    unverified: Sequence[str]

    def open(self, room_bytes: int, done: Done) -> AbstractContextManager[BaseContents]:
        """Opens the base for one pass. This and later reads raise ImportRefused if the base is
        damaged, has more than `room_bytes`, or has changed."""
        ...


@dataclass(slots=True)
class BaseSurvey:
    """The result of a pass over a base. room_bytes: the maximum unpacked size; digest: differs if
    the base has changed."""

    room_bytes: int = 0
    files: int = 0
    directories: int = 0
    special_bits: int = 0
    digest: "hashlib.blake2b" = field(default_factory=lambda: hashlib.blake2b(digest_size=16))

    def add_pair(self, key: bytes, value: bytes) -> None:
        self.digest.update(b"%d %d " % (len(key), len(value)) + key + value)

    def add_node(self, node: BaseNode) -> None:
        self.directories += node.directory
        self.files += not node.directory
        self.special_bits += node.special_bits
        row = (node.path, node.directory, node.mode, node.size, node.identity)
        self.digest.update(repr(row).encode())


def survey_base(base: SeedBase, room_bytes: int, done: Done) -> BaseSurvey:
    """The first pass. Checks everything except for duplicate paths and keys and missing
    directories, which the second pass finds. Raises ImportRefused."""
    found = BaseSurvey(room_bytes)
    with base.open(room_bytes, done) as contents:
        for pair in contents.pairs:
            found.add_pair(*pair)
        for node in contents.nodes:
            found.add_node(node)
    return found


# --- a snapshot of the seed -------------------------------------------------------------------


class SnapshotBase:
    """A file `<partition>-<term>-<index>.snap`: a tar, uncompressed or compressed with gzip."""

    def __init__(self, path: Path) -> None:
        """Raises ImportRefused if it is not a regular file with such a name."""
        self.what = f"the base {path}"
        descriptor, found = open_regular(path, self.what)
        os.close(descriptor)
        name = base_format.parse_snapshot_name(path.name)
        self.position = name.position
        self.unverified: Sequence[str] = (
            f"whether the base is of the log's partition: its name has partition {name.partition}, "
            "and a log does not contain its partition",
            "the content of the base's files and keys, if it is not compressed: a tar has "
            "checksums of its headers only",
            "permissions in the base: the seed adds read and write permission for all users when "
            "it writes a snapshot, so the original ones are unknown",
        )
        self._path = path
        self._identity = identity_of(found)
        self.total = found.st_size

    @contextmanager
    def open(self, room_bytes: int, done: Done) -> Iterator[BaseContents]:
        descriptor, found = open_regular(self._path, self.what)
        with open(descriptor, "rb") as file:
            if identity_of(found) != self._identity:
                raise changed(self.what)
            unpacked = _Unpacked(self._decompressed(file), self.what, room_bytes)
            members = self._members(unpacked)
            keys = next(members, None)
            if keys is None or keys.name != KEYS or not keys.isreg():
                name = "nothing" if keys is None else repr(keys.name[:256])
                raise ImportRefused(
                    f"{self.what} begins with {name}; the first member of a snapshot must be the "
                    f"file {KEYS}: give a snapshot of the seed"
                )
            content = io.BufferedReader(_Content(unpacked, keys), CHUNK_BYTES)
            yield BaseContents(
                base_format.read_pairs(content.read, f"{KEYS} of {self.what}"),
                self._nodes(members, unpacked, lambda: done(file.tell())),
            )
            self._check_end(unpacked)
            if identity_of(os.fstat(descriptor)) != self._identity:
                raise changed(self.what)

    def _decompressed(self, file: Any) -> Any:
        head = file.peek(8)[:8]
        for magic, command in _OTHERS.items():
            if head.startswith(magic):
                raise ImportRefused(
                    f"{self.what} has an unsupported compression; allowed are an uncompressed tar "
                    f"and gzip: decompress it with `{command}`, and keep its name"
                )
        return gzip.GzipFile(fileobj=file, mode="rb") if head.startswith(_GZIP) else file

    def _members(self, unpacked: "_Unpacked") -> Iterator[tarfile.TarInfo]:
        tar: tarfile.TarFile | None = None
        while True:
            try:
                if tar is None:
                    # These encodings keep every byte of a name.
                    tar = tarfile.TarFile(
                        fileobj=cast(IO[bytes], unpacked), encoding="utf-8", errors=ANY_BYTES
                    )
                member = tar.next()
            except (tarfile.TarError, RecursionError, ValueError) as error:
                raise ImportRefused(
                    f"{self.what} is truncated or damaged at byte {unpacked.tell()} of the archive "
                    f"({error}): use another copy of it"
                ) from error
            if member is None:
                break
            tar.members = []  # type: ignore[attr-defined]  # else tarfile keeps every member
            yield member
        # tarfile also ends the loop at a block that is not a header.
        if len(unpacked.last) < _BLOCK_BYTES or any(unpacked.last):
            raise ImportRefused(
                f"{self.what} is truncated or damaged at byte {unpacked.tell()} of the archive: "
                "use another copy of it"
            )

    def _nodes(
        self, members: Iterator[tarfile.TarInfo], unpacked: "_Unpacked", done: Callable[[], None]
    ) -> Iterator[BaseNode]:
        for member in members:
            name = member.name.encode("utf-8", ANY_BYTES)
            where = f"{name[:256]!r} of {self.what}"
            if member.issparse() or not (member.isreg() or member.isdir()):
                raise ImportRefused(
                    f"{where} is {_member_kind(member)}; only files and directories are allowed, "
                    "because the seed writes nothing else: this state cannot be imported"
                )
            check_file_size(member.size, where)
            path = base_format.member_path(name, self.what)
            done()
            if not path:
                if not member.isdir():
                    raise ImportRefused(
                        f"{where} is a file; {TREE} must be a directory, the tree's root: use "
                        "another copy of the snapshot"
                    )
                continue
            yield BaseNode(
                path,
                member.isdir(),
                member.mode & _MODES,
                bool(member.mode & 0o7000),
                0 if member.isdir() else member.size,
                iter(()) if member.isdir() else _Content(unpacked, member).chunks(),
            )

    def _check_end(self, unpacked: "_Unpacked") -> None:
        """Checks that the archive ends with two blocks of zeros, and only zeros after them."""
        rest = unpacked.read(_BLOCK_BYTES)
        if len(rest) < _BLOCK_BYTES:
            raise ImportRefused(
                f"{self.what} lacks the end of its archive: it is truncated; use another copy of it"
            )
        while rest:
            if any(rest):
                raise ImportRefused(
                    f"{self.what} has data after the end of its archive: it is damaged; use "
                    "another copy of it"
                )
            rest = unpacked.read(CHUNK_BYTES)


class _Unpacked:
    """The file object that tarfile reads: the decompressed archive. It only reads forwards, and it
    bounds the size of each read and of the whole."""

    def __init__(self, file: Any, what: str, room_bytes: int) -> None:
        self._file = file
        self._what = what
        self._room_bytes = room_bytes
        self._position = 0
        self.last = b""
        """The result of the last read."""

    def tell(self) -> int:
        return self._position

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= HEADER_BYTES_MAX:
            raise ImportRefused(
                f"{self._what} has a header of {size} bytes at byte {self._position} of the "
                f"archive; at most {HEADER_BYTES_MAX} are allowed: it is damaged, use another copy "
                "of it"
            )
        with refused_on_failure(self._what):
            try:
                self.last = self._file.read(size)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise ImportRefused(
                    f"{self._what} is truncated or damaged at byte {self._position} of the archive "
                    f"({error}): use another copy of it"
                ) from error
        self._position += len(self.last)
        if self._position > self._room_bytes:
            raise ImportRefused(
                f"{self._what} unpacks to more than the {self._room_bytes} bytes that are free on "
                "the volume: give a larger volume, if you trust the archive"
            )
        return bytes(self.last)

    def seek(self, position: int) -> int:
        if position < self._position:
            raise ImportRefused(
                f"{self._what} has a header that points backwards at byte {self._position} of the "
                "archive: it is damaged, use another copy of it"
            )
        while self._position < position:
            self.read_some(position - self._position)
        return position

    def read_some(self, most: int) -> bytes:
        """Reads 1 to `most` bytes. Raises ImportRefused at the end."""
        chunk = self.read(min(CHUNK_BYTES, most))
        if not chunk:
            raise ImportRefused(
                f"{self._what} ends at byte {self._position} of the archive, {most} bytes too "
                "early: it is truncated; use another copy of it"
            )
        return chunk


class _Content(io.RawIOBase):
    """The content of one member of the archive."""

    def __init__(self, unpacked: _Unpacked, member: tarfile.TarInfo) -> None:
        self._unpacked = unpacked
        self._end = member.offset_data + member.size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        chunk = self._next(len(buffer))
        buffer[: len(chunk)] = chunk
        return len(chunk)

    def chunks(self) -> Iterator[bytes]:
        while chunk := self._next(CHUNK_BYTES):
            yield chunk

    def _next(self, most: int) -> bytes:
        left = self._end - self._unpacked.tell()
        return self._unpacked.read_some(min(most, left)) if left > 0 else b""


def _member_kind(member: tarfile.TarInfo) -> str:
    if member.issym():
        return f"a symbolic link to {member.linkname[:256]!r}"
    if member.islnk():
        return f"a hard link to {member.linkname[:256]!r}"
    if member.isfifo():
        return "a pipe"
    if member.isdev():
        return "a device"
    return "a sparse file" if member.issparse() else f"of type {member.type!r}"


# --- a tree beside a file of keys -------------------------------------------------------------


class TreeBase:
    """A directory with the tree and a file with the keys, as of entry `index`."""

    def __init__(self, tree: Path, keys: Path, index: LSN) -> None:
        """Raises ImportRefused if `keys` is not a regular file."""
        self.position = Position(index, Term(0))
        self.what = f"the base {tree}"
        self.unverified: Sequence[str] = (
            f"whether {tree} and {keys} are as of entry {int(index)}: they do not contain an LSN",
        )
        self.total = 0
        self._tree = tree
        self._keys = keys
        self._keys_what = f"the base's keys {keys}"
        descriptor, found = open_regular(keys, self._keys_what)
        os.close(descriptor)
        self._identity = identity_of(found)

    @contextmanager
    def open(self, room_bytes: int, done: Done) -> Iterator[BaseContents]:
        descriptor, found = open_regular(self._keys, self._keys_what)
        with open(descriptor, "rb") as file:
            if identity_of(found) != self._identity:
                raise changed(self._keys_what)
            with refused_on_failure(self.what):
                root = os.open(self._tree, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            walk = _Walk(root, self.what, room_bytes - found.st_size, done)
            try:
                with refused_on_failure(self._keys_what):
                    pairs = base_format.read_pairs(file.read, self._keys_what)
                    yield BaseContents(pairs, walk.nodes())
            finally:
                walk.close()
            if identity_of(os.fstat(descriptor)) != self._identity:
                raise changed(self._keys_what)


class _Walk:
    """Walks a directory tree in the order of its names, without following links. A directory stays
    open while its contents are read."""

    def __init__(self, root: int, what: str, room_bytes: int, done: Done) -> None:
        self._what = what
        self._room_bytes = room_bytes
        self._size = self._count = 0
        self._done = done
        self._open = [(root, b"", iter(self._names(root)))]

    def close(self) -> None:
        for descriptor, _, _ in self._open:
            os.close(descriptor)
        self._open.clear()

    def nodes(self) -> Iterator[BaseNode]:
        while self._open:
            directory, prefix, names = self._open[-1]
            name = next(names, None)
            if name is None:
                os.close(directory)
                self._open.pop()
                continue
            yield self._look_at(directory, name, prefix + name)
            self._count += 1
            self._done(self._count)

    def _names(self, descriptor: int) -> list[bytes]:
        with refused_on_failure(self._what):
            return sorted(map(os.fsencode, os.listdir(descriptor)))

    def _look_at(self, directory: int, name: bytes, path: bytes) -> BaseNode:
        where = f"{path[:256]!r} of {self._what}"
        base_format.check_tree_path(path, self._what)
        with refused_on_failure(where):
            mode = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                descriptor = os.open(name, DIRECTORY_FLAGS, dir_fd=directory)
                self._open.append((descriptor, path + b"/", iter(self._names(descriptor))))
                found = os.fstat(descriptor)
                node = _describe(path, found, iter(()))
            elif stat.S_ISREG(mode):
                descriptor, found = open_at(directory, name, where)
                os.close(descriptor)
                check_file_size(found.st_size, where)
                self._size += found.st_size
                identity = identity_of(found)
                chunks = read_unchanged(directory, name, where, found.st_size, identity)
                node = _describe(path, found, chunks)
            else:
                raise ImportRefused(
                    f"{where} is {kind_of(mode)}; only files and directories are allowed, because "
                    "the seed writes nothing else: import a copy of the tree without it"
                )
        if self._size > self._room_bytes:
            raise ImportRefused(
                f"{self._what} has more than the {self._room_bytes} bytes that are free on the "
                "volume: give a larger volume"
            )
        return node


def _describe(path: bytes, found: os.stat_result, chunks: Iterator[bytes]) -> BaseNode:
    directory = stat.S_ISDIR(found.st_mode)
    mode = stat.S_IMODE(found.st_mode)
    size = 0 if directory else found.st_size
    special = bool(mode & ~_MODES)
    return BaseNode(path, directory, mode & _MODES, special, size, chunks, identity_of(found))


def check_file_size(size: int, where: str) -> None:
    """Raises ImportRefused if a file is too large."""
    if not 0 <= size <= limits.PAYLOAD_BYTES_MAX:
        raise ImportRefused(
            f"{where} has {size} bytes; at most {limits.PAYLOAD_BYTES_MAX} are allowed: this state "
            "cannot be imported"
        )
