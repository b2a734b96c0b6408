"""Packs the plugin of kubectl as one file of Python, and fills in its manifest for krew.

python -m dev.plugin_archive FOLDER   writes kubectl-partition, kubectl-partition.tar.gz and
                                      partition.yaml into FOLDER

It needs only Python's standard library, as the plugin does. The same sources give the same bytes.
"""

import argparse
import gzip
import hashlib
import io
import re
import stat
import tarfile
import zipfile
from pathlib import Path

from dev.cluster.layout import ROOT

PACKAGE = ROOT / "client" / "partition_kubectl"
TEMPLATE = ROOT / "manifests" / "krew" / "partition.yaml"
PROGRAM = "kubectl-partition"
EXECUTABLE = 0o755
EARLIEST = (1980, 1, 1, 0, 0, 0)
"""The time of every file: a zip archive knows no earlier one."""

MAIN = """\
import sys

if sys.version_info < (3, 11):
    sys.exit("kubectl partition needs Python 3.11 or newer; this is %d.%d" % sys.version_info[:2])

from partition_kubectl.__main__ import main

main()
"""
"""Old Pythons must be able to read it."""


def program() -> bytes:
    """Returns the plugin as an executable zip archive."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        files = {f"partition_kubectl/{p.name}": p.read_text() for p in PACKAGE.glob("*.py")}
        for name, text in sorted({"__main__.py": MAIN, **files}.items()):
            entry = zipfile.ZipInfo(name, EARLIEST)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(entry, text)
    return b"#!/usr/bin/env python3\n" + content.getvalue()


def tarball(found: bytes) -> bytes:
    """Returns the archive that krew unpacks: the program and the licence."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name, data, mode in (
            (PROGRAM, found, EXECUTABLE),
            ("LICENSE", (ROOT / "LICENSE").read_bytes(), 0o644),
        ):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), mode
            archive.addfile(entry, io.BytesIO(data))
    return gzip.compress(content.getvalue(), mtime=0)


def version() -> str:
    text = (PACKAGE / "__init__.py").read_text()
    return str(re.findall(r'^__version__ = "(.+)"$', text, re.MULTILINE)[0])


def manifest(packed: bytes) -> str:
    """Returns the manifest for krew of this archive."""
    digest = hashlib.sha256(packed).hexdigest()
    _, _, template = TEMPLATE.read_text().partition("\n")
    return template.replace("VERSION", version()).replace("SHA256", digest)


def write(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    found = program()
    packed = tarball(found)
    (folder / PROGRAM).write_bytes(found)
    (folder / PROGRAM).chmod(EXECUTABLE)
    (folder / f"{PROGRAM}.tar.gz").write_bytes(packed)
    (folder / "partition.yaml").write_text(manifest(packed))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dev.plugin_archive", description=__doc__)
    parser.add_argument("folder", type=Path)
    write(parser.parse_args().folder)


if __name__ == "__main__":
    main()
