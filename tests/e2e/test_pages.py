"""Pages of docs/operations by copying their commands, on a real Kubernetes: what a reader fills in
is said here."""

import asyncio
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from partition_client import AsyncClient, DiskFull, PayloadSource

from dev.cluster.layout import ROOT
from dev.cluster.settings import PROVISIONER
from dev.install import NAMESPACE as SYSTEM
from dev.install import helm, install, uninstall
from tests.support.cluster import Cluster, Namespace, condition
from tests.support.local_group import eventually
from tests.support.page_blocks import INSTALL, VOLUMES
from tests.support.pages import Page, Terminal, beside

pytestmark = [pytest.mark.cluster, pytest.mark.long, pytest.mark.timeout(1800)]

PARTITION = """\
apiVersion: logstore.dev/v1alpha1
kind: Partition
metadata: {{name: example}}
spec:
  replicas: 3
  storage: {{size: {size}, className: {name}}}
{more}
"""
ADOPTED = "  bootstrap: {adopt: true}"
NAMED = {"NAME": "example"}
RIGHTS = f"partition-operator-{SYSTEM}"


@pytest.fixture
def bare(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster without the operator, which is there again afterwards."""
    uninstall(cluster.kubectl)
    cluster.kubectl("delete", "namespace", SYSTEM, "--timeout=120s")
    yield cluster
    install(cluster.kubectl, cluster.image)


def test_installing_upgrading_and_removing(bare: Cluster, tmp_path: Path) -> None:
    shell = beside(tmp_path / "reader", bare.layout.kubeconfig, "default")
    page, upgrade = (
        Page(f"operations/{name}", INSTALL, shell) for name in ("install.md", "upgrade.md")
    )
    repository, _, tag = bare.image.rpartition(":")
    values = f"image: {{repository: {repository}, tag: {tag}}}\n{page.take('extraEnv:')}\n"
    (tmp_path / "reader" / "values.yaml").write_text(values)
    ours = {"--create-namespace": "--create-namespace -f values.yaml"}
    installed = page.run("helm install partition-operator", ours)
    assert "condition met" in installed
    words = ("get", "deployment", "partition-operator", "-o", "json")
    deployment = bare.kubectl("-n", SYSTEM, *words)
    assert "PARTITION_OPERATOR_POLL_SECONDS" in deployment
    assert "Phase:          Succeeded" in page.run("helm test")

    # Without its rights the test fails, and its pod stays.
    bare.kubectl("delete", "clusterrolebinding", RIGHTS)
    with pytest.raises(RuntimeError, match="helm test"):
        helm(bare.kubectl, "test", "partition-operator", "-n", SYSTEM, "--timeout", "150s")
    assert "FAILED" in page.run("kubectl logs partition-operator-test")
    done = upgrade.run("helm upgrade partition-operator")
    assert "successfully rolled out" in done
    assert deployment_of(bare, words) == json.loads(deployment)["spec"]
    bare.kubectl("get", "clusterrolebinding", RIGHTS)

    page.run("kubectl delete partitions,partitionsnapshots")
    left = bare.kubectl("get", "crd,namespace,pvc", "-A", "-o", "name")
    assert "logstore.dev" not in left
    assert SYSTEM not in left
    assert "example" not in left
    page.assert_all_tried()
    upgrade.assert_all_tried()


def deployment_of(cluster: Cluster, words: tuple[str, ...]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(cluster.kubectl("-n", SYSTEM, *words))["spec"]
    return found


@pytest.fixture
def fast(cluster: Cluster, namespace: Namespace) -> Iterator[str]:
    """Another class of volumes."""
    name = f"fast-{namespace.name}"
    body = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": name},
        "provisioner": PROVISIONER,
        "volumeBindingMode": "WaitForFirstConsumer",
    }
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(body))
    yield name
    cluster.kubectl("delete", "storageclass", name)


async def test_volumes_that_are_full_replaced_and_lost(
    namespace: Namespace, fast: str, tmp_path: Path
) -> None:
    """full_disk.md, volumes.md, and moving to another class (scale.md), with one Partition."""
    shell = beside(tmp_path / "reader", namespace.cluster.layout.kubeconfig, namespace.name)
    reader = Reader(namespace, fast, shell, tmp_path / "reader")
    reader.apply("loop", "256Mi")
    await reader.ready()
    try:
        await reader.makes_room()
        await reader.moves_to_another_class()
        page = reader.page("volumes.md")
        await reader.examines(page)
        await reader.rebuilds(page)
        await reader.adopts(page)
        await reader.binds_old_volumes_again(page)
        await reader.recovers_without_the_operator()
        await reader.begins_empty(page)
        page.assert_all_tried()
    except BaseException:
        print(namespace.kubectl("describe", "partition", "example", check=False))
        print(namespace.kubectl("get", "pods,pvc", "-o", "wide"))
        raise


class Reader:
    """Somebody with the pages, a shell, and the Partition `example`. fast: another class."""

    def __init__(self, namespace: Namespace, fast: str, shell: Terminal, folder: Path) -> None:
        self.namespace = namespace
        self.fast = fast
        self.shell = shell
        self.folder = folder

    def page(self, name: str) -> Page:
        return Page(f"operations/{name}", VOLUMES, self.shell)

    def written(self, name: str, size: str, more: str = "") -> str:
        """The name of a file with the Partition."""
        text = PARTITION.format(size=size, name=name, more=more)
        (self.folder / "example.yaml").write_text(text)
        return "example.yaml"

    def apply(self, name: str, size: str, more: str = "") -> None:
        self.shell.run(f"kubectl apply -f {self.written(name, size, more)}")

    async def copies(self, page: Page, *words: Any, **more: Any) -> str:
        return await asyncio.to_thread(page.run, *words, **more)

    async def partition(self) -> dict[str, Any]:
        words = ("get", "partition", "example", "-o", "json", "--ignore-not-found")
        found: dict[str, Any] = json.loads(
            await asyncio.to_thread(self.namespace.kubectl, *words) or "{}"
        )
        return found

    async def is_in(self, state: str) -> None:
        async def there() -> bool:
            return (await self.partition()).get("status", {}).get("state") == state

        await eventually(there, f"STATUS is {state}", 180)

    async def ready(self) -> None:
        """Whole, and nothing under way with volumes."""

        async def there() -> bool:
            found = await self.partition()
            reasons = [condition(found, kind)["reason"] for kind in ("Ready", "StorageReady")]
            return reasons == ["Ready", "Ready"] and found["status"]["ready"] == "3/3"

        async def known() -> bool:
            return bool((await self.partition()).get("status", {}).get("conditions"))

        await eventually(known, "the operator has seen it", 60)
        await eventually(there, "the group is whole", 300)

    def claim(self, number: int) -> dict[str, Any]:
        return self.namespace.json("get", "pvc", f"data-example-{number}")

    async def value(self) -> bytes | None:
        async with self.namespace.access("example") as access, access.client() as client:
            return await client.get_key(b"k")

    async def makes_room(self) -> None:
        page = self.page("full_disk.md")
        async with self.namespace.access("example") as access, access.client() as client:
            await client.set_key(b"k", b"kept")
            await client.register_consumer("reader", 0, replica=access.endpoints[0])
            await fill(client)
        await self.is_in("DiskFull")
        seen = await self.copies(page, "kubectl get partition example")
        assert "refuse writes" in seen
        assert "/var/lib/partition" in seen
        place = {"default": self.namespace.name}
        assert "f1\n" in await self.copies(page, "S=example", place | {"PATH": "f0"})
        consumers = page, "$CTL --endpoints $ALL consumer ls", {"NAME": "reader"}
        assert "reader" in await self.copies(*consumers)
        larger = {"20Gi": "512Mi"}
        await self.copies(page, "kubectl patch partition example", larger)
        await self.takes_writes()
        await self.ready()
        page.assert_all_tried()

    async def takes_writes(self) -> None:
        async def taken() -> bool:
            async with self.namespace.access("example") as access, access.client() as client:
                try:
                    await client.put_file(b"f0", PayloadSource.of_bytes(b"again"))
                except DiskFull:
                    return False
                return True

        await eventually(taken, "writes are taken again", 300)

    async def moves_to_another_class(self) -> None:
        page = self.page("scale.md")
        wanted = NAMED | {"50Gi": "512Mi", "fast": self.fast}
        await self.copies(page, "kubectl patch partition NAME", wanted)
        assert "condition met" in await self.copies(page, "SEEN=", NAMED)
        for number in range(3):
            spec = self.claim(number)["spec"]
            assert spec["storageClassName"] == self.fast
        assert await self.value() == b"kept"
        page.assert_all_tried()

    async def examines(self, page: Page) -> None:
        async with self.namespace.access("example") as access, access.client() as client:
            last = await client.set_key(b"k", b"kept")
        names = {"NAME-N": "example-1", "NAME": "example", "NAMESPACE": self.namespace.name}
        inspected = await self.copies(page, "REPLICA=", names | {" 42 ": f" {last.lsn} "})
        assert "stored from" in inspected
        fence = "kubectl annotate partition example logstore.dev/fence"
        self.shell.run(f"{fence}=example-1 --overwrite")
        wait = "kubectl wait --for=condition=Fenced partition/example --timeout=2m"
        await asyncio.to_thread(self.shell.run, wait)
        await self.copies(page, "kubectl exec NAME-N", {"NAME-N": "example-1"})
        self.shell.run(f"{fence}-")
        await self.ready()

    async def rebuilds(self, page: Page) -> None:
        before = self.claim(2)
        await self.copies(page, "kubectl annotate", {"NAME-N": "example-2", "NAME": "example"})
        await self.another(2, before)
        await self.ready()
        old = before["spec"]["volumeName"]
        await self.copies(page, "kubectl get pv", {"NAME": "example", "OLD": old})

        async def gone() -> bool:
            words = ("get", "pv", old, "--ignore-not-found", "-o", "name")
            return not await asyncio.to_thread(self.namespace.cluster.kubectl, *words)

        await eventually(gone, "the old volume is deleted", 60)

    async def another(self, number: int, before: dict[str, Any]) -> None:
        name = f"data-example-{number}"
        words = ("get", "pvc", name, "--ignore-not-found", "-o", "jsonpath={.metadata.uid}")

        async def new() -> bool:
            found = await asyncio.to_thread(self.namespace.kubectl, *words)
            return found not in ("", before["metadata"]["uid"])

        await eventually(new, f"{name} is another claim", 180)

    async def adopts(self, page: Page) -> None:
        patch = 'kubectl patch partition NAME --type=merge -p \'{"spec":{"'
        kept = await self.copies(page, f"{patch}del", NAMED)
        assert kept.count("<none>") == 3
        await asyncio.to_thread(self.shell.run, "kubectl delete partition example")
        self.apply(self.fast, "512Mi")
        await self.is_in("VolumesFound")
        await self.copies(page, f"{patch}boot", NAMED)
        await self.ready()
        assert await self.value() == b"kept"

    async def binds_old_volumes_again(self, page: Page) -> None:
        """Two volumes are given up by mistake, while the operator is paused."""
        before = [self.claim(number) for number in range(3)]
        pause = 'kubectl patch partition example --type=merge -p \'{"spec":{"paused":%s}}\''
        self.shell.run(pause % "true")
        for number in (1, 2):
            claim = {"NAME-N": f"example-{number}"}
            await self.copies(page, "PV=", claim)
            await self.copies(page, "kubectl delete pvc data-NAME-N", claim)
            await self.another(number, before[number])
        self.shell.run(pause % "false")
        await self.is_in("QuorumLost")
        old = before[2]["spec"]["volumeName"]
        body = {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "data-example-2"},
            "spec": {
                key: before[2]["spec"][key]
                for key in ("accessModes", "resources", "storageClassName", "volumeName")
            },
        }
        (self.folder / "claim.yaml").write_text(json.dumps(body))
        filled_in = {
            "NAME-N": "example-2",
            "NAME": "example",
            "OLD": old,
            "…    # the claim": "claim.yaml #",
            "…    # the Partition": f"{self.written(self.fast, '512Mi', ADOPTED)} #",
        }
        await self.copies(page, "kubectl delete partition NAME         ", filled_in)
        await self.ready()
        assert await self.value() == b"kept"
        assert self.claim(2)["spec"]["volumeName"] == old
        spare = before[1]["spec"]["volumeName"]
        policy = '{"spec":{"persistentVolumeReclaimPolicy":"Delete"}}'
        self.namespace.cluster.kubectl("patch", "pv", old, spare, "-p", policy)

    async def recovers_without_the_operator(self) -> None:
        page, kubectl = self.page("lost_quorum.md"), self.namespace.kubectl
        patch = "kubectl patch partition example --type=merge -p"
        self.shell.run(f'{patch} \'{{"spec":{{"deletionPolicy":"Delete"}}}}\'')
        path = "jsonpath={.items[*].metadata.ownerReferences[*].name}"

        async def owned() -> bool:
            return kubectl("get", "pvc", "-o", path).split() == ["example"] * 3

        await eventually(owned, "the Partition owns the claims", 60)
        with self.without_operator():
            for number in range(3):
                name = {"example-0": f"example-{number}"}
                await self.copies(page, "kubectl patch pvc", name)
            offline = (ROOT / "manifests" / "samples" / "offline.yaml").read_text()
            (self.folder / "offline.yaml").write_text(
                re.sub(r"image: .*", f"image: {self.namespace.cluster.image}", offline)
            )
            file = {"manifests/samples/offline.yaml": "offline.yaml"}
            refused = await self.copies(page, "kubectl delete partition", file, code=1)
            token = re.search(r"--accept-loss ([0-9a-f]{16})", refused)
            assert token is not None, refused
            done = await self.copies(page, "kubectl exec", {"TOKEN": token[1]})
            cluster = re.search(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", done)
            assert cluster is not None, done
            self.shell.run("kubectl delete pvc data-example-1 data-example-2")
            file = self.written(self.fast, "512Mi", ADOPTED)
            await self.copies(page, "kubectl annotate pvc", {"CLUSTER": cluster[0], "…": file})
        await self.ready()
        assert await self.value() == b"kept"
        page.assert_all_tried()

    @contextmanager
    def without_operator(self) -> Iterator[None]:
        scale = ("-n", SYSTEM, "scale", "deployment", "partition-operator")
        pods = ("-n", SYSTEM, "wait", "pod", "-l", "app.kubernetes.io/name=partition-operator")
        kubectl = self.namespace.cluster.kubectl
        kubectl(*scale, "--replicas=0")
        try:
            kubectl(*pods, "--for=delete", "--timeout=120s")
            yield
        finally:
            kubectl(*scale, "--replicas=2")

    async def begins_empty(self, page: Page) -> None:
        file = self.written(self.fast, "512Mi")
        await self.copies(page, "kubectl delete partition NAME\nkubectl", NAMED | {"…": file})
        await self.ready()
        assert await self.value() is None


async def fill(client: AsyncClient) -> None:
    """Puts files until the leader's volume is full."""
    with pytest.raises(DiskFull):
        for number in range(200):
            content = os.urandom(2_000_000)
            await client.put_file(b"f%d" % number, PayloadSource.of_bytes(content))
