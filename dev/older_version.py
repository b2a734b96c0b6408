"""Builds the replicas of an earlier version from this repository's history, to run beside today's:
`python -m dev.older_version` prints their folder. Tests of skew use it (tests/scenarios)."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

COMMIT = "67e299a3fb6091c0f02a9676d1a8565ee9e5f081"
"""The last one before appends in frames, Raft connections and the journal. When a version is
released, its commit takes this one's place."""

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".cache" / "older" / COMMIT[:12]
PACKAGES = ("client", "common", "proto", "raft", "replica", "snapshots")


def build() -> Path:
    """Returns the folder, with the Rust module built. Its Python needs today's dependencies. Raises
    RuntimeError without the history, CalledProcessError if the build fails."""
    if FOLDER.exists():
        return FOLDER
    known = ["git", "cat-file", "-e", f"{COMMIT}^{{commit}}"]
    if subprocess.run(known, cwd=ROOT, capture_output=True, check=False).returncode:
        raise RuntimeError(
            f"this clone does not have the commit {COMMIT}: fetch the whole history, for example "
            "with `git fetch --unshallow`"
        )
    new = FOLDER.with_name(f"{FOLDER.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    archive = subprocess.run(
        ["git", "archive", COMMIT, *PACKAGES], cwd=ROOT, check=True, stdout=subprocess.PIPE
    )
    subprocess.run(["tar", "-x", "-C", new], input=archive.stdout, check=True)
    target = new / "target"
    subprocess.run(
        ["cargo", "build", "--release", "--quiet", "--locked", "--target-dir", target],
        cwd=new / "raft",
        env=os.environ | {"PYO3_PYTHON": sys.executable},
        check=True,
    )
    shutil.copy(target / "release" / "lib_engine.so", new / "raft/partition_raft/_engine.abi3.so")
    shutil.rmtree(target)
    new.rename(FOLDER)
    return FOLDER


if __name__ == "__main__":
    print(build())
