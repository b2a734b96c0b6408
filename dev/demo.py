"""`make demo`: runs the whole system once on a real cluster, measures it, and checks that no data
is lost.

python -m dev.demo up [--context NAME [--image REPOSITORY:TAG]]
                                          installs, writes, kills, verifies, prints a summary
python -m dev.demo down [--context NAME]  removes everything that `up` has created
"""

import argparse
import asyncio
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from partition_client.tree import digest_directory, digest_tree, put_tree

from dev import local_image
from dev.access import Access, Kubectl, size_of, source_tree
from dev.cluster import host
from dev.cluster.layout import ROOT, Layout
from dev.install import NAMESPACE, helm_release, install, is_demo, mark_demo, uninstall
from dev.load import Writers

DEMO = "partition-demo"
SAMPLE = ROOT / "manifests" / "samples" / "partition.yaml"
PARTITION = "example"
REPLICAS = 3
WRITERS = 8
FILES_MIN, BYTES_MIN = 5_000, 100_000_000


def say(text: str) -> None:
    print(text, flush=True)


@contextmanager
def step(what: str, expected: str) -> Iterator[None]:
    """Prints a step with its expected duration, and at its end the real one."""
    say(f"\n== {what} (may take {expected})")
    started = time.monotonic()
    yield
    say(f"   done in {time.monotonic() - started:.1f} s")


