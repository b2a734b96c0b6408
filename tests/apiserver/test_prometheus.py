"""A real Prometheus server scrapes real replicas and a real operator as the PodMonitors ask, and
answers every query of the dashboard and of the alerts."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dev import prometheus
from dev.generate import dashboard
from dev.prometheus import PrometheusServer
from tests.support.alert_cases import rules
from tests.support.api_server import ApiServer
from tests.support.local_group import eventually
from tests.support.monitored_stage import configuration, made_and_failed
from tests.support.pod_monitors import ON, of_kind, render
from tests.support.switch_stage import stage

pytestmark = [pytest.mark.apiserver, pytest.mark.timeout(900)]  # the first run builds Prometheus

FAULTY = {
    "logstore_refused_total": "a request that is refused",
    "logstore_tls_files_bad": "TLS files that change and are invalid",
}
"""Metrics that have no series before a fault, and the fault. Alerts about them are tried in
tests/conformance/test_alert_rules.py."""

ABSENT = {"BackfillComplete", "Restored"}
"""Conditions that a Partition with Raft from the start does not have."""


def test_the_prometheus_operators_crds_admit_the_charts_objects(server: ApiServer) -> None:
    prometheus.build()
    server.kubectl("apply", "--server-side", "-f", str(prometheus.CRDS))
    try:
        server.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        documents = render(*ON)
        for kind, count in (("PodMonitor", 2), ("PrometheusRule", 1), ("ConfigMap", 1)):
            found = of_kind(documents, kind)
            assert len(found) == count
            for document in found:
                document["metadata"]["namespace"] = "default"
                words = ("apply", "--dry-run=server", "--validate=strict", "-f", "-")
                server.kubectl(*words, stdin=json.dumps(document))
        wrong = of_kind(documents, "PodMonitor")[0]
        wrong["spec"]["podMetricsEndpoints"][0]["honourLabels"] = True
        words = ("apply", "--dry-run=server", "--validate=strict", "-f", "-")
        with pytest.raises(RuntimeError, match="honourLabels"):
            server.kubectl(*words, stdin=json.dumps(wrong))
    finally:
        server.kubectl("delete", "-f", str(prometheus.CRDS))


def selectors(node: Any) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """(metric, matchers) of every selector in a parsed query."""
    if isinstance(node, dict):
        if node.get("type") in ("vectorSelector", "matrixSelector") and node.get("name"):
            yield node["name"], [m for m in node["matchers"] if m["name"] != "__name__"]
        for value in node.values():
            yield from selectors(value)
    elif isinstance(node, list):
        for value in node:
            yield from selectors(value)


def shown(expression: str) -> str:
    """With values for Grafana's variables."""
    chosen = expression.replace("$namespace", ".*").replace("$partition", ".*")
    return chosen.replace("$__rate_interval", "30s")


def faulty(expression: str) -> bool:
    return any(name in expression for name in FAULTY)


async def check_dashboard(server: PrometheusServer) -> None:
    wanted = {shown(query) for query in dashboard.queries() if not faulty(query)}
    assert len(wanted) > 50
    empty = set(wanted)

    async def all_answered() -> bool:
        for query in sorted(empty):
            if await asyncio.to_thread(server.query, query):
                empty.discard(query)
        return not empty

    try:
        await eventually(all_answered, "every query of the dashboard has series", 30)
    except AssertionError:
        raise AssertionError(f"no series for {sorted(empty)}") from None
    for query in dashboard.queries():
        server.query(shown(query))  # a query that needs a fault is valid, too


def check_alerts(server: PrometheusServer) -> None:
    """Each expression is valid, and each of its selectors finds series, apart from the values of
    labels that only a fault has."""
    tried = set()
    for rule in rules().values():
        server.query(rule["expr"])
        for name, matchers in selectors(server.get("parse_query", query=rule["expr"])):
            tried.add(name)
            if name in FAULTY:
                continue
            kind = next((m["value"] for m in matchers if m["name"] == "type"), "")
            if kind in ABSENT:
                continue
            exact = f'type="{kind}"' if kind else ""
            series = server.query(f"{name}{{{exact}}}")
            assert series, f"{rule['alert']}: no series of {name}{{{exact}}}"
            for label in (m["name"] for m in matchers):
                assert any(label in one["metric"] for one in series), f"{name}: no label {label}"
    assert len(tried) > 20


async def test_every_query_of_dashboard_and_alerts_finds_series(
    server: ApiServer, tmp_path: Path
) -> None:
    async with stage(server, tmp_path) as found:
        await found.three_voters()
        await made_and_failed(found)
        with PrometheusServer(tmp_path / "prometheus", configuration(found)) as scraping:
            async with found.client() as client:
                for number in range(20):
                    await client.set_key(b"k/%d" % number, b"v")
                    await client.get_key(b"k/%d" % number)
            await check_dashboard(scraping)
            check_alerts(scraping)
            assert scraping.query("logstore_of_another_name") == []
            (labels,) = [s["metric"] for s in scraping.query("logstore_serving == 1")]
            leader = (await found.status())["leader"]
            assert (labels["namespace"], labels["partition"], labels["pod"]) == (
                found.namespace,
                "part",
                leader,
            )
            used = scraping.query("logstore_certificate_expiry_timestamp_seconds")
            secret = 'partition_certificate_expiry_timestamp_seconds{secret="part-replica-tls"}'
            (issued,) = scraping.query(secret)
            assert {one["value"][1] for one in used} == {issued["value"][1]}
            assert len(used) == 3
            (info,) = [s["metric"] for s in scraping.query("partition_info")]
            assert (info["namespace"], info["pod"]) == (found.namespace, "operator-0")

            async def alert() -> list[dict[str, Any]]:
                alerts = scraping.get("alerts")["alerts"]
                return [a for a in alerts if a["state"] == "firing"]

            firing = await eventually(alert, "an alert fires")
            assert [a["labels"]["alertname"] for a in firing] == ["PartitionSnapshotFailed"]
            summary = f"Partition {found.namespace}/part: the newest snapshot has failed"
            assert firing[0]["annotations"]["summary"] == summary
