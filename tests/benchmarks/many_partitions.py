"""`python -m tests.benchmarks.many_partitions`: one operator with 1,000 Partitions of one replica.

Real API server and etcd. The replicas are simulated at the RPC boundary, and this program stands in
for the StatefulSets' controller. It prints how soon a change is followed, how soon a restarted
operator has looked at everything, how much memory it takes, and what it writes while idle; and the
load average beside each figure. It ends with a message if a phase makes no progress.

PARTITIONS=20 makes it small. KEEP=folder keeps the logs.
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
from collections import Counter
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
QUIET_S = 10.0
"""Without a write for this time, what was done is over."""
STALLED_S = 180.0
"""A phase without progress for this time has failed."""
AT_ONCE = 8
"""Partitions that the stand-in of the controller works on at once."""
NAMESPACE = "many"
WRITES = frozenset({"create", "update", "patch", "delete"})


def say(text: str) -> None:
    """Prints a line, with the load average of the last minute."""
    print(f"\r{text} (load {os.getloadavg()[0]:.1f})", flush=True)


class Progress:
    """Ends the program if a phase stands still."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._began = self._changed = time.monotonic()
        self._done = -1

    def reached(self, done: int) -> None:
        now = time.monotonic()
        if done != self._done:
            self._done, self._changed = done, now
        print(f"\r{self._what}: {done} of {COUNT}, {self.seconds:.0f} s ", end="", flush=True)
        if now - self._changed > STALLED_S:
            raise SystemExit(
                f"\n{self._what}: {done} of {COUNT}, and nothing more for {STALLED_S:.0f} s; "
                "see operator.log and apiserver.log in the folder KEEP"
            )

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began


class Controller:
    """Gives each StatefulSet its pod and its claim, once, as soon as a watch shows it."""

    def __init__(self, kube: Kube, server: ApiServer) -> None:
        self._kube = kube
        self._server = server
        self._done: set[str] = set()
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def run(self) -> None:
        """Until every StatefulSet has its pod."""
        watching = await asyncio.create_subprocess_exec(
            *self._server.kubectl.command("-n", NAMESPACE, "get", "statefulsets"),
            *("--watch", "-o", "name"),
            stdout=asyncio.subprocess.PIPE,
        )
        assert watching.stdout is not None
        try:
            async with asyncio.TaskGroup() as tasks:
                while len(self._done) < COUNT and (line := await watching.stdout.readline()):
                    name = line.decode().strip().rpartition("/")[2]
                    if name not in self._done:
                        self._done.add(name)
                        tasks.create_task(self._make(name, len(self._done)))
            assert len(self._done) == COUNT, "the watch of StatefulSets has ended"
        finally:
            watching.kill()
            await watching.wait()

    async def _make(self, name: str, number: int) -> None:
        async with self._slots:
            found = await self._kube.get("StatefulSet", NAMESPACE, name)
            assert found is not None
            await self._make_parts(name, number, found)

    async def _make_parts(self, name: str, number: int, found: dict[str, Any]) -> None:
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
            "PARTITION_OPERATOR_LOG_LEVEL": os.environ.get("LOG_LEVEL", "ERROR"),
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

    def check(self) -> None:
        """Raises if the process has ended."""
        assert self._process is not None
        if (code := self._process.poll()) is not None:
            raise SystemExit(f"\nthe operator ended with {code}; see operator.log in KEEP")

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(60)

    def scrape(self) -> tuple[float, int]:
        """(seconds, bytes) of one scrape of the metrics."""
        began = time.monotonic()
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=60) as got:
            size = len(got.read())
        return time.monotonic() - began, size

    def memory(self) -> str:
        """What it has now, and the most that it had, in MiB."""
        assert self._process is not None
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        now, most = (
            int(re.findall(rf"{field}:\s+(\d+) kB", status)[0]) / 1024
            for field in ("VmRSS", "VmHWM")
        )
        return f"memory {now:.0f} MiB, at most {most:.0f} MiB"

    def processor_s(self) -> float:
        assert self._process is not None
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Audit:
    """What the operator asked of the API server, without its Lease and its watches."""

    def __init__(self, server: ApiServer) -> None:
        self._path = server.audit_log
        self._read_to = 0

    def new(self) -> list[dict[str, Any]]:
        """The requests since the last call."""
        with self._path.open("rb") as log:
            log.seek(self._read_to)
            data = log.read()
        whole = data.rfind(b"\n") + 1
        self._read_to += whole
        events = (json.loads(line) for line in data[:whole].splitlines())
        return [event for event in events if _counts(event)]


def _counts(event: dict[str, Any]) -> bool:
    about = event.get("objectRef") or {"resource": "leases"}  # discovery is about no object
    theirs = event["user"].get("username") == rights.OPERATOR
    return theirs and event["verb"] != "watch" and about["resource"] != "leases"


def _summary(requests: list[dict[str, Any]]) -> str:
    writes = [f"{e['verb']} {e['objectRef']['resource']}" for e in requests if e["verb"] in WRITES]
    told = ", ".join(f"{n} {what}" for what, n in Counter(writes).most_common()) or "none"
    return f"{len(requests) - len(writes)} reads; writes: {told}"


def _ready(server: ApiServer) -> int:
    """How many Partitions are Ready, by the table of `kubectl get`, which costs the API server
    less than whole objects."""
    table = server.kubectl("-n", NAMESPACE, "get", "partitions", "--no-headers")
    return sum("Ready" in line.split() for line in table.splitlines())


