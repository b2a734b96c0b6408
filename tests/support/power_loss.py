"""What a disk may have kept of a volume when the power failed.

`Recorder` notes every call that changes the volume's disk, in order: those of `storage.files.Disk`,
the moves of `storage.generations`, and the commits of LMDB. `Model` plays a beginning of that
record and yields states that a disk could have kept:

- The content of a file is certain from its last fsync on. What was written since may be there or
  not, page by page and in any order; the file may end at any length that it went through, or inside
  a page; a page that is missing inside of it is zeros.
- A name (create, rename, unlink, mkdir, rmdir) is certain from the fsync of its directory on. Until
  then each name of a directory has, independently of all others, any of the values that it went
  through; so a rename that is not synced may leave both names, either, or none.
- A sync of the file system makes certain all that was done before it: contents and names.
- LMDB is trusted for its own file: its pages are written before, and synced before, the meta page
  that makes them a commit. A commit of the log is durable when it returns. The state is opened with
  MDB_NOMETASYNC ("a system crash may undo the last committed transaction", lmdb.h): the model is
  harsher, and lets it fall back to any commit since the last `mdb_env_sync`.

Harsher than file systems are: ext4 and XFS keep the order of names, and commit many at once.
"""

import itertools
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from partition_replica.storage import environment, files, generations, state, volume
from partition_replica.storage.log import reading
from partition_snapshots.files import FileSystem

PAGE = 4096

LOCKS = ("lock", "lock.mdb")
"""Files whose content and durability nobody relies on."""

# --- the record -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Operation:
    """One change. `path` is relative to the volume; `node` names a file or directory for good,
    whatever it is renamed to; `data`: what was written, or a copy of an LMDB file."""

    kind: str
    path: str = ""
    node: int = 0
    directory: int = 0
    data: bytes = b""
    target: str = ""
    target_directory: int = 0
    offset: int = 0

    def __str__(self) -> str:
        more = f" -> {self.target}" if self.target else ""
        return f"{self.kind} {self.path}{more}" + (f" ({len(self.data)})" if self.data else "")


