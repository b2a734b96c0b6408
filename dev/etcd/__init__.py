"""etcd and its load generator, built from Go modules for `make bench-etcd`."""

import os
import shutil
import subprocess
from pathlib import Path

from dev.cluster.builds import timed
from dev.cluster.layout import BIN

HERE = Path(__file__).parent
SERVER = BIN / "etcd-server"
LOAD = BIN / "etcd-benchmark"


def build() -> None:
    """Builds both programs if they are missing; says what that takes."""
    BIN.mkdir(parents=True, exist_ok=True)
    if not (SERVER.exists() and LOAD.exists()) and not shutil.which("go"):
        raise SystemExit("etcd: Go is missing (package golang); etcd is built with it")
    timed("building etcd", "2 min cold", SERVER, lambda: _go_build("server", ".", SERVER))
    package = "go.etcd.io/etcd/v3/tools/benchmark"
    timed(
        "building etcd's benchmark",
        "1 min cold",
        LOAD,
        lambda: _go_build("benchmark", package, LOAD),
    )


def _go_build(module: str, package: str, target: Path) -> None:
    partial = target.with_suffix(".partial")
    command = ["go", "build", "-trimpath", "-ldflags", "-s -w", "-o", str(partial), package]
    subprocess.run(command, cwd=HERE / module, env=os.environ | {"CGO_ENABLED": "0"}, check=True)
    partial.rename(target)


def versions() -> dict[Path, str]:
    """The module and version that each program is built from, as their go.mod files say."""
    found = {}
    for module, target in (("server", SERVER), ("benchmark", LOAD)):
        text = (HERE / module / "go.mod").read_text()
        line = next(line for line in text.splitlines() if line.startswith("require go.etcd.io"))
        found[target] = line.removeprefix("require ")
    return found
