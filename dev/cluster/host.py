"""Starts and ends a cluster from the host."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import yaml

from dev.cluster import builds, images, pki, settings
from dev.cluster.builds import say
from dev.cluster.inside import HOST_MOUNTS
from dev.cluster.layout import BIN, CACHE, NODES, ROOT, STATE, Layout

ENVIRONMENT = os.environ | {HOST_MOUNTS: os.readlink("/proc/self/ns/mnt")}
CGROUPS = Path("/sys/fs/cgroup")
READY_S = 180


@contextmanager
def locked() -> Iterator[None]:
    """Allows one `up` or `down` of a checkout at a time."""
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "cluster.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def build() -> None:
    """Builds everything that needs no running cluster. Takes minutes the first time."""
    builds.check_host()
    builds.build_programs()
    builds.unpack_tools()
    builds.build_base()


def up() -> Layout:
    """Starts a cluster, unless it runs, and loads the project's current image into it."""
    with locked():
        build()
        name, archive = images.build_project()
        layout = Layout.load()
        if layout is not None and running(layout) and healthy(layout):
            load(layout, archive)
            say(f"running; {name} is loaded")
        else:
            down_locked()
            layout = start([images.build_pause(), archive])
        (STATE / "image").write_text(name)
    return layout


def image() -> str:
    """Returns the name of the project's image in the cluster."""
    return (STATE / "image").read_text()


def start(archives: list[Path]) -> Layout:
    started = time.monotonic()
    STATE.mkdir(parents=True, exist_ok=True)
    layout = Layout.choose()
    layout.save()
    for folder in (layout.logs, STATE / "volumes", STATE / "flex"):
        folder.mkdir(parents=True, exist_ok=True)
    pki.make_pki(layout, layout.pki)
    shutil.copy(layout.pki / "admin.conf", layout.kubeconfig)
    (STATE / "proxy.yaml").write_text(settings.proxy_config(layout))
    (STATE / "Corefile").write_text(settings.corefile(layout))
    (STATE / "audit-policy.yaml").write_text(yaml.safe_dump(settings.AUDIT_POLICY))
    say("importing images …")
    make_template(archives)
    for node in NODES:
        clone_template(layout.node_dir(node) / "containerd")
    say(f"starting three nodes on 10.{layout.net}.0.0/16 …")
    launch(layout)
    wait_ready(layout)
    say(f"ready after {time.monotonic() - started:.0f} s: export KUBECONFIG={layout.kubeconfig}")
    return layout


def make_template(archives: list[Path]) -> None:
    command = [
        "unshare",
        "--mount",
        "--propagation",
        "private",
        sys.executable,
        "-m",
        "dev.cluster.inside",
        "template",
        *map(str, archives),
    ]
    done = subprocess.run(
        command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"cluster: importing images failed:\n{done.stdout}{done.stderr}")


def clone_template(target: Path) -> None:
    """Clones the template with hard links. The two databases are copied, because nodes write
    them."""
    target.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-al", STATE / "template", target], check=True)
    for database in (
        "io.containerd.metadata.v1.bolt/meta.db",
        "io.containerd.snapshotter.v1.overlayfs/metadata.db",
    ):
        (target / database).unlink()
        shutil.copy2(STATE / "template" / database, target / database)


