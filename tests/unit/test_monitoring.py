"""What alerts, their tests and the dashboard name is there: metrics, labels, conditions, pages."""

import json
import re
from collections.abc import Iterator
from typing import get_args

import pytest
from partition_operator.api.words import PartitionCondition

from dev.cluster.layout import ROOT
from dev.generate import dashboard, metrics_reference
from dev.generate.metrics_reference import Documented
from tests.support.alert_cases import CASES, rules

LABEL = re.compile(r'([a-z_]+)(?:=~|!~|!=|=)"')
OF_TARGETS = {"namespace", "partition", "pod", "job", "instance"}
"""Labels that the PodMonitor adds."""
ALERTS = ROOT / "docs" / "alerts.md"
PARTS = ("**Meaning.**", "**Effect.**", "**Look at.**", "**Do.**")
SEVERITIES = {"critical", "warning", "info"}


def metrics() -> dict[str, Documented]:
    """By the names that series have."""
    found = {}
    for metric in (*metrics_reference.replica(), *metrics_reference.of_operator()):
        parts = ("_bucket", "_sum", "_count") if metric.kind == "histogram" else ("",)
        found |= {metric.name + part: metric for part in parts}
    return found


def labels_of(metric: Documented) -> set[str]:
    own = set(metric.labels) | ({"le"} if metric.kind == "histogram" else set())
    return own | OF_TARGETS


def named(expression: str) -> Iterator[tuple[str, set[str]]]:
    """(metric, labels that are matched) of each selector."""
    for match in re.finditer(r"\b((?:logstore|partition)_[a-z_]*[a-z])\b(\{[^{}]*\})?", expression):
        yield match[1], set(LABEL.findall(match[2] or ""))


def expressions() -> dict[str, str]:
    found = {name: rule["expr"] for name, rule in rules().items()}
    found |= {f"panel {n}": query for n, query in enumerate(dashboard.queries())}
    for name, case in CASES.items():
        for number, (series, _) in enumerate((*case.fires, *case.quiet)):
            found[f"case {name} {number}"] = series
    return found


def test_every_metric_and_label_exists() -> None:
    known, seen = metrics(), set()
    for where, expression in expressions().items():
        for name, labels in named(expression):
            seen.add(name)
            assert name in known, f"{where}: {name}"
            assert labels <= labels_of(known[name]), f"{where}: {name} {labels}"
    assert len(seen) > 50


def test_a_label_of_another_metric_is_noticed() -> None:
    ((name, labels),) = named('rate(logstore_refused_total{reason="A", kind="B"}[5m])')
    assert labels - labels_of(metrics()[name]) == {"kind"}


def test_alerts_name_conditions_and_reasons_that_are_there() -> None:
    words = "\n".join(p.read_text() for p in (ROOT / "operator").rglob("*.py"))
    types = set(get_args(PartitionCondition))
    for name, rule in rules().items():
        for selector in re.findall(r"partition_condition\{([^}]*)\}", rule["expr"]):
            found = dict(re.findall(r'([a-z]+)[=!~]+"([^"]*)"', selector))
            assert found["type"] in types, name
            assert found.get("status", "True") in ("True", "False", "Unknown"), name
            for reason in filter(None, found.get("reason", "").split("|")):
                assert f'"{reason}"' in words, f"{name}: {reason}"


def sections() -> dict[str, str]:
    _, *found = re.split(r"(?m)^### ", ALERTS.read_text())
    return {text.splitlines()[0]: text.partition("\n## ")[0] for text in found}


def test_every_alert_has_its_section() -> None:
    found = sections()
    assert set(found) == set(rules())
    for name, text in found.items():
        assert [text.count(part) for part in PARTS] == [1] * len(PARTS), name


@pytest.mark.parametrize("name", sorted(rules()))
def test_an_alert_says_what_it_is(name: str) -> None:
    rule = rules()[name]
    assert rule["labels"]["severity"] in SEVERITIES
    annotations = rule["annotations"]
    assert set(annotations) == {"summary", "description", "runbook_url"}
    assert annotations["runbook_url"].endswith(f"/docs/alerts.md#{name.lower()}")
    for label in re.findall(r"\$labels\.(\w+)", annotations["summary"]):
        # Otherwise the label is not in the result.
        assert re.search(rf"by \([^)]*\b{label}\b", rule["expr"]), f"{name}: {label}"


def test_the_dashboard_is_what_grafana_reads() -> None:
    found = json.loads((ROOT / dashboard.FILE).read_text())
    assert found == json.loads(json.dumps(dashboard.dashboard()))
    panels = found["panels"]
    assert [p["id"] for p in panels] == list(range(1, len(panels) + 1))
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (place["x"] + dx, place["y"] + dy)
            for dx in range(place["w"])
            for dy in range(place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < dashboard.COLUMNS, panel["title"]
        taken |= cells


def test_every_label_of_a_legend_is_in_the_result() -> None:
    for panels in dashboard.ROWS.values():
        for panel in panels:
            for query in panel.queries:
                aggregated = re.search(r"by \(([^)]*)\)", query.expression)
                if aggregated is None:
                    continue
                kept = {label.strip() for label in aggregated[1].split(",")}
                assert set(re.findall(r"\{\{(\w+)\}\}", query.legend)) <= kept, panel.title
