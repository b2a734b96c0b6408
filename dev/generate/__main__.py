"""Generates the derived files of the repository: code of the gRPC services, manifests from the
chart, the operator's types from the CRDs, reference pages from the CRDs, the chart's values, the
.proto files and the metrics, and the dashboard.

--check writes nothing, and fails if a committed file differs.
"""

import argparse
import tempfile
from pathlib import Path

from dev.cluster.layout import ROOT
from dev.generate import (
    argocd,
    chart_values,
    crd_reference,
    crd_types,
    dashboard,
    manifests,
    metrics_reference,
    proto,
    proto_reference,
)


def write(target: Path) -> None:
    """Writes all files below `target`, a directory with the layout of the checkout."""
    dashboard.write(target)
    argocd.write(target)
    proto.write(target)
    manifests.write(target)
    schemas = manifests.schemas(target)
    crd_types.write(target, schemas)
    crd_reference.write(target, schemas)
    chart_values.write(target)
    proto_reference.write(target)
    metrics_reference.write(target)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dev.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if files differ")
    if not parser.parse_args().check:
        write(ROOT)
        return
    stale = []
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder)
        write(made)
        for path in sorted(p for p in made.rglob("*") if p.is_file()):
            committed = ROOT / path.relative_to(made)
            if not committed.exists() or committed.read_bytes() != path.read_bytes():
                stale.append(str(committed.relative_to(ROOT)))
    if stale:
        raise SystemExit("stale, run `make generate`: " + ", ".join(stale))


if __name__ == "__main__":
    main()
