"""`partitionctl put-tree` of Go's source tree into a new group: by this checkout, and beside it by
an older one, with its own replicas and its own client. The start of the command is part of it."""

import asyncio
import os
import subprocess
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE
from pathlib import Path

from tests.benchmarks.etcd.figures import Measured
from tests.benchmarks.etcd.groups import Group, Version
from tests.benchmarks.etcd.loads import LoadFailed, children_cpu_s, end, server_use, start
from tests.benchmarks.etcd.usage import Meter

FOLDERS = ("client", "common", "operator", "proto", "raft", "replica", "snapshots", "tls")
"""Of a checkout, with a package in each."""
IMPORTED = ("partition_client", "partition_proto", "partition_raft", "partition_replica")
PUT_TREE_S = 900.0


def go_sources() -> Path:
    root = subprocess.run(["go", "env", "GOROOT"], check=True, capture_output=True, text=True)
    return Path(root.stdout.strip()) / "src"


def read_all(folder: Path) -> int:
    """Brings a tree into the page cache; returns the number of its files."""
    count = 0
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.read_bytes()
            count += 1
    return count


def older_version(checkout: Path) -> Version:
    """The code of another checkout, run by its own .venv if it has one. Raises ValueError if its
    packages can't be imported, or if others would be imported in their place."""
    checkout = checkout.resolve()
    own = checkout / ".venv" / "bin" / "python"
    python = str(own) if own.exists() else sys.executable
    folders = [checkout / name for name in FOLDERS]
    path = os.pathsep.join(str(folder) for folder in folders if folder.is_dir())
    version = Version("before", python, {"PYTHONPATH": path})
    names = ", ".join(IMPORTED)
    # A package without __init__.py, such as that of the generated code, has no __file__.
    code = f"import {names}\nfor module in ({names}): print(list(module.__path__)[0])"
    code += "\nimport partition_raft._engine"
    found = subprocess.run(
        [python, "-c", code],
        env=os.environ | version.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if found.returncode:
        raise ValueError(
            f"{checkout}: its packages can't be imported; run `make setup` in it, which builds the "
            f"Rust module: {found.stderr.strip().splitlines()[-1]}"
        )
    for place in found.stdout.splitlines():
        if not Path(place).resolve().is_relative_to(checkout):
            raise ValueError(f"{checkout}: the packages of {place} would be used in its place")
    return version


async def put_tree(group: Group, version: Version, source: Path, files: int) -> Measured:
    """An operation is one file. Raises LoadFailed."""
    command = [version.python, "-m", "partition_client", "--endpoints", ",".join(group.endpoints)]
    if group.tls is not None:
        command += ["--tls-dir", str(group.tls.certificate.parent)]
    command += ["put-tree", str(source)]
    environment = os.environ | version.environment
    meter = Meter(group.pids)
    used = children_cpu_s()
    with meter:
        began = time.monotonic()
        process = await start(*command, stdout=DEVNULL, stderr=PIPE, env=environment)
        try:
            async with asyncio.timeout(PUT_TREE_S):
                _, errors = await process.communicate()
        except TimeoutError as error:
            raise LoadFailed(f"put-tree of {group.name} took more than {PUT_TREE_S} s") from error
        finally:
            await end(process)
        took = time.monotonic() - began
    if process.returncode:
        raise LoadFailed(f"put-tree of {group.name}: {errors.decode(errors='replace')[-500:]}")
    client_cpu_ms = (children_cpu_s() - used) * 1000 / files
    return Measured(
        files, files / took, client_cpu_ms=client_cpu_ms, servers=server_use(meter, files)
    )
