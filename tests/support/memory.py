"""Memory of processes: held to a limit where the machine allows it, and measured."""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from tests.support.local_group import LocalReplica

CGROUPS = Path("/sys/fs/cgroup")
SAMPLE_S = 0.05


class MemoryLimit:
    """A control group with so many bytes of memory, page cache included (the kernel takes that
    back before it refuses any). Where none can be made (`enforced` is False) memory is only
    measured. Use as a context manager: it removes the group, which must be empty by then."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._folder: Path | None = None

    def __enter__(self) -> "MemoryLimit":
        name = f"tests-{uuid.uuid4().hex[:12]}"
        choices = [
            (CGROUPS / "memory" / name, "memory.limit_in_bytes"),
            (CGROUPS / name, "memory.max"),
        ]
        for folder, limit in choices:
            if os.geteuid() or not folder.parent.is_dir():
                continue
            try:
                folder.mkdir()
            except OSError:
                continue
            try:
                (folder / limit).write_text(str(self._limit_bytes))
            except OSError:
                folder.rmdir()  # no control of memory there
                continue
            self._folder = folder
            break
        return self

    def __exit__(self, *_: object) -> None:
        if self._folder is not None:
            self._folder.rmdir()

    @property
    def enforced(self) -> bool:
        return self._folder is not None

    @property
    def prefix(self) -> tuple[str, ...]:
        """In front of a command: puts the process in before it begins."""
        if self._folder is None:
            return ()
        return ("sh", "-c", f'echo $$ > "{self._folder}/cgroup.procs" && exec "$@"', "sh")


class AnonymousPeak:
    """The most anonymous memory that a replica's process was seen to have."""

    def __init__(self) -> None:
        self.bytes: dict[str, int] = {}

    @asynccontextmanager
    async def watching(self, replicas: list[LocalReplica]) -> AsyncIterator[None]:
        task = asyncio.create_task(self._watch(replicas))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _watch(self, replicas: list[LocalReplica]) -> None:
        while True:
            for replica in replicas:
                if replica.process is not None:
                    found = _anonymous_bytes(replica.process.pid)
                    self.bytes[replica.name] = max(found, self.bytes.get(replica.name, 0))
            await asyncio.sleep(SAMPLE_S)


def _anonymous_bytes(pid: int) -> int:
    """Anonymous pages that are resident; 0 for a process that is gone."""
    with suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    return 0
