"""The processes inside the cluster's namespaces: PID 1, and each node with its own mounts.

`python -m dev.cluster.inside init` runs PID 1, `… node NAME` a node, and `… template ARCHIVE …`
imports images into a template. It refuses to run in the host's mount namespace.
"""

import os
import signal
import ssl
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import yaml

from dev.cluster import settings
from dev.cluster.layout import BIN, NODES, ROOT, STATE, TOOLS, Layout

CGROUPS = Path("/sys/fs/cgroup")
HOST_MOUNTS = "DEV_CLUSTER_HOST_MOUNTS"
"""Environment variable: the host's mount namespace, in which this module must not run."""

MEMBERSHIPS = ("memory", "pids", "freezer", "unified")


def run(*command: object) -> None:
    subprocess.run([str(word) for word in command], check=True)


def start(layout: Layout, name: str, command: list[str]) -> "subprocess.Popen[bytes]":
    """Starts a component with its own log."""
    with (layout.logs / f"{name}.log").open("ab") as log:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=ROOT)


def lay_tools_over_usr() -> None:
    run("mount", "-t", "overlay", "-o", f"ro,lowerdir={TOOLS}/usr:/usr", "overlay", "/usr")


def wait_apiserver(layout: Layout) -> None:
    context = ssl.create_default_context(cafile=str(layout.pki / "ca.crt"))
    context.load_cert_chain(layout.pki / "admin.crt", layout.pki / "admin.key")
    while True:
        try:
            with urllib.request.urlopen(
                f"{layout.server}/readyz", context=context, timeout=2
            ) as response:
                if response.read() == b"ok":
                    return
        except OSError:
            pass
        time.sleep(0.1)


# --- PID 1 -------------------------------------------------------------------------------------


def init(layout: Layout) -> None:
    """Sets up the namespaces, starts every component, then reaps processes without end."""
    while not (STATE / "go").exists():  # the host writes it when the network link exists
        time.sleep(0.02)
    run("hostname", layout.name)
    # Volumes that are mounted here later must appear in the nodes.
    run("mount", "--make-rshared", "/")
    lay_tools_over_usr()
    run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    set_network_up(layout)
    for image in sorted((STATE / "volumes").glob("*.img")):
        run("mount", "-o", "loop", image, image.with_suffix(""))
    children = {"etcd": start(layout, "etcd", settings.etcd(STATE / "etcd"))}
    children["apiserver"] = start(layout, "apiserver", settings.apiserver(layout))
    for node in NODES:
        children[node] = start_node(layout, node)
    wait_apiserver(layout)
    children["controller-manager"] = start(
        layout, "controller-manager", settings.controller_manager(layout)
    )
    children["scheduler"] = start(layout, "scheduler", settings.scheduler(layout))
    kubernetes = str(BIN / "kubernetes")
    proxy = [kubernetes, "kube-proxy", f"--config={STATE / 'proxy.yaml'}"]
    children["proxy"] = start(layout, "proxy", proxy)
    subprocess.run(
        [kubernetes, "kubectl", "--kubeconfig", str(layout.pki / "admin.conf"), "apply", "-f", "-"],
        input=yaml.safe_dump_all(settings.RBAC).encode(),
        check=True,
        stdout=subprocess.DEVNULL,
    )
    coredns = [str(BIN / "coredns"), "-conf", str(STATE / "Corefile")]
    children["coredns"] = start(layout, "coredns", coredns)
    provisioner = [sys.executable, "-m", "dev.cluster.provisioner"]
    children["provisioner"] = start(layout, "provisioner", provisioner)
    (STATE / "started").touch()
    reap({child.pid: name for name, child in children.items()})


def set_network_up(layout: Layout) -> None:
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "add", "br0", "type", "bridge")
    for address in (layout.bridge, *(layout.node_ip(node) for node in NODES)):
        run("ip", "addr", "add", f"{address}/17", "dev", "br0")
    run("ip", "link", "set", "br0", "up")
    link = f"{layout.name}-c"
    run("ip", "addr", "add", f"{layout.link_ip}/30", "dev", link)
    run("ip", "link", "set", link, "up")
    # There is no default route. Without this route the nodes reach pods, but no Services.
    run("ip", "route", "add", layout.services, "dev", "br0")
    run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    # The host may connect to pods; pods may not connect to the host.
    run(
        "iptables",
        "-t",
        "mangle",
        "-A",
        "FORWARD",
        "-i",
        "br0",
        "-o",
        link,
        "-m",
        "conntrack",
        "--ctstate",
        "NEW",
        "-j",
        "DROP",
    )
    run(
        "iptables",
        "-t",
        "mangle",
        "-A",
        "INPUT",
        "-i",
        "br0",
        "-d",
        layout.host_ip,
        "-j",
        "DROP",
    )


