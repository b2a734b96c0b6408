"""The Grafana dashboard of the chart, from the list of its panels."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = "charts/partition-operator/files/dashboard.json"

COLUMNS = 24
"""The width of Grafana's grid."""
WIDTH, HEIGHT = 8, 7
SOURCE = {"type": "prometheus", "uid": "${datasource}"}

HERE = 'namespace=~"$namespace", partition=~"$partition"'
"""The Partitions that the variables select."""
RATE = "$__rate_interval"


@dataclass(frozen=True)
class Query:
    """legend: what Grafana calls a series, with {{label}}."""

    expression: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """unit: one of Grafana's, such as s, bytes, percentunit. kind: of visualisation."""

    title: str
    unit: str
    queries: tuple[Query, ...]
    kind: str = "timeseries"
    description: str = ""
    width: int = WIDTH


def _line(title: str, unit: str, *queries: tuple[str, str], description: str = "") -> Panel:
    return Panel(title, unit, tuple(Query(*q) for q in queries), description=description)


def _table(title: str, expression: str, unit: str = "none", description: str = "") -> Panel:
    return Panel(title, unit, (Query(expression, ""),), "table", description, COLUMNS // 2)


def _number(title: str, expression: str, unit: str = "none") -> Panel:
    return Panel(title, unit, (Query(expression, ""),), "stat", width=COLUMNS // 6)


def _quantile(part: float, metric: str) -> str:
    """A quantile of a histogram of replicas, by pod."""
    rate = f"rate({metric}_bucket{{{HERE}}}[{RATE}])"
    return f"histogram_quantile({part}, sum by (namespace, pod, le) ({rate}))"


def _of_turns(part: float, metric: str) -> str:
    """A quantile of a histogram of the operator, by kind of turn."""
    rate = f"rate(partition_operator_{metric}_bucket[{RATE}])"
    return f"histogram_quantile({part}, sum by (kind, le) ({rate}))"


def _count(selector: str) -> str:
    """The number of Partitions with such a series, 0 if there is none."""
    return f"count(max by (namespace, partition) ({selector} == 1)) or vector(0)"


POD = "{{namespace}}/{{pod}}"
PARTITION = "{{namespace}}/{{partition}}"

ROWS: dict[str, tuple[Panel, ...]] = {
    "Overview": (
        _number("Partitions", _count(f"partition_info{{{HERE}}}")),
        _number(
            "Not Ready",
            _count(f'partition_condition{{{HERE}, type="Ready", status!="True"}}'),
        ),
        _number(
            "Quorum at risk or lost",
            _count(
                f'partition_condition{{{HERE}, type="QuorumAvailable", reason=~"NoSpare|NoLeader"}}'
            ),
        ),
        _number(
            "Snapshots stale",
            _count(f'partition_condition{{{HERE}, type="SnapshotFresh", status="False"}}'),
        ),
        _number(
            "Least free disk",
            f"min(logstore_disk_free_bytes{{{HERE}}} / logstore_disk_total_bytes{{{HERE}}})",
            "percentunit",
        ),
        _number(
            "Next certificate expires in",
            f"min(partition_certificate_expiry_timestamp_seconds{{{HERE}}}) - time()",
            "s",
        ),
        _table(
            "Partitions",
            f"max by (namespace, partition, mode, state) (partition_info{{{HERE}}})",
            description="STATUS, and how entries are replicated",
        ),
        _table(
            "Conditions that are not True",
            "max by (namespace, partition, type, status, reason) (partition_condition"
            f'{{{HERE}, status!="True", type!~"Paused|Progressing"}})',
        ),
    ),
    "Group": (
        _line(
            "Serving leader",
            "none",
            (f"max by (namespace, partition) (logstore_serving{{{HERE}}})", PARTITION),
            description="0: no replica leads and serves",
        ),
        _line(
            "Active voters",
            "none",
            (
                f"max by (namespace, partition) (logstore_voters_active{{{HERE}}})",
                f"{PARTITION} active",
            ),
            (f"max by (namespace, partition) (logstore_voters{{{HERE}}})", f"{PARTITION} all"),
        ),
        _line(
            "Replicas ready",
            "none",
            (
                f"max by (namespace, partition) (partition_replicas_ready{{{HERE}}})",
                f"{PARTITION} ready",
            ),
            (
                f"max by (namespace, partition) (partition_replicas_updated{{{HERE}}})",
                f"{PARTITION} updated",
            ),
            (
                f"max by (namespace, partition) (partition_replicas_answering{{{HERE}}})",
                f"{PARTITION} answering",
            ),
            (
                f"max by (namespace, partition) (partition_replicas_wanted{{{HERE}}})",
                f"{PARTITION} wanted",
            ),
        ),
        _line("Role", "none", (f"logstore_role{{{HERE}}} == 1", "{{namespace}}/{{pod}} {{role}}")),
        _line(
            "Term",
            "none",
            (f"max by (namespace, partition) (logstore_term{{{HERE}}})", PARTITION),
        ),
        _line(
            "Elections and changes of leader",
            "none",
            (f"increase(logstore_elections_started_total{{{HERE}}}[{RATE}])", f"{POD} started"),
            (f"increase(logstore_leader_changes_total{{{HERE}}}[{RATE}])", f"{POD} observed"),
        ),
        _line(
            "Lag of members",
            "none",
            (
                f"max by (namespace, partition, member) (logstore_member_lag_entries{{{HERE}}})",
                "{{member}}",
            ),
            description="Entries that a member's log lacks, as the leader knows",
        ),
        _line(
            "Entries committed and not applied",
            "none",
            (f"logstore_committed_lsn{{{HERE}}} - logstore_applied_lsn{{{HERE}}}", POD),
        ),
        _line("Seconds without a leader", "s", (f"logstore_leaderless_seconds{{{HERE}}}", POD)),
    ),
    "Work": (
        _line(
            "Entries made durable",
            "ops",
            (f"rate(logstore_log_entries_total{{{HERE}}}[{RATE}])", POD),
        ),
        _line(
            "Appends at the leader",
            "s",
            (_quantile(0.5, "logstore_append_seconds"), f"{POD} p50"),
            (_quantile(0.99, "logstore_append_seconds"), f"{POD} p99"),
            description="From a proposal's arrival to its answer",
        ),
        _line(
            "Durable commits of the log",
            "s",
            (_quantile(0.5, "logstore_log_commit_seconds"), f"{POD} p50"),
            (_quantile(0.99, "logstore_log_commit_seconds"), f"{POD} p99"),
            description="With the fsync: the latency of the disk",
        ),
        _line("Batches applied", "s", (_quantile(0.99, "logstore_apply_seconds"), f"{POD} p99")),
        _line(
            "Requests refused",
            "ops",
            (
                f"sum by (namespace, pod, reason) (rate(logstore_refused_total{{{HERE}}}[{RATE}]))",
                f"{POD} {{{{reason}}}}",
            ),
        ),
        _line(
            "Raft traffic",
            "Bps",
            (
                "sum by (namespace, pod, direction) "
                f"(rate(logstore_raft_bytes_total{{{HERE}}}[{RATE}]))",
                f"{POD} {{{{direction}}}}",
            ),
        ),
        _line(
            "Proposals waiting",
            "none",
            (f"logstore_proposals_queued{{{HERE}}}", f"{POD} queued"),
            (f"logstore_proposals_waiting{{{HERE}}}", f"{POD} in progress"),
        ),
        _line("Open sessions", "none", (f"logstore_sessions{{{HERE}}}", POD)),
        _line(
            "State transfers",
            "none",
            (
                "sum by (namespace, pod, direction, result) "
                f"(increase(logstore_state_transfers_total{{{HERE}}}[{RATE}]))",
                f"{POD} {{{{direction}}}} {{{{result}}}}",
            ),
        ),
    ),
    "Disk and log": (
        _line(
            "Free on the volume",
            "bytes",
            (f"logstore_disk_free_bytes{{{HERE}}}", POD),
            (f"logstore_disk_reserve_bytes{{{HERE}}}", f"{POD} reserve"),
        ),
        _line(
            "Entries kept",
            "none",
            (f"logstore_last_lsn{{{HERE}}} - logstore_stored_lsn{{{HERE}}}", POD),
        ),
        _line(
            "Entries that consumers lack",
            "none",
            (f"logstore_last_lsn{{{HERE}}} - logstore_low_water_mark{{{HERE}}}", POD),
        ),
    ),
    "Snapshots": (
        _line(
            "Age of the newest success",
            "s",
            (
                "time() - max by (namespace, partition) "
                f"(partition_snapshot_last_success_timestamp_seconds{{{HERE}}})",
                PARTITION,
            ),
        ),
        _line(
            "PartitionSnapshots",
            "none",
            (
                f"sum by (state) (max by (namespace, partition, state) "
                f"(partition_snapshots{{{HERE}}}))",
                "{{state}}",
            ),
        ),
        _line(
            "Runs missed",
            "none",
            (
                "max by (namespace, partition) "
                f"(increase(partition_snapshots_missed_total{{{HERE}}}[{RATE}]))",
                PARTITION,
            ),
        ),
        _line(
            "Next run",
            "s",
            (
                "max by (namespace, partition) "
                f"(partition_snapshot_next_run_timestamp_seconds{{{HERE}}}) - time()",
                PARTITION,
            ),
        ),
        _line(
            "Newest failure",
            "s",
            (
                "time() - max by (namespace, partition) "
                f"(partition_snapshot_last_failure_timestamp_seconds{{{HERE}}})",
                PARTITION,
            ),
        ),
        _line(
            "Snapshot jobs",
            "none",
            (
                "sum by (namespace, pod, kind, result) "
                f"(increase(logstore_snapshot_jobs_total{{{HERE}}}[{RATE}]))",
                f"{POD} {{{{kind}}}} {{{{result}}}}",
            ),
        ),
    ),
    "Certificates": (
        _line(
            "Certificates in Secrets expire in",
            "s",
            (
                "min by (namespace, secret) "
                f"(partition_certificate_expiry_timestamp_seconds{{{HERE}}}) - time()",
                "{{namespace}}/{{secret}}",
            ),
        ),
        _line(
            "Certificates that replicas use expire in",
            "s",
            (f"logstore_certificate_expiry_timestamp_seconds{{{HERE}}} - time()", POD),
        ),
        _line(
            "The authority expires in",
            "s",
            (
                "min by (namespace) (partition_operator_authority_expiry_timestamp_seconds) "
                "- time()",
                "{{namespace}}",
            ),
        ),
    ),
    "Operator": (
        _line("Leading", "none", ("partition_operator_leading", POD)),
        _line(
            "Turns",
            "ops",
            (
                f"sum by (kind) (rate(partition_operator_turn_seconds_count[{RATE}]))",
                "{{kind}}",
            ),
            (
                f"sum by (kind) (rate(partition_operator_failed_total[{RATE}]))",
                "{{kind}} failed",
            ),
        ),
        _line(
            "Duration of turns",
            "s",
            (_of_turns(0.5, "turn_seconds"), "{{kind}} p50"),
            (_of_turns(0.99, "turn_seconds"), "{{kind}} p99"),
        ),
        _line(
            "Queue",
            "none",
            ("sum(partition_operator_queued)", "due"),
            ("sum(partition_operator_turns_running)", "running"),
        ),
        _line(
            "Wait in the queue",
            "s",
            (_of_turns(0.99, "queue_wait_seconds"), "{{kind}} p99"),
            ("max(partition_operator_queue_age_seconds)", "oldest"),
        ),
        _line(
            "Requests to the API server",
            "ops",
            (
                f"sum by (method, status) (rate(partition_operator_api_requests_total[{RATE}]))",
                "{{method}} {{status}}",
            ),
        ),
        _line(
            "Memory of the processes",
            "bytes",
            (
                "process_resident_memory_bytes and on (namespace, pod, instance) "
                "partition_operator_leading",
                POD,
            ),
            (f"process_resident_memory_bytes{{{HERE}}}", POD),
        ),
        _line(
            "Processor",
            "none",
            (
                f"rate(process_cpu_seconds_total[{RATE}]) and on (namespace, pod, instance) "
                "partition_operator_leading",
                POD,
            ),
            (f"rate(process_cpu_seconds_total{{{HERE}}}[{RATE}])", POD),
        ),
        _line(
            "Versions",
            "none",
            ("count by (version) (partition_operator_info)", "operator {{version}}"),
            (f"count by (version) (logstore_info{{{HERE}}})", "replicas {{version}}"),
        ),
    ),
}


def queries() -> Iterator[str]:
    """Yields the expression of every panel, with Grafana's variables."""
    for panels in ROWS.values():
        for panel in panels:
            for query in panel.queries:
                yield query.expression


def write(target: Path) -> None:
    """Writes the dashboard below `target`."""
    file = target / FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(dashboard(), indent=1) + "\n")


def dashboard() -> dict[str, Any]:
    """Returns the dashboard as Grafana stores it."""
    panels: list[dict[str, Any]] = []
    y = 0
    for row, found in ROWS.items():
        panels.append(_placed({"type": "row", "title": row, "collapsed": False}, panels, 0, y))
        panels[-1]["gridPos"] |= {"w": COLUMNS, "h": 1}
        x, y = 0, y + 1
        for panel in found:
            if x + panel.width > COLUMNS:
                x, y = 0, y + HEIGHT
            panels.append(_placed(_body(panel), panels, x, y))
            panels[-1]["gridPos"] |= {"w": panel.width, "h": HEIGHT}
            x += panel.width
        y += HEIGHT
    return {
        "title": "Partitions",
        "uid": "logstore-partitions",
        "tags": ["logstore", "partition-operator"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": [_source(), *map(_variable, ("namespace", "partition"))]},
        "panels": panels,
    }


def _placed(body: dict[str, Any], before: list[Any], x: int, y: int) -> dict[str, Any]:
    return {"id": len(before) + 1, **body, "gridPos": {"x": x, "y": y}}


def _body(panel: Panel) -> dict[str, Any]:
    instant = panel.kind != "timeseries"
    targets = [
        {
            "refId": chr(ord("A") + number),
            "datasource": SOURCE,
            "expr": query.expression,
            "legendFormat": query.legend,
            "instant": instant,
            "range": not instant,
            "format": "table" if panel.kind == "table" else "time_series",
        }
        for number, query in enumerate(panel.queries)
    ]
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "targets": targets,
        "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
    }


def _source() -> dict[str, Any]:
    return {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
    }


def _variable(label: str) -> dict[str, Any]:
    chosen = "" if label == "namespace" else '{namespace=~"$namespace"}'
    query = f"label_values(partition_info{chosen}, {label})"
    return {
        "name": label,
        "label": label.capitalize(),
        "type": "query",
        "datasource": SOURCE,
        "definition": query,
        "query": {"query": query, "refId": "variable"},
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }
