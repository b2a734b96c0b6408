"""What the log store is compared with: a directory an entry, and a file written sequentially.

A directory an entry is the layout that import and export know: the entry's MANIFEST and RAFT are
staged in a directory of their own, which is renamed into the log under its LSN. The hard state
costs these writers nothing: its commit index is taken to lie in RAFT.
"""

import ctypes
import fcntl
import os
import struct
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
NAME_DIGITS = 13
CHUNK_BYTES = 1024 * 1024
FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_TOPDIR_FL = 0x80086601, 0x40086602, 0x20000

_libc = ctypes.CDLL(None, use_errno=True)


def directory_name(lsn: int) -> str:
    """The LSN in base 36, of fixed width."""
    name = ""
    for _ in range(NAME_DIGITS):
        lsn, digit = divmod(lsn, 36)
        name = DIGITS[digit] + name
    return name


def raft_file(lsn: int, term: int, commit: int) -> bytes:
    """A raftpb.Entry without data: type, term, index; behind it, as field 5, the commit index."""
    return b"\x08\x00\x10%b\x18%b\x28%b" % (_varint(term), _varint(lsn), _varint(commit))


def spread_directories(path: Path) -> None:
    """chattr +T: ext4 places each directory made below in a group of its own choice, away from
    inodes that were deleted a moment ago. Does nothing where the file system has no such flag."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    with suppress(OSError):
        found = fcntl.ioctl(descriptor, FS_IOC_GETFLAGS, struct.pack("l", 0))
        flags = struct.unpack("l", found)[0] | FS_TOPDIR_FL
        fcntl.ioctl(descriptor, FS_IOC_SETFLAGS, struct.pack("l", flags))
    os.close(descriptor)


def write_sequentially(path: Path, content: bytes) -> None:
    """What `dd` does with conv=fdatasync: the content in chunks, then one fdatasync."""
    view = memoryview(content)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    for start in range(0, len(view), CHUNK_BYTES):
        chunk = view[start : start + CHUNK_BYTES]
        while chunk:
            chunk = chunk[os.write(descriptor, chunk) :]
    os.fdatasync(descriptor)
    os.close(descriptor)


class DirectoryWriter:
    """Appends entries, each a directory. `last` is the last entry's LSN.

    With one_sync_a_batch, all that a batch staged is made durable by one syncfs before its
    directories are renamed; otherwise by an fsync of each file and each directory. Either way the
    renames of a batch are made durable by one fsync of the log's directory.
    """

    def __init__(self, root: Path, *, one_sync_a_batch: bool) -> None:
        self._one_sync_a_batch = one_sync_a_batch
        self._log, self._staging = str(root / "log"), str(root / "staging")
        for path in (root, root / "log", root / "staging"):
            path.mkdir(mode=0o700)
        self._log_descriptor = os.open(self._log, os.O_RDONLY | os.O_DIRECTORY)
        self.last = 0

    def commit(self, entries: Sequence[tuple[bytes, bytes]]) -> None:
        """(MANIFEST, RAFT) of each entry; durable on return."""
        names = [directory_name(self.last + 1 + number) for number in range(len(entries))]
        for name, (manifest, raft) in zip(names, entries, strict=True):
            self._stage(f"{self._staging}/{name}", manifest, raft)
        if self._one_sync_a_batch:
            self._sync_file_system()
        for name in names:
            os.rename(f"{self._staging}/{name}", f"{self._log}/{name}")
        os.fsync(self._log_descriptor)
        self.last += len(entries)

    def close(self) -> None:
        os.close(self._log_descriptor)

    def _stage(self, directory: str, manifest: bytes, raft: bytes) -> None:
        os.mkdir(directory, 0o700)
        self._write(f"{directory}/MANIFEST", manifest)
        self._write(f"{directory}/RAFT", raft)
        if not self._one_sync_a_batch:
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            os.fsync(descriptor)
            os.close(descriptor)

    def _write(self, path: str, content: bytes) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(descriptor, content)
        if not self._one_sync_a_batch:
            os.fsync(descriptor)
        os.close(descriptor)

    def _sync_file_system(self) -> None:
        if _libc.syncfs(self._log_descriptor):
            raise OSError(ctypes.get_errno(), "syncfs")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
