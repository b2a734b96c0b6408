"""The replicas' StatefulSet.

podManagementPolicy is Parallel, because OrderedReady deadlocks after a total outage. updateStrategy
is OnDelete, because the operator replaces pods in order (reconcile/partition/rollout.py). Volumes
are always retained.

A new version of the operator may make another pod spec of the same Partition. Running pods must
not be replaced for that, and an older image may not know what it asks for. So the pod spec is kept
in an annotation, and made anew only if the Partition asks for other pods.
"""

import hashlib
import json
from typing import Any

from partition_operator.api import names
from partition_operator.api.partition import Partition, PartitionSpec
from partition_operator.resources.common import metadata
from partition_operator.resources.pod_template import merged
from partition_operator.resources.pods import DEFAULT_RESOURCES, RESTRICTED_CONTAINER, restricted

START_S = 3600
"""Seconds that a replica may take to open its volume."""
START_PERIOD_S = 5


KEPT_BYTES_MAX = 64 * 1024
"""A larger pod spec is not kept: all annotations of an object together may have 256 KiB."""


def build(
    partition: Partition,
    spec: PartitionSpec,
    replicas: int,
    image: str,
    live: dict[str, Any] | None = None,
    trusted: str = "",
) -> dict[str, Any]:
    """replicas: the number of pods; higher than in spec while members are being removed. live: the
    present StatefulSet, whose pod spec is kept if the Partition asks for the same pods. trusted:
    the hash of the pod spec that the operator wrote. Status has it, so that who may only change
    the StatefulSet can't make the operator write another one."""
    restart = partition.annotation(names.ANNOTATION_RESTART)
    marks = {"labels": spec.pod_labels | names.labels(partition.name)}
    annotations = spec.pod_annotations | ({names.ANNOTATION_RESTART: restart} if restart else {})
    if annotations:
        marks["annotations"] = annotations
    inputs = _inputs(spec, image, restart)
    pod = _kept(live, inputs, trusted) or _pod_spec(partition, spec, image)
    text = json.dumps(pod, sort_keys=True, separators=(",", ":"))
    kept = {names.ANNOTATION_POD_INPUTS: inputs}
    if len(text) <= KEPT_BYTES_MAX:
        kept[names.ANNOTATION_POD_SPEC] = text
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": metadata(partition, partition.name) | {"annotations": kept},
        "spec": {
            "replicas": replicas,
            "serviceName": names.headless_service(partition.name),
            "podManagementPolicy": "Parallel",
            "updateStrategy": {"type": "OnDelete"},
            "persistentVolumeClaimRetentionPolicy": {
                "whenDeleted": "Retain",
                "whenScaled": "Retain",
            },
            "selector": {"matchLabels": names.selector(partition.name)},
            "template": {
                "metadata": marks,
                "spec": pod,
            },
            "volumeClaimTemplates": [
                {
                    "apiVersion": "v1",
                    "kind": "PersistentVolumeClaim",
                    "metadata": {"name": names.VOLUME, "labels": names.selector(partition.name)},
                    "spec": claim_spec(spec),
                }
            ],
        },
    }


def _inputs(spec: PartitionSpec, image: str, restart: str) -> str:
    """Returns a hash of what a user can change of the pods' spec. Fields of later versions count
    only if they are set: a Partition without them has the hash of the version before."""
    given = [image, spec.resources, spec.affinity, spec.tolerations, restart]
    later = {"settings": spec.settings, "template": spec.template}
    if found := {key: value for key, value in later.items() if value}:
        given.append(found)
    return hashlib.sha256(json.dumps(given, sort_keys=True).encode()).hexdigest()


def _kept(live: dict[str, Any] | None, inputs: str, trusted: str) -> dict[str, Any] | None:
    """Returns the pod spec that was made of the same inputs; None if there is none, or if somebody
    else wrote it."""
    annotations = ((live or {}).get("metadata") or {}).get("annotations") or {}
    text = annotations.get(names.ANNOTATION_POD_SPEC, "")
    if annotations.get(names.ANNOTATION_POD_INPUTS) != inputs or kept_hash(text) != trusted:
        return None
    found: dict[str, Any] | None = json.loads(text) if text else None
    return found


