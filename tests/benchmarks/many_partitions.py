"""`python -m tests.benchmarks.many_partitions`: one operator with 1,000 Partitions of one replica.

Real API server and etcd. The replicas are simulated at the RPC boundary, and this program stands in
for the StatefulSets' controller. It prints how soon a change is followed, how soon a restarted
operator has looked at everything, how much memory it takes, and what it writes while idle.
"""

import asyncio
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from partition_operator.api import names
from partition_operator.clients.kube import ApiError, Kube

from dev.ports import free_port
from tests.support import rights
from tests.support.api_server import ApiServer
from tests.support.operator_turns import connect

COUNT = int(os.environ.get("PARTITIONS", "1000"))
CHANGES = 100
IDLE_S = 60.0
AT_ONCE = 16
NAMESPACE = "many"
WRITES = frozenset({"create", "update", "patch", "delete"})


class Controller:
    """Gives each StatefulSet its pod and its claim, once."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube
        self._done: set[str] = set()

    async def run(self) -> None:
        """One by one and by name: lists of all would cost the API server more than the operator
        does."""
        slots = asyncio.Semaphore(AT_ONCE)
        names_of_all = [f"part-{number}" for number in range(COUNT)]
        while len(self._done) < COUNT:
            left = [name for name in names_of_all if name not in self._done]
            await asyncio.gather(*(self._look(name, slots) for name in left))
            await asyncio.sleep(1)

    async def _look(self, name: str, slots: asyncio.Semaphore) -> None:
        async with slots:
            found = await self._kube.get("StatefulSet", NAMESPACE, name)
            if found is not None:
                await self._make(name, found)

    async def _make(self, name: str, found: dict[str, Any]) -> None:
        number = len(self._done)
        self._done.add(name)
        template, pod = found["spec"]["template"], f"{name}-0"
        claim = {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {
                "name": f"data-{pod}",
                "namespace": NAMESPACE,
                "labels": found["spec"]["selector"]["matchLabels"],
            },
            "spec": found["spec"]["volumeClaimTemplates"][0]["spec"],
        }
        labels = template["metadata"]["labels"] | {names.LABEL_REVISION: f"{name}-1"}
        volume = {"name": "data", "persistentVolumeClaim": {"claimName": f"data-{pod}"}}
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": pod, "namespace": NAMESPACE, "labels": labels},
            "spec": template["spec"]
            | {"nodeName": "none", "volumes": [*template["spec"]["volumes"], volume]},
        }
        ip = f"10.{number // 65536}.{number // 256 % 256}.{number % 256}"
        status = {
            "phase": "Running",
            "podIP": ip,
            "podIPs": [{"ip": ip}],
            "conditions": [{"type": "Ready", "status": "True"}],
        }
        revision = {
            "observedGeneration": found["metadata"]["generation"],
            "updateRevision": f"{name}-1",
            "replicas": 1,
        }
        await self._kube.create(claim)
        await self._kube.create(body)
        await self._put("pods", pod, status, "/api/v1")
        await self._put("statefulsets", name, revision, "/apis/apps/v1")

    async def _put(self, plural: str, name: str, status: dict[str, Any], group: str) -> None:
        path = f"{group}/namespaces/{NAMESPACE}/{plural}/{name}/status"
        kind = "application/merge-patch+json"
        await self._kube._request("PATCH", path, {"status": status}, content_type=kind)


class Operator:
    """The operator's process."""

    def __init__(self, server: ApiServer, folder: Path) -> None:
        self._folder = folder
        self._environment = os.environ | {
            "KUBECONFIG": str(server.operator(NAMESPACE)),
            "PARTITION_OPERATOR_NAMESPACE": NAMESPACE,
            "PARTITION_OPERATOR_IMAGE": "image:1",
            "PARTITION_OPERATOR_WATCH_NODES": "true",
            "PARTITION_OPERATOR_LOG_LEVEL": "WARNING",
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0

    def start(self) -> None:
        self._port = free_port()
        volumes = self._folder / "volumes"
        volumes.mkdir(exist_ok=True)
        with (self._folder / "operator.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.simulated_replicas", str(volumes)],
                stdout=log,
                stderr=log,
                env=self._environment | {"PARTITION_OPERATOR_HTTP_PORT": str(self._port)},
            )

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(60)

    def metric(self, name: str) -> float:
        """0 while it does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=5) as got:
                text = got.read().decode()
        except OSError:
            return 0.0
        found = re.search(rf"^{name}(?:\{{[^}}]*\}})? ([0-9.e+-]+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def figures(self) -> tuple[float, float]:
        """(the most memory that it had, in MiB; seconds of processor time)."""
        assert self._process is not None
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        most = int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return most, (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def ready(kube: Kube) -> int:
    found = await kube.list_labelled("Partition", NAMESPACE, {})
    return sum((item.get("status") or {}).get("state") == "Ready" for item in found)


async def until_ready(kube: Kube, what: str, controller: "asyncio.Task[None]") -> float:
    """Waits until every Partition is Ready; returns the seconds."""
    began = time.monotonic()
    while (count := await ready(kube)) < COUNT:
        print(f"\r{what}: {count} of {COUNT}", end="", flush=True)
        if controller.done():
            controller.result()  # raises what ended it
        if time.monotonic() - began > 1800:
            raise SystemExit(f"{what}: {count} of {COUNT} after half an hour")
        await asyncio.sleep(10)
    took = time.monotonic() - began
    print(f"\r{what}: {COUNT} after {took:.0f} s")
    return took


async def reaction(kube: Kube, rng: random.Random) -> float:
    """Seconds from a change of a Partition until its StatefulSet has it."""
    name, mark = f"part-{rng.randrange(COUNT)}", str(rng.randrange(2**32))
    live = await kube.get("Partition", NAMESPACE, name)
    assert live is not None
    template = {"metadata": {"annotations": {"tests.example/mark": mark}}}
    began = time.monotonic()
    await kube.merge("Partition", live, {"spec": {"podTemplate": template}})
    while True:
        found = await kube.get("StatefulSet", NAMESPACE, name)
        assert found is not None
        marks = found["spec"]["template"]["metadata"].get("annotations") or {}
        if marks.get("tests.example/mark") == mark:
            return time.monotonic() - began
        await asyncio.sleep(0.02)


def written(server: ApiServer, since: int) -> dict[str, int]:
    """The operator's writes in the audit log from this byte on, without those of its Lease."""
    counts: dict[str, int] = {}
    with server.audit_log.open() as lines:
        lines.seek(since)
        for line in lines:
            try:
                event = json.loads(line)
            except ValueError:
                continue  # the last line is being written
            about = event.get("objectRef") or {}
            theirs = event["user"]["username"] == rights.OPERATOR
            if theirs and event["verb"] in WRITES and about.get("resource") != "leases":
                key = f"{event['verb']} {about.get('resource')}"
                counts[key] = counts.get(key, 0) + 1
    return counts


