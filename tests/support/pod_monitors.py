"""The chart's monitoring, rendered by helm, and what the Prometheus Operator makes of a PodMonitor:
a scrape job with these targets."""

import re
import subprocess
from typing import Any

import yaml

from dev.cluster.builds import build_helm
from dev.cluster.layout import BIN
from dev.install import CHART

RELEASE, NAMESPACE = "partition-operator", "partition-system"
ON = (
    "monitoring.podMonitors.enabled=true",
    "monitoring.alertRules.enabled=true",
    "monitoring.dashboard.enabled=true",
)


def render(*values: str) -> list[dict[str, Any]]:
    """The documents of the chart. values: NAME=VALUE, as for helm's --set. Raises RuntimeError with
    helm's words."""
    build_helm()
    command = [str(BIN / "helm"), "template", RELEASE, str(CHART), "-n", NAMESPACE]
    command += ["--kube-version", "1.34.0"]
    command += [word for value in values for word in ("--set", value)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def of_kind(documents: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [document for document in documents if document["kind"] == kind]


def selects(monitor: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether a PodMonitor selects a pod with these labels."""
    selector = monitor["spec"]["selector"]
    for expression in selector.get("matchExpressions", ()):
        assert expression["operator"] == "Exists", "no other operator is translated here"
        if expression["key"] not in labels:
            return False
    return bool(selector["matchLabels"].items() <= labels.items())


def scrape_job(monitor: dict[str, Any], pods: list[dict[str, Any]]) -> dict[str, Any]:
    """pods: as the API server has them, with `address` for host and port. A pod that the PodMonitor
    does not select is no target."""
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    name = f"{monitor['metadata']['namespace']}/{monitor['metadata']['name']}"
    static = []
    for pod in pods:
        labels = pod["metadata"]["labels"]
        if not selects(monitor, labels):
            continue
        discovered = {f"__meta_kubernetes_pod_label_{_plain(k)}": v for k, v in labels.items()}
        # As the Prometheus Operator does, by relabelings of its own.
        target = {
            "namespace": pod["metadata"]["namespace"],
            "pod": pod["metadata"]["name"],
            "job": name,
        }
        static.append({"targets": [pod["address"]], "labels": discovered | target})
    return {
        "job_name": name,
        "scrape_interval": "1s",
        "metrics_path": endpoint["path"],
        "honor_labels": endpoint.get("honorLabels", False),
        "static_configs": static,
        "relabel_configs": [_snake(rule) for rule in endpoint.get("relabelings", ())],
    }


def _plain(label: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_]", "_", label)


def _snake(rule: dict[str, Any]) -> dict[str, Any]:
    """From the Prometheus Operator's spelling to that of prometheus.yml."""
    return {re.sub(r"([A-Z])", lambda m: "_" + m[1].lower(), k): v for k, v in rule.items()}
