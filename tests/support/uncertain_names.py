"""A directory whose names are uncertain until it is synced, and the remains of a power failure."""

import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest


class Disk:
    """Follows the names of a store, and keeps what the worst power failure would leave at each
    moment at which there is a manifest."""

    def __init__(self, store: Path, left: Path, patch: pytest.MonkeyPatch) -> None:
        self._store = store
        self._left = left
        self._lock = threading.RLock()
        self._uncertain: dict[Path, set[str]] = {}
        self._removed: dict[Path, bytes] = {}
        self._seen: set[frozenset[Path]] = set()
        self._copying = False
        self.moments: list[Path] = []
        self._mkdir, self._link, self._rename = os.mkdir, os.link, os.rename
        self._unlink, self._fsync = os.unlink, os.fsync
        for name in ("mkdir", "link", "rename", "unlink", "fsync"):
            patch.setattr(os, name, getattr(self, name))

    # --- as os --------------------------------------------------------------------------------

    def mkdir(self, name: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        self._mkdir(name, mode, dir_fd=dir_fd)
        self._named(name, dir_fd)

    def link(self, source: Any, name: Any, *, dst_dir_fd: int | None = None, **more: Any) -> None:
        self._link(source, name, dst_dir_fd=dst_dir_fd, **more)
        self._named(name, dst_dir_fd)

    def rename(self, source: Any, name: Any, *, dst_dir_fd: int | None = None, **more: Any) -> None:
        self._rename(source, name, dst_dir_fd=dst_dir_fd, **more)
        self._named(name, dst_dir_fd)

    def unlink(self, name: Any, *, dir_fd: int | None = None) -> None:
        path = self._path(name, dir_fd)
        if path.parent == self._store / "snapshots":
            with self._lock:
                self._removed[path] = path.read_bytes()
        self._unlink(name, dir_fd=dir_fd)
        self._moment()

    def fsync(self, descriptor: int) -> None:
        self._fsync(descriptor)
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        with self._lock:
            self._uncertain.pop(path, None)
            for removed in [r for r in self._removed if r.parent == path]:
                del self._removed[removed]

    # --- what is left -------------------------------------------------------------------------

    @staticmethod
    def _path(name: Any, directory: int | None) -> Path:
        if directory is None:
            return Path(name)
        return Path(os.readlink(f"/proc/self/fd/{directory}")) / name

    def _named(self, name: Any, directory: int | None) -> None:
        path = self._path(name, directory)
        with self._lock:
            self._removed.pop(path, None)
            if path.is_relative_to(self._store):
                self._uncertain.setdefault(path.parent, set()).add(path.name)
        self._moment()

    def _moment(self) -> None:
        with self._lock:
            if self._copying:
                return  # a call of the copy itself
            manifests = self._store / "snapshots"
            listed = manifests.is_dir() and any(manifests.iterdir())
            if not listed and not self._removed:
                return
            gone = [
                directory / name
                for directory, names in self._uncertain.items()
                for name in names
                if directory != manifests and directory.is_relative_to(self._store / "objects")
            ]
            kept = {p for p in self._store.rglob("*") if p.is_file()} - set(gone)
            state = frozenset(kept | set(self._removed))
            if state in self._seen:
                return
            self._seen.add(state)
            self._copying = True
            try:
                target = self._keep(gone)
            finally:
                self._copying = False
            self.moments.append(target)

    def _keep(self, gone: list[Path]) -> Path:
        """Copies the store as it would be left, without the names in `gone`."""
        target = self._left / str(len(self.moments))
        shutil.copytree(self._store, target)
        for path in gone:
            found = target / path.relative_to(self._store)
            if found.is_dir():
                shutil.rmtree(found)
            else:
                found.unlink(missing_ok=True)
        for path, content in self._removed.items():
            (target / path.relative_to(self._store)).write_bytes(content)
        return target
