"""Generates the Python code of the gRPC services."""

import subprocess
import sys
from pathlib import Path

from dev.cluster.layout import ROOT

PROTO = ROOT / "proto"


def sources() -> list[str]:
    """Returns every .proto file, relative to PROTO."""
    return sorted(str(path.relative_to(PROTO)) for path in PROTO.rglob("*.proto"))


def compile_all(*arguments: str) -> None:
    """Runs protoc on every .proto file."""
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", ".", *arguments]
    subprocess.run([*command, *sources()], cwd=PROTO, check=True)


def write(target: Path) -> None:
    """Writes the code of every .proto file below `target`/proto."""
    folder = target / "proto"
    folder.mkdir(exist_ok=True)
    compile_all(*(f"--{kind}_out={folder}" for kind in ("python", "pyi", "grpc_python")))
