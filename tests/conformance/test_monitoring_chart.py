"""The chart's objects for the Prometheus Operator and for Grafana."""

import json
from pathlib import Path

import pytest
import yaml

from dev.prometheus import promtool
from tests.support.alert_cases import rules
from tests.support.pod_monitors import ON, of_kind, render

pytestmark = pytest.mark.timeout(900)  # the first run builds helm and promtool

KINDS = ("PodMonitor", "PrometheusRule", "ConfigMap")


def test_nothing_of_it_is_there_by_default() -> None:
    documents = render()
    assert [kind for kind in KINDS if of_kind(documents, kind)] == []


@pytest.mark.parametrize(
    ("value", "kind", "count"), [(ON[0], KINDS[0], 2), (ON[1], KINDS[1], 1), (ON[2], KINDS[2], 1)]
)
def test_each_is_switched_on_alone(value: str, kind: str, count: int) -> None:
    documents = render(value)
    counts = {k: len(of_kind(documents, k)) for k in KINDS}
    assert counts == {k: count if k == kind else 0 for k in KINDS}


def test_rules_as_the_file_has_them(tmp_path: Path) -> None:
    (rule,) = of_kind(render(*ON), "PrometheusRule")
    found = {r["alert"]: r for group in rule["spec"]["groups"] for r in group["rules"]}
    assert found == rules()
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": rule["spec"]["groups"]}))
    checked = promtool("check", "rules", str(file))
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_rules_as_a_user_wants_them() -> None:
    certificates = [name for name in rules() if "Certificate" in name or "Authority" in name]
    gone = [*certificates, "PartitionTlsFilesInvalid", "PartitionPaused"]
    (rule,) = of_kind(
        render(
            *ON,
            f"monitoring.alertRules.disabled={{{','.join(gone)}}}",
            "monitoring.alertRules.extraLabels.team=storage",
            "monitoring.alertRules.labels.release=prometheus",
            "monitoring.alertRules.runbookUrl=https://wiki.example.org/alerts",
        ),
        "PrometheusRule",
    )
    assert rule["metadata"]["labels"]["release"] == "prometheus"
    groups = {group["name"]: group["rules"] for group in rule["spec"]["groups"]}
    assert "partition-certificates" not in groups, "an empty group is left out"
    found = {r["alert"]: r for rules_of_group in groups.values() for r in rules_of_group}
    assert set(found) == set(rules()) - set(gone)
    lost = found["PartitionQuorumLost"]
    assert lost["labels"] == {"severity": "critical", "team": "storage"}
    url = "https://wiki.example.org/alerts#partitionquorumlost"
    assert lost["annotations"]["runbook_url"] == url


def test_the_dashboard_is_found_by_grafanas_sidecar() -> None:
    (found,) = of_kind(render(*ON, "monitoring.dashboard.namespace=grafana"), "ConfigMap")
    assert found["metadata"]["namespace"] == "grafana"
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(found["data"]["partitions.json"])["title"] == "Partitions"


def test_replicas_are_looked_for_where_partitions_are_watched() -> None:
    for values, wanted in (
        ((), {"any": True}),
        (("watchNamespaces={a,b}",), {"matchNames": ["a", "b"]}),
    ):
        _, replicas = of_kind(render(*ON, *values), "PodMonitor")
        assert replicas["spec"]["namespaceSelector"] == wanted


@pytest.mark.parametrize(
    "value",
    [
        "monitoring.podMonitors.interval=soon",
        "monitoring.alertRules.disabled={quorum}",
        "monitoring.rules.enabled=true",
    ],
)
def test_a_wrong_value_is_refused(value: str) -> None:
    with pytest.raises(RuntimeError, match="monitoring"):
        render(value)
