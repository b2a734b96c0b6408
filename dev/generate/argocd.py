"""manifests/argocd/argocd-cm.yaml: the health checks as Argo CD's ConfigMap has them."""

from pathlib import Path

from dev.cluster.layout import ROOT
from dev.generate.manifests import KINDS

FOLDER = Path("manifests/argocd")
GROUP = "logstore.dev"
HEADER = (
    "# Generated from manifests/argocd/*/health.lua by `make generate`. A patch for argocd-cm.\n"
)


def script(kind: str) -> str:
    """Returns the health check of a kind."""
    return (ROOT / FOLDER / kind / "health.lua").read_text()


def write(target: Path) -> None:
    """Writes the patch below `target`."""
    lines = [HEADER + "data:"]
    for kind in KINDS:
        lines.append(f"  resource.customizations.health.{GROUP}_{kind}: |")
        lines += [f"    {line}".rstrip() for line in script(kind).splitlines()]
    folder = target / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "argocd-cm.yaml").write_text("\n".join(lines) + "\n")
