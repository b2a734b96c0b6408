"""Reads an untrusted log of directories: it may be damaged, hostile, or still written to.

Every problem raises an ImportRefused that names entry and file.
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

from partition_replica.core.limits import MODE_MAX
from partition_replica.errors import ImportRefused
from partition_replica.ids import LSN
from partition_replica.offline.seed import layout
from partition_replica.offline.seed.layout import MANIFEST, RAFT, base36, entry_name, place
from partition_replica.offline.seed.source_files import (
    DIRECTORY_FLAGS,
    Identity,
    changed,
    identity_of,
    kind_of,
    open_at,
    read_unchanged,
    refused_on_failure,
)


@dataclass(frozen=True, slots=True)
class SourcePayload:
    """A payload's file. size: bytes; mode: permission bits; special_bits: whether it has other mode
    bits."""

    size: int
    mode: int
    special_bits: bool
    identity: Identity


@dataclass(frozen=True, slots=True)
class SourceEntry:
    """An entry's open directory, with all files except the payloads' content, which `payload`
    reads.

    raft: None without the file. other_modes: the number of files and directories, except payloads,
    whose permissions differ from the layout's.
    """

    lsn: LSN
    manifest: bytes
    raft: bytes | None
    payloads: list[SourcePayload]
    other_modes: int
    descriptor: int

    def fingerprint(self) -> int:
        """64 bits that differ if the entry has changed."""
        digest = hashlib.blake2b(self.manifest, digest_size=8)
        digest.update(repr((self.raft, [payload.identity for payload in self.payloads])).encode())
        return int.from_bytes(digest.digest())

    def payload(self, number: int) -> Iterator[bytes]:
        """The content of payload `number`, from 1, in chunks."""
        name = base36(number)
        expected = self.payloads[number - 1]
        what = place(self.lsn, name)
        return read_unchanged(self.descriptor, name, what, expected.size, expected.identity)


class SourceLog:
    """An open log of directories. It has the entries `first` to `last`, without a gap. Without an
    entry, these are 1 and 0 until `begin_behind` sets them."""

    def __init__(self, path: Path) -> None:
        """Raises ImportRefused for unknown names, and for a gap."""
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
        """For a log without an entry: sets `last`, the last LSN that was pruned."""
        self.first, self.last = LSN(last + 1), last

    def lsns(self) -> Iterator[LSN]:
        return map(LSN, range(self.first, self.last + 1))

    def check_unchanged(self) -> None:
        """Raises ImportRefused if entries were added or deleted since the log was opened."""
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
                raise ImportRefused(
                    f"{what} is {kind_of(mode)}; an entry must be a directory: restore it from "
                    "another copy of the log"
                )
            descriptor = os.open(name, DIRECTORY_FLAGS, dir_fd=self._descriptor)
        try:
            yield _read_entry(lsn, descriptor)
        finally:
            os.close(descriptor)

    def _list(self) -> tuple[LSN, LSN]:
        found = array("Q")
        with refused_on_failure(self.what), os.scandir(self._descriptor) as names:
            for name in names:
                found.append(layout.parse_entry_name(name.name))
        if not found:
            return LSN(1), LSN(0)
        first, last = min(found), max(found)
        if len(found) != last - first + 1:
            pairs = zip(itertools.count(first), sorted(found), strict=False)
            missing = next(expected for expected, lsn in pairs if expected != lsn)
            raise ImportRefused(
                f"{place(LSN(missing))} is missing, and the log ends at {last}; a log must not "
                "have gaps: restore the directory from another copy of the log"
            )
        return LSN(first), LSN(last)


def _read_entry(lsn: LSN, descriptor: int) -> SourceEntry:
    with refused_on_failure(place(lsn)):
        names = _names(lsn, descriptor)
        other_modes = int(_permissions(os.fstat(descriptor)) != layout.DIRECTORY_MODE)
    with_raft, count = layout.check_names(lsn, names)
    manifest, other = _read_file(lsn, descriptor, MANIFEST)
    other_modes += other
    raft = None
    if with_raft:
        raft, other = _read_file(lsn, descriptor, RAFT)
        other_modes += other
    payloads = [_look_at(lsn, descriptor, base36(number)) for number in range(1, count + 1)]
    return SourceEntry(lsn, manifest, raft, payloads, other_modes, descriptor)


def _names(lsn: LSN, descriptor: int) -> list[str]:
    most = layout.PAYLOADS_MAX + 2
    names: list[str] = []
    with os.scandir(descriptor) as found:
        for name in found:
            names.append(name.name)
            if len(names) > most:
                raise ImportRefused(
                    f"{place(lsn)} has more than {most} files; allowed are {MANIFEST}, {RAFT} and "
                    f"{most - 2} payloads: this entry cannot be imported"
                )
    return names


def _read_file(lsn: LSN, directory: int, name: str) -> tuple[bytes, bool]:
    """Returns (content, whether the permissions differ from the layout's)."""
    what = place(lsn, name)
    with refused_on_failure(what):
        descriptor, found = open_at(directory, name, what)
        try:
            layout.check_file_size(lsn, name, found.st_size)
            content = b""
            while chunk := os.read(descriptor, found.st_size + 1 - len(content)):
                content += chunk
        finally:
            os.close(descriptor)
    if len(content) != found.st_size:
        raise changed(what)
    return content, _permissions(found) != layout.FILE_MODE


def _look_at(lsn: LSN, directory: int, name: str) -> SourcePayload:
    what = place(lsn, name)
    with refused_on_failure(what):
        descriptor, found = open_at(directory, name, what)
        os.close(descriptor)
    layout.check_file_size(lsn, name, found.st_size)
    permissions = _permissions(found)
    return SourcePayload(
        found.st_size, permissions & MODE_MAX, permissions > MODE_MAX, identity_of(found)
    )


def _permissions(found: os.stat_result) -> int:
    return stat.S_IMODE(found.st_mode)
