"""Pages of docs/operations by copying their commands, against an API server: what a reader fills in
is said here. Real replicas on loopback; stand-ins for the controllers and for kubelets."""

import asyncio
import base64
import datetime as dt
import json
import re
import textwrap
import uuid
from pathlib import Path
from typing import Any

import pytest
from partition_operator.resources.certificates import KeyPair

from tests.support.api_server import ApiServer
from tests.support.brought_certificates import Corp
from tests.support.local_group import eventually
from tests.support.operator_process import Operator
from tests.support.page_blocks import RELEASES, SHOP
from tests.support.pages import Page, Terminal, beside
from tests.support.partition_watch import SETTINGS
from tests.support.switch_stage import Stage, stage

pytestmark = [pytest.mark.apiserver, pytest.mark.timeout(600)]

PARTITION = """\
apiVersion: logstore.dev/v1alpha1
kind: Partition
metadata: {name: part}
spec: {replicas: 1, storage: {size: 1Gi}}
"""
PART = {"NAME": "part"}
QUICK = SETTINGS | {
    "PARTITION_OPERATOR_TRUST_SPREAD_SECONDS": "2",
    "PARTITION_OPERATOR_AUTHORITY_OVERLAP_SECONDS": "2",
}


async def test_a_group_is_upgraded_certified_and_recovered(
    server: ApiServer, tmp_path: Path
) -> None:
    """upgrade.md, certificates.md, lost_quorum.md and parts of others, with one group, because a
    group takes a while to begin. It has one replica until more are needed."""
    async with stage(server, tmp_path, refresh=True, **QUICK) as found:
        found.kubectl("apply", "-f", "-", stdin=PARTITION)
        found.operator.start()
        await found.ready("Raft", 1)
        home = f"{found.namespace}-new"
        server.kubectl("create", "namespace", home)
        settings = QUICK | {"PARTITION_OPERATOR_WATCH": found.namespace}
        second = Operator(server, home, tmp_path / "second.log", **settings)
        reader = Reader(
            found, home, beside(tmp_path / "reader", server.kubeconfig, found.namespace)
        )
        try:
            await reader.hands_over(second)
            await reader.upgrades()
            await reader.has_certificates()
            await reader.scales()
            await reader.loses_the_quorum()
        except BaseException:
            print((tmp_path / "second.log").read_text()[-6000:])
            print(found.kubectl("describe", "partitions"), found.kubectl("get", "pods,pvc"))
            raise
        finally:
            second.stop()


def test_releases_of_the_chart(server: ApiServer, tmp_path: Path) -> None:
    """The part of install.md on a second release."""
    mark = uuid.uuid4().hex[:6]
    shell = beside(tmp_path / "reader", server.kubeconfig, "default")
    page = Page("operations/install.md", RELEASES, shell)
    home = f"home-{mark}"
    # The CRDs are there already, made by kubectl here.
    begin = f"helm install old-{mark} charts/partition-operator -n {home} --create-namespace"
    shell.run(f"{begin} --take-ownership")
    names = [f"new-{mark}"]
    try:
        page.run("kubectl create namespace team-b", {"team-b": f"b-{mark}"})
        found = server.kubectl("-n", f"b-{mark}", "get", "roles", "-o", "name")
        assert f"b-{mark}-b-{mark}-system-partitions" in found
        renamed = {"old": f"old-{mark}", "new": names[0], "partition-system": home}
        page.run("helm uninstall old", renamed)
        owner = "jsonpath={.metadata.annotations.meta\\.helm\\.sh/release-name}"
        assert server.kubectl("get", "crd", "partitions.logstore.dev", "-o", owner) == names[0]
        page.assert_all_tried()
    finally:
        shell.run(f"helm uninstall {names[0]} -n {home} --ignore-not-found")
        shell.run(f"helm uninstall b-{mark} -n b-{mark}-system --ignore-not-found")


