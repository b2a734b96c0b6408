"""The verifying pod, which restores a snapshot into scratch space, and the restoring pod, which
restores it into a Partition's first volume. Pure. Their termination message is the report of
`partition-replica snapshot`."""

import datetime as dt
import json
from dataclasses import dataclass, field
from typing import Any

from partition_operator.api import names
from partition_operator.api.destination import (
    ACCESS_KEY,
    AUTHORITY,
    SECRET_KEY,
    SESSION_TOKEN,
    Destination,
    ObjectStore,
)
from partition_operator.api.partition import Partition, PartitionSpec
from partition_operator.api.quantities import parse_quantity
from partition_operator.api.snapshot import Snapshot
from partition_operator.api.times import parse_stamp
from partition_operator.resources.common import metadata, owner_reference
from partition_operator.resources.pod_template import placed
from partition_operator.resources.pods import DEFAULT_RESOURCES, RESTRICTED_CONTAINER, restricted
from partition_operator.resources.statefulset import claim_spec

RESTORE, VERIFY = "restore", "verify"
"""Names of the containers. They are also the pods' components and the subcommands that they run."""
SOURCE_PATH = "/source"
SCRATCH_PATH = "/scratch"
STORE_PATH = "/etc/partition/store"
REPORT_PATH = "/dev/termination-log"
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
POD_NAME = "statefulset.kubernetes.io/pod-name"
SCRATCH_MARGIN = 256 * 2**20
"""Bytes of a verifying pod's ephemeral storage in addition to the restored data: its log output and
empty pages."""
VERIFY_DEADLINE_S = 6 * 3600

POD_IP = {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}

PROGRESS = {"name": "PARTITION_PROGRESS_LISTEN", "value": f"$(POD_IP):{names.HTTP_PORT}"}
"""Not a flag: an older image ignores the variable and still restores."""

NOT_RETRIABLE = frozenset({2, 65, 73, 78})
"""Exit codes of `partition-replica snapshot` after which the same attempt can't succeed."""


@dataclass(frozen=True, slots=True)
class SnapshotLocation:
    """Where a pod reads from. claim: the claim of the volume with the store; "" for an object
    store. beside: the running pod that uses this claim, whose node the pod needs; "" for none.
    authority: whether the Secret contains a CA certificate."""

    destination: Destination
    snapshot_id: str
    claim: str = ""
    beside: str = ""
    authority: bool = False


@dataclass(frozen=True, slots=True)
class PodResult:
    """How a pod ended."""

    succeeded: bool
    reason: str
    message: str
    retriable: bool
    report: dict[str, Any] = field(default_factory=dict)


# --- builders ---------------------------------------------------------------------------------


def build_verify(
    snapshot: Snapshot, partition: Partition, source: SnapshotLocation, image: str, attempt: int
) -> dict[str, Any]:
    """Returns the verifying pod. The snapshot owns it; its scratch space is as large as a replica's
    volume."""
    spec = partition.spec()
    name = names.verify_pod(snapshot.name)
    body = _pod(name, partition, spec, source, image, attempt, VERIFY)
    body["metadata"]["labels"][names.LABEL_SNAPSHOT] = snapshot.name
    owner = owner_reference(names.SNAPSHOT_KIND, snapshot.name, snapshot.uid)
    body["metadata"]["ownerReferences"] = [owner]
    body["spec"]["activeDeadlineSeconds"] = VERIFY_DEADLINE_S
    container = body["spec"]["containers"][0]
    container["args"] += ["--restore", f"--scratch={SCRATCH_PATH}"]
    container["env"].append({"name": "TMPDIR", "value": SCRATCH_PATH})
    container["volumeMounts"].append({"name": "scratch", "mountPath": SCRATCH_PATH})
    # The request places the pod on a node with enough space; the limit protects the node.
    ephemeral = {"ephemeral-storage": str(_scratch_bytes(snapshot, spec))}
    container["resources"] = {
        kind: amounts | ephemeral for kind, amounts in DEFAULT_RESOURCES.items()
    }
    # Of spec.affinity only nodeAffinity applies: the pod may use only the nodes of the replicas.
    nodes = {key: value for key, value in spec.affinity.items() if key == "nodeAffinity"}
    _place(body, nodes, source)
    body["spec"]["volumes"].append(
        {"name": "scratch", "emptyDir": {"sizeLimit": spec.storage_size}}
    )
    return body


