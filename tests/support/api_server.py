"""API server and etcd alone, on loopback: objects without anything that acts on them.

Operators get the rights that the chart grants, and no others. An audit log says which they use."""

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from dev.access import Kubectl
from dev.cluster.builds import build_programs
from dev.cluster.layout import BIN, ROOT
from dev.cluster.pki import SERVER, Authority, write_key, write_kubeconfig
from dev.cluster.settings import etcd
from dev.ports import free_port
from tests.support import rights

AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata"}],
}


class ApiServer:
    """Use as a context manager; ready in a few seconds."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []
        self.kubeconfig = folder / "admin.conf"
        self.audit_log = folder / "audit.log"

    def __enter__(self) -> "ApiServer":
        build_programs()
        folder = self._folder
        folder.mkdir(parents=True, exist_ok=True)
        authority = self._authority = Authority(folder)
        authority.issue("admin", "admin", organisation="system:masters")
        authority.issue(
            "server",
            "kube-apiserver",
            usages=(SERVER,),
            names=("localhost",),
            ips=("127.0.0.1",),
        )
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        write_key(folder / "sa.key", key)
        (folder / "sa.pub").write_bytes(
            key.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )
        self._bound: set[str] = set()
        (folder / "audit-policy.yaml").write_text(json.dumps(AUDIT_POLICY))
        client, peer, port = free_port(), free_port(), free_port()
        self._start("etcd", etcd(folder / "etcd", client, peer))
        self._start(
            "apiserver",
            [
                str(BIN / "kubernetes"),
                "kube-apiserver",
                f"--etcd-servers=http://127.0.0.1:{client}",
                "--bind-address=127.0.0.1",
                f"--secure-port={port}",
                "--advertise-address=127.0.0.1",
                "--endpoint-reconciler-type=none",
                "--service-cluster-ip-range=10.96.0.0/16",
                "--authorization-mode=RBAC",
                # No controller makes accounts here, and no kubelet runs pods.
                "--disable-admission-plugins=ServiceAccount",
                f"--client-ca-file={folder / 'ca.crt'}",
                f"--tls-cert-file={folder / 'server.crt'}",
                f"--tls-private-key-file={folder / 'server.key'}",
                "--service-account-issuer=https://kubernetes.default.svc",
                f"--service-account-key-file={folder / 'sa.pub'}",
                f"--service-account-signing-key-file={folder / 'sa.key'}",
                f"--audit-policy-file={folder / 'audit-policy.yaml'}",
                f"--audit-log-path={self.audit_log}",
                # MiB; a larger log would be cut off.
                "--audit-log-maxsize=2000",
            ],
        )
        self._url = f"https://127.0.0.1:{port}"
        write_kubeconfig(self.kubeconfig, self._url, folder, "admin")
        self.kubectl = Kubectl(kubeconfig=self.kubeconfig)
        self._until(lambda: self.kubectl("get", "--raw", "/readyz", check=False), "ok")
        self.kubectl("apply", "-f", str(ROOT / "manifests" / "crds"))
        self.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        self._grant(rights.cluster_wide())
        self._operator = self.user(rights.OPERATOR)
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._processes):
            process.kill()
            process.wait()

    def operator(self, namespace: str) -> Path:
        """The kubeconfig of an operator whose own namespace is this one, with the chart's rights
        for the whole cluster. An existing namespace."""
        if namespace not in self._bound:
            self._grant(rights.own_namespace(namespace))
            self._bound.add(namespace)
        return self._operator

    def _grant(self, bodies: list[dict[str, Any]]) -> None:
        """Applies a role of the operator and its binding, and waits until they are effective."""
        listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": bodies})
        self.kubectl("apply", "-f", "-", stdin=listed)
        metadata, rule = bodies[0]["metadata"], bodies[0]["rules"][0]
        place = ("-n", metadata["namespace"]) if "namespace" in metadata else ("-A",)
        what = (rule["verbs"][0], f"{rule['resources'][0]}.{rule['apiGroups'][0]}")
        words = ("auth", "can-i", *what, *place, f"--as={rights.OPERATOR}")
        self._until(lambda: self.kubectl(*words, check=False), "yes")

    def user(self, name: str) -> Path:
        """The kubeconfig of a new user, who may do what is granted to it alone."""
        file = name.replace(":", "-")
        self._authority.issue(file, name)
        path = self._folder / f"{file}.conf"
        write_kubeconfig(path, self._url, self._folder, file)
        return path

    def _start(self, name: str, command: list[str]) -> None:
        with (self._folder / f"{name}.log").open("wb") as log:
            self._processes.append(
                subprocess.Popen(command, stdout=log, stderr=log, cwd=self._folder, env=os.environ)
            )

    def _until(self, look: Callable[[], str], wanted: str) -> None:
        """Waits until the API server answers so."""
        deadline = time.monotonic() + 60
        while look().strip() != wanted:
            if any(p.poll() is not None for p in self._processes) or time.monotonic() > deadline:
                raise AssertionError(f"the API server did not start; see {self._folder}/*.log")
            time.sleep(0.1)
