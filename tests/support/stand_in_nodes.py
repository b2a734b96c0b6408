"""What StatefulSet controller and kubelet do, for real replica processes on loopback: claims, pods,
processes, addresses, readiness. For tests of the operator against an API server alone.

Names resolve by a hosts file, bind-mounted in the replicas' own mount namespace.
"""

import asyncio
import base64
import contextlib
import itertools
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dev.access import Kubectl

_networks = itertools.count(1)


@dataclass
class _Pod:
    name: str
    ip: str
    process: "subprocess.Popen[bytes]"


class StandInNodes:
    """Runs the StatefulSets of one namespace. Use as an async context manager."""

    def __init__(self, kubectl: Kubectl, namespace: str, folder: Path) -> None:
        self._kubectl = kubectl
        self._namespace = namespace
        self._folder = folder
        self._network = next(_networks)
        self._pods: dict[str, _Pod] = {}
        self._task: asyncio.Task[None] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    async def __aenter__(self) -> "StandInNodes":
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        for pod in self._pods.values():
            pod.process.kill()
            pod.process.wait()

    async def _run(self) -> None:
        while True:
            await asyncio.to_thread(self._once)
            await asyncio.sleep(0.1)

    def _once(self) -> None:
        sets = self._kubectl.json("-n", self._namespace, "get", "statefulsets")["items"]
        for found in sets:
            for ordinal in range(found["spec"]["replicas"]):
                name = f"{found['metadata']['name']}-{ordinal}"
                if name not in self._pods and self._has_secret(found):
                    self._start(found, name, ordinal)
            for name in list(self._pods):
                prefix, _, ordinal_text = name.rpartition("-")
                mine = prefix == found["metadata"]["name"]
                if mine and int(ordinal_text) >= found["spec"]["replicas"]:
                    self._stop(name)
        for pod in self._pods.values():
            self._report(pod)

    def _has_secret(self, found: dict[str, Any]) -> bool:
        return bool(self._secret(found, check=False))

    def _secret(self, found: dict[str, Any], *, check: bool) -> str:
        name = f"{found['metadata']['name']}-replica-tls"
        return self._kubectl(
            "-n",
            self._namespace,
            "get",
            "secret",
            name,
            "-o",
            "jsonpath={.data.tls\\.crt} {.data.tls\\.key} {.data.ca\\.crt}",
            check=check,
        )

    def _start(self, found: dict[str, Any], name: str, ordinal: int) -> None:
        template = found["spec"]["template"]
        labels = found["spec"]["selector"]["matchLabels"]
        self._apply(
            {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": {"name": f"data-{name}", "labels": labels},
                "spec": found["spec"]["volumeClaimTemplates"][0]["spec"],
            }
        )
        self._apply(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, "labels": template["metadata"]["labels"]},
                "spec": template["spec"]
                | {
                    "nodeName": "none",
                    "volumes": [
                        *template["spec"]["volumes"],
                        {"name": "data", "persistentVolumeClaim": {"claimName": f"data-{name}"}},
                    ],
                },
            }
        )
        tls = self._folder / f"{name}-tls"
        tls.mkdir(exist_ok=True)
        files = ("tls.crt", "tls.key", "ca.crt")
        for file, data in zip(files, self._secret(found, check=True).split(), strict=True):
            (tls / file).write_bytes(base64.b64decode(data))
        ip = f"127.{self._network}.0.{ordinal + 1}"
        self._pods[name] = _Pod(name, ip, self._process(found, name, ip, tls))

    def _process(
        self, found: dict[str, Any], name: str, ip: str, tls: Path
    ) -> "subprocess.Popen[bytes]":
        partition = found["metadata"]["name"]
        domain = f"{partition}-replicas.{self._namespace}.svc"
        hosts = self._folder / "hosts"
        lines = ["127.0.0.1 localhost"]
        lines += [f"127.{self._network}.0.{n + 1} {partition}-{n}.{domain}" for n in range(7)]
        hosts.write_text("\n".join(lines) + "\n")
        replica = [
            sys.executable,
            "-m",
            "partition_replica",
            "serve",
            "--data",
            f"{self._folder}/{name}",
            "--listen",
            f"{ip}:7000",
            "--http-listen",
            f"{ip}:7080",
            "--advertise",
            f"{name}.{domain}:7000",
            "--tls-dir",
            str(tls),
            "--partition",
            f"{self._namespace}/{partition}",
            "--tick-ms",
            "50",
        ]
        script = 'mount --bind "$0" /etc/hosts && exec "$@"'
        with (self._folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                ["unshare", "--mount", "sh", "-c", script, str(hosts), *replica],
                stdout=log,
                stderr=log,
                env=os.environ,
            )

    def _stop(self, name: str) -> None:
        pod = self._pods.pop(name)
        pod.process.terminate()
        pod.process.wait(30)
        self._kubectl("-n", self._namespace, "delete", "pod", name, "--force", "--grace-period=0")

    def _report(self, pod: _Pod) -> None:
        ready = "True" if _ready(pod.ip) else "False"
        status = {
            "status": {
                "phase": "Running",
                "podIP": pod.ip,
                "podIPs": [{"ip": pod.ip}],
                "conditions": [{"type": "Ready", "status": ready}],
            }
        }

        self._kubectl(
            "-n",
            self._namespace,
            "patch",
            "pod",
            pod.name,
            "--subresource=status",
            "--type=merge",
            "-p",
            json.dumps(status),
            check=False,
        )

    def _apply(self, body: dict[str, Any]) -> None:

        self._kubectl("-n", self._namespace, "apply", "-f", "-", stdin=json.dumps(body))


def _ready(ip: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{ip}:7080/readyz", timeout=1) as response:
            return bool(response.status == 200)
    except (OSError, urllib.error.HTTPError):
        return False