def build_restore(
    partition: Partition,
    spec: PartitionSpec,
    source: SnapshotLocation,
    cluster_id: str,
    image: str,
    attempt: int,
    *,
    standalone: bool,
) -> dict[str, Any]:
    """Returns the restoring pod. The Partition owns it. It writes volume 0, which then belongs to
    `cluster_id`."""
    name = names.restore_pod(partition.name)
    body = _pod(name, partition, spec, source, image, attempt, RESTORE)
    container = body["spec"]["containers"][0]
    container["args"] += [f"--data={names.DATA_PATH}/data", f"--cluster-id={cluster_id}"]
    if standalone:
        # The earlier name of --standalone: the image may be of the previous version.
        container["args"].append("--unreplicated")
    container["env"].append({"name": "TMPDIR", "value": names.DATA_PATH})
    container["volumeMounts"].append({"name": names.VOLUME, "mountPath": names.DATA_PATH})
    claim = {"claimName": names.claim(partition.name, 0)}
    body["spec"]["volumes"].append({"name": names.VOLUME, "persistentVolumeClaim": claim})
    if spec.resources:
        container["resources"] = spec.resources
    # The pod's node may decide where volume 0 is bound, so replica 0 must be able to run there.
    _place(body, spec.affinity, source)
    return body


def build_claim(partition: Partition, spec: PartitionSpec, cluster_id: str) -> dict[str, Any]:
    """Returns the claim of volume 0, as the StatefulSet would create it, with the cluster-ID
    annotation."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": names.claim(partition.name, 0),
            "namespace": partition.namespace,
            "labels": names.selector(partition.name),
            "annotations": {names.ANNOTATION_CLUSTER_ID: cluster_id},
        },
        "spec": claim_spec(spec),
    }


def source_of(snapshot: Snapshot, running: frozenset[str], *, authority: bool) -> SnapshotLocation:
    """Returns the location of a stored snapshot from its status. running: names of running pods."""
    destination = snapshot.stored_in()
    assert destination is not None, "it is stored"
    claim = (snapshot.status["destination"].get("volume") or {}).get("claim", "")
    pod = str(snapshot.status.get("sourcePod", ""))
    return SnapshotLocation(
        destination=destination,
        snapshot_id=str(snapshot.status["snapshotID"]),
        claim=claim,
        beside=pod if claim and pod in running else "",
        authority=authority,
    )


def _pod(
    name: str,
    partition: Partition,
    spec: PartitionSpec,
    source: SnapshotLocation,
    image: str,
    attempt: int,
    component: str,
) -> dict[str, Any]:
    meta = metadata(partition, name, component)
    meta["labels"] = spec.pod_labels | meta["labels"]
    meta["annotations"] = spec.pod_annotations | {names.ANNOTATION_ATTEMPT: str(attempt)}
    pod: dict[str, Any] = restricted(partition) | {
        "restartPolicy": "Never",
        "containers": [
            {
                "name": component,
                "image": image,
                "imagePullPolicy": "IfNotPresent",
                "command": ["python3", "-m", "partition_replica"],
                "args": [
                    "snapshot",
                    component,
                    *_arguments(source),
                    f"--report={REPORT_PATH}",
                ],
                "env": [POD_IP, PROGRESS, *_environment(source)],
                "ports": [{"name": "http", "containerPort": names.HTTP_PORT}],
                "resources": DEFAULT_RESOURCES,
                "securityContext": RESTRICTED_CONTAINER,
                "terminationMessagePath": REPORT_PATH,
                "terminationMessagePolicy": "File",
                "volumeMounts": _mounts(source),
            }
        ],
        "volumes": _volumes(source),
    }
    if spec.tolerations:
        pod["tolerations"] = spec.tolerations
    pod = placed(pod, spec.template)
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": pod}


def _arguments(source: SnapshotLocation) -> list[str]:
    found = [f"--snapshot={source.snapshot_id}"]
    store = source.destination
    if not isinstance(store, ObjectStore):
        return [*found, f"--directory={SOURCE_PATH}/data/snapshots"]
    found += [f"--s3-bucket={store.bucket}", f"--s3-prefix={store.prefix}"]
    if store.endpoint:
        found.append(f"--s3-endpoint={store.endpoint}")
    if store.region:
        found.append(f"--s3-region={store.region}")
    if store.allow_http:
        found.append("--s3-allow-http")
    if store.virtual_hosted_style:
        found.append("--s3-virtual-hosted-style")
    if source.authority:
        found.append(f"--s3-ca-file={STORE_PATH}/{AUTHORITY}")
    return found


def _environment(source: SnapshotLocation) -> list[dict[str, Any]]:
    """Returns the credentials as references, so that none of our objects contains them."""
    if not isinstance(source.destination, ObjectStore):
        return []
    return [
        {
            "name": variable,
            "valueFrom": {
                "secretKeyRef": {
                    "name": source.destination.secret,
                    "key": key,
                    "optional": key == SESSION_TOKEN,
                }
            },
        }
        for variable, key in (
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY),
            ("AWS_SESSION_TOKEN", SESSION_TOKEN),
        )
    ]


def _mounts(source: SnapshotLocation) -> list[dict[str, Any]]:
    if source.claim:
        return [{"name": "source", "mountPath": SOURCE_PATH, "readOnly": True}]
    if source.authority:
        return [{"name": "authority", "mountPath": STORE_PATH, "readOnly": True}]
    return []


def _volumes(source: SnapshotLocation) -> list[dict[str, Any]]:
    if source.claim:
        claim = {"claimName": source.claim}
        return [{"name": "source", "persistentVolumeClaim": claim}]
    if source.authority and isinstance(source.destination, ObjectStore):
        items = [{"key": AUTHORITY, "path": AUTHORITY}]
        secret = {"secretName": source.destination.secret, "items": items, "defaultMode": 0o440}
        return [{"name": "authority", "secret": secret}]
    return []


def _place(body: dict[str, Any], affinity: dict[str, Any], source: SnapshotLocation) -> None:
    """Sets where the pod may run: as `affinity` asks, and on the node of the pod that uses its
    source."""
    wanted = dict(affinity)
    if source.beside:
        pods = dict(wanted.get("podAffinity") or {})
        pods[REQUIRED] = [*(pods.get(REQUIRED) or []), _beside(source.beside)]
        wanted["podAffinity"] = pods
    if wanted:
        body["spec"]["affinity"] = wanted


def _beside(pod: str) -> dict[str, Any]:
    """Returns the term for the node of a pod that uses the same ReadWriteOnce volume."""
    labels = {POD_NAME: pod}
    return {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": labels}}


def beside_of(pod: dict[str, Any]) -> str:
    """Returns the pod whose node this one needs; "" for none."""
    affinity = pod["spec"].get("affinity") or {}
    for term in (affinity.get("podAffinity") or {}).get(REQUIRED) or []:
        labels = (term.get("labelSelector") or {}).get("matchLabels") or {}
        if POD_NAME in labels:
            return str(labels[POD_NAME])
    return ""


def _scratch_bytes(snapshot: Snapshot, spec: PartitionSpec) -> int:
    """Returns the bytes that a restore needs. Rows need more space in a database than in segments,
    but never more than a replica's volume has."""
    volume = int(parse_quantity(spec.storage_size) or 0)
    size = snapshot.status.get("sizeBytes")
    wanted = volume if size is None else min(int(size) * 3 // 2, volume)
    return wanted + SCRATCH_MARGIN


# --- results ----------------------------------------------------------------------------------


def attempt_of(pod: dict[str, Any]) -> int:
    """Returns the number of a pod's attempt; 0 if the pod is not ours."""
    annotations = pod["metadata"].get("annotations") or {}
    text = annotations.get(names.ANNOTATION_ATTEMPT, "")
    return int(text) if text.isdigit() else 0


def outcome(pod: dict[str, Any], now: dt.datetime, pending: dt.timedelta) -> PodResult | None:
    """Returns the pod's result; None while it runs, or has waited for less than `pending`.

    The state of our own container decides: an injected container may never end, and then the pod's
    phase stays Running.
    """
    status = pod.get("status") or {}
    phase = status.get("phase", "Pending")
    terminated = own_container_state(pod).get("terminated")
    if terminated is not None or phase in ("Succeeded", "Failed"):
        return _ended(status, terminated or {})
    created = parse_stamp(pod["metadata"].get("creationTimestamp"))
    if phase == "Pending" and created is not None and now - created >= pending:
        return PodResult(False, "PodNotStarted", waiting_for(pod), True)
    return None


def waiting_for(pod: dict[str, Any]) -> str:
    """Returns why a pod has not started, in Kubernetes' words."""
    status = pod.get("status") or {}
    first = status.get("initContainerStatuses") or []
    states = [own_container_state(pod), *(c.get("state") or {} for c in first)]
    reasons = [state["waiting"] for state in states if (state.get("waiting") or {}).get("reason")]
    # With PodInitializing our container waits for an injected init container, so that one comes
    # first.
    reasons.sort(key=lambda waiting: waiting["reason"] == "PodInitializing")
    if reasons:
        waiting = reasons[0]
        return f"{waiting['reason']}: {waiting.get('message', '')}".rstrip(": ")
    for condition in status.get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return f"{condition.get('reason', '')}: {condition.get('message', '')}".strip(": ")
    return "the pod has not started"


def own_container_state(pod: dict[str, Any]) -> dict[str, Any]:
    """Returns the state of our container. Injected ones may precede it in the list."""
    containers = (pod.get("status") or {}).get("containerStatuses") or []
    found = (c.get("state") or {} for c in containers if c.get("name") in (RESTORE, VERIFY))
    return next(found, {})


def _ended(status: dict[str, Any], terminated: dict[str, Any]) -> PodResult:
    report = _report(terminated.get("message", ""))
    if terminated.get("exitCode") == 0 and report.get("state") == "succeeded":
        return PodResult(True, "Succeeded", "", False, report)
    code = terminated.get("exitCode", 0)
    if report.get("state") == "failed":
        return PodResult(
            False,
            str(report.get("reason") or "Failed"),
            str(report.get("message") or "no message"),
            bool(report.get("retriable", code not in NOT_RETRIABLE)),
            report,
        )
    reason = status.get("reason") or terminated.get("reason") or "NoReport"
    message = status.get("message") or f"the container ended with code {code} and left no report"
    return PodResult(False, str(reason), str(message), code not in NOT_RETRIABLE)


def _report(message: str) -> dict[str, Any]:
    try:
        found = json.loads(message)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
