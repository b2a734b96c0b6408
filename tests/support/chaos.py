"""Faults of a Partition on a real cluster, and changes of it, at random."""

import asyncio
import json
import os
import random
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from dev.cluster import host
from dev.cluster.layout import STATE
from dev.demo import kill_container
from dev.install import NAMESPACE
from tests.support.cluster import Namespace, condition
from tests.support.local_group import eventually


class Chaos:
    """Faults of one Partition of three replicas, "part". Each method is one fault, and returns when
    it has ended."""

    def __init__(self, namespace: Namespace, rng: random.Random) -> None:
        self._namespace = namespace
        self._cluster = namespace.cluster
        self._rng = rng
        self._snapshots = 0

    def partition(self) -> dict[str, Any]:
        return self._namespace.json("get", "partition", "part")

    def whole(self) -> bool:
        """Whether three pods are ready, and the Partition is Ready with all of them."""
        found = self.partition()
        told = condition(found, "Ready")
        ready = [
            any(
                c["type"] == "Ready" and c["status"] == "True"
                for c in pod["status"].get("conditions", [])
            )
            for pod in self._pods()
        ]
        return bool(
            told["reason"] == "Ready" and found["status"]["ready"] == "3/3" and ready == [True] * 3
        )

    def _pods(self) -> list[dict[str, Any]]:
        words = ("get", "pods", "-l", "logstore.dev/partition=part")
        found: list[dict[str, Any]] = self._namespace.json(*words)["items"]
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    # --- faults -------------------------------------------------------------------------------

    async def process_is_killed(self) -> None:
        pod = self._rng.choice(self._pods())["metadata"]["name"]
        kill_container(self._cluster.layout, self._cluster.kubectl, self._namespace.name, pod)

    async def pod_is_deleted(self) -> None:
        pod = self._rng.choice(self._pods())["metadata"]["name"]
        self._namespace.kubectl("delete", "pod", pod, "--force", "--grace-period=0")

    async def operator_is_killed(self) -> None:
        words = (
            "-n",
            NAMESPACE,
            "delete",
            "pod",
            "-l",
            "app.kubernetes.io/name=partition-operator",
        )
        self._cluster.kubectl(*words, "--force", "--grace-period=0", "--wait=false")

    async def node_is_drained(self) -> None:
        node = self._rng.choice(self._pods())["spec"]["nodeName"]
        kubectl = self._cluster.kubectl
        try:
            words = ("--ignore-daemonsets", "--delete-emptydir-data", "--timeout=60s")
            # It waits for the budget; what it could not evict in time stays.
            await asyncio.to_thread(kubectl, "drain", node, *words, check=False)
        finally:
            kubectl("uncordon", node)

    async def node_stops(self) -> None:
        node = self._rng.choice(self._pods())["spec"]["nodeName"]
        host.stop_node(self._cluster.layout, node)
        try:
            await asyncio.sleep(self._rng.uniform(2, 20))  # the fault itself: how long it lasts
        finally:
            await asyncio.to_thread(host.start_node, self._cluster.layout, node)

        async def back() -> bool:
            return node in await asyncio.to_thread(host.ready_nodes, self._cluster.layout)

        await eventually(back, f"node {node} is back", 180)

    async def volume_is_lost(self) -> None:
        """A follower's claim and pod are deleted, as a person would."""
        leader = self.partition()["status"].get("leader")
        followers = [p for p in self._pods() if p["metadata"]["name"] != leader]
        if condition(self.partition(), "Ready")["reason"] != "Ready" or not followers:
            return
        pod = self._rng.choice(followers)["metadata"]["name"]
        self._namespace.kubectl("delete", "pvc", f"data-{pod}", "--wait=false")
        self._namespace.kubectl("delete", "pod", pod, "--wait=false")

    async def api_server_hangs(self) -> None:
        pids = api_servers()
        assert pids, "no API server of this cluster found"
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(self._rng.uniform(2, 15))  # the fault itself: how long it lasts
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    # --- changes ------------------------------------------------------------------------------

    def change(self) -> str:
        """Asks for something, without waiting for it. Returns what."""
        mark = self._rng.randrange(2**32)
        chosen = self._rng.choice(["restart", "rebuild", "switchover", "snapshot", "cpu", "none"])
        pod = f"part-{self._rng.randrange(3)}"
        match chosen:
            case "restart":
                self._annotate(f"logstore.dev/restart={mark}")
            case "rebuild" | "switchover":
                self._annotate(f"logstore.dev/{chosen}={pod}/{mark}")
            case "cpu":
                cpu = f"{self._rng.randrange(20, 60)}m"
                self._patch({"resources": {"requests": {"cpu": cpu, "memory": "150Mi"}}})
            case "snapshot":
                self._snapshots += 1
                self._namespace.kubectl("apply", "-f", "-", stdin=SNAPSHOT % self._snapshots)
        return chosen

    def _annotate(self, text: str) -> None:
        self._namespace.kubectl("annotate", "partition", "part", text, "--overwrite")

    def _patch(self, spec: dict[str, Any]) -> None:
        words = json.dumps({"spec": spec})
        self._namespace.kubectl("patch", "partition", "part", "--type=merge", "-p", words)

    def faults(self) -> list[Callable[[], Awaitable[None]]]:
        return [
            self.process_is_killed,
            self.pod_is_deleted,
            self.operator_is_killed,
            self.node_is_drained,
            self.node_stops,
            self.volume_is_lost,
            self.api_server_hangs,
        ]


SNAPSHOT = """\
apiVersion: logstore.dev/v1alpha1
kind: PartitionSnapshot
metadata: {name: chaos-%d}
spec:
  partitionRef: {name: part}
  destination: {volume: {}}
"""


def api_servers() -> list[int]:
    """The processes of this checkout's cluster alone: their command lines name its folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if any(w.endswith(b"kube-apiserver") for w in words[:2]) and str(
            STATE
        ).encode() in b" ".join(words):
            found.append(int(path.parent.name))
    return found
