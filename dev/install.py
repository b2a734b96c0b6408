"""Installs and removes the chart with helm, like a user."""

import json
import subprocess
import tempfile
from pathlib import Path

from dev.access import Kubectl
from dev.cluster.layout import BIN, ROOT

CHART = ROOT / "charts" / "partition-operator"
RELEASE = "partition-operator"
NAMESPACE = "partition-system"
DEMO_LABEL = "logstore.dev/demo=true"


def helm(kubectl: Kubectl, *words: str) -> str:
    """Runs helm on the cluster of `kubectl`. Returns its output."""
    program = str(BIN / "helm") if (BIN / "helm").exists() else "helm"
    where = [w.replace("--context=", "--kube-context=") for w in kubectl.command()[1:]]
    done = subprocess.run([program, *words, *where], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"helm {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def install(kubectl: Kubectl, image: str, **values: object) -> None:
    """Installs or upgrades the chart, and waits until the operator is ready."""
    namespace = (
        f"apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {NAMESPACE}\n  labels:\n"
        "    pod-security.kubernetes.io/enforce: restricted\n"
    )
    kubectl("apply", "-f", "-", stdin=namespace)
    repository, _, tag = image.rpartition(":")
    settings = {"image": {"repository": repository, "tag": tag}, **values}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "values.json"
        file.write_text(json.dumps(settings))
        helm(
            kubectl,
            "upgrade",
            "--install",
            RELEASE,
            str(CHART),
            "-n",
            NAMESPACE,
            "--create-namespace",
            "-f",
            str(file),
            "--wait",
            "--timeout",
            "180s",
        )


def helm_release(kubectl: Kubectl) -> bool:
    """Whether a release of our name exists."""
    names = helm(kubectl, "list", "-n", NAMESPACE, "-q", "--all").split()
    return RELEASE in names


def mark_demo(kubectl: Kubectl) -> None:
    """Labels the namespace, so that `demo down` removes the release."""
    kubectl("label", "namespace", NAMESPACE, DEMO_LABEL, "--overwrite")


def is_demo(kubectl: Kubectl) -> bool:
    key, _, value = DEMO_LABEL.partition("=")
    return kubectl("get", "namespaces", "-l", f"{key}={value}", "-o", "name").strip() != ""


def uninstall(kubectl: Kubectl) -> None:
    helm(kubectl, "uninstall", RELEASE, "-n", NAMESPACE, "--ignore-not-found", "--wait")