class Demo:
    """One run of the demo. context: "" to start the project's own cluster."""

    def __init__(self, context: str, image: str) -> None:
        self.context = context
        self.image = image
        self.layout: Layout | None = None
        self.summary: list[str] = []
        self.failed = False

    def note(self, text: str, *, good: bool = True) -> None:
        self.failed |= not good
        self.summary.append(("  " if good else "! ") + text)
        say("   " + text)

    async def run(self) -> int:
        started = time.monotonic()
        kubectl = self._cluster()
        if self.context and helm_release(kubectl) and not is_demo(kubectl):
            raise SystemExit(
                f"demo: the cluster already has a release partition-operator in {NAMESPACE}, which "
                "the demo would replace: use another cluster"
            )
        with step("Installing the operator with Helm", "1 min"):
            install(kubectl, self.image)
            mark_demo(kubectl)
        with step(
            f"Applying {SAMPLE.relative_to(ROOT)}: {REPLICAS} replicas form a group", "1 min"
        ):
            namespace = (
                f"apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {DEMO}\n  labels:\n"
                "    pod-security.kubernetes.io/enforce: restricted\n"
            )
            kubectl("apply", "-f", "-", stdin=namespace)
            kubectl("-n", DEMO, "apply", "-f", str(SAMPLE))
            wait_ready(kubectl, DEMO, PARTITION)
            say(kubectl("get", "partitions", "-n", DEMO, "-o", "wide"))
        direct = self.layout is not None
        async with Access(kubectl, DEMO, PARTITION, REPLICAS, direct=direct) as access:
            await self._use(kubectl, access)
        say("\n== Partitions and events in Kubernetes")
        say(kubectl("get", "partitions", "-n", DEMO, "-o", "wide"))
        say(
            kubectl(
                "get",
                "events",
                "-n",
                DEMO,
                "--field-selector",
                "involvedObject.kind=Partition",
                "--sort-by=.lastTimestamp",
            )
        )
        self._sum_up(kubectl, time.monotonic() - started)
        return 1 if self.failed else 0

    def _cluster(self) -> Kubectl:
        if self.context:
            say(f"Using the cluster of context {self.context}.")
            self._image_for_context()
            return Kubectl(context=self.context)
        with step("Starting a local Kubernetes with three nodes", "15 min cold, 30 s warm"):
            self.layout = host.up()
        self.image = host.image()
        return Kubectl(kubeconfig=self.layout.kubeconfig)

    def _image_for_context(self) -> None:
        """Loads the image into clusters of kind and k3d. Other clusters pull it."""
        loader = local_image.loader_of(self.context)
        if loader is None and not self.image:
            raise SystemExit(
                f"demo: {self.context} is not a context of kind or k3d: name an image that its "
                "cluster can pull: IMAGE=repository:tag"
            )
        wanted = ["kubectl", "helm", "go"]
        if loader is not None:
            wanted += ["docker", loader.tool]
        if missing := local_image.missing_tools(wanted):
            raise SystemExit(
                f"demo: not found: {', '.join(missing)}. Install them (docs/try_it.md)"
            )
        if loader is None:
            return
        if not self.image:
            with step("Building the image with Docker", "5 min cold, 30 s warm"):
                self.image = local_image.build()
        elif not local_image.is_local(self.image):
            say(f"   Docker on this machine does not have {self.image}: the cluster pulls it")
            return
        with step(f"Loading {self.image} into the nodes with {loader.tool}", "1 min"):
            local_image.run(loader.command(self.image))

    async def _use(self, kubectl: Kubectl, access: Access) -> None:
        root = source_tree()
        files, size = await asyncio.to_thread(size_of, root)
        if files < FILES_MIN or size < BYTES_MIN:
            raise SystemExit(
                f"demo: {root} has {files} files and {size} bytes; the demo needs at least "
                f"{FILES_MIN} files and {BYTES_MIN} bytes"
            )
        async with access.client() as client, access.client() as reader:
            with step(f"Putting {root} into the tree: {files} files, {size / 1e6:.0f} MB", "3 min"):
                began = time.monotonic()
                done = await put_tree(client, root, b"go", progress(files))
                seconds = time.monotonic() - began
                self.note(
                    f"{done.files} files, {done.bytes / 1e6:.0f} MB put in {seconds:.0f} s: "
                    f"{done.files / seconds:.0f} files/s, {done.bytes / 1e6 / seconds:.0f} MB/s"
                )
            with tempfile.TemporaryDirectory() as folder:
                journal = Path(folder) / "acknowledged"
                writers = Writers(client, WRITERS, journal, f"demo-{int(time.time())}/")
                writers.start()
                try:
                    await self._kill_process(kubectl, writers)
                    await self._delete_pod(kubectl, writers)
                finally:
                    await writers.stop()
                with step("Reading every acknowledged write back", "30 s"):
                    lost = await writers.lost(reader)
                    acknowledged = sum(1 for _ in journal.open())
                    self.note(
                        f"{acknowledged} writes acknowledged by {WRITERS} writers, "
                        f"{len(lost)} of them lost",
                        good=not lost and acknowledged == len(writers.acknowledged),
                    )
            await asyncio.to_thread(wait_ready, kubectl, DEMO, PARTITION)
            with step("SHA-256 of the bytes that each replica streams", "2 min"):
                wanted = await asyncio.to_thread(digest_directory, root)
                say(f"   {wanted}  {root}")
                for ordinal, endpoint in enumerate(access.endpoints):
                    found = await digest_tree(reader, b"go", stale_from=endpoint)
                    equal = "equal" if found == wanted else "DIFFERENT"
                    self.note(f"{found}  {PARTITION}-{ordinal}: {equal}", good=found == wanted)

    async def _kill_process(self, kubectl: Kubectl, writers: Writers) -> None:
        leader = leading_pod(kubectl)
        if self.layout is None:
            say("\n== Skipped: SIGKILL from the host needs the local cluster")
            return
        with step(
            f"SIGKILL to the leader's process ({leader}) while {WRITERS} writers run", "10 s"
        ):
            await writers.next_acknowledged(time.monotonic())
            killed = kill_container(self.layout, kubectl, DEMO, leader)
            seconds = await writers.next_acknowledged(killed)
            self.note(f"SIGKILL of the leader: next acknowledged write after {seconds:.2f} s")
            await asyncio.to_thread(wait_ready, kubectl, DEMO, PARTITION)

    async def _delete_pod(self, kubectl: Kubectl, writers: Writers) -> None:
        leader = leading_pod(kubectl)
        with step(f"Force-deleting the leader's pod ({leader}): it transfers leadership", "30 s"):
            await writers.next_acknowledged(time.monotonic())
            began = time.monotonic()
            # Even then the process receives SIGTERM, and transfers leadership.
            kubectl("-n", DEMO, "delete", "pod", leader, "--force", "--grace-period=0")
            longest = await longest_pause(writers, 5.0, began)
            self.note(
                f"forced deletion of the leader's pod: longest pause of writes {longest:.2f} s"
            )
            await asyncio.to_thread(wait_ready, kubectl, DEMO, PARTITION)

    def _sum_up(self, kubectl: Kubectl, seconds: float) -> None:
        where = " ".join(kubectl.command()[1:])
        say(f"\n== Summary, after {seconds:.0f} s" + (": SOMETHING FAILED" if self.failed else ""))
        for line in self.summary:
            say(line)
        say(f"""
To continue by hand:
  alias k='{kubectl.command()[0]} {where} -n {DEMO}'
  k get partitions -o wide --watch
  k describe partition {PARTITION}
  k exec {PARTITION}-0 -- python3 -m partition_client --endpoints \
{PARTITION}-0.{PARTITION}-replicas.{DEMO}.svc:7000 --tls-dir /etc/partition/tls status
To remove everything: make demo-down{f" CONTEXT={self.context}" if self.context else ""}""")


