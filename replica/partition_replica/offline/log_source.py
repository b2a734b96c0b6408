"""A log of directories, read with suspicion: it may be damaged, hostile, or still written to.

Everything is opened relative to its directory's descriptor, without following links, so that what
was looked at is what is read. Whatever is wrong is an ImportRefused that names entry and file.
"""

import hashlib
import itertools
import os
import stat
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from partition_replica.core import seed_layout
from partition_replica.core.seed_layout import MANIFEST, RAFT, base36, entry_name, place
from partition_replica.errors import ImportRefused
from partition_replica.ids import LSN

CHUNK_BYTES = 1024 * 1024

DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

Identity = tuple[int, ...]
"""What of a file changes when it is written to or replaced."""


@contextmanager
def refused_on_failure(what: str) -> Iterator[None]:
    """A source that can't be read is refused: nothing was written yet, or it is taken back."""
    try:
        yield
    except OSError as error:
        raise ImportRefused(
            f"{what} cannot be read ({error.strerror or error}): see that it is there, readable, "
            "and on a disk without errors"
        ) from error


def changed(what: str) -> ImportRefused:
    return ImportRefused(
        f"{what} changed while it was imported; a log is imported at rest: stop what writes to it, "
        "then import again"
    )


@dataclass(frozen=True, slots=True)
class SourcePayload:
    """A payload's file: size in bytes, permission bits, whether it has others, too."""

    size: int
    mode: int
    special_bits: bool
    identity: Identity


@dataclass(frozen=True, slots=True)
class SourceEntry:
    """An entry's directory, read but for its payloads' content. It is open: `payload` reads on.

    raft: None without the file. other_modes: files and directories that have other permissions
    than the layout's, payloads aside.
    """

    lsn: LSN
    manifest: bytes
    raft: bytes | None
    payloads: list[SourcePayload]
    other_modes: int
    descriptor: int

    def fingerprint(self) -> int:
        """64 bits that tell this entry from a changed one."""
        digest = hashlib.blake2b(self.manifest, digest_size=8)
        digest.update(repr((self.raft, [payload.identity for payload in self.payloads])).encode())
        return int.from_bytes(digest.digest())

    def payload(self, number: int) -> Iterator[bytes]:
        """The content of payload `number`, from 1, in chunks."""
        name = base36(number)
        expected = self.payloads[number - 1]
        what = place(self.lsn, name)
        with refused_on_failure(what):
            descriptor, found = open_at(self.descriptor, name, what)
            try:
                left = expected.size
                while left and (chunk := os.read(descriptor, min(CHUNK_BYTES, left))):
                    left -= len(chunk)
                    yield chunk
                after = os.fstat(descriptor)
            finally:
                os.close(descriptor)
        if (
            left
            or identity_of(found) != expected.identity
            or identity_of(after) != expected.identity
        ):
            raise changed(what)


class SourceLog:
    """An open log directory. `first` and `last` are the entries' LSNs; there is no hole. One
    without an entry has 1 and 0, until `begin_behind` says where it was pruned to."""

    def __init__(self, path: Path) -> None:
        """Raises ImportRefused for names that are no entries', and for a hole."""
        self.what = f"the log's directory {path}"
        with refused_on_failure(self.what):
            self._descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self.first, self.last = self._listed = self._list()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return self.last - self.first + 1

    def close(self) -> None:
        os.close(self._descriptor)

    def begin_behind(self, last: LSN) -> None:
        """A log without an entry ends at `last`: everything up to there was pruned."""
        self.first, self.last = LSN(last + 1), last

    def lsns(self) -> Iterator[LSN]:
        return map(LSN, range(self.first, self.last + 1))

    def check_unchanged(self) -> None:
        """Raises ImportRefused where entries came or went."""
        if self._list() != self._listed:
            raise changed(self.what)

    @contextmanager
    def entry(self, lsn: LSN) -> Iterator[SourceEntry]:
        """Opens an entry and reads all but its payloads' content."""
        what = place(lsn)
        with refused_on_failure(what):
            name = entry_name(lsn)
            mode = os.stat(name, dir_fd=self._descriptor, follow_symlinks=False).st_mode
            if not stat.S_ISDIR(mode):
                raise ImportRefused(f"{what} is {kind_of(mode)}; an entry is a directory")
            descriptor = os.open(name, DIRECTORY_FLAGS, dir_fd=self._descriptor)
        try:
            yield _read_entry(lsn, descriptor)
        finally:
            os.close(descriptor)

    def _list(self) -> tuple[LSN, LSN]:
        found = array("Q")
        with refused_on_failure(self.what), os.scandir(self._descriptor) as names:
            for name in names:
                found.append(seed_layout.parse_entry_name(name.name))
        if not found:
            return LSN(1), LSN(0)
        first, last = min(found), max(found)
        if len(found) != last - first + 1:
            pairs = zip(itertools.count(first), sorted(found), strict=False)
            missing = next(expected for expected, lsn in pairs if expected != lsn)
            raise ImportRefused(
                f"{place(LSN(missing))} is missing, and the log goes on to {last}; a log has no "
                "hole: restore the directory from another copy of the log"
            )
        return LSN(first), LSN(last)