async def run(folder: Path) -> None:
    rng = random.Random(1)
    with ApiServer(folder) as server:
        server.kubectl("create", "namespace", NAMESPACE)
        kube = await connect(server.kubeconfig)
        spec = {"replicas": 1, "storage": {"size": "1Gi"}, "updateStrategy": {"type": "OnDelete"}}
        for number in range(COUNT):
            metadata = {"name": f"part-{number}", "namespace": NAMESPACE}
            body = {"apiVersion": names.API_VERSION, "kind": names.KIND, "metadata": metadata}
            try:
                await kube.create(body | {"spec": spec})
            except ApiError as error:
                raise SystemExit(f"part-{number}: {error}") from error
        controller = asyncio.create_task(Controller(kube).run())
        operator = Operator(server, folder)
        operator.start()
        try:
            await until_ready(kube, "from nothing to Ready", controller)
            found = sorted([await reaction(kube, rng) for _ in range(CHANGES)])
            p95 = found[int(len(found) * 0.95)]
            print(f"a change is followed: median {statistics.median(found):.2f} s, p95 {p95:.2f} s")
            await asyncio.sleep(10)  # what follows the changes ends
            since, (_, before) = server.audit_log.stat().st_size, operator.figures()
            await asyncio.sleep(IDLE_S)
            most, after = operator.figures()
            share = 100 * (after - before) / IDLE_S
            print(
                f"idle for {IDLE_S:.0f} s: writes {written(server, since)}, {share:.0f} % of a core"
            )
            print(f"most memory: {most:.0f} MiB")
            operator.stop()
            began = time.monotonic()
            operator.start()
            while operator.metric("partition_operator_reconciled_total") < COUNT:
                await asyncio.sleep(0.2)
            print(f"a restart has looked at all after {time.monotonic() - began:.1f} s")
            print(f"most memory after it: {operator.figures()[0]:.0f} MiB")
        finally:
            operator.stop()
            controller.cancel()
            await asyncio.gather(controller, return_exceptions=True)
            await kube.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        asyncio.run(run(Path(place)))
