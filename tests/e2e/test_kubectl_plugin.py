"""`kubectl partition` on a real Kubernetes: what needs kubelets, which is logs, the plan in the
operator's pod, and the measurement of a disk. kubectl starts the plugin by its name."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from dev.cluster.layout import BIN
from tests.support.cluster import Namespace

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


def plugin(namespace: Namespace, *words: str, codes: tuple[int, ...] = (0,)) -> str:
    """Runs `kubectl partition`. Returns what it prints on standard output."""
    kubeconfig = namespace.cluster.layout.kubeconfig
    environment = os.environ | {
        # kubectl looks for kubectl-partition on the PATH, and the plugin for kubectl.
        "PATH": f"{Path(sys.executable).parent}:{BIN}:{os.environ['PATH']}",
    }
    done = subprocess.run(
        ["kubectl", "partition", *words, f"--kubeconfig={kubeconfig}", "-n", namespace.name],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode in codes, done.stdout + done.stderr
    return done.stdout


def test_logs_plan_report_and_bench(namespace: Namespace, tmp_path: Path) -> None:
    namespace.apply("part")
    namespace.ready("part")
    pods = {f"part-{n}" for n in range(3)}

    lines = plugin(namespace, "logs", "part", "--timestamps").splitlines()
    assert {line.partition(" |")[0] for line in lines} == pods
    times = [line.partition("| ")[2].partition(" ")[0].rstrip("Z")[:19] for line in lines]
    assert times == sorted(times)

    assert "Nothing was changed." in plugin(namespace, "plan", "part")
    plugin(namespace, "pause", "part")
    namespace.kubectl("delete", "pdb", "part")
    found = json.loads(plugin(namespace, "plan", "part", "-o", "json"))
    assert found["steps"] == []
    assert any(line.startswith("Paused:") for line in found["attention"])
    assert namespace.kubectl("get", "pdb", "part", check=False) == ""
    plugin(namespace, "resume", "part")

    file = tmp_path / "report.tar.gz"
    plugin(namespace, "report", "part", "--file", str(file))
    with tarfile.open(file) as archive:
        names = {entry.name.partition("/")[2] for entry in archive.getmembers()}
    assert {f"logs/{pod}.log" for pod in pods} <= names
    assert any(name.startswith("logs/partition-operator") for name in names)

    words = ("bench", "--size", "256Mi", "--seconds", "1", "--mib", "16", "-o", "json")
    # Whether this machine's disk is fast enough does not matter here.
    report = json.loads(plugin(namespace, *words, codes=(0, 3)))
    assert report["syncs"] >= 2
    assert report["node"]
