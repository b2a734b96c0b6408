"""Builds the parts of a cluster: programs from Go modules, tools from Debian's packages, a base
root file system. Each is built once and kept in .cache."""

import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

from dev.cluster.layout import BIN, CACHE, IMAGES, ROOT, TOOLS

KUBERNETES = "v1.34.4"
HELM = "helm.sh/helm/v3/cmd/helm@v3.22.0"
COREDNS = "github.com/coredns/coredns@v1.14.7"

PACKAGES = [
    "containerd",
    "runc",
    "containernetworking-plugins",
    "iptables",
    "libip4tc2",
    "libip6tc2",
    "libxtables12",
    "libnfnetlink0",
    "libnetfilter-conntrack3",
    "libnftnl11",
    "libmnl0",
    "mmdebstrap",
]

HOST_TOOLS = {
    "ip": "iproute2",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "mkfs.ext4": "e2fsprogs",
    "perl": "perl",
    "go": "golang",
    "gcc": "gcc",
}

BASE_PACKAGES = "python3,ca-certificates"


def say(text: str) -> None:
    print(f"cluster: {text}", file=sys.stderr, flush=True)


def check_host() -> None:
    """Ends with a list of everything that this machine lacks, if it lacks anything."""
    missing = [
        f"{tool} (package {pkg})" for tool, pkg in HOST_TOOLS.items() if not shutil.which(tool)
    ]
    if os.geteuid() != 0:
        missing.append("root (namespaces, mounts and bridges need it)")
    hierarchies = [Path("/sys/fs/cgroup") / name for name in ("memory", "pids", "unified")]
    if not all(path.is_dir() for path in hierarchies):
        missing.append("cgroup v1 with v2 beside it (hybrid); pure v2 is not supported yet")
    if platform.machine() != "x86_64":
        missing.append(f"an x86_64 processor; this is {platform.machine()}")
    free_gib = shutil.disk_usage(ROOT).free / 2**30
    if free_gib < 8:
        missing.append(f"disk space: {free_gib:.1f} GiB are free, 8 are needed")
    memory_kib = next(
        int(line.split()[1])
        for line in Path("/proc/meminfo").read_text().splitlines()
        if line.startswith("MemAvailable")
    )
    if memory_kib < 3 * 2**20:
        missing.append(f"memory: {memory_kib / 2**20:.1f} GiB are available, 3 are needed")
    if missing:
        raise SystemExit("cluster: this machine lacks:\n  " + "\n  ".join(missing))


def timed(what: str, expected: str, target: Path, build: "object") -> None:
    """Runs `build` unless `target` exists, and prints what it does and how long it took."""
    if target.exists():
        return
    say(f"{what} (about {expected}, once) …")
    started = time.monotonic()
    build()  # type: ignore[operator]
    say(f"{what}: {time.monotonic() - started:.0f} s")


def build_programs() -> None:
    """Builds Kubernetes, helm and CoreDNS."""
    BIN.mkdir(parents=True, exist_ok=True)
    timed("building Kubernetes", "6 min cold", BIN / "kubernetes", _kubernetes)
    build_helm()
    timed("building CoreDNS", "3 min cold", BIN / "coredns", lambda: _go_install(COREDNS))
    for name in ("kubectl", "etcd", "kube-apiserver"):
        link = BIN / name
        if not link.is_symlink():
            link.symlink_to("kubernetes")


def build_helm() -> None:
    BIN.mkdir(parents=True, exist_ok=True)
    timed("building helm", "2 min cold", BIN / "helm", lambda: _go_install(HELM))


def _kubernetes() -> None:
    version = "k8s.io/component-base/version"
    major, minor, _ = KUBERNETES[1:].split(".")
    flags = (
        f"-s -w -X {version}.gitVersion={KUBERNETES} -X {version}.gitMajor={major} "
        f"-X {version}.gitMinor={minor}"
    )
    partial = BIN / "kubernetes.partial"
    subprocess.run(
        ["go", "build", "-trimpath", "-ldflags", flags, "-o", partial, "."],
        cwd=Path(__file__).parent / "binaries" / "kubernetes",
        check=True,
    )
    partial.rename(BIN / "kubernetes")


def _go_install(module: str) -> None:
    subprocess.run(
        ["go", "install", "-trimpath", "-ldflags", "-s -w", module],
        env=os.environ | {"GOBIN": str(BIN)},
        check=True,
    )


def unpack_tools() -> None:
    """Unpacks containerd and related tools into a tree that is mounted over /usr in the cluster."""
    timed("unpacking container tools", "15 s", TOOLS / "usr" / "bin" / "containerd", _tools)


def _tools() -> None:
    archives = CACHE / "debs"
    shutil.rmtree(archives, ignore_errors=True)
    shutil.rmtree(TOOLS, ignore_errors=True)
    partial = CACHE / "tools.partial"
    shutil.rmtree(partial, ignore_errors=True)
    archives.mkdir(parents=True)
    download = ["apt-get", "download", "-q", *PACKAGES]
    if subprocess.run(download, cwd=archives, capture_output=True, check=False).returncode:
        subprocess.run(["apt-get", "update", "-q"], check=True, stdout=subprocess.DEVNULL)
        # As root the download warns about the directory's owner, but works.
        subprocess.run(download, cwd=archives, check=True, stdout=subprocess.DEVNULL)
    for archive in archives.glob("*.deb"):
        subprocess.run(["dpkg", "-x", archive, partial], check=True)
    # Everything must be below usr/, because only that is mounted over the host's /usr.
    for folder in ("sbin", "lib"):
        if (partial / folder).is_dir() and not (partial / folder).is_symlink():
            shutil.copytree(
                partial / folder, partial / "usr" / folder, symlinks=True, dirs_exist_ok=True
            )
    for name in ("iptables", "iptables-save", "iptables-restore"):
        for family in (name, name.replace("ip", "ip6", 1)):
            link = partial / "usr" / "sbin" / family
            if not link.exists():
                link.symlink_to("xtables-nft-multi")
    partial.rename(TOOLS)


def build_base() -> None:
    """Builds the root file system below the project's image, and the pause program."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    timed("building the base root file system", "1 min", IMAGES / "base.tar", _base)
    timed("building the pause image", "1 s", IMAGES / "pause", _pause)


def _base() -> None:
    partial = IMAGES / "base.partial.tar"
    command = [
        "perl",
        TOOLS / "usr" / "bin" / "mmdebstrap",
        "--variant=minbase",
        "--quiet",
        f"--include={BASE_PACKAGES}",
        "bookworm",
        partial,
    ]
    subprocess.run(command, check=True)
    partial.rename(IMAGES / "base.tar")


def _pause() -> None:
    source = Path(__file__).parent / "pause.c"
    subprocess.run(["gcc", "-Os", "-static", "-o", IMAGES / "pause", source], check=True)