def kept_hash(text: str) -> str:
    """Returns the hash of a kept pod spec; "" of none."""
    return hashlib.sha256(text.encode()).hexdigest() if text else ""


def claim_spec(spec: PartitionSpec) -> dict[str, Any]:
    claim: dict[str, Any] = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": spec.storage_size}},
        "volumeMode": "Filesystem",
    }
    if spec.storage_class is not None:
        claim["storageClassName"] = spec.storage_class
    if spec.attributes_class is not None:
        claim["volumeAttributesClassName"] = spec.attributes_class
    return claim


def _pod_spec(partition: Partition, spec: PartitionSpec, image: str) -> dict[str, Any]:
    pod: dict[str, Any] = restricted(partition) | {
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": names.selector(partition.name)},
            }
        ],
        "containers": [_container(partition, spec, image)],
        "volumes": [
            {
                "name": names.TLS_VOLUME,
                "secret": {"secretName": names.tls_secret(partition.name), "defaultMode": 0o440},
            },
        ],
    }
    if spec.affinity:
        pod["affinity"] = spec.affinity
    if spec.tolerations:
        pod["tolerations"] = spec.tolerations
    return merged(pod, spec.template, partition.name) if spec.template else pod


def _container(partition: Partition, spec: PartitionSpec, image: str) -> dict[str, Any]:
    domain = f"{names.headless_service(partition.name)}.{partition.namespace}.svc"
    return {
        "name": names.REPLICA_CONTAINER,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-m", "partition_replica"],
        "args": [
            "serve",
            f"--data={names.DATA_PATH}/data",
            # All addresses, IPv4 and IPv6.
            f"--listen=[::]:{names.GRPC_PORT}",
            f"--raft-listen=[::]:{names.RAFT_PORT}",
            f"--http-listen=[::]:{names.HTTP_PORT}",
            f"--advertise=$({names.POD_NAME_VARIABLE}).{domain}:{names.GRPC_PORT}",
            f"--partition={partition.namespace}/{partition.name}",
            f"--tls-dir={names.TLS_PATH}",
            *spec.settings,
        ],
        "env": [
            {
                "name": names.POD_NAME_VARIABLE,
                "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}},
            }
        ],
        "ports": [
            {"name": "grpc", "containerPort": names.GRPC_PORT, "protocol": "TCP"},
            {"name": "raft", "containerPort": names.RAFT_PORT, "protocol": "TCP"},
            {"name": "http", "containerPort": names.HTTP_PORT, "protocol": "TCP"},
        ],
        # The replica opens and checks its volume before it answers. A large log takes minutes. A
        # replica that is killed meanwhile would start over, again and again.
        "startupProbe": {
            "httpGet": {"path": "/livez", "port": "http", "scheme": "HTTP"},
            "periodSeconds": START_PERIOD_S,
            "timeoutSeconds": 5,
            "failureThreshold": START_S // START_PERIOD_S,
        },
        # Neither startup nor liveness needs a quorum: a single replica must wait, not restart.
        "livenessProbe": {
            "httpGet": {"path": "/livez", "port": "http", "scheme": "HTTP"},
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": 6,
        },
        "readinessProbe": {
            "httpGet": {"path": "/readyz", "port": "http", "scheme": "HTTP"},
            "periodSeconds": 2,
            "timeoutSeconds": 2,
            "failureThreshold": 2,
        },
        # The last line of a replica that ends says why.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "resources": spec.resources or DEFAULT_RESOURCES,
        "securityContext": RESTRICTED_CONTAINER,
        "volumeMounts": [
            {"name": names.VOLUME, "mountPath": names.DATA_PATH},
            {"name": names.TLS_VOLUME, "mountPath": names.TLS_PATH, "readOnly": True},
        ],
    }
