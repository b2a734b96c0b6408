"""What the chart makes of its values, by Helm without a cluster."""

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from dev.cluster.layout import ROOT
from dev.generate.manifests import NAMESPACE
from tests.support.chart import CHART, RELEASE, Body, Refused, helm, of, one, pod_of_test, render

CRDS = ROOT / "manifests" / "crds"
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def template(**values: Any) -> Body:
    found: Body = one(render(**values), "Deployment")["spec"]["template"]
    return found


def selects(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return selector.items() <= labels.items()


# --- where the operator's pods run ------------------------------------------------------------


def test_two_operators_prefer_different_nodes_and_zones() -> None:
    pod = template()
    labels = pod["metadata"]["labels"]
    preferred = "preferredDuringSchedulingIgnoredDuringExecution"
    (term,) = pod["spec"]["affinity"]["podAntiAffinity"][preferred]
    assert term["podAffinityTerm"]["topologyKey"] == "kubernetes.io/hostname"
    assert selects(term["podAffinityTerm"]["labelSelector"]["matchLabels"], labels)
    spread = pod["spec"]["topologySpreadConstraints"]
    assert [rule["topologyKey"] for rule in spread] == [
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
    ]
    for rule in spread:
        assert rule["whenUnsatisfiable"] == "ScheduleAnyway", "one node is enough"
        assert rule["matchLabelKeys"] == ["pod-template-hash"]
        assert selects(rule["labelSelector"]["matchLabels"], labels)


def test_what_is_given_replaces_the_defaults() -> None:
    affinity = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}
    spread = [{"maxSkew": 2, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule"}]
    pod = template(
        affinity=affinity,
        topologySpreadConstraints=spread,
        nodeSelector={"disk": "ssd"},
        tolerations=[{"key": "infra", "operator": "Exists"}],
        priorityClassName="system-cluster-critical",
        imagePullSecrets=[{"name": "registry"}],
    )["spec"]
    assert pod["affinity"] == affinity
    assert pod["topologySpreadConstraints"] == spread
    assert pod["nodeSelector"] == {"disk": "ssd"}
    assert pod["tolerations"] == [{"key": "infra", "operator": "Exists"}]
    assert pod["priorityClassName"] == "system-cluster-critical"
    assert pod["imagePullSecrets"] == [{"name": "registry"}]


@pytest.mark.parametrize(
    ("values", "budgets"),
    [({}, 1), ({"replicas": 1}, 0), ({"podDisruptionBudget": {"enabled": False}}, 0)],
)
def test_a_drain_takes_one_operator_at_a_time(values: dict[str, Any], budgets: int) -> None:
    rendered = render(**values)
    found = of(rendered, "PodDisruptionBudget")
    assert len(found) == budgets
    for budget in found:
        assert budget["spec"]["maxUnavailable"] == 1
        assert budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
        labels = template()["metadata"]["labels"]
        assert selects(budget["spec"]["selector"]["matchLabels"], labels)
        test = pod_of_test(rendered)["metadata"]["labels"]
        assert not selects(budget["spec"]["selector"]["matchLabels"], test)


# --- its pods ---------------------------------------------------------------------------------


def test_labels_and_annotations_are_added() -> None:
    rendered = render(
        podLabels={"team": "storage"},
        podAnnotations={"a/b": "c"},
        serviceAccount={"annotations": {"d/e": "f"}},
    )
    deployment = one(rendered, "Deployment")
    marks = deployment["spec"]["template"]["metadata"]
    assert marks["labels"] == deployment["spec"]["selector"]["matchLabels"] | {"team": "storage"}
    assert marks["annotations"] == {"a/b": "c"}
    assert one(rendered, "ServiceAccount")["metadata"]["annotations"] == {"d/e": "f"}
    assert "annotations" not in one(render(), "ServiceAccount")["metadata"]


def test_labels_by_which_pods_are_found_can_not_be_set() -> None:
    with pytest.raises(Refused, match=r"podLabels: app\.kubernetes\.io/name is a label"):
        render(podLabels={"app.kubernetes.io/name": "mine"})


def test_variables_are_added_and_those_of_the_chart_refused() -> None:
    own = template()["spec"]["containers"][0]["env"]
    more = [
        {"name": "PARTITION_OPERATOR_POLL_SECONDS", "value": "5"},
        {"name": "X", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}},
    ]
    assert template(extraEnv=more)["spec"]["containers"][0]["env"] == [*own, *more]
    for name in [*(variable["name"] for variable in own), "PARTITION_OPERATOR_HTTP_PORT"]:
        with pytest.raises(Refused, match=f"extraEnv: {name} is set by .*; remove it"):
            render(extraEnv=[{"name": name, "value": "x"}])


def test_every_pod_is_restricted() -> None:
    rendered = render()
    pods = [one(rendered, "Deployment")["spec"]["template"], pod_of_test(rendered)]
    for pod in pods:
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        assert pod["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["spec"]["containers"]:
            assert container["securityContext"] == RESTRICTED


@pytest.mark.parametrize(
    "wrong",
    [
        {"nosuch": 1},
        {"replicas": 0},
        {"extraEnv": [{"name": "1X"}]},
        {"imagePullSecrets": ["registry"]},
        {"podAnnotations": {"a": 1}},
        {"topologySpreadConstraints": [{"topologyKey": "rack"}]},
    ],
)
def test_wrong_values_are_refused(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(Refused, match=name):
        render(**wrong)


# --- the test of an installation --------------------------------------------------------------


def test_the_test_has_the_operators_image_account_and_no_labels_of_it() -> None:
    rendered = render(
        watchNamespaces=["a", "b"],
        image={"repository": "here/it", "tag": "9"},
        imagePullSecrets=[{"name": "registry"}],
    )
    deployment, test = one(rendered, "Deployment"), pod_of_test(rendered)
    operator = deployment["spec"]["template"]["spec"]
    (container,) = test["spec"]["containers"]
    assert container["image"] == operator["containers"][0]["image"] == "here/it:9"
    assert test["spec"]["serviceAccountName"] == operator["serviceAccountName"]
    assert test["spec"]["imagePullSecrets"] == [{"name": "registry"}]
    selector = deployment["spec"]["selector"]["matchLabels"]
    assert not selects(selector, test["metadata"]["labels"])


def test_the_plain_manifests_have_no_test() -> None:
    found = list(yaml.safe_load_all((ROOT / "manifests" / "install.yaml").read_text()))
    assert of(found, "Deployment")
    assert not of(found, "Pod")


# --- what a registry and a catalogue are told --------------------------------------------------


def annotated(name: str) -> Any:
    text = (CHART / "Chart.yaml").read_text()
    return yaml.safe_load(yaml.safe_load(text)["annotations"][f"artifacthub.io/{name}"])


def test_the_annotated_crds_are_those_of_the_chart() -> None:
    found = {}
    for file in CRDS.iterdir():
        body = yaml.safe_load(file.read_text())
        (version,) = (entry["name"] for entry in body["spec"]["versions"])
        found[body["metadata"]["name"]] = (body["spec"]["names"]["kind"], version)
    assert {e["name"]: (e["kind"], e["version"]) for e in annotated("crds")} == found
    kinds = {kind for kind, _ in found.values()}
    assert {example["kind"] for example in annotated("crdsExamples")} == kinds


def test_the_annotated_image_and_changes() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    (image,) = annotated("images")
    assert image["image"] == template()["spec"]["containers"][0]["image"]
    assert image["image"].endswith(f":{chart['appVersion']}")
    kinds = {change["kind"] for change in annotated("changes")}
    assert kinds <= {"added", "changed", "deprecated", "removed", "fixed", "security"}
    assert kinds
    for link in annotated("links"):
        assert link["url"].startswith(chart["home"])


def test_a_package_renders_as_the_folder_does(tmp_path: Path) -> None:
    """`helm package` makes what a registry gets."""
    helm("package", str(CHART), "--destination", str(tmp_path))
    (package,) = tmp_path.iterdir()
    with tarfile.open(package) as archive:
        names = {name.removeprefix("partition-operator/") for name in archive.getnames()}
    assert {
        "Chart.yaml",
        "values.schema.json",
        "README.md",
        "templates/tests/installation.yaml",
    } <= (names)
    words = ("template", RELEASE, "--namespace", NAMESPACE, "--kube-version", "1.34.0")
    rendered = helm(*words, str(package))
    found = [body for body in yaml.safe_load_all(rendered) if body]
    assert json.dumps(found, sort_keys=True) == json.dumps(render(), sort_keys=True)


def test_helm_finds_no_fault() -> None:
    found = helm("lint", str(CHART), "--strict", "--kube-version", "1.34.0")
    assert "0 chart(s) failed" in found