class Reader:
    """Somebody with the pages, a shell, and the Partition `part`. home: the namespace of the
    operator that shall have it."""

    def __init__(self, found: Stage, home: str, shell: Terminal) -> None:
        self.found = found
        self.home = home
        self.shell = shell
        self.folder = found.folder / "reader"

    def page(self, name: str) -> Page:
        return Page(f"operations/{name}", SHOP, self.shell)

    async def copies(self, page: Page, *words: Any, **more: Any) -> str:
        """Runs a block of the page, while the stand-ins go on."""
        return await asyncio.to_thread(page.run, *words, **more)

    async def told(self, kind: str, status: str, reason: str = "") -> str:
        """The message of a condition, once it is so for the newest generation."""

        async def there() -> str | None:
            self.found.operator.revive()
            seen = await self.found.partition()
            for one in seen.get("status", {}).get("conditions", []):
                same = (one["type"], one["status"]) == (kind, status)
                current = one["observedGeneration"] == seen["metadata"]["generation"]
                if same and current and reason in ("", one["reason"]):
                    return str(one["message"])
            return None

        return await eventually(there, f"{kind} is {status} {reason}", 120)

    async def has(self, *path: str, value: Any) -> None:
        """Waits until the status has this value at the path."""

        async def there() -> bool:
            self.found.operator.revive()
            seen: Any = await self.found.status()
            for key in path:
                seen = (seen or {}).get(key)
            return bool(seen == value)

        await eventually(there, f"status.{'.'.join(path)} is {value}", 120)

    async def event(self, reason: str) -> None:
        async def there() -> bool:
            return reason in self.found.events()

        await eventually(there, f"event {reason}", 60)

    def secret(self, name: str) -> dict[str, str]:
        found = self.found.server.kubectl.json("-n", self.found.namespace, "get", "secret", name)
        return dict(found["data"])

    def patches(self, text: str) -> None:
        """Writes what a page shows of a Partition's spec into it."""
        (self.folder / "patch.yaml").write_text(text)
        self.shell.run("kubectl patch partition part --type=merge --patch-file=patch.yaml")

    async def hands_over(self, second: Operator) -> None:
        page = self.page("install.md")
        names = {
            "OLD-OPERATOR-NAMESPACE": self.found.namespace,
            "NEW-OPERATOR-NAMESPACE": self.home,
        }
        await self.copies(page, "kubectl get secret partition-operator-ca", names)
        before = self.secret("part-client-tls")
        second.start()
        names = {"NAMESPACE": self.found.namespace, "NEW-OPERATOR-NAMESPACE": self.home}
        await self.copies(page, "kubectl annotate partitions --all", names)
        await self.has("operator", value=self.home)
        self.found.operator.stop()
        self.found.operator = second
        await self.found.ready("Raft", 1)
        assert self.secret("part-client-tls") == before
        page.assert_all_tried()

    async def upgrades(self) -> None:
        page, replaced = self.page("upgrade.md"), self.found.nodes.replaced
        image = 'kubectl patch partition NAME --type=merge -p \'{"spec": {"image": '
        await self.copies(page, f'{image}"REPOSITORY', PART | {"REPOSITORY:TAG": "image:2"})
        assert (await self.found.status())["image"] == "image:2"
        assert replaced == ["part-0"]
        self.patches(page.take("spec:\n  updateStrategy:", {"0 3 * * 6": "* * * * *"}))
        await self.copies(page, f'{image}"THE-IMAGE', PART | {"THE-IMAGE-BEFORE": "image:1"})
        message = await self.told("RolledOut", "False", "WaitingForApproval")
        assert replaced == ["part-0"]
        told = re.search(r"logstore\.dev/approve-rollout=(\S+)", message)
        assert told is not None, message
        approval = {"NAME": "part", "REVISION": told[1]}
        await self.copies(page, "kubectl annotate partition NAME logstore.dev/approve", approval)
        await self.told("RolledOut", "True", "UpToDate")
        assert (await self.found.status())["image"] == "image:1"
        self.patches('{"spec": {"updateStrategy": null}}')
        begun = self.found.events().count("RolloutStarted")
        await self.copies(page, "kubectl annotate partition NAME logstore.dev/restart", PART)

        async def again() -> bool:
            return self.found.events().count("RolloutStarted") > begun

        await eventually(again, "the restart begins", 60)
        await self.told("RolledOut", "True", "UpToDate")
        assert replaced == ["part-0"] * 3
        paused = 'kubectl patch partition NAME --type=merge -p \'{"spec": {"paused": '
        await self.copies(page, f"{paused}true", PART)
        await self.event("Paused")
        await self.copies(page, f"{paused}false", PART)
        await self.event("Resumed")
        page.assert_all_tried()

    async def has_certificates(self) -> None:
        page = self.page("certificates.md")
        status = "kubectl get partition NAME -o jsonpath='{.status.certificates}"
        assert json.loads(await self.copies(page, status, PART))["phase"] == "Settled"
        await self.copies(
            page, 'kubectl patch partition NAME --type merge -p \'{"spec": {"clients"', PART
        )
        await self.copies(page, "kubectl wait partition NAME", PART)
        another = PART | {"billing": "orders"}
        await self.copies(page, "kubectl patch partition NAME --type json", another)
        before = self.secret("part-client-billing")["tls.crt"]
        raised = page.take("clients:")
        self.patches("spec:\n" + textwrap.indent(raised, "  "))

        async def another_one() -> bool:
            return self.secret("part-client-billing")["tls.crt"] != before

        await eventually(another_one, "the certificate is another one", 60)
        # The list of the page names one client, and replaces the other one.
        await self.event("ClientRevoked")

        old = (await self.found.status())["certificates"]["authority"]
        place = {"partition-system": self.home}
        await self.copies(page, "kubectl annotate secret partition-operator-ca", place)

        async def renewed() -> bool:
            seen = (await self.found.status())["certificates"]
            return seen["phase"] == "Settled" and seen["authority"] != old

        await eventually(renewed, "the authority is another one", 120)

        corp = Corp(dt.datetime.now(dt.UTC))
        pair = corp.pair(self.found.namespace, "part")
        self.brings(pair, corp.authority)
        await self.copies(page, "kubectl create secret generic corp-tls")
        await self.copies(
            page,
            'kubectl patch partition NAME --type merge -p \\\n  \'{"spec": {"tls": {"issuer',
            PART,
        )

        async def brought() -> bool:
            held = self.secret("part-replica-tls")["tls.crt"]
            return base64.b64decode(held) == pair.certificate

        await eventually(brought, "the replicas have the certificate of their own", 120)
        await self.copies(
            page,
            'kubectl patch partition NAME --type merge -p \\\n  \'{"spec": {"tls": {"secret',
            PART,
        )
        message = await self.told("ObjectsApplied", "False", "ObjectRefused")
        assert "install cert-manager" in message
        await self.copies(
            page, 'kubectl patch partition NAME --type merge -p \'{"spec": {"tls": null', PART
        )
        await self.told("CertificatesReady", "True")
        page.assert_all_tried()

    def brings(self, pair: KeyPair, authority: KeyPair) -> None:
        (self.folder / "tls.crt").write_bytes(pair.certificate)
        (self.folder / "tls.key").write_bytes(pair.key)
        (self.folder / "ca.crt").write_bytes(authority.certificate)

    async def scales(self) -> None:
        page = self.page("scale.md")
        await self.copies(page, "kubectl scale partition NAME", PART | {"5": "3"})
        await self.found.ready("Raft", 3)
        # Its class can't grow volumes, so the API server alone is asked.
        (self.folder / "grow.yaml").write_text(page.take("spec:\n  storage:"))
        patch = "kubectl patch partition part --type=merge --patch-file=grow.yaml"
        assert "patched" in self.shell.run(f"{patch} --dry-run=server")
        page.assert_all_tried()

    async def loses_the_quorum(self) -> None:
        page, found = self.page("lost_quorum.md"), self.found
        async with found.client() as client:
            await client.set_key(b"k", b"1")
        old = found.folder / "old-volume"
        self.loses_two(old)
        token = (await self.looks(page))["token"]
        asked = {"NAME-0": "part-0", "NAME": "part", "TOKEN": "0" * 16}
        await self.copies(page, "kubectl annotate partition NAME --overwrite", asked)
        await self.told("QuorumRecovered", "False", "Refused")
        recovered = await self.copies(
            page, "kubectl partition recover", asked | {"TOKEN": token}, typed="yes"
        )
        assert "Recovered: the group was recovered from part-0" in recovered
        await found.ready("Raft", 3)
        await self.finds_a_former_volume(page, old)
        async with found.client() as client:
            assert await client.get_key(b"k") == b"1"
        page.assert_all_tried()

    def loses_two(self, old: Path) -> None:
        """At once, before the operator could rebuild the first of them. The volume of part-2 is
        kept there."""
        self.found.nodes.lose("part-1")
        self.found.nodes.lose("part-2", old)

    async def looks(self, page: Page) -> dict[str, Any]:
        await self.has("state", value="QuorumLost")
        seen: dict[str, Any] = {}

        async def counted() -> bool:
            return len((await self.found.status())["quorumLoss"]["lost"]) == 2

        await eventually(counted, "both new volumes answer", 60)
        seen = json.loads(await self.copies(page, "kubectl get partition NAME", PART))
        assert [row["pod"] for row in seen["survivors"]] == ["part-0"]
        return seen

    async def finds_a_former_volume(self, page: Page, old: Path) -> None:
        """The test has the part of the controllers of volumes."""
        found = self.found
        found.nodes.lose("part-2")
        old.rename(found.nodes.volume("part-2"))
        assert "data-part-2" in await self.told("QuorumRecovered", "False", "VolumesLeft")
        volume = {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": found.namespace},
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "capacity": {"storage": "1Gi"},
                "hostPath": {"path": "/nowhere"},
                "persistentVolumeReclaimPolicy": "Delete",
            },
        }
        found.kubectl("apply", "-f", "-", stdin=json.dumps(volume))
        bound = json.dumps({"spec": {"volumeName": found.namespace}})
        found.kubectl("patch", "pvc", "data-part-2", "--type=merge", "-p", bound)
        await self.copies(page, "PV=$(kubectl get pvc", {"data-NAME-N": "data-part-2"})
        policy = "jsonpath={.spec.persistentVolumeReclaimPolicy}"
        assert found.kubectl("get", "pv", found.namespace, "-o", policy) == "Retain"
        self.frees("data-part-2")
        await self.copies(page, "kubectl delete pvc data-NAME-N", {"NAME-N": "part-2"})

        async def anew() -> bool:
            return found.nodes.runs("part-2")

        await eventually(anew, "the pod is made anew", 30)
        found.nodes.lose("part-2")
        await found.ready("Raft", 3)

    def frees(self, *claims: str) -> None:
        """No controller says here that a claim is in use no more."""
        for claim in claims:
            nothing = '{"metadata": {"finalizers": null}}'
            self.found.kubectl("patch", "pvc", claim, "--type=merge", "-p", nothing)
