"""Releases of the chart beside and after each other, by helm."""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.cluster.builds import build_helm
from dev.install import CHART, helm
from tests.support.api_server import ApiServer

pytestmark = [pytest.mark.apiserver, pytest.mark.timeout(180)]

CRD = "partitions.logstore.dev"
OWNER = "jsonpath={.metadata.annotations.meta\\.helm\\.sh/release-name}"


class Releases:
    """Names and namespaces of their own; what is installed is removed in the end."""

    def __init__(self, server: ApiServer) -> None:
        self.server = server
        self.mark = uuid.uuid4().hex[:6]
        self._installed: list[tuple[str, str]] = []

    def install(self, name: str, namespace: str, *words: str) -> str:
        """Returns what Helm tells the user."""
        release, place = self._names(name, namespace)
        told = helm(
            self.server.kubectl,
            *("install", release, str(CHART), "-n", place, "--create-namespace"),
            *words,
        )
        self._installed.append((release, place))
        return told

    def uninstall(self, name: str, namespace: str) -> None:
        release, place = self._names(name, namespace)
        helm(self.server.kubectl, "uninstall", release, "-n", place)
        self._installed.remove((release, place))

    def clean_up(self) -> None:
        for release, place in self._installed:
            helm(self.server.kubectl, "uninstall", release, "-n", place)

    def owns_crds(self, name: str) -> bool:
        found = self.server.kubectl("get", "crd", CRD, "-o", OWNER)
        return found == f"{name}-{self.mark}"

    def _names(self, name: str, namespace: str) -> tuple[str, str]:
        return f"{name}-{self.mark}", f"{namespace}-{self.mark}"


@pytest.fixture
def releases(server: ApiServer) -> Iterator[Releases]:
    build_helm()
    found = Releases(server)
    yield found
    found.clean_up()


def test_a_second_release_and_another_name(releases: Releases) -> None:
    # The CRDs are there already, made by kubectl here.
    releases.install("first", "one", "--take-ownership")
    assert releases.owns_crds("first")
    with pytest.raises(RuntimeError, match="invalid ownership metadata"):
        releases.install("second", "two")
    releases.install("second", "two", "--set", "crds.enabled=false")
    assert releases.owns_crds("first")
    releases.uninstall("first", "one")
    assert releases.owns_crds("first"), "they stay, and every Partition with them"
    with pytest.raises(RuntimeError, match="invalid ownership metadata"):
        releases.install("renamed", "one")
    releases.install("renamed", "one", "--take-ownership")
    assert releases.owns_crds("renamed")


def watching(*namespaces: str) -> tuple[str, ...]:
    found = ",".join(namespaces)
    return ("--set", "crds.enabled=false", "--set", f"watchNamespaces={{{found}}}")


def test_releases_of_one_name_may_watch_the_same_namespace(releases: Releases) -> None:
    place = f"watched-{releases.mark}"
    releases.server.kubectl("create", "namespace", place)
    for namespace in ("one", "two"):
        releases.install("same", namespace, *watching(place))
    for kind in ("roles", "rolebindings"):
        found = releases.server.kubectl("-n", place, "get", kind, "-o", "name").split()
        assert len(found) == 2
    # Each of them is bound to the account of its own release.
    path = "jsonpath={.items[*].subjects[0].namespace}"
    bound = releases.server.kubectl("-n", place, "get", "rolebindings", "-o", path).split()
    assert sorted(bound) == [f"one-{releases.mark}", f"two-{releases.mark}"]
    releases.uninstall("same", "two")
    assert releases.server.kubectl("-n", place, "get", "roles", "-o", "name").strip()


def test_a_namespace_is_named_once(releases: Releases) -> None:
    with pytest.raises(RuntimeError, match=r"(?i)watchNamespaces.*(unique|equal)"):
        releases.install("first", "one", *watching("here", "here"))


def test_every_value_is_accepted(releases: Releases, tmp_path: Path) -> None:
    """By the API server, not only by Helm."""
    kubectl = releases.server.kubectl
    place = f"watched-{releases.mark}"
    kubectl("create", "namespace", place)
    address = {"to": [{"ipBlock": {"cidr": "203.0.113.0/24"}}], "ports": [6443]}
    shop = {"podSelector": {"matchLabels": {"app": "shop"}}, "namespaceSelector": {}}
    values = {
        "crds": {"enabled": False},
        "watchNamespaces": [place],
        "imagePullSecrets": [{"name": "registry"}],
        "extraEnv": [{"name": "PARTITION_OPERATOR_POLL_SECONDS", "value": "5"}],
        "serviceAccount": {"annotations": {"a/b": "c"}},
        "podLabels": {"team": "storage"},
        "podAnnotations": {"a/b": "c"},
        "priorityClassName": "system-cluster-critical",
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "infra", "operator": "Exists"}],
        "networkPolicy": {
            "enabled": True,
            "clients": [shop],
            "metrics": [shop],
            "apiServer": address,
            "objectStore": address,
        },
    }
    file = tmp_path / "values.json"
    file.write_text(json.dumps(values))
    told = releases.install("all", "one", "--values", str(file))
    name, home = f"all-{releases.mark}", f"one-{releases.mark}"
    assert f"helm test {name} -n {home}" in told
    assert f"the pods of Partitions in {place}." in told
    for namespace, wanted in (
        (home, {name, f"{name}-api-server"}),
        (place, {f"{name}-{home}-replicas", f"{name}-{home}-snapshots"}),
    ):
        found = kubectl.json("-n", namespace, "get", "networkpolicies")["items"]
        assert {item["metadata"]["name"] for item in found} == wanted
    assert kubectl.json("-n", home, "get", "pdb", name)["spec"]["maxUnavailable"] == 1
    pod = kubectl.json("-n", home, "get", "deployment", name)["spec"]["template"]
    assert pod["spec"]["priorityClassName"] == "system-cluster-critical"
    assert len(pod["spec"]["topologySpreadConstraints"]) == 2


def test_policies_of_all_namespaces_are_said_to_be_missing(releases: Releases) -> None:
    words = ("--set", "crds.enabled=false", "--set", "networkPolicy.enabled=true")
    told = releases.install("all", "one", *words)
    assert "NetworkPolicies hold for the operator alone." in told
    assert "NetworkPolicies" not in releases.install("off", "two", "--set", "crds.enabled=false")
