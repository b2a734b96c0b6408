"""Builds the project's image with Docker and loads it into the nodes of a kind or k3d cluster, so
that the cluster needs no registry."""

import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dev.cluster.images import install_site
from dev.cluster.layout import BIN, ROOT

SITE = ROOT / "dist" / "site"
REPOSITORY = "partition-operator"
Run = Callable[[Sequence[str]], str]


@dataclass(frozen=True)
class Loader:
    """The tool of a cluster, and the cluster's name in that tool."""

    tool: str
    cluster: str

    def command(self, image: str) -> list[str]:
        if self.tool == "kind":
            return ["kind", "load", "docker-image", image, "--name", self.cluster]
        return ["k3d", "image", "import", image, "--cluster", self.cluster]


def loader_of(context: str) -> Loader | None:
    """Returns the loader for a context kind-NAME or k3d-NAME; None for other contexts."""
    tool, dash, cluster = context.partition("-")
    return Loader(tool, cluster) if tool in {"kind", "k3d"} and dash and cluster else None


def missing_tools(wanted: Sequence[str]) -> list[str]:
    return [tool for tool in wanted if not shutil.which(tool) and not (BIN / tool).exists()]


def run(command: Sequence[str]) -> str:
    done = subprocess.run(list(command), cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"demo: {' '.join(command)} failed:\n{done.stderr.strip()}")
    return done.stdout.strip()


def build(run: Run = run, collect: Callable[..., None] = install_site) -> str:
    """Builds the image from this checkout. Returns repository:tag. The tag is the image's ID, so a
    changed image always has a new name."""
    if platform.system() != "Linux":
        raise SystemExit(
            f"demo: the image needs Linux packages, but this machine runs {platform.system()}. "
            "Run it inside Linux, for example in the devcontainer, or name an image: "
            "IMAGE=repository:tag"
        )
    collect(SITE)
    base = os.environ.get("BASE_IMAGE", "")
    argument = ["--build-arg", f"BASE_IMAGE={base}"] if base else []
    identifier = run(["docker", "build", "--quiet", *argument, "."])
    image = f"{REPOSITORY}:{identifier.removeprefix('sha256:')[:12]}"
    run(["docker", "tag", identifier, image])
    try:
        modules = "import partition_raft, partition_tls"
        run(["docker", "run", "--rm", image, "python3", "-c", modules])
    except SystemExit as error:
        raise SystemExit(
            f"{error}\ndemo: the image can't load the Rust modules. If the error names GLIBC, this "
            "machine's C library is newer than the base image's: set BASE_IMAGE to an image with "
            "Python 3.11 and a newer one, for example python:3.11-slim-trixie"
        ) from None
    return image


def is_local(image: str) -> bool:
    """Whether Docker on this machine has the image."""
    found = subprocess.run(["docker", "image", "inspect", image], capture_output=True, check=False)
    return found.returncode == 0
