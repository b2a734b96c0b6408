"""The plugin of kubectl as one file: it runs without this project and its dependencies, and the
manifest for krew fits it."""

import hashlib
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml

from dev import plugin_archive, release
from dev.cluster.layout import ROOT
from tests.support.kubectl_objects import FakeKubectl, partition


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("plugin")
    plugin_archive.write(found)
    return found


def test_the_file_runs_with_python_alone(folder: Path, tmp_path: Path) -> None:
    kubectl = FakeKubectl(tmp_path)
    kubectl.answer("get", out={"items": [partition()]})
    done = subprocess.run(
        # -I and -S: neither this project's packages nor those of its environment.
        [sys.executable, "-I", "-S", str(folder / "kubectl-partition"), "status"],
        env={"KUBECTL": str(kubectl.program)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert "part   Ready" in done.stdout


def test_the_file_is_a_program(folder: Path) -> None:
    program = folder / "kubectl-partition"
    assert os.access(program, os.X_OK)
    assert program.read_bytes().startswith(b"#!/usr/bin/env python3\n")


def test_the_manifest_names_the_archive_and_what_is_in_it(folder: Path) -> None:
    manifest = yaml.safe_load((folder / "partition.yaml").read_text())
    spec, (platform,) = manifest["spec"], manifest["spec"]["platforms"]
    archive = folder / "kubectl-partition.tar.gz"
    assert platform["sha256"] == hashlib.sha256(archive.read_bytes()).hexdigest()
    assert platform["uri"].endswith(f"/v{plugin_archive.version()}/{archive.name}")
    assert spec["version"] == f"v{release.versions(ROOT)['client/pyproject.toml']}"
    with tarfile.open(archive) as packed:
        modes = {entry.name: entry.mode for entry in packed.getmembers()}
    assert {file["from"] for file in platform["files"]} == set(modes)
    assert modes[platform["bin"]] == 0o755
    # krew asks for this form of names and texts.
    assert re.fullmatch(r"[a-z-]+", manifest["metadata"]["name"])
    assert len(spec["shortDescription"]) <= 50
    assert not spec["shortDescription"].endswith(".")


def test_the_same_sources_give_the_same_bytes(folder: Path) -> None:
    packed = plugin_archive.tarball(plugin_archive.program())
    assert packed == (folder / "kubectl-partition.tar.gz").read_bytes()


def test_the_release_contains_them() -> None:
    workflow = (ROOT / ".github" / "workflows" / "release.yml").read_text()
    assert "python3 -m dev.plugin_archive release" in workflow