def start_node(layout: Layout, node: str) -> "subprocess.Popen[bytes]":
    command = [
        "unshare",
        "--mount",
        "--propagation",
        "slave",
        sys.executable,
        "-m",
        "dev.cluster.inside",
        "node",
        node,
    ]
    return start(layout, node, command)


def reap(names: dict[int, str]) -> None:
    """Reaps ended processes, as PID 1 must. Records ended components for `up`."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    while True:
        try:
            pid, status = os.wait()
        except ChildProcessError:
            time.sleep(1)
            continue
        name = names.pop(pid, "")
        if name:
            with (STATE / "ended").open("a") as file:
                file.write(f"{name} ended with status {status}\n")


# --- a node ------------------------------------------------------------------------------------


def node(layout: Layout, name: str) -> None:
    """Sets up a node's mounts and cgroups, starts containerd, and becomes the kubelet."""
    folder = layout.node_dir(name)
    for sub in ("containerd", "kubelet", "pods", "cni", "etc"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    for path in ("/var/lib/cni", "/var/lib/kubelet"):
        Path(path).mkdir(parents=True, exist_ok=True)
    run("mount", "--make-rshared", "/")
    # Some paths are fixed, no matter which flags are set, so each node has its own mounts there.
    run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    run("mount", "-t", "tmpfs", "tmpfs", "/var/log")
    run("mount", "-t", "tmpfs", "tmpfs", "/var/lib/kubelet")
    run("mount", "--bind", folder / "cni", "/var/lib/cni")
    enter_cgroups(layout.name, name)
    etc = folder / "etc"
    (etc / "10-bridge.conflist").write_text(settings.cni_config(layout, name))
    (etc / "containerd.toml").write_text(settings.containerd_config(folder / "containerd", etc))
    (etc / "kubelet.yaml").write_text(settings.kubelet_config(layout, name))
    (etc / "resolv.conf").write_text(f"nameserver {layout.bridge}\n")
    start_containerd(layout, f"containerd-{name}", etc / "containerd.toml")
    wait_apiserver(layout)
    command = settings.kubelet(layout, name)
    os.execv(command[0], command)


def enter_cgroups(cluster: str, name: str) -> None:
    """Moves this process to the cgroup /<cluster>/<node>/sys. All of a node's processes are below
    /<cluster>/<node>, so that they can be killed, measured and removed together."""
    for hierarchy in sorted(CGROUPS.iterdir()):
        if not hierarchy.is_dir() or not (hierarchy / "cgroup.procs").exists():
            continue
        path = hierarchy
        for part in (cluster, name, "sys"):
            parent, path = path, path / part
            path.mkdir(exist_ok=True)
            for file in ("cpuset.cpus", "cpuset.mems"):
                if (parent / file).exists() and (path / file).exists():
                    (path / file).write_text((parent / file).read_text())
        if hierarchy.name in MEMBERSHIPS:
            (path / "cgroup.procs").write_text("0")


def start_containerd(layout: Layout, log: str, config: Path) -> "subprocess.Popen[bytes]":
    process = start(layout, log, ["containerd", "-c", str(config)])
    while subprocess.run(["ctr", "version"], capture_output=True, check=False).returncode:
        if process.poll() is not None:
            raise SystemExit(f"containerd ended; see {layout.logs / log}.log")
        time.sleep(0.1)
    return process


def make_template(layout: Layout, archives: list[str]) -> None:
    """Imports the images into a containerd root once. Nodes use clones with hard links."""
    root = STATE / "template"
    lay_tools_over_usr()
    run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    config = STATE / "template.toml"
    config.write_text(settings.containerd_config(root, STATE))
    process = start_containerd(layout, "containerd-template", config)
    for archive in archives:
        run("ctr", "-n", "k8s.io", "images", "import", archive)
    process.terminate()
    process.wait()


def main() -> None:
    layout = Layout.load()
    # Protects the host: this program mounts over /usr.
    host = os.environ.get(HOST_MOUNTS)
    if layout is None or host is None or host == os.readlink("/proc/self/ns/mnt"):
        raise SystemExit("cluster: this program runs only inside the cluster's namespaces")
    match sys.argv[1:]:
        case ["init"]:
            init(layout)
        case ["node", name] if name in NODES:
            node(layout, name)
        case ["template", *archives]:
            make_template(layout, archives)
        case other:
            raise SystemExit(f"cluster: unknown arguments {other}")


if __name__ == "__main__":
    main()
