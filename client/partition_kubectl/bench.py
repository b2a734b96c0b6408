"""`kubectl partition bench`: measures a storage class with a pod and a volume that are removed."""

import argparse
import datetime as dt
import json
import uuid
from typing import Any

from partition_kubectl import names, pods
from partition_kubectl.errors import NotAsWanted, Refused, TimedOut, UsageError
from partition_kubectl.kubectl import Body, Kubectl
from partition_kubectl.output import put, rendered, say
from partition_kubectl.waiting import Patience

COMPONENT = "bench"
DATA = "/var/lib/partition"
REPORT = "/dev/termination-log"
USER = 65532
BOTH_PARTS = 2
TOO_SLOW = "too slow"
CLAIMS = "persistentvolumeclaim"


def run(kubectl: Kubectl, options: argparse.Namespace) -> int:
    image = options.image or _image(kubectl)
    name = f"partition-bench-{uuid.uuid4().hex[:6]}"
    try:
        kubectl.create(claim(name, options.storage_class, options.size))
        kubectl.create(pod(name, image, options))
        found = _measured(kubectl, name, options)
    finally:
        if options.keep:
            say(f"pod and claim {name} are kept; delete them yourself")
        else:
            _remove(kubectl, name)
    report = result(found)
    where = {
        "storageClass": options.storage_class or "the default one",
        "node": (found.get("spec") or {}).get("nodeName", ""),
    }
    put(rendered(where | report, options.output) if options.output else text(where, report))
    return NotAsWanted.code if report["verdict"] == TOO_SLOW else 0


def _remove(kubectl: Kubectl, name: str) -> None:
    for kind in ("pod", CLAIMS):
        try:
            kubectl.delete(kind, name)
        except Refused as error:
            say(f"{kind} {name} could not be deleted; delete it yourself: {error}")


def _image(kubectl: Kubectl) -> str:
    """Returns the image of any Partition here, or of the operator. Raises UsageError."""
    found = kubectl.find(names.PARTITIONS)
    images = [(one.get("status") or {}).get("image") for one in found]
    if any(images):
        return str(next(image for image in images if image))
    operators, _ = kubectl.find_if_allowed("pods", names.OPERATOR, "--all-namespaces")
    for one in operators:
        for container in one["spec"]["containers"]:
            if container["name"] == names.OPERATOR_CONTAINER:
                return str(container["image"])
    raise UsageError(
        "--image: no Partition is in this namespace and no operator's pod can be seen, so name the "
        "image of the replicas"
    )


def _labels(name: str) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "partition-bench",
        "app.kubernetes.io/instance": name,
        "app.kubernetes.io/component": COMPONENT,
    }


def claim(name: str, storage_class: str, size: str) -> Body:
    """Returns the claim that is measured. Pure."""
    spec: Body = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": size}},
    }
    if storage_class:
        spec["storageClassName"] = storage_class
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "labels": _labels(name)},
        "spec": spec,
    }


def pod(name: str, image: str, options: argparse.Namespace) -> Body:
    """Returns the pod that measures. Pod Security "restricted" allows it, and it reaches nothing:
    it has no token. Pure."""
    container = {
        "name": COMPONENT,
        "image": image,
        "command": ["python3", "-m", "partition_replica"],
        "args": [
            "bench-disk",
            f"--data={DATA}",
            f"--seconds={options.seconds}",
            f"--mib={options.mib}",
            f"--report={REPORT}",
        ],
        "env": [{"name": "TMPDIR", "value": DATA}],
        "resources": {
            "requests": {"cpu": "100m", "memory": "128Mi"},
            "limits": {"memory": "512Mi"},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "terminationMessagePath": REPORT,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [{"name": "data", "mountPath": DATA}],
    }
    spec: Body = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "activeDeadlineSeconds": int(options.timeout),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": name}}],
    }
    if options.node:
        # Not nodeName: that skips the scheduler, and no volume is bound for the pod then.
        spec["nodeSelector"] = {"kubernetes.io/hostname": options.node}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": _labels(name)},
        "spec": spec,
    }


def _measured(kubectl: Kubectl, name: str, options: argparse.Namespace) -> Body:
    """Returns the pod once it has ended. The figures come at the end: until then the bar shows how
    much of the time has passed that the measurement may take."""
    expected = BOTH_PARTS * options.seconds

    def told(seen: Body) -> str:
        return progress(seen, expected, _now())[0]

    def part(seen: Body) -> float:
        return progress(seen, expected, _now())[1]

    try:
        found: Body = Patience(options.timeout).until(
            lambda: kubectl.get("pod", name), _has_ended, told, part
        )
    except TimedOut as error:
        uids = {kubectl.get(kind, name)["metadata"]["uid"] for kind in ("pod", CLAIMS)}
        events = kubectl.events(uids)
        last = f". Its last event: {events[-1].get('message')}" if events else ""
        raise TimedOut(f"{error}{last}") from error
    return found


def _has_ended(found: Body) -> bool:
    return (found.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def progress(found: Body, expected_s: float, now: dt.datetime) -> tuple[str, float]:
    """Returns (what happens, how much is done, from 0 to 1). Pure."""
    status = found.get("status") or {}
    running = _state(found).get("running")
    if running:
        begun = dt.datetime.fromisoformat(str(running["startedAt"]))
        passed = (now - begun).total_seconds()
        return "measuring", passed / expected_s
    trouble = pods.trouble(found) if found else ""
    if status.get("phase", "Pending") == "Pending":
        return f"the pod {trouble or 'starts'}", 0.0
    return "ending", 1.0


def _state(found: Body) -> Body:
    statuses = (found.get("status") or {}).get("containerStatuses") or []
    return next((one.get("state") or {} for one in statuses if one["name"] == COMPONENT), {})


def result(found: Body) -> dict[str, Any]:
    """Returns the report of a pod that has ended. Raises Refused. Pure."""
    ended = _state(found).get("terminated") or {}
    message = str(ended.get("message", ""))
    try:
        report = json.loads(message)
    except ValueError:
        report = None
    if not isinstance(report, dict) or "verdict" not in report:
        status = found.get("status") or {}
        why = message.strip() or status.get("message") or ended.get("reason") or "no report"
        if "invalid choice: 'bench-disk'" in message:
            why = "this image has no bench-disk; name a newer one with --image"
        raise Refused(f"the measurement failed (exit code {ended.get('exitCode')}): {why}")
    return report


def text(where: dict[str, str], report: dict[str, Any]) -> str:
    """Returns the report for people. Pure."""
    return "\n".join(
        [
            f"Storage class {where['storageClass']}, on node {where['node'] or 'unknown'}",
            f"  fsync of 4 KiB  p50 {report['fsync_p50_ms']:.2f} ms, p99 "
            f"{report['fsync_p99_ms']:.2f} ms, longest {report['fsync_max_ms']:.2f} ms, "
            f"{report['syncs']} times",
            f"  large file      {report['write_mib_s']:.0f} MiB/s",
            f"  verdict         {report['verdict']}",
            *(f"    {line}" for line in report["why"]),
        ]
    )


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)  # noqa: TID251  # how long the pod runs
