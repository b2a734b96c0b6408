"""manifests/samples/application.yaml: an application beside each replica, on a real Kubernetes."""

import asyncio
from typing import Any

import pytest
import yaml

from dev.cluster.layout import ROOT
from tests.support.cluster import Namespace
from tests.support.local_group import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

SAMPLE = ROOT / "manifests" / "samples" / "application.yaml"
PODS = [f"example-{n}" for n in range(3)]


def sample(image: str) -> str:
    """With the image of the cluster, and appends at a faster pace."""
    documents = list(yaml.safe_load_all(SAMPLE.read_text()))
    _, partition = documents
    for container in partition["spec"]["podTemplate"]["spec"]["containers"]:
        container["image"] = image
        for variable in container.get("env", []):
            variable["value"] = "0.2"
    partition["spec"]["storage"]["size"] = "512Mi"
    return str(yaml.safe_dump_all(documents))


def printed(namespace: Namespace, pod: str) -> dict[str, int]:
    """By pod: the last number of its application that the one beside this replica has printed."""
    lines = namespace.kubectl("logs", pod, "-c", "app", "--tail=50").splitlines()
    return {words[1].removeprefix("app/"): int(words[2]) for words in map(str.split, lines)}


def restarts(namespace: Namespace, pod: str) -> dict[str, int]:
    found = namespace.json("get", "pod", pod)["status"]["containerStatuses"]
    return {status["name"]: status["restartCount"] for status in found}


async def follows(namespace: Namespace, pod: str, above: dict[str, int]) -> dict[str, int]:
    """Waits until the application of a pod has printed a higher number of each."""

    async def seen() -> dict[str, int] | None:
        found = await asyncio.to_thread(printed, namespace, pod)
        return found if all(found.get(name, 0) > n for name, n in above.items()) else None

    return await eventually(seen, f"the application of {pod} prints what all append", 120)


async def test_an_application_appends_and_tails_beside_each_replica(namespace: Namespace) -> None:
    text = sample(namespace.cluster.image)
    await asyncio.to_thread(namespace.kubectl, "apply", "-f", "-", stdin=text)
    found: dict[str, Any] = await asyncio.to_thread(namespace.ready, "example", 180)
    for pod in PODS:
        await follows(namespace, pod, dict.fromkeys(PODS, 0))

    # Over TLS on localhost.
    async def tailed() -> bool:
        words = ("logs", "example-0", "-c", "tail", "--tail=200")
        lines = await asyncio.to_thread(namespace.kubectl, *words)
        return all(f"set_key app/{pod}" in lines for pod in PODS)

    await eventually(tailed, "partitionctl prints what all append", 60)

    # The leader's pod goes; the applications of the others notice nothing but a pause.
    leader = found["status"]["leader"]
    others = [pod for pod in PODS if pod != leader]
    before = {pod: await asyncio.to_thread(restarts, namespace, pod) for pod in others}
    numbers = await asyncio.to_thread(printed, namespace, others[0])
    await asyncio.to_thread(namespace.kubectl, "delete", "pod", leader)
    for pod in others:
        await follows(namespace, pod, {name: numbers[name] + 5 for name in others})
    assert {pod: await asyncio.to_thread(restarts, namespace, pod) for pod in others} == before