def _read_entry(lsn: LSN, descriptor: int) -> SourceEntry:
    with refused_on_failure(place(lsn)):
        names = _names(lsn, descriptor)
        other_modes = int(_permissions(os.fstat(descriptor)) != seed_layout.DIRECTORY_MODE)
    with_raft, count = seed_layout.check_names(lsn, names)
    manifest, other = _read_file(lsn, descriptor, MANIFEST)
    other_modes += other
    raft = None
    if with_raft:
        raft, other = _read_file(lsn, descriptor, RAFT)
        other_modes += other
    payloads = [_look_at(lsn, descriptor, base36(number)) for number in range(1, count + 1)]
    return SourceEntry(lsn, manifest, raft, payloads, other_modes, descriptor)


def _names(lsn: LSN, descriptor: int) -> list[str]:
    most = seed_layout.PAYLOADS_MAX + 2
    names: list[str] = []
    with os.scandir(descriptor) as found:
        for name in found:
            names.append(name.name)
            if len(names) > most:
                raise ImportRefused(
                    f"{place(lsn)} holds more than {most} files; allowed are {MANIFEST}, {RAFT} "
                    f"and {most - 2} payloads: such an entry can't be imported"
                )
    return names


def _read_file(lsn: LSN, directory: int, name: str) -> tuple[bytes, bool]:
    """(content, whether its permissions are others than the layout's)."""
    what = place(lsn, name)
    with refused_on_failure(what):
        descriptor, found = open_at(directory, name, what)
        try:
            seed_layout.check_file_size(lsn, name, found.st_size)
            content = b""
            while chunk := os.read(descriptor, found.st_size + 1 - len(content)):
                content += chunk
        finally:
            os.close(descriptor)
    if len(content) != found.st_size:
        raise changed(what)
    return content, _permissions(found) != seed_layout.FILE_MODE


def _look_at(lsn: LSN, directory: int, name: str) -> SourcePayload:
    what = place(lsn, name)
    with refused_on_failure(what):
        descriptor, found = open_at(directory, name, what)
        os.close(descriptor)
    seed_layout.check_file_size(lsn, name, found.st_size)
    permissions = _permissions(found)
    return SourcePayload(
        found.st_size, permissions & 0o777, permissions > 0o777, identity_of(found)
    )


def open_at(directory: int, name: str | bytes, what: str) -> tuple[int, os.stat_result]:
    # Looked at first: opening a device may do something, opening a pipe may wait.
    mode = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
    if stat.S_ISREG(mode):
        descriptor = os.open(name, _FILE, dir_fd=directory)
        found = os.fstat(descriptor)
        if stat.S_ISREG(found.st_mode):
            return descriptor, found
        os.close(descriptor)
        mode = found.st_mode
    raise ImportRefused(f"{what} is {kind_of(mode)}; only regular files are imported")


def open_regular(path: Path, what: str) -> tuple[int, os.stat_result]:
    """Opens a regular file beside the log, not a link: (descriptor, stat). Raises ImportRefused."""
    with refused_on_failure(what):
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return open_at(directory, path.name, what)
        finally:
            os.close(directory)


def read_regular(path: Path, what: str, bytes_max: int) -> bytes:
    """A small file beside the log. Raises ImportRefused."""
    descriptor, found = open_regular(path, what)
    with open(descriptor, "rb") as file:
        if found.st_size > bytes_max:
            raise ImportRefused(
                f"{what} has {found.st_size} bytes; allowed are {bytes_max}: it is another file"
            )
        with refused_on_failure(what):
            return file.read()


def _permissions(found: os.stat_result) -> int:
    return stat.S_IMODE(found.st_mode)


def identity_of(found: os.stat_result) -> Identity:
    return (
        found.st_dev,
        found.st_ino,
        found.st_mode,
        found.st_size,
        found.st_mtime_ns,
        found.st_ctime_ns,
    )


def kind_of(mode: int) -> str:
    kinds = {
        stat.S_IFLNK: "a symbolic link",
        stat.S_IFDIR: "a directory",
        stat.S_IFIFO: "a pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFREG: "a file",
    }
    return kinds.get(stat.S_IFMT(mode), "a device")
