"""A stage with replicas and an operator for a Prometheus server, and with snapshots that succeeded
and failed."""

import asyncio
import json
from typing import Any

from dev.prometheus import RULES
from tests.support.local_group import eventually
from tests.support.pod_monitors import NAMESPACE, ON, RELEASE, of_kind, render, scrape_job
from tests.support.switch_stage import Stage

SNAPSHOTS = {
    "schedule": "0 0 1 1 *",
    "immediate": True,
    "destination": {"volume": {}},
    "verify": "None",
}
MISPLACED = """\
apiVersion: logstore.dev/v1alpha1
kind: PartitionSnapshot
metadata: {name: misplaced}
spec:
  partitionRef: {name: part}
  destination:
    objectStore:
      endpoint: https://store.invalid
      bucket: backups
      credentialsSecretRef: {name: nowhere}
"""


async def made_and_failed(found: Stage) -> None:
    """The schedule's first run succeeds, and a snapshot that somebody made fails after it."""
    patch = json.dumps({"spec": {"snapshots": SNAPSHOTS}})
    found.kubectl("patch", "partition", "part", "--type=merge", "-p", patch)

    async def state(wanted: str) -> bool:
        template = "jsonpath={.items[*].status.state}"
        got = await asyncio.to_thread(found.kubectl, "get", "partitionsnapshots", "-o", template)
        return wanted in got.split()

    await eventually(lambda: state("Succeeded"), "the first run succeeds")
    found.kubectl("apply", "-f", "-", stdin=MISPLACED)
    await eventually(lambda: state("Failed"), "the snapshot without a Secret fails")


def configuration(found: Stage) -> dict[str, Any]:
    """prometheus.yml, with the chart's PodMonitors on the pods that there are."""
    pods = found.server.kubectl.json("-n", found.namespace, "get", "pods")["items"]
    replicas = [pod | {"address": f"{pod['status']['podIP']}:7080"} for pod in pods]
    documents = render(*ON)
    (deployment,) = of_kind(documents, "Deployment")
    operator = {
        "metadata": {
            "namespace": NAMESPACE,
            "name": "operator-0",
            "labels": deployment["spec"]["template"]["metadata"]["labels"],
        },
        "address": f"127.0.0.1:{found.operator.http_port}",
    }
    monitors = of_kind(documents, "PodMonitor")
    assert len(monitors) == 2
    jobs = [scrape_job(monitor, [*replicas, operator]) for monitor in monitors]
    targets = {job["job_name"].rpartition("/")[2]: len(job["static_configs"]) for job in jobs}
    assert targets == {RELEASE: 1, f"{RELEASE}-replicas": 3}
    return {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES)],
        "scrape_configs": jobs,
    }
