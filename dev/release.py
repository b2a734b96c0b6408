"""Checks and queries of the release workflow. It needs only Python's standard library.

python -m dev.release check TAG   fails unless every version and the changelog match the tag
python -m dev.release notes TAG   prints the changelog's section of that version
python -m dev.release image       prints the image's repository, as the chart names it
"""

import argparse
import re
import sys
import tomllib
from pathlib import Path

from dev.cluster.layout import ROOT

PROJECTS = ("client", "common", "operator", "proto", "raft", "replica", "snapshots", "tls")
MODULES = (
    "client/partition_client",
    "client/partition_kubectl",
    "common/partition_common",
    "operator/partition_operator",
    "replica/partition_replica",
)
CHART = "charts/partition-operator"
TAG = re.compile(r"v(\d+\.\d+\.\d+(?:-[0-9A-Za-z.-]+)?)")


def versions(root: Path) -> dict[str, str]:
    """Returns the project's version by the place that contains it."""
    found = {}
    for name in ("pyproject.toml", *(f"{project}/pyproject.toml" for project in PROJECTS)):
        found[name] = tomllib.loads((root / name).read_text())["project"]["version"]
    for module in ("raft", "tls"):
        cargo = tomllib.loads((root / module / "Cargo.toml").read_text())
        found[f"{module}/Cargo.toml"] = cargo["package"]["version"]
    chart = (root / CHART / "Chart.yaml").read_text()
    for key in ("version", "appVersion"):
        found[f"{CHART}/Chart.yaml: {key}"] = _field(chart, key)
    annotated = re.findall(rf"^      image: {re.escape(image(root))}:(\S+)$", chart, re.MULTILINE)
    found[f"{CHART}/Chart.yaml: artifacthub.io/images"] = annotated[0] if annotated else "missing"
    for module in MODULES:
        text = (root / module / "__init__.py").read_text()
        found[f"{module}/__init__.py"] = re.findall(r'^__version__ = "(.+)"$', text, re.M)[0]
    return found


def section(changelog: str, version: str) -> str:
    """Returns the body below `## [version]`; empty if there is no such section."""
    parts = re.split(r"^## ", changelog, flags=re.MULTILINE)[1:]
    for part in parts:
        heading, _, body = part.partition("\n")
        if heading.startswith(f"[{version}]"):
            return body.strip()
    return ""


def problems(root: Path, tag: str) -> list[str]:
    """Returns why this tag can't be released; empty if it can."""
    match = TAG.fullmatch(tag)
    if match is None:
        return [f"{tag}: a tag must be v and a semantic version, for example v0.2.0"]
    found = [
        f"{place} is {version}; change it to {match[1]}"
        for place, version in versions(root).items()
        if version != match[1]
    ]
    if not section((root / "CHANGELOG.md").read_text(), match[1]):
        found.append(f"CHANGELOG.md has no section [{match[1]}], or it is empty; write it")
    return found


def image(root: Path) -> str:
    values = (root / CHART / "values.yaml").read_text()
    return str(re.findall(r"^image:\n(?:  .*\n)*?  repository: (\S+)$", values, re.MULTILINE)[0])


def _field(text: str, key: str) -> str:
    return str(re.findall(rf'^{key}: "?([^"\s]+)"?$', text, re.MULTILINE)[0])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dev.release", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("check", "notes"):
        commands.add_parser(name).add_argument("tag")
    commands.add_parser("image")
    options = parser.parse_args()
    match options.command:
        case "check":
            found = problems(ROOT, options.tag)
            if found:
                sys.exit("release: " + "\nrelease: ".join(found))
        case "notes":
            print(section((ROOT / "CHANGELOG.md").read_text(), options.tag.removeprefix("v")))
        case "image":
            print(image(ROOT))


if __name__ == "__main__":
    main()
