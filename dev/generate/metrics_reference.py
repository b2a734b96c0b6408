"""docs/reference/metrics.md, from the registries of the replica and of the operator."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from partition_operator import metrics as operator
from partition_replica.runtime.metrics import DEPRECATED_GAUGES, GAUGES, Metrics
from prometheus_client import CollectorRegistry

from dev.generate.pages import Row, table

PAGE = "docs/reference/metrics.md"

LABELS = {
    "by": "what confirmed a read: `round` of the leader, its `lease`, or `leader` at a follower",
    "cause": "why a message was dropped: inbox_full, peer_queue_full, held_full, disk_full, "
    "payload_missing, not_a_member, voteless, invalid",
    "direction": "`in` or `out`; for state transfers also `resumed`",
    "kind": "Partition, Schedule or PartitionSnapshot; the kind of a snapshot job",
    "member": "address of the other member, HOST:PORT",
    "method": "gRPC method of a stream; HTTP method of a request",
    "mode": "how entries are replicated: None, Backfilling, Raft",
    "namespace": "namespace of the Partition",
    "partition": "name of the Partition",
    "reason": "reason of a condition or refusal",
    "result": "how it ended",
    "role": "follower, precandidate, candidate, leader",
    "secret": "name of the Secret",
    "state": "STATUS of a Partition; state of a PartitionSnapshot",
    "status": "True, False or Unknown; status of an HTTP answer, 0 for none",
    "type": "type of a condition",
    "user": "who uses TLS files: `server`, `raft` or `peers`",
    "version": "version of the program",
    "way": "`stream` (gRPC) or `connection` (Raft connection, payload connection)",
}
"""What each label says. The page fails to be made if one is missing."""

INTRODUCTION = """\
# Metrics

This page is generated from `replica/partition_replica/runtime/metrics.py`,
`operator/partition_operator/metrics.py` and `dev/generate/metrics_reference.py` by `make generate`.
[metrics.md](../operations/metrics.md) says how to scrape, and which metrics to look at first.
[alerts.md](../alerts.md) lists the alerts.

- A name ends with its unit. The name of a counter ends with `_total`.
- A histogram has `_bucket`, `_sum` and `_count`.
- A timestamp is a Unix time. Its age is `time() - …`.
- Both programs export `process_*` metrics too: memory, processor time and open files, under the
  usual names of Prometheus clients.
"""

OF_REPLICA = """\
Each replica serves them on port 7080. The chart's PodMonitor adds `namespace`, `partition` and
`pod`. A metric about the group appears once the replica belongs to a group.
"""

OF_OPERATOR = """\
Each process serves them on port 8080. A standby exports zeros.
"""

OF_OBJECTS = """\
Only the process that holds the Lease exports them. They change when the Partition's status does.
`partition_condition` has one series per condition: that of the present status and reason.
"""


@dataclass(frozen=True)
class Documented:
    """A metric as it is scraped. name: with `_total` for a counter."""

    name: str
    kind: str
    labels: tuple[str, ...]
    text: str


def replica() -> list[Documented]:
    """Returns every metric of a replica, by name."""
    metrics = Metrics()
    for name in GAUGES:
        metrics.set(name, 0)
    return list(_documented(metrics.registry))


def of_operator() -> list[Documented]:
    """Returns every metric of the operator, those of each Partition included, by name."""
    objects = {
        metric.name: metric.labels for metric in (*operator.OF_PARTITIONS, *operator.OF_SNAPSHOTS)
    }
    found = []
    for metric in _documented(operator.OperatorMetrics().registry):
        labels = objects.get(metric.name.removesuffix("_total"))
        if labels is None:
            found.append(metric)
        else:
            whole = ("namespace", "partition", *labels)
            found.append(Documented(metric.name, metric.kind, whole, metric.text))
    return found


def _documented(registry: CollectorRegistry) -> Iterator[Documented]:
    labels = _labels(registry)
    families = {family.name: family for family in registry.collect()}
    for name, family in sorted(families.items()):
        if name.startswith("process_"):
            continue
        suffix = "_total" if family.type == "counter" else ""
        names = labels.get(name)
        if names is None:
            # Of a collector of ours, whose samples carry the labels.
            names = tuple(sorted({key for sample in family.samples for key in sample.labels}))
        yield Documented(name + suffix, family.type, names, family.documentation)


def _labels(registry: CollectorRegistry) -> dict[str, tuple[str, ...]]:
    """Returns the label names of the metrics that the client library keeps. It has no public way to
    ask a metric without samples for them."""
    kept = registry._collector_to_names
    return {c._name: tuple(c._labelnames) for c in kept if hasattr(c, "_labelnames")}


def write(target: Path) -> None:
    """Writes the page below `target`."""
    found = of_operator()
    own = [m for m in found if m.name.startswith(operator.PREFIX)]
    objects = [m for m in found if not m.name.startswith(operator.PREFIX)]
    lines = [INTRODUCTION, "## Of a replica", "", OF_REPLICA, *_table(replica()), ""]
    lines += ["## Of the operator", "", OF_OPERATOR, *_table(own), ""]
    lines += ["## Of each Partition, from the operator", "", OF_OBJECTS, *_table(objects), ""]
    lines += [
        "## Labels",
        "",
        *_meanings({label for m in (*replica(), *found) for label in m.labels}),
    ]
    lines += ["", "## Deprecated names", "", *_deprecated()]
    file = target / PAGE
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines).strip() + "\n")


def _table(metrics: list[Documented]) -> list[str]:
    rows = [
        Row(m.name, (m.kind, ", ".join(m.labels)), m.text)
        for m in metrics
        if not m.text.startswith("(deprecated")
    ]
    return table(("type", "labels"), rows, first="metric")


def _meanings(labels: set[str]) -> list[str]:
    if unknown := labels ^ LABELS.keys():
        raise SystemExit(f"dev/generate/metrics_reference.py: LABELS and metrics differ: {unknown}")
    return table((), [Row(label, (), LABELS[label]) for label in sorted(labels)], first="label")


def _deprecated() -> list[str]:
    rows = [
        Row(m.name, (), m.text.removeprefix("(deprecated: ").partition(")")[0])
        for m in replica()
        if m.text.startswith("(deprecated")
    ]
    assert set(DEPRECATED_GAUGES.values()) <= {row.name for row in rows}
    text = "They are exported beside today's names for one minor version."
    return [text, "", *table((), rows, first="metric")]
