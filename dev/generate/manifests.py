"""Renders the chart as plain manifests: only the CRDs, and everything."""

import subprocess
from pathlib import Path
from typing import Any

import yaml

from dev.cluster.builds import build_helm
from dev.cluster.layout import BIN, ROOT

NAMESPACE = "partition-system"
HEADER = "# Generated from charts/partition-operator by `make generate`.\n"
KINDS = ("Partition", "PartitionSnapshot")


def write(target: Path) -> None:
    """Writes the manifests below `target`/manifests."""
    build_helm()
    command = [BIN / "helm", "template", "partition-operator", "charts/partition-operator"]
    command += ["--namespace", NAMESPACE, "--kube-version", "1.34.0", "--skip-tests"]
    rendered = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    documents = [d for d in rendered.split("\n---\n") if yaml.safe_load(d)]
    folder = target / "manifests"
    (folder / "crds").mkdir(parents=True, exist_ok=True)
    for document in documents:
        body = yaml.safe_load(document)
        if body["kind"] == "CustomResourceDefinition":
            file = folder / "crds" / f"{body['metadata']['name']}.yaml"
            file.write_text(HEADER + document.removeprefix("---\n").strip() + "\n")
    namespace = f"apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {NAMESPACE}\n"
    parts = [namespace, *(d.removeprefix("---\n").strip() + "\n" for d in documents)]
    (folder / "install.yaml").write_text(HEADER + "---\n".join(parts))


def schemas(target: Path) -> dict[str, dict[str, Any]]:
    """Returns the schemas of the CRDs that `write` has written, by kind."""
    found = {}
    for file in sorted((target / "manifests" / "crds").glob("*.yaml")):
        body = yaml.safe_load(file.read_text())["spec"]
        found[body["names"]["kind"]] = body["versions"][0]["schema"]["openAPIV3Schema"]
    return {kind: found[kind] for kind in KINDS}
