"""A volume and a store of snapshots, packed small: what tests/fixtures keeps of earlier formats.

    python -m tests.support.format_fixtures DIRECTORY PREFIX

writes DIRECTORY/PREFIX_volume.tar.xz and DIRECTORY/PREFIX_snapshots.tar.xz in the format of the
code that runs it. tests/fixtures/README.md says which commit made which file.
"""

import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

from partition_proto.v1 import types_pb2 as types

from tests.support.proposals import body, copy, link, mkdir, opening, payload, proposal, set_key
from tests.support.seed_logs import open_volume
from tests.support.stored import Stored, append, make_volume

BLOB = b"0123456789abcdef" * 4400
"""The content of a file that is a blob."""

BORDER = 480
"""The longest key and path of format 1."""

KEYS = {
    b"a": b"1",
    b"k\xff": b"v",
    b"k" * BORDER: b"border",
    b"k" * (BORDER - 1) + b"\0": b"zero",
    b"later": b"second snapshot",
}
"""What the volume and its newest snapshot hold."""

DEEP = b"d/" + b"p" * (BORDER - 2)
"""A path of the most bytes, in one component longer than a file system allows."""

PATHS: dict[bytes, bytes | None] = {
    b"d": None,
    b"d/small": b"sha",
    b"d/again": BLOB,
    b"blob": BLOB,
    DEEP: b"sha",
}
"""Paths with their bytes; None for a directory."""

TERM = 3


def bodies() -> list[types.EntryBody]:
    """Entries 2 to 5; the first opens the session."""
    keys = [set_key(key, value) for key, value in KEYS.items() if key != b"later"]
    small, large = payload(b"sha", 0o600), payload(BLOB, 0o755)
    files = [mkdir(b"d", 0o711), link(b"d/small", 1), link(b"blob", 2), link(DEEP, 1)]
    return [
        opening(time_ms=5000),
        body(proposal(2, 1, keys)),
        body(proposal(2, 2, files, [small, large]), 6000),
        body(proposal(2, 3, [copy(b"blob", b"d/again")]), 7000),
    ]


LAST = body(proposal(2, 4, [set_key(b"later", KEYS[b"later"])]), 8000)
"""Entry 6, between the two snapshots."""


def make(root: Path) -> tuple[Path, Path]:
    """(a stopped replica's volume at LSN 6, a store with snapshots s1 at 5 and s2 at 6)."""
    stored = Stored(root)
    data = make_volume(root / "volume", found=[])
    _append(data, bodies())
    stored.publish(data, "s1")
    _append(data, [LAST])
    stored.publish(data, "s2")
    return data, stored.store


def _append(data: Path, found: list[types.EntryBody]) -> None:
    volume = open_volume(data)
    append(volume, found, TERM, blobs=[BLOB])
    volume.close()


def pack(source: Path, target: Path) -> None:
    """One .tar.xz of a directory, the same for the same files."""

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        member.mtime = 0
        return member

    with tarfile.open(target, "w:xz", preset=9) as archive:
        archive.add(source, source.name, filter=plain)


def unpack(source: Path, target: Path) -> Path:
    """The directory that was packed, below `target`."""
    with tarfile.open(source) as archive:
        archive.extractall(target, filter="data")
        return target / archive.getnames()[0]


def main(directory: Path, prefix: str) -> None:
    root = Path(tempfile.mkdtemp())
    try:
        volume, store = make(root)
        pack(volume, directory / f"{prefix}_volume.tar.xz")
        pack(store, directory / f"{prefix}_snapshots.tar.xz")
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
