"""The disks: real files and real LMDB, of which a crash keeps what a disk may keep.

Each volume has a `Recorder` (tests/support/power_loss.py has the rules), whose operations are
played into a model of the disk as they happen. A crash is one of two: the process alone ends, and
every write is kept; or the power fails, and what was not synced is kept, lost, or torn. Either way
the next start finds another directory, with what was kept; the old one is the dead process's
alone.
"""

import os
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from partition_replica.storage import environment, files, state
from partition_replica.storage.log import reading
from partition_snapshots.files import FileSystem

from tests.support.power_loss import LOCKS, Model, Operation, Recorder, Tree, materialise

COMMITS_KEPT = 12
"""Commits of a state that a power failure may fall back to, of those since its last sync."""


class DiskImage(Model):
    """The model, fed as things happen."""

    def __init__(self) -> None:
        super().__init__([])

    def play(self, operation: Operation) -> None:
        self._play(operation)
        if operation.kind == "commit_unsynced":
            contents = self._files[operation.node].contents
            del contents[1 : max(1, len(contents) - COMMITS_KEPT)]

    def survivor(self, rng: random.Random) -> Tree:
        """One of the states that may be left: nothing that is unsynced, or each thing by chance."""
        nothing = rng.random() < 0.4
        names = {
            (node, name): values[0] if nothing else rng.choice(values)
            for node, directory in self._directories.items()
            for name, values in directory.names.items()
        }
        content: dict[int, bytes] = {}
        for node, file in self._files.items():
            candidates = file.candidates(rng, 1 if nothing else 4)
            content[node] = file.contents[0] if nothing else rng.choice(candidates)
        return self._tree(names, content)


class VolumeDisk(Recorder):
    """One volume's disk, in one directory. `before` is asked before each operation."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.image = DiskImage()
        self.removed: Callable[[Path], None] = lambda _: None
        """Called for each file that is removed from `blobs/`, before it is."""

    def adopt_tree(self) -> None:
        """Everything that is there is durable: a disk as a process finds it at its start."""
        for path in sorted(self.root.rglob("*")):
            if path.name in LOCKS:
                continue
            self._see(path)
            if path.is_file():
                self._note("commit", path, data=path.read_bytes())
        for path in (self.root, *(p for p in self.root.rglob("*") if p.is_dir())):
            self._note("sync_directory", path)

    def sync(self, descriptor: int) -> None:
        # As the file is now: not everybody writes by `Disk.write`.
        path = self._of_descriptor(descriptor)
        self._see(path)
        self.before()
        os.fsync(descriptor)
        self._note("commit", path, data=path.read_bytes())

    def remove(self, path: Path) -> None:
        if path.exists() and path.parent.parent.name == "blobs":
            self.removed(path)
        super().remove(path)

    def keep_all(self, target: Path) -> None:
        """The process ended, the power did not."""
        shutil.copytree(self.root, target, ignore=lambda _, names: set(names) & set(LOCKS))

    def lose_power(self, target: Path, rng: random.Random) -> None:
        materialise(self.image.survivor(rng), target)

    def _note(self, kind: str, path: Path, **more: Any) -> None:
        super()._note(kind, path, **more)
        for operation in self.operations:
            self.image.play(operation)
        self.operations.clear()


class Disks(files.Disk):
    """All volumes' disks, below one directory; each call goes to the one that its path names."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._volumes: dict[str, VolumeDisk] = {}
        self._inside = False

    def add(self, name: str) -> VolumeDisk:
        """A disk whose directory may exist already."""
        root = self._base / name
        root.mkdir(exist_ok=True)
        disk = self._volumes[name] = VolumeDisk(root)
        disk.adopt_tree()
        return disk

    def path(self, name: str) -> Path:
        """Where a disk of that name is, or will be."""
        return self._base / name

    def drop(self, name: str) -> None:
        disk = self._volumes.pop(name, None)
        if disk is None:
            return
        disk.close()
        _real_rmtree(disk.root, ignore_errors=True)

    def close(self) -> None:
        """Gives back the address space, of which each open environment takes a part."""
        for name in list(self._volumes):
            self.drop(name)

    def attach(self, patch: pytest.MonkeyPatch) -> None:
        """Puts them between the product and the operating system. `storage.volume` and the runtime
        call some of `os` and `shutil` themselves, so those are replaced whoever calls them."""
        patch.setattr(files, "disk", self)
        for module in (reading, state):
            patch.setattr(module, "open_environment", self.open_environment)
        patch.setattr(os, "replace", self.replace)
        patch.setattr(shutil, "rmtree", self.remove_tree)

    def _of(self, path: Path | str) -> Any:
        try:
            name = Path(path).relative_to(self._base).parts[0]
        except (ValueError, IndexError):
            return _ELSEWHERE
        return self._volumes.get(name, _ELSEWHERE)

    def create(self, path: Path) -> Any:
        return self._of(path).create(path)

    def write(self, file: Any, data: memoryview) -> int:
        return int(self._of(file.name).write(file, data))

    def fill(self, descriptor: int, start: int, end: int) -> None:
        self._of(os.readlink(f"/proc/self/fd/{descriptor}")).fill(descriptor, start, end)

    def write_durably(self, descriptor: int, parts: Sequence[bytes], offset: int) -> int:
        disk = self._of(os.readlink(f"/proc/self/fd/{descriptor}"))
        return int(disk.write_durably(descriptor, parts, offset))

    def sync(self, descriptor: int) -> None:
        self._of(os.readlink(f"/proc/self/fd/{descriptor}")).sync(descriptor)

    def sync_directory(self, path: Path) -> None:
        self._of(path).sync_directory(path)

    def sync_file_system(self, file_system: FileSystem) -> None:
        self._of(file_system.directory).sync_file_system(file_system)

    def make_directory(self, path: Path) -> None:
        self._of(path).make_directory(path)

    def replace(self, source: Any, target: Any) -> None:
        if self._inside:  # the recorder's own call
            _real_replace(source, target)
            return
        self._inside = True
        try:
            self._of(source).replace(Path(source), Path(target))
        finally:
            self._inside = False

    def remove(self, path: Path) -> None:
        self._of(path).remove(path)

    def remove_tree(self, path: Any, ignore_errors: bool = False, **options: Any) -> None:
        disk = self._of(path)
        if disk is _ELSEWHERE:
            _real_rmtree(path, ignore_errors, **options)
        elif not ignore_errors or Path(path).exists():
            disk.remove_tree(Path(path))

    def open_environment(self, path: Path, *, metasync: bool, tables: int) -> Any:
        return self._of(path).open_environment(path, metasync=metasync, tables=tables)


_real_replace = os.replace
_real_rmtree = shutil.rmtree

_ELSEWHERE = SimpleNamespace(
    create=files.Disk().create,
    write=files.Disk().write,
    fill=files.Disk().fill,
    write_durably=files.Disk().write_durably,
    sync=files.Disk().sync,
    sync_directory=files.Disk().sync_directory,
    sync_file_system=files.Disk().sync_file_system,
    make_directory=files.Disk().make_directory,
    replace=_real_replace,
    remove=files.Disk().remove,
    open_environment=environment.open_environment,
)
