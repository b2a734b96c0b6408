"""What the controllers of StatefulSets and of disruption budgets and the kubelet do, for real
replica processes on loopback: claims, pods, revisions, evictions, processes, addresses, readiness.
For tests of the operator against an API server alone.

Names resolve by a hosts file, bind-mounted in the replicas' own mount namespace.
"""

import asyncio
import base64
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from partition_operator.api.names import CLIENTS_FILE
from partition_operator.resources.certificates import KeyPair
from partition_replica.storage.failpoints import ENVIRONMENT

from dev.access import Kubectl
from tests.support.certificates import mount
from tests.support.stand_in_pods import StandInPods

RESTART_S = 1.0
"""A process that ends is started again so long after its last start, at the earliest."""


@dataclass
class _Pod:
    name: str
    ip: str
    start: "Callable[[], subprocess.Popen[bytes]]"
    process: "subprocess.Popen[bytes]"
    started: float


class StandInNodes:
    """Runs the StatefulSets of one namespace. Use as an async context manager. A process that ends
    is started again, as a kubelet does.

    arguments: more of `partition-replica serve`. refresh: what a Secret holds is brought to pods
    that run, too.
    """

    def __init__(
        self,
        kubectl: Kubectl,
        namespace: str,
        folder: Path,
        *,
        arguments: tuple[str, ...] = (),
        refresh: bool = False,
    ) -> None:
        self._refresh = refresh
        self._kubectl = kubectl
        self._namespace = namespace
        self._folder = folder
        self._reservation, self._network = _reserve_network()
        self._pods: dict[str, _Pod] = {}
        self._stopping = False
        self._arguments = arguments
        self._failpoints: dict[str, list[str]] = {}
        self.restarts: dict[str, int] = {}
        """By pod: how often its process was started again."""
        self.replaced: list[str] = []
        """The pods that were deleted or evicted, in order."""
        self._subnets: dict[str, int] = {}
        self.pods = StandInPods(kubectl, namespace, folder, f"127.{self._network}.254")
        """Those that run once: restores."""
        self._task: asyncio.Task[None] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    async def __aenter__(self) -> "StandInNodes":
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        # To the end of its turn: a thread can't be cancelled, and would start again what is killed.
        self._stopping = True
        try:
            await self._task
        finally:
            for pod in self._pods.values():
                pod.process.kill()
                pod.process.wait()
            self.pods.close()
            self._reservation.close()

    def volume(self, name: str) -> Path:
        """The data directory of a pod, before it runs, too."""
        return self._folder / name

    def endpoint(self, ordinal: int, partition: str = "part") -> str:
        """Where a replica serves gRPC, before it runs, too."""
        return f"{self._ip(partition, ordinal)}:7000"

    def _ip(self, partition: str, ordinal: int) -> str:
        subnet = self._subnets.setdefault(partition, len(self._subnets))
        return f"127.{self._network}.{subnet}.{ordinal + 1}"

    def arm(self, name: str, *failpoints: str) -> None:
        """The pod's process ends at the first one from its next start on, at the next one from the
        start after that, and so on; the last one stays. "" is none."""
        self._failpoints[name] = list(failpoints)

    def runs(self, name: str) -> bool:
        """False before the pod is made, and until it is made anew."""
        return name in self._pods

    def kill(self, name: str) -> None:
        """SIGKILL to the pod's process."""
        self._pods[name].process.kill()

    def lose(self, name: str, to: Path | None = None) -> None:
        """The pod's process ends, and its volume is gone, or moved to `to`. The process starts
        again on a new volume."""
        process = self._pods[name].process
        process.kill()
        process.wait()
        if to is None:
            shutil.rmtree(self.volume(name))
        else:
            self.volume(name).rename(to)

    async def _run(self) -> None:
        while not self._stopping:
            await asyncio.to_thread(self._once)
            # Each turn starts kubectl twice and more.
            await asyncio.sleep(0.4)

    def _once(self) -> None:
        sets = self._kubectl.json("-n", self._namespace, "get", "statefulsets")["items"]
        self._end_deleted()
        for found in sets:
            self._tell_revision(found)
            for ordinal in range(found["spec"]["replicas"]):
                name = f"{found['metadata']['name']}-{ordinal}"
                if name not in self._pods and self._has_secret(found):
                    self._start(found, name, ordinal)
            if self._refresh:
                self._mount(found)
            for name in list(self._pods):
                prefix, _, ordinal_text = name.rpartition("-")
                mine = prefix == found["metadata"]["name"]
                if mine and int(ordinal_text) >= found["spec"]["replicas"]:
                    self._stop(name)
        self.pods.once()
        self._tell_budgets()
        for pod in self._pods.values():
            if pod.process.poll() is not None and time.monotonic() > pod.started + RESTART_S:
                pod.process, pod.started = pod.start(), time.monotonic()
                self.restarts[pod.name] = self.restarts.get(pod.name, 0) + 1
            self._report(pod)

    def _end_deleted(self) -> None:
        """Ends the processes of pods that are deleted or evicted, as a kubelet does. They are made
        anew in the same turn."""
        pods = self._kubectl.json("-n", self._namespace, "get", "pods")["items"]
        alive = {p["metadata"]["name"] for p in pods if "deletionTimestamp" not in p["metadata"]}
        for name in set(self._pods) - alive:
            self._stop(name)
            self.replaced.append(name)

    def _tell_revision(self, found: dict[str, Any]) -> None:
        generation = found["metadata"]["generation"]
        revision = _revision(found)
        status = found.get("status") or {}
        if (status.get("observedGeneration"), status.get("updateRevision")) != (
            generation,
            revision,
        ):
            wanted = {"observedGeneration": generation, "updateRevision": revision, "replicas": 0}
            self._patch_status("statefulset", found["metadata"]["name"], wanted)

    def _tell_budgets(self) -> None:
        """How many pods may be evicted now."""
        budgets = self._kubectl.json("-n", self._namespace, "get", "poddisruptionbudgets")["items"]
        for budget in budgets:
            name, least = budget["metadata"]["name"], budget["spec"]["minAvailable"]
            mine = [p for p in self._pods.values() if p.name.rpartition("-")[0] == name]
            healthy = sum(_ready(pod.ip) for pod in mine)
            wanted = {
                "observedGeneration": budget["metadata"]["generation"],
                "disruptionsAllowed": max(0, healthy - least),
                "currentHealthy": healthy,
                "desiredHealthy": least,
                "expectedPods": len(mine),
            }
            status = budget.get("status") or {}
            if any(status.get(key) != value for key, value in wanted.items()):
                self._patch_status("poddisruptionbudget", name, wanted | {"disruptedPods": None})

    def _patch_status(self, kind: str, name: str, status: dict[str, Any]) -> None:
        self._kubectl(
            "-n",
            self._namespace,
            "patch",
            kind,
            name,
            "--subresource=status",
            "--type=merge",
            "-p",
            json.dumps({"status": status}),
            check=False,
        )

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
            "jsonpath={.data.tls\\.crt} {.data.tls\\.key} {.data.ca\\.crt} {.data.clients\\.json}",
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
                "metadata": {
                    "name": name,
                    "labels": template["metadata"]["labels"]
                    | {"controller-revision-hash": _revision(found)},
                },
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
        ip = self._ip(found["metadata"]["name"], ordinal)

        def start() -> "subprocess.Popen[bytes]":
            return self._process(found, name, ip, tls)

        self._mount(found, tls)
        self._pods[name] = _Pod(name, ip, start, start(), time.monotonic())

    def _mount(self, found: dict[str, Any], *folders: Path) -> None:
        """Writes the Secret's content into these folders, or into those of all pods of the set."""
        words = self._secret(found, check=True).split()
        certificate, key, authority, *more = (base64.b64decode(word) for word in words)
        clients = more[0] if more else b""
        prefix = f"{found['metadata']['name']}-"
        for folder in folders or [
            self._folder / f"{n}-tls" for n in self._pods if n.startswith(prefix)
        ]:
            files = (folder / "tls.crt", folder / "ca.crt", folder / CLIENTS_FILE)
            current = [path.read_bytes() if path.exists() else b"" for path in files]
            if current != [certificate, authority, clients]:
                mount(folder, KeyPair(certificate, key), authority, clients)

    def _process(
        self, found: dict[str, Any], name: str, ip: str, tls: Path
    ) -> "subprocess.Popen[bytes]":
        partition = found["metadata"]["name"]
        domain = f"{partition}-replicas.{self._namespace}.svc"
        hosts = self._folder / f"hosts-{partition}"
        lines = ["127.0.0.1 localhost"]
        lines += [f"{self._ip(partition, n)} {partition}-{n}.{domain}" for n in range(7)]
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
            "--raft-listen",
            f"{ip}:7001",
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
            *self._arguments,
        ]
        armed = self._failpoints.get(name, [""])
        environment = os.environ | {ENVIRONMENT: armed.pop(0) if len(armed) > 1 else armed[0]}
        script = 'mount --bind "$0" /etc/hosts && exec "$@"'
        with (self._folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                ["unshare", "--mount", "sh", "-c", script, str(hosts), *replica],
                stdout=log,
                stderr=log,
                env=environment,
            )

    def _stop(self, name: str) -> None:
        pod = self._pods.pop(name)
        pod.process.terminate()
        pod.process.wait(30)
        self._kubectl("-n", self._namespace, "delete", "pod", name, "--force", "--grace-period=0")

    def _report(self, pod: _Pod) -> None:
        ready = "True" if _ready(pod.ip) else "False"
        status = {
            "phase": "Running",
            "podIP": pod.ip,
            "podIPs": [{"ip": pod.ip}],
            "conditions": [{"type": "Ready", "status": ready}],
        }
        self._patch_status("pod", pod.name, status)

    def _apply(self, body: dict[str, Any]) -> None:

        self._kubectl("-n", self._namespace, "apply", "-f", "-", stdin=json.dumps(body))


def _revision(found: dict[str, Any]) -> str:
    """The name of a template's revision."""
    text = json.dumps(found["spec"]["template"], sort_keys=True)
    return f"{found['metadata']['name']}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"


def _reserve_network() -> tuple[socket.socket, int]:
    """A number N: 127.N.0.0/16 is nobody else's on this machine while the socket is open."""
    for number in range(1, 250):
        reservation = socket.socket()
        try:
            reservation.bind((f"127.{number}.255.254", 7000))
            # A replica that a killed run left behind.
            with socket.socket() as probe:
                probe.bind((f"127.{number}.0.1", 7080))
        except OSError:
            reservation.close()
            continue
        return reservation, number
    raise AssertionError("no network of 127.0.0.0/8 is free")


def _ready(ip: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{ip}:7080/readyz", timeout=1) as response:
            return bool(response.status == 200)
    except (OSError, urllib.error.HTTPError):
        return False
