"""A metric whose name ends with `_total` is a counter, and every counter's name ends so."""

import itertools
import re

import aiohttp
import pytest
from aiohttp.test_utils import make_mocked_request
from partition_operator import metrics as operator_metrics
from partition_operator.__main__ import parse
from partition_operator.assembly import OperatorProcess
from partition_replica.runtime.metrics import ROLES
from partition_replica.runtime.metrics import Metrics as ReplicaMetrics
from partition_replica.transport.http import serve_http
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from dev.cluster.layout import ROOT
from dev.ports import free_port

NAME = re.compile(r"\b(?:logstore|partition_operator)_[a-z_]+_total\b")
READ = ("operator", "replica", "snapshots", "client", "dev", "docs", "charts", "manifests", "tests")
KINDS = {".py", ".md", ".yaml", ".yml", ".tpl", ".json", ".txt"}


def registries() -> list[CollectorRegistry]:
    return [operator_metrics.OperatorMetrics().registry, ReplicaMetrics().registry]


def counters() -> set[str]:
    """Their names as they are scraped."""
    return {
        f"{metric.name}_total"
        for registry in registries()
        for metric in registry.collect()
        if metric.type == "counter"
    }


@pytest.mark.parametrize("registry", registries())
def test_what_is_scraped_as_total_is_a_counter(registry: CollectorRegistry) -> None:
    families = list(text_string_to_metric_families(generate_latest(registry).decode()))
    assert families
    for family in families:
        for sample in family.samples:
            if family.type == "counter":
                assert sample.name.endswith(("_total", "_created")), sample.name
            else:
                assert not sample.name.endswith("_total"), f"{sample.name} is a {family.type}"


def test_no_other_metric_is_named_total_anywhere() -> None:
    found: dict[str, str] = {}
    for folder in READ:
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in KINDS and path.is_file():
                found |= dict.fromkeys(NAME.findall(path.read_text()), str(path))
    assert "partition_operator_reconciled_total" in found
    unknown = {name: path for name, path in found.items() if name not in counters()}
    assert unknown == {}


def test_a_scrape_reads_the_parts_numbers() -> None:
    found = operator_metrics.OperatorMetrics()
    numbers = [3, 5]
    found.read(operator_metrics.RECONCILED, lambda: numbers[0])
    assert found.registry.get_sample_value("partition_operator_reconciled_total") == 3
    numbers[0] = 7
    assert found.registry.get_sample_value("partition_operator_reconciled_total") == 7
    assert found.registry.get_sample_value("partition_operator_leading") == 0, "no reader yet"


async def test_a_standby_serves_every_metric() -> None:
    config = parse({"PARTITION_OPERATOR_NAMESPACE": "ns", "PARTITION_OPERATOR_IMAGE": "image:1"})
    response = await OperatorProcess(config)._scrape(make_mocked_request("GET", "/metrics"))
    assert isinstance(response.body, bytes)
    families = {
        family.name: family for family in text_string_to_metric_families(response.text or "")
    }
    assert {operator_metrics.PREFIX + metric.name for metric in operator_metrics.ALL} <= set(
        families
    )
    assert families["partition_operator_reconciled"].type == "counter"
    assert families["partition_operator_leading"].samples[0].value == 0
    # A 0 would say that the authority has expired.
    assert families["partition_operator_authority_expiry_timestamp_seconds"].samples == []


@pytest.mark.parametrize(
    ("earlier", "today", "labels"),
    [
        (
            "logstore_snapshots",
            "logstore_state_transfers",
            {"direction": "in", "result": "ok"},
        ),
        (
            "logstore_snapshot_state_bytes",
            "logstore_state_transfer_bytes",
            {"direction": "out"},
        ),
        ("logstore_snapshot_payloads_fetched", "logstore_state_transfer_payloads", {}),
    ],
)
def test_a_deprecated_counter_shows_what_todays_shows(
    earlier: str, today: str, labels: dict[str, str]
) -> None:
    metrics = ReplicaMetrics()
    metrics.state_transfers.labels("in", "ok").inc(3)
    metrics.state_transfer_bytes.labels("out").inc(4)
    metrics.state_transfer_payloads.inc(5)
    found = {
        family.name: family
        for family in text_string_to_metric_families(generate_latest(metrics.registry).decode())
    }
    assert found[earlier].documentation.startswith(f"(deprecated: use {today}_total) ")
    (old,) = [s for s in found[earlier].samples if s.name == f"{earlier}_total"]
    (new,) = [s for s in found[today].samples if s.name == f"{today}_total"]
    assert (old.labels, old.value) == (new.labels, new.value)
    assert old.labels == labels
    assert old.value > 0