class Benchmark:
    """The phases, in their order."""

    def __init__(self, server: ApiServer, kube: Kube, operator: Operator) -> None:
        self._server = server
        self._kube = kube
        self._operator = operator
        self._audit = Audit(server)
        self._rng = random.Random(1)

    async def make(self) -> None:
        spec = {"replicas": 1, "storage": {"size": "1Gi"}, "updateStrategy": {"type": "OnDelete"}}
        for number in range(COUNT):
            metadata = {"name": f"part-{number}", "namespace": NAMESPACE}
            body = {"apiVersion": names.API_VERSION, "kind": names.KIND, "metadata": metadata}
            try:
                await self._kube.create(body | {"spec": spec})
            except ApiError as error:
                raise SystemExit(f"part-{number}: {error}") from error

    async def until_ready(self, controller: "asyncio.Task[None]") -> None:
        self._audit.new()
        progress = Progress("from nothing to Ready")
        while (count := await asyncio.to_thread(_ready, self._server)) < COUNT:
            progress.reached(count)
            self._operator.check()
            if controller.done():
                controller.result()  # raises what ended it
            await asyncio.sleep(5)
        say(f"from nothing to Ready: {COUNT} after {progress.seconds:.0f} s")
        requests = self._audit.new()
        say(f"  {len(requests) / COUNT:.0f} requests per Partition: {_summary(requests)}")
        say(f"  {self._operator.memory()}, {self._operator.processor_s():.0f} s of a core")

    async def until_quiet(self) -> None:
        """Until the operator has written nothing for QUIET_S."""
        began = quiet = time.monotonic()
        self._audit.new()
        while time.monotonic() - quiet < QUIET_S:
            await asyncio.sleep(1)
            self._operator.check()
            if any(event["verb"] in WRITES for event in self._audit.new()):
                quiet = time.monotonic()
            if quiet - began > STALLED_S:
                raise SystemExit(f"the operator still writes after {STALLED_S:.0f} s")

    async def reactions(self) -> None:
        found = sorted([await self._reaction() for _ in range(CHANGES)])
        p95 = found[int(len(found) * 0.95)]
        middle = statistics.median(found)
        say(f"a change is followed: median {middle:.2f} s, p95 {p95:.2f} s, most {found[-1]:.2f} s")

    async def _reaction(self) -> float:
        """Seconds from a change of a Partition until its StatefulSet has it."""
        name, mark = f"part-{self._rng.randrange(COUNT)}", str(self._rng.randrange(2**32))
        live = await self._kube.get("Partition", NAMESPACE, name)
        assert live is not None
        template = {"metadata": {"annotations": {"tests.example/mark": mark}}}
        began = time.monotonic()
        await self._kube.merge("Partition", live, {"spec": {"podTemplate": template}})
        while (took := time.monotonic() - began) < STALLED_S:
            found = await self._kube.get("StatefulSet", NAMESPACE, name)
            assert found is not None
            marks = found["spec"]["template"]["metadata"].get("annotations") or {}
            if marks.get("tests.example/mark") == mark:
                return took
            await asyncio.sleep(0.02)
        raise SystemExit(f"a change of {name} was not followed within {STALLED_S:.0f} s")

    async def idle(self) -> None:
        self._audit.new()
        before = self._operator.processor_s()
        await asyncio.sleep(IDLE_S)
        share = 100 * (self._operator.processor_s() - before) / IDLE_S
        self._operator.check()
        say(f"idle for {IDLE_S:.0f} s: {_summary(self._audit.new())}; {share:.0f} % of a core")
        seconds, size = await asyncio.to_thread(self._operator.scrape)
        say(f"  a scrape of its metrics: {seconds:.2f} s, {size / 1e6:.1f} MB")
        say(f"  {self._operator.memory()}")

    async def restart(self) -> None:
        self._operator.stop()
        self._audit.new()
        self._operator.start()
        progress = Progress("a restart has looked at")
        seen: set[str] = set()
        requests: list[dict[str, Any]] = []
        while len(seen) < COUNT:
            await asyncio.sleep(0.2)
            self._operator.check()
            fresh = self._audit.new()
            requests += fresh
            seen |= _looked_at(fresh)
            progress.reached(len(seen))
        say(f"a restart has looked at all {COUNT} after {progress.seconds:.1f} s")
        say(f"  {_summary(requests)}; {self._operator.processor_s():.0f} s of a core")
        await self.until_quiet()
        say(f"  {self._operator.memory()}")


def _looked_at(requests: list[dict[str, Any]]) -> set[str]:
    """The Partitions that were observed: their Secrets are read last."""
    found = [e["objectRef"] for e in requests if e["verb"] == "get"]
    mark = names.client_secret("")
    return {
        about["name"].removesuffix(mark)
        for about in found
        if about["resource"] == "secrets" and about["name"].endswith(mark)
    }


async def run(folder: Path) -> None:
    with ApiServer(folder) as server:
        server.kubectl("create", "namespace", NAMESPACE)
        kube = await connect(server.kubeconfig)
        operator = Operator(server, folder)
        benchmark = Benchmark(server, kube, operator)
        await benchmark.make()
        say(f"{COUNT} Partitions made")
        controller = asyncio.create_task(Controller(kube, server).run())
        operator.start()
        try:
            await benchmark.until_ready(controller)
            await benchmark.until_quiet()
            await benchmark.reactions()
            await benchmark.until_quiet()
            await benchmark.idle()
            await benchmark.restart()
        finally:
            operator.stop()
            controller.cancel()
            await asyncio.gather(controller, return_exceptions=True)
            await kube.close()


def main() -> None:
    began = time.monotonic()
    kept = os.environ.get("KEEP")
    if kept:
        if Path(kept).exists() and any(Path(kept).iterdir()):
            raise SystemExit(f"KEEP={kept}: the folder is not empty; name a new one")
        asyncio.run(run(Path(kept).absolute()))
    else:
        with tempfile.TemporaryDirectory() as place:
            asyncio.run(run(Path(place)))
    say(f"all took {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
