"""The paths and addresses of a cluster, all derived from the checkout's path."""

import hashlib
import ipaddress
import json
import subprocess
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache"
BIN = CACHE / "bin"
TOOLS = CACHE / "tools"
IMAGES = CACHE / "images"
STATE = CACHE / "cluster"
NODES = ("n1", "n2", "n3")
NET_FIRST, NET_COUNT = 128, 127


@dataclass(frozen=True)
class Layout:
    """One cluster. 10.<net>.0.0/16 contains its nodes, pods, services and the link to the host."""

    net: int
    name: str

    @property
    def bridge(self) -> str:
        """The address of the API server, of DNS, and of every pod's gateway."""
        return f"10.{self.net}.0.1"

    @property
    def pods(self) -> str:
        return f"10.{self.net}.0.0/17"

    @property
    def services(self) -> str:
        return f"10.{self.net}.128.0/18"

    @property
    def first_service(self) -> str:
        return f"10.{self.net}.128.1"

    @property
    def host_ip(self) -> str:
        return f"10.{self.net}.255.254"

    @property
    def link_ip(self) -> str:
        return f"10.{self.net}.255.253"

    @property
    def server(self) -> str:
        return f"https://{self.bridge}:6443"

    def node_ip(self, node: str) -> str:
        return f"10.{self.net}.0.1{NODES.index(node) + 1}"

    def pod_range(self, node: str) -> tuple[str, str]:
        number = NODES.index(node) + 1
        return f"10.{self.net}.{number}.2", f"10.{self.net}.{number}.254"

    # Files of the running cluster.
    @cached_property
    def pki(self) -> Path:
        return STATE / "pki"

    @cached_property
    def logs(self) -> Path:
        return STATE / "logs"

    @cached_property
    def kubeconfig(self) -> Path:
        return STATE / "kubeconfig"

    def node_dir(self, node: str) -> Path:
        return STATE / node

    def save(self) -> None:
        (STATE / "layout.json").write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls) -> "Layout | None":
        try:
            return cls(**json.loads((STATE / "layout.json").read_text()))
        except FileNotFoundError:
            return None

    @classmethod
    def choose(cls) -> "Layout":
        """Chooses the first free /16, starting at the checkout's hash. A free one overlaps no route
        of the host."""
        routes = _host_networks()
        digest = hashlib.sha256(str(ROOT).encode()).digest()
        seed = int.from_bytes(digest[:4], "big")
        for step in range(NET_COUNT):
            net = NET_FIRST + (seed + step) % NET_COUNT
            wanted = ipaddress.ip_network(f"10.{net}.0.0/16")
            if not any(wanted.overlaps(route) for route in routes):
                return cls(net, f"po{digest.hex()[:6]}")
        raise SystemExit(
            "cluster: no free network: the host has routes to 10.128.0.0/16 … 10.254.0.0/16"
        )


def _host_networks() -> list[ipaddress.IPv4Network]:
    output = subprocess.run(
        ["ip", "-4", "route", "show", "table", "all"], check=True, capture_output=True, text=True
    ).stdout
    networks = []
    for line in output.splitlines():
        for word in line.split()[:2]:
            try:
                networks.append(ipaddress.IPv4Network(word, strict=False))
            except ValueError:
                continue
            break
    return networks