def progress(files: int) -> "object":
    """Returns a callback that prints the progress: every 10 s, or in place on a terminal."""
    done = [0, 0, time.monotonic()]

    def advance(count: int, size: int) -> None:
        done[0] += count
        done[1] += size
        if time.monotonic() - done[2] > (0.2 if sys.stderr.isatty() else 10):
            done[2] = time.monotonic()
            end = "\r" if sys.stderr.isatty() else "\n"
            sys.stderr.write(f"   {done[0]} of {files} files, {done[1] / 1e6:.0f} MB{end}")

    return advance


async def longest_pause(writers: Writers, for_s: float, began: float) -> float:
    """Returns the longest time in seconds without an acknowledgement, within `for_s` seconds. A
    pause that lasts longer is measured to its end."""
    longest, last = 0.0, began
    while time.monotonic() < began + for_s or last < began + for_s:
        await asyncio.sleep(0.005)
        if writers.last_at > last:
            longest, last = max(longest, writers.last_at - last), writers.last_at
        if time.monotonic() - last > 60:
            return time.monotonic() - last
    return longest


def wait_ready(kubectl: Kubectl, namespace: str, partition: str, within_s: float = 180) -> None:
    """Waits until every replica serves. Ends the demo after `within_s` seconds."""
    deadline = time.monotonic() + within_s
    while True:
        found = kubectl.json("-n", namespace, "get", "partition", partition)
        status = found.get("status") or {}
        wanted = found["spec"]["replicas"]
        pods = kubectl.json(
            "-n", namespace, "get", "pods", "-l", f"logstore.dev/partition={partition}"
        )
        ready = sum(
            any(
                c["type"] == "Ready" and c["status"] == "True"
                for c in pod["status"].get("conditions", [])
            )
            for pod in pods["items"]
            if "deletionTimestamp" not in pod["metadata"]
        )
        if status.get("state") == "Ready" and ready == wanted:
            return
        if time.monotonic() > deadline:
            say(kubectl("-n", namespace, "describe", "partition", partition))
            say(kubectl("-n", namespace, "get", "pods", "-o", "wide"))
            raise SystemExit(f"demo: {partition} was not ready within {within_s:.0f} s")
        time.sleep(0.3)


def leading_pod(kubectl: Kubectl) -> str:
    found = kubectl.json("-n", DEMO, "get", "partition", PARTITION)
    leader: str = found["status"]["leader"]
    return leader


def kill_container(layout: Layout, kubectl: Kubectl, namespace: str, pod: str) -> float:
    """Sends SIGKILL to the replica's processes from the host. Returns the monotonic time."""
    found = kubectl.json("-n", namespace, "get", "pod", pod)
    container = found["status"]["containerStatuses"][0]["containerID"]
    pids = host.container_pids(layout, found["metadata"]["uid"], container)
    assert pids, f"no process of {pod} found"
    now = time.monotonic()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    return now


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m dev.demo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("action", choices=["up", "down"])
    parser.add_argument("--context", default=os.environ.get("CONTEXT", ""))
    parser.add_argument("--image", default=os.environ.get("IMAGE", ""))
    options = parser.parse_args()
    if options.action == "up":
        sys.exit(asyncio.run(Demo(options.context, options.image).run()))
    if options.context:
        kubectl = Kubectl(context=options.context)
        kubectl("delete", "namespace", DEMO, "--ignore-not-found")
        if not is_demo(kubectl):
            raise SystemExit(f"demo: the release in {NAMESPACE} is not the demo's; it stays")
        uninstall(kubectl)
        say(f"Kept: the CustomResourceDefinition and namespace {NAMESPACE}.")
    else:
        host.down()


if __name__ == "__main__":
    main()