class Recorder(files.Disk):
    """Does what `Disk` does below `root`, and notes it.

    `omit`: operations to leave out of the record, as a pattern of kind and path, like
    "sync_directory blobs/.*" (of a file system, which has no path, its number: "sync_file_system
    1"): to show that a checker misses them.
    """

    def __init__(self, root: Path, omit: str = "") -> None:
        self.root = root
        self._omit = re.compile(omit or "$.")
        self.operations: list[Operation] = []
        self.before: Callable[[], None] = lambda: None
        """Called before each operation."""
        self._nodes: dict[str, int] = {"": 0}
        self._serial = itertools.count(1)
        self._file_system_syncs = 0
        self._environments: list[Any] = []

    def attach(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Puts it between the storage and the disk. These modules call the operating
        system themselves: what they use of `os` and `shutil` is replaced, anything else fails."""
        monkeypatch.setattr(files, "disk", self)
        for module in (reading, state):
            monkeypatch.setattr(module, "open_environment", self.open_environment)
        names = SimpleNamespace(replace=self.replace)
        trees = SimpleNamespace(rmtree=self._rmtree)
        monkeypatch.setattr(generations, "os", names)
        for module in (generations, volume):
            monkeypatch.setattr(module, "shutil", trees)

    def close(self) -> None:
        """Closes what a killed process left open."""
        for opened in self._environments:
            opened.close()
        self._environments.clear()

    # --- storage.files.Disk ---

    def create(self, path: Path) -> Any:
        self.before()
        file = super().create(path)
        self._note_new("create", path)
        return file

    def write(self, file: Any, data: memoryview) -> int:
        self.before()
        count = super().write(file, data)
        path = self._of_descriptor(file.fileno())
        self._note("write", path, data=bytes(data[:count]))
        return count

    def fill_from(self, file: Any, move: Callable[[int], None]) -> None:
        """What native code writes: one write, as far as it came."""
        self.before()
        descriptor = file.fileno()
        start = os.lseek(descriptor, 0, os.SEEK_CUR)
        path = self._of_descriptor(descriptor)
        try:
            super().fill_from(file, move)
        finally:
            content = path.read_bytes()[start:]
            if content:
                self._note("write", path, data=content)

    def fill(self, descriptor: int, start: int, end: int) -> None:
        path = self._of_descriptor(descriptor)
        self._see(path)
        self.before()
        super().fill(descriptor, start, end)
        self._note("overwrite", path, data=bytes(end - start), offset=start)

    def write_durably(self, descriptor: int, parts: Sequence[bytes], offset: int) -> int:
        """A write that a power failure may tear, and a sync: nothing tells how far it is before it
        returns."""
        path = self._of_descriptor(descriptor)
        self._see(path)
        self.before()
        count = super().write_durably(descriptor, parts, offset)
        self._note("overwrite", path, data=b"".join(parts)[:count], offset=offset)
        self.before()
        self._note("sync", path)
        return count

    def sync(self, descriptor: int) -> None:
        path = self._of_descriptor(descriptor)
        self._see(path)
        self.before()
        super().sync(descriptor)
        self._note("sync", path)

    def sync_directory(self, path: Path) -> None:
        self._see(path)
        for child in sorted(path.iterdir()):
            self._see(child)
        self.before()
        super().sync_directory(path)
        self._note("sync_directory", path)

    def sync_file_system(self, file_system: FileSystem) -> None:
        """Of this volume alone, as if it had one of its own."""
        for path in sorted(self.root.rglob("*")):
            self._see(path)
        self.before()
        super().sync_file_system(file_system)
        self._file_system_syncs += 1
        if not self._omit.fullmatch(f"sync_file_system {self._file_system_syncs}"):
            self._note("sync_file_system", self.root)

    def make_directory(self, path: Path) -> None:
        self.before()
        super().make_directory(path)
        self._note_new("mkdir", path)

    def replace(self, source: Path, target: Path) -> None:
        self._see(source)
        self.before()
        super().replace(source, target)
        old, new = self._relative(source), self._relative(target)
        self._note("rename", source, target=new, target_directory=self._nodes[self._parent(target)])
        moved = {n: i for n, i in self._nodes.items() if n == old or n.startswith(old + "/")}
        for name in [n for n in self._nodes if n == new or n.startswith(new + "/")]:
            del self._nodes[name]
        for name, node in moved.items():
            del self._nodes[name]
            self._nodes[new + name[len(old) :]] = node

    def remove(self, path: Path) -> None:
        self._see(path)
        self.before()
        super().remove(path)
        if path.name not in LOCKS:
            self._note("remove", path)
            del self._nodes[self._relative(path)]

    def remove_tree(self, path: Path) -> None:
        self._rmtree(path)

    def _rmtree(self, path: Path, ignore_errors: bool = False) -> None:
        """As shutil.rmtree, each step of it an operation."""
        if ignore_errors and not path.exists():
            return
        for child in sorted(path.iterdir()):
            if child.is_dir():
                self._rmtree(child)
            else:
                self.remove(child)
        self._see(path)
        self.before()
        path.rmdir()
        self._note("remove", path)
        del self._nodes[self._relative(path)]

    # --- LMDB ---

    def open_environment(self, path: Path, *, metasync: bool, tables: int) -> Any:
        real = environment.open_environment(path, metasync=metasync, tables=tables)
        self._environments.append(real)
        return RecordedEnvironment(real, path / "data.mdb", metasync, self)

    def commit(self, path: Path, durable: bool) -> None:
        """A commit returned: the file as it is, which is certain where `durable`."""
        self._see(path)
        kind = "commit" if durable else "commit_unsynced"
        self._note(kind, path, data=path.read_bytes())

    def sync_environment(self, path: Path) -> None:
        self._note("sync", path)

    # --- inside ---

    def _relative(self, path: Path) -> str:
        relative = path.relative_to(self.root).as_posix()
        return "" if relative == "." else relative

    def _parent(self, path: Path) -> str:
        return self._relative(path.parent)

    def _of_descriptor(self, descriptor: int) -> Path:
        return Path(f"/proc/self/fd/{descriptor}").readlink()

    def _note(self, kind: str, path: Path, **more: Any) -> None:
        name = self._relative(path)
        directory = self._nodes[self._parent(path)] if name else 0
        if not self._omit.fullmatch(f"{kind} {name}"):
            self.operations.append(Operation(kind, name, self._nodes[name], directory, **more))

    def _note_new(self, kind: str, path: Path) -> None:
        self._nodes[self._relative(path)] = next(self._serial)
        self._note(kind, path)

    def _see(self, path: Path) -> None:
        """Notes what came into being without us (LMDB's files, a snapshot that was written by the
        runtime), as not durable."""
        name = self._relative(path)
        if name in self._nodes or path.name in LOCKS or not path.exists():
            return
        self._see(path.parent)
        self._note_new("mkdir" if path.is_dir() else "create", path)
        if path.is_file():
            self._note("write", path, data=path.read_bytes())


class RecordedEnvironment:
    """An LMDB environment that tells of each commit."""

    def __init__(self, real: Any, file: Path, durable: bool, recorder: Recorder) -> None:
        self._real = real
        self._file = file
        self._durable = durable
        self._recorder = recorder
        self._seen = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def open_db(self, *arguments: Any, **options: Any) -> Any:
        handle = self._real.open_db(*arguments, **options)
        self.note_commit()
        return handle

    def begin(self, *arguments: Any, write: bool = False, **options: Any) -> Any:
        transaction = self._real.begin(*arguments, write=write, **options)
        if not write:
            return transaction
        self._recorder.before()
        return _Transaction(transaction, self)

    def sync(self, force: bool = False) -> None:
        self._recorder.before()
        self._real.sync(force)
        self._recorder.sync_environment(self._file)

    def note_commit(self) -> None:
        last = self._real.info()["last_txnid"]
        if last != self._seen:
            self._seen = last
            self._recorder.commit(self._file, self._durable)


class _Transaction:
    def __init__(self, real: Any, environment: RecordedEnvironment) -> None:
        self._real = real
        self._environment = environment

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def commit(self) -> None:
        self._real.commit()
        self._environment.note_commit()

    def __enter__(self) -> Any:
        return self._real.__enter__()

    def __exit__(self, *failure: Any) -> Any:
        handled = self._real.__exit__(*failure)
        if failure[0] is None:
            self._environment.note_commit()
        return handled


# --- what may be left -------------------------------------------------------------------------


@dataclass(slots=True)
class _File:
    """`contents` are candidates as a whole: of an LMDB file its commits, of another file the one
    that is durable; `writes`, (offset, data), came after it."""

    contents: list[bytes] = field(default_factory=lambda: [b""])
    writes: list[tuple[int, bytes]] = field(default_factory=list)

    def append(self, data: bytes) -> None:
        self.writes.append((self.end(), data))

    def end(self) -> int:
        ends = (offset + len(data) for offset, data in self.writes)
        return max([len(self.contents[-1]), *ends])

    def full(self) -> bytes:
        content = bytearray(self.contents[-1].ljust(self.end(), b"\0"))
        for offset, data in self.writes:
            content[offset : offset + len(data)] = data
        return bytes(content)

    def candidates(self, rng: random.Random, most: int) -> list[bytes]:
        """At first the two ends: nothing of what is unsynced, all of it."""
        if not self.writes:
            return [self.contents[0], *reversed(self.contents[1:])]
        durable, full = self.contents[-1], self.full()
        found = [durable, full]
        ends = [max(offset + len(data), len(durable)) for offset, data in self.writes]
        before = durable.ljust(len(full), b"\0")
        begin = min(offset for offset, _ in self.writes)
        while len(found) < most:
            size = rng.choice([*ends, rng.randint(len(durable), len(full))])
            content = bytearray(full[:size])
            for start in range(begin - begin % PAGE, size, PAGE):
                if rng.random() < 0.5:
                    lost = slice(start, min(start + PAGE, size))
                    content[lost] = before[lost]
            found.append(bytes(content))
        return found


@dataclass(slots=True)
class _Directory:
    """Each name with the values that it may have: a node, or None for no such name. The first is
    the durable one, the last the newest."""

    names: dict[str, list[int | None]] = field(default_factory=dict)

    def set(self, name: str, node: int | None) -> None:
        values = self.names.setdefault(name, [None])
        if values[-1] != node:
            values.append(node)

    def settle(self) -> None:
        """What the names are now is durable."""
        self.names = {n: values[-1:] for n, values in self.names.items() if values[-1] is not None}


Tree = dict[str, bytes | None]
"""A surviving state: path to content, None for a directory."""


class Model:
    """The disk, as far as it is certain, and what it may have besides."""

    def __init__(self, operations: list[Operation]) -> None:
        self._files: dict[int, _File] = {}
        self._directories: dict[int, _Directory] = {0: _Directory()}
        for operation in operations:
            self._play(operation)

    def _play(self, operation: Operation) -> None:  # noqa: C901  # a flat match over operations
        name = operation.path.rpartition("/")[2]
        node = operation.node
        match operation.kind:
            case "create":
                self._files[node] = _File()
                self._directories[operation.directory].set(name, node)
            case "mkdir":
                self._directories[node] = _Directory()
                self._directories[operation.directory].set(name, node)
            case "write":
                self._files[node].append(operation.data)
            case "overwrite":
                self._files[node].writes.append((operation.offset, operation.data))
            case "commit":
                self._files[node] = _File([operation.data])
            case "commit_unsynced":
                file = self._files[node]
                base = file.contents if not file.writes else [b"", file.full()]
                self._files[node] = _File([*base, operation.data])
            case "sync":
                self._files[node] = _File([self._files[node].full()])
            case "sync_file_system":
                # An LMDB file's last commit is in the page cache, too.
                self._files = {n: _File([file.full()]) for n, file in self._files.items()}
                for directory in self._directories.values():
                    directory.settle()
            case "rename":
                self._directories[operation.directory].set(name, None)
                target = operation.target.rpartition("/")[2]
                self._directories[operation.target_directory].set(target, node)
            case "remove":
                self._directories[operation.directory].set(name, None)
            case "sync_directory":
                self._directories[node].settle()
            case other:
                raise AssertionError(other)

    def survivors(self, rng: random.Random, most: int) -> Iterator[Tree]:
        """The states that may be left: all where they are at most `most`; else those where one
        thing is ahead of all others or behind them, and a sample of `most`."""
        seen: set[int] = set()
        for tree in self._choose(rng, most):
            key = hash(frozenset(tree.items()))
            if key not in seen:
                seen.add(key)
                yield tree

    def _choose(self, rng: random.Random, most: int) -> Iterator[Tree]:
        names = [
            (node, name, values)
            for node, directory in self._directories.items()
            for name, values in directory.names.items()
        ]
        contents = {node: file.candidates(rng, 6) for node, file in self._files.items()}
        choices: list[list[Any]] = [values for _, _, values in names]
        choices += list(contents.values())
        count = 1
        for choice in choices:
            count *= len(choice)
        if count <= most:
            picks: Iterator[tuple[Any, ...]] = itertools.product(*choices)
        else:
            old = [choice[0] for choice in choices]
            new = [values[-1] for _, _, values in names]
            new += [file.full() for file in self._files.values()]
            picks = itertools.chain(
                # Nothing that is unsynced, all of it; then one thing alone ahead, or behind.
                (tuple(old), tuple(new)),
                ((*old[:i], new[i], *old[i + 1 :]) for i in range(len(choices))),
                ((*new[:i], old[i], *new[i + 1 :]) for i in range(len(choices))),
                (tuple(rng.choice(choice) for choice in choices) for _ in range(most)),
            )
        for pick in picks:
            chosen = {(n, name): pick[i] for i, (n, name, _) in enumerate(names)}
            content = dict(zip(contents, pick[len(names) :], strict=True))
            yield self._tree(chosen, content)

    def _tree(self, names: dict[tuple[int, str], int | None], content: dict[int, bytes]) -> Tree:
        found: Tree = {}

        def walk(directory: int, prefix: str, above: frozenset[int]) -> None:
            for name in self._directories[directory].names:
                node = names[directory, name]
                if node is None:
                    continue
                if node in content:
                    found[prefix + name] = content[node]
                elif node not in above:
                    found[prefix + name] = None
                    walk(node, f"{prefix}{name}/", above | {node})

        walk(0, "", frozenset({0}))
        return found


def materialise(tree: Tree, root: Path) -> None:
    """Makes a surviving state on a real disk, in place of what is at `root`."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    for name, content in tree.items():  # a directory stands before what it holds
        if content is None:
            (root / name).mkdir(mode=0o700)
        else:
            (root / name).write_bytes(content)
