"""Generates what is committed and derived: code of the gRPC services, manifests from the chart.

--check writes nothing and fails where a committed file differs.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from dev.cluster.builds import build_helm
from dev.cluster.layout import BIN, ROOT

NAMESPACE = "partition-system"
HEADER = "# Generated from charts/partition-operator by `make generate`.\n"


def proto(target: Path) -> None:
    """The Python code of every .proto, below `target`."""
    sources = sorted(
        str(path.relative_to(ROOT / "proto")) for path in (ROOT / "proto").rglob("*.proto")
    )
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", "."]
    command += [f"--{kind}_out={target}" for kind in ("python", "pyi", "grpc_python")]
    subprocess.run([*command, *sources], cwd=ROOT / "proto", check=True)


def manifests(target: Path) -> None:
    """The chart as plain manifests: the CRDs alone, and everything."""
    build_helm()
    rendered = subprocess.run(
        [
            BIN / "helm",
            "template",
            "partition-operator",
            "charts/partition-operator",
            "--namespace",
            NAMESPACE,
            "--kube-version",
            "1.34.0",
        ],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    documents = [d for d in rendered.split("\n---\n") if yaml.safe_load(d)]
    (target / "crds").mkdir(parents=True, exist_ok=True)
    for document in documents:
        body = yaml.safe_load(document)
        if body["kind"] == "CustomResourceDefinition":
            file = target / "crds" / f"{body['metadata']['name']}.yaml"
            file.write_text(HEADER + document.removeprefix("---\n").strip() + "\n")
    namespace = f"apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {NAMESPACE}\n"
    parts = [namespace, *(d.removeprefix("---\n").strip() + "\n" for d in documents)]
    (target / "install.yaml").write_text(HEADER + "---\n".join(parts))


def main() -> None:
    if sys.argv[1:] != ["--check"]:
        proto(ROOT / "proto")
        manifests(ROOT / "manifests")
        return
    stale = []
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder)
        (made / "proto").mkdir()
        (made / "manifests").mkdir()
        proto(made / "proto")
        manifests(made / "manifests")
        for path in sorted(p for p in made.rglob("*") if p.is_file()):
            committed = ROOT / path.relative_to(made)
            if not committed.exists() or committed.read_bytes() != path.read_bytes():
                stale.append(str(committed.relative_to(ROOT)))
    if stale:
        raise SystemExit("stale, run `make generate`: " + ", ".join(stale))


if __name__ == "__main__":
    main()