def test_a_member_has_one_role_and_only_a_leader_knows_lags() -> None:
    metrics = ReplicaMetrics()
    value = metrics.registry.get_sample_value
    metrics.role("leader")
    metrics.lags({"part-1:7000": 7, "part-2:7000": 0})
    assert value("logstore_role", {"role": "leader"}) == 1
    assert value("logstore_member_lag_entries", {"member": "part-1:7000"}) == 7
    metrics.role("follower")
    metrics.lags({})
    roles = {role: value("logstore_role", {"role": role}) for role in ROLES}
    assert roles == {role: float(role == "follower") for role in ROLES}
    assert value("logstore_member_lag_entries", {"member": "part-1:7000"}) is None


def test_a_gauge_has_no_sample_before_it_is_measured() -> None:
    metrics = ReplicaMetrics()
    assert metrics.registry.get_sample_value("logstore_disk_free_bytes") is None
    with pytest.raises(KeyError):
        metrics.set("logstore_of_no_name", 1)


def test_a_deprecated_gauge_shows_what_todays_shows() -> None:
    metrics = ReplicaMetrics()
    for value in (3, 4):
        metrics.set("logstore_entry_cache_bytes", value)
    shown = generate_latest(metrics.registry).decode()
    for name in ("logstore_entry_cache_bytes", "logstore_mirror_bytes"):
        assert metrics.registry.get_sample_value(name) == 4
    help_text = "(deprecated: use logstore_entry_cache_bytes) Bytes of the log's tail in memory"
    assert f"# HELP logstore_mirror_bytes {help_text}" in shown


def test_a_member_that_is_closed_leaves_no_old_values() -> None:
    """Its process stays while it is fenced."""
    found = ReplicaMetrics()

    def sample(name: str, **labels: str) -> float | None:
        return found.registry.get_sample_value(name, labels)

    def serve() -> None:
        for name in ("logstore_leading", "logstore_serving", "logstore_committed_lsn"):
            found.set(name, 1)
        found.set("logstore_entry_cache_bytes", 5)
        found.role("leader")
        found.lags({"other:1": 7})

    serve()
    found.set("logstore_certificate_expiry_timestamp_seconds", 9)
    found.member_closed()
    assert sample("logstore_leading") == sample("logstore_serving") == 0
    for name in ("committed_lsn", "entry_cache_bytes", "mirror_bytes"):
        assert sample(f"logstore_{name}") is None, name
    assert sample("logstore_role", role="leader") is None
    assert sample("logstore_member_lag_entries", member="other:1") is None
    # TLS goes on, and so does the certificate.
    assert sample("logstore_certificate_expiry_timestamp_seconds") == 9
    serve()
    assert sample("logstore_leading") == sample("logstore_committed_lsn") == 1
    assert sample("logstore_mirror_bytes") == 5


async def test_a_replica_measures_its_gauges_for_each_scrape() -> None:
    """And not for nobody. A gauge that the measurement creates is in the same answer."""
    found = ReplicaMetrics()
    measured = itertools.count(1)
    port = free_port()
    runner = await serve_http(
        f"127.0.0.1:{port}",
        ready=lambda: (True, ""),
        measure=lambda: found.set("logstore_term", next(measured)),
        registry=found.registry,
    )
    try:
        async with aiohttp.ClientSession(trust_env=False) as session:
            for scrape in (1, 2):
                async with session.get(f"http://127.0.0.1:{port}/readyz") as response:
                    assert response.status == 200
                async with session.get(f"http://127.0.0.1:{port}/metrics") as response:
                    assert f"logstore_term {scrape}.0" in await response.text()
    finally:
        await runner.cleanup()
