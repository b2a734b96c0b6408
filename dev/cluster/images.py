"""Writes OCI archives as JSON files and tars, without a build daemon.

Outside of the local cluster the project's Dockerfile builds the same on an official base image.
"""

import gzip
import hashlib
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from dev.cluster.builds import say
from dev.cluster.layout import CACHE, IMAGES, ROOT

REPOSITORY = "localhost/partition-operator"
PAUSE = "localhost/pause:1"
EPOCH = 1_700_000_000
UV = shutil.which("uv") or str(CACHE / "uv" / "bin" / "uv")
"""The Makefile installs uv if the machine does not have it."""

USER = "65532:65532"
INSTALLED_AT = "/opt/partition"
PYTHON = "3.11"
"""The Python of the images. The Rust module and the bytecode must match it."""


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class OciImage:
    """An image under construction: layers in order, then a configuration."""

    def __init__(self) -> None:
        self._blobs: dict[str, bytes | Path] = {}
        self._layers: list[dict[str, object]] = []
        self._diff_ids: list[str] = []

    def add_layer(self, tar: Path, compressed: Path) -> None:
        """Adds a tar as a layer. Its gzip is written once to `compressed`."""
        stamp = compressed.with_suffix(".diffid")
        if not compressed.exists() or not stamp.exists():
            diff = hashlib.sha256()
            with (
                tar.open("rb") as source,
                compressed.open("wb") as raw,
                gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=1, mtime=0) as target,
            ):
                while block := source.read(1 << 20):
                    diff.update(block)
                    target.write(block)
            stamp.write_text("sha256:" + diff.hexdigest())
        with compressed.open("rb") as file:
            digest = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
        self._blobs[digest] = compressed
        self._diff_ids.append(stamp.read_text())
        self._layers.append(
            {
                "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                "digest": digest,
                "size": compressed.stat().st_size,
            }
        )

    def write(self, archive: Path, name: str, config: dict[str, object]) -> None:
        image = {
            "architecture": "amd64",
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": self._diff_ids},
        }
        config_blob = self._add(json.dumps(image).encode())
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config_blob | {"mediaType": "application/vnd.oci.image.config.v1+json"},
            "layers": self._layers,
        }
        reference = self._add(json.dumps(manifest).encode()) | {
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "annotations": {"io.containerd.image.name": name},
        }
        with tarfile.open(archive, "w") as out:
            _add_bytes(out, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
            index = {"schemaVersion": 2, "manifests": [reference]}
            _add_bytes(out, "index.json", json.dumps(index).encode())
            for digest, blob in self._blobs.items():
                path = "blobs/sha256/" + digest.removeprefix("sha256:")
                if isinstance(blob, bytes):
                    _add_bytes(out, path, blob)
                else:
                    out.add(blob, path)

    def _add(self, data: bytes) -> dict[str, object]:
        digest = _digest(data)
        self._blobs[digest] = data
        return {"digest": digest, "size": len(data)}


def _add_bytes(out: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = len(data), EPOCH, 0o644
    out.addfile(info, io.BytesIO(data))


def build_pause() -> Path:
    archive = IMAGES / "pause.oci.tar"
    if not archive.exists():
        layer = IMAGES / "pause.tar"
        with tarfile.open(layer, "w") as out:
            out.add(IMAGES / "pause", "pause")
        image = OciImage()
        image.add_layer(layer, IMAGES / "pause.tar.gz")
        image.write(archive, PAUSE, {"Entrypoint": ["/pause"], "User": USER})
    return archive


def build_project() -> tuple[str, Path]:
    """Builds the project's image. Returns (name:tag, archive); the tag is a hash of the content."""
    site = CACHE / "image" / "site"
    install_site(site)
    layer = CACHE / "image" / "site.tar"
    _tar_tree(site, layer, INSTALLED_AT.lstrip("/"))
    with layer.open("rb") as file:
        tag = hashlib.file_digest(file, "sha256").hexdigest()[:12]
    name = f"{REPOSITORY}:{tag}"
    archive = IMAGES / f"project-{tag}.oci.tar"
    if not archive.exists():
        for old in IMAGES.glob("project-*"):
            old.unlink()
        image = OciImage()
        image.add_layer(IMAGES / "base.tar", IMAGES / "base.tar.gz")
        image.add_layer(layer, IMAGES / f"project-{tag}.tar.gz")
        config: dict[str, object] = {
            "User": USER,
            "Env": [
                f"PATH={INSTALLED_AT}/bin:/usr/bin:/bin",
                f"PYTHONPATH={INSTALLED_AT}",
                "PYTHONUNBUFFERED=1",
                "PYTHONDONTWRITEBYTECODE=1",
            ],
            "WorkingDir": "/",
        }
        image.write(archive, name, config)
        say(f"image {name} built")
    return name, archive


def install_site(site: Path) -> None:
    """Installs the project and its dependencies, pinned by uv.lock, into one directory."""
    shutil.rmtree(site, ignore_errors=True)
    site.parent.mkdir(parents=True, exist_ok=True)
    requirements = site.parent / "requirements.txt"
    folders = ("proto", "tls", "common", "raft", "snapshots", "replica", "client", "operator")
    members = [str(ROOT / m) for m in folders]
    export = ["export", "-q", "--frozen", "--no-dev", "--no-emit-project", "--no-emit-workspace"]
    install = ["pip", "install", "-q", "--target", str(site), "--python-version", PYTHON]
    _uv(*export, "-o", str(requirements))
    _uv(*install, "--require-hashes", "-r", str(requirements))
    _uv(*install, "--no-deps", *members)
    for junk in (*site.rglob("__pycache__"), *site.rglob("tests")):
        shutil.rmtree(junk, ignore_errors=True)
    use_python_of_path(site / "bin")
    _compile(site)


def use_python_of_path(scripts: Path) -> None:
    """Makes Python scripts start with the python3 of the PATH. Installers write the Python of this
    machine into them, which the image does not have."""
    for script in scripts.iterdir():
        first, _, rest = script.read_bytes().partition(b"\n")
        if rest.startswith(b"'''exec' "):
            # A path that is too long for the first line: a shell starts Python in the next two.
            rest = rest.split(b"\n", 2)[2]
        elif not first.startswith(b"#!") or b"python" not in first:
            continue
        script.write_bytes(b"#!/usr/bin/env python3\n" + rest)


def _compile(site: Path) -> None:
    """Compiles the sources to bytecode. Containers can't write beside their sources, so without it
    each start would compile all of them. The bytecode contains no times, so that the image is
    reproducible, and Python never compares it with the sources. After an edit of a source in a
    container, remove its bytecode."""
    if platform.python_version_tuple()[:2] != tuple(PYTHON.split(".")):
        raise SystemExit(
            f"image: this is Python {platform.python_version()}, but the images have Python "
            f"{PYTHON}, which ignores bytecode of other versions: create the environment with "
            f"Python {PYTHON}"
        )
    command = [sys.executable, "-m", "compileall", "-q", "-s", str(site), "-p", INSTALLED_AT]
    command += ["--invalidation-mode", "unchecked-hash", str(site)]
    done = subprocess.run(
        command,
        env=os.environ | {"PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"image: the sources can't be compiled:\n{done.stdout}{done.stderr}")


def _uv(*words: str) -> None:
    done = subprocess.run([UV, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"image: uv {words[0]} failed:\n{done.stderr}")


def _tar_tree(root: Path, archive: Path, prefix: str) -> None:
    """Writes a tar whose bytes depend only on the tree's content."""

    def clean(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.uid = info.gid = 0
        info.uname = info.gname = ""
        info.mtime = EPOCH
        return info

    with tarfile.open(archive, "w") as out:
        for directory, folders, files in os.walk(root):
            folders.sort()
            inside = Path(prefix) / Path(directory).relative_to(root)
            for name in sorted(files):
                if name in ("direct_url.json", "uv_cache.json", "RECORD", ".lock"):
                    continue  # these contain the checkout's path, or the time of the build
                out.add(Path(directory) / name, str(inside / name), filter=clean)