def launch(layout: Layout) -> None:
    """Creates the namespaces, and the network link between them and the host."""
    with (layout.logs / "init.log").open("ab") as log:
        outer = subprocess.Popen(
            [
                "unshare",
                "--net",
                "--mount",
                "--pid",
                "--uts",
                "--ipc",
                "--fork",
                "--kill-child",
                "--mount-proc",
                sys.executable,
                "-m",
                "dev.cluster.inside",
                "init",
            ],
            cwd=ROOT,
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    (STATE / "outer.pid").write_text(str(outer.pid))
    inner = _wait_inner(outer.pid)
    (STATE / "inner.pid").write_text(str(inner))
    host, link = f"{layout.name}-h", f"{layout.name}-c"
    run = lambda *words: subprocess.run(["ip", *map(str, words)], check=True)  # noqa: E731
    run("link", "add", host, "type", "veth", "peer", "name", link, "netns", inner)
    run("addr", "add", f"{layout.host_ip}/30", "dev", host)
    run("link", "set", host, "up")
    run("route", "add", f"10.{layout.net}.0.0/16", "via", layout.link_ip)
    (STATE / "go").touch()


def _wait_inner(outer: int) -> int:
    """Waits until the inner PID 1 has its own namespaces. Returns its PID on the host."""
    own = os.readlink("/proc/self/ns/net")
    for _ in range(500):
        children = Path(f"/proc/{outer}/task/{outer}/children").read_text().split()
        if children and os.readlink(f"/proc/{children[0]}/ns/net") != own:
            return int(children[0])
        time.sleep(0.02)
    raise SystemExit("cluster: the namespaces did not come up; see .cache/cluster/logs/init.log")


def wait_ready(layout: Layout) -> None:
    """Waits until every node is ready and has lost the taints of new nodes."""
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        if not running(layout):
            raise SystemExit(f"cluster: ended while it started; see {layout.logs}/init.log")
        if (STATE / "started").exists() and ready_nodes(layout) == set(NODES):
            return
        time.sleep(0.2)
    ended = STATE / "ended"
    what = ended.read_text() if ended.exists() else "every component runs"
    raise SystemExit(f"cluster: not ready within {READY_S} s ({what}); see {layout.logs}")


def ready_nodes(layout: Layout) -> set[str]:
    done = kubectl(layout, "get", "nodes", "-o", "json", check=False)
    if done.returncode:
        return set()
    ready = set()
    for node in json.loads(done.stdout)["items"]:
        conditions = {c["type"]: c["status"] for c in node["status"].get("conditions", [])}
        if conditions.get("Ready") == "True" and not node["spec"].get("taints"):
            ready.add(node["metadata"]["name"])
    return ready


def healthy(layout: Layout) -> bool:
    ended = STATE / "ended"
    return not ended.exists() and (STATE / "started").exists() and ready_nodes(layout) == set(NODES)


def kubectl(
    layout: Layout, *arguments: str, check: bool = True
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [str(BIN / "kubectl"), "--kubeconfig", str(layout.kubeconfig), *arguments],
        capture_output=True,
        text=True,
        check=check,
    )


def outer_pid() -> int:
    """Returns the PID of the outer process; 0 if it has ended."""
    try:
        pid = int((STATE / "outer.pid").read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
        cwd = os.readlink(f"/proc/{pid}/cwd")
    except (FileNotFoundError, ValueError, ProcessLookupError):
        return 0
    # PIDs are reused, so check that this is an init of this checkout.
    return pid if "dev.cluster.inside" in command and cwd == str(ROOT) else 0


def running(layout: Layout) -> bool:
    return outer_pid() != 0 and Path(f"/sys/class/net/{layout.name}-h").exists()


def down() -> None:
    with locked():
        down_locked()


def down_locked() -> None:
    """Ends what this checkout started and removes what it left: processes, cgroups, files."""
    pid = outer_pid()
    layout = Layout.load()
    if pid:
        say("ending the cluster …")
        inner = int((STATE / "inner.pid").read_text()) if (STATE / "inner.pid").exists() else 0
        os.kill(pid, signal.SIGKILL)
        for _ in range(1500):
            if not Path(f"/proc/{pid}").exists() and not (
                inner and Path(f"/proc/{inner}").exists()
            ):
                break
            _reap(pid)
            time.sleep(0.02)
    if layout is not None:
        # The namespace may outlive its processes by minutes, while the kernel closes connections to
        # ended pods. Deleting our end of the link also deletes the other end.
        link = ["ip", "link", "delete", f"{layout.name}-h"]
        subprocess.run(link, capture_output=True, check=False)
        remove_cgroups(layout.name)
    if STATE.exists():
        subprocess.run(["rm", "-rf", "--one-file-system", STATE], check=True)


def _reap(pid: int) -> None:
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def remove_cgroups(name: str) -> None:
    for hierarchy in CGROUPS.iterdir():
        root = hierarchy / name
        for _ in range(50):
            if not root.is_dir():
                break
            folders = sorted((p for p in root.rglob("*") if p.is_dir()), reverse=True)
            for folder in (*folders, root):
                with suppress(OSError):
                    folder.rmdir()
            if root.is_dir():
                time.sleep(0.1)


# --- nodes -------------------------------------------------------------------------------------


def node_command(layout: Layout, node: str, *command: str) -> list[str]:
    """Returns the command line that runs `command` with a node's mounts: its containerd's socket
    and container tools."""
    sys_group = CGROUPS / "pids" / layout.name / node / "sys" / "cgroup.procs"
    for pid in sys_group.read_text().split():
        if Path(f"/proc/{pid}/comm").read_text().strip() == "containerd":
            return ["nsenter", "-t", pid, "-m", "--", *command]
    raise SystemExit(f"cluster: node {node} has no containerd")


def load(layout: Layout, archive: Path) -> None:
    """Imports an image into every node that lacks it."""
    if (STATE / "image").exists() and image().rpartition(":")[2] in archive.name:
        return
    loads = [
        subprocess.Popen(
            node_command(layout, node, "ctr", "-n", "k8s.io", "images", "import", str(archive)),
            stdout=subprocess.DEVNULL,
        )
        for node in NODES
    ]
    if any(process.wait() for process in loads):
        raise SystemExit("cluster: an image could not be loaded")


def stop_node(layout: Layout, node: str) -> None:
    """Kills kubelet, containerd and pods of a node at once, like a power loss of its machine."""
    (CGROUPS / "unified" / layout.name / node / "cgroup.kill").write_text("1")


def start_node(layout: Layout, node: str) -> None:
    """Starts a node that was stopped."""
    remove_cgroups(f"{layout.name}/{node}")
    inner = (STATE / "inner.pid").read_text()
    with (layout.logs / f"{node}.log").open("ab") as log:
        subprocess.Popen(
            [
                "nsenter",
                "-t",
                inner,
                "-m",
                "-n",
                "-p",
                "-u",
                "-i",
                "--",
                "unshare",
                "--mount",
                "--propagation",
                "slave",
                sys.executable,
                "-m",
                "dev.cluster.inside",
                "node",
                node,
            ],
            cwd=ROOT,
            # Entering another mount namespace leaves the working directory.
            env=ENVIRONMENT | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def container_pids(layout: Layout, pod_uid: str, container_id: str) -> list[int]:
    """Returns the PIDs of a container's processes on the host."""
    container_id = container_id.rpartition("/")[2]
    root = CGROUPS / "memory" / layout.name
    found = root.glob(f"*/kubepods/**/pod{pod_uid}/{container_id}/cgroup.procs")
    return [int(pid) for path in found for pid in path.read_text().split()]
