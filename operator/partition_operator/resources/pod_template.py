"""Merges `spec.podTemplate.spec` into the pods that the operator makes. Pure.

The merge is the strategic one of Kubernetes: objects are merged field by field, lists of LISTS item
by item, and any other value replaces ours. api/pod_template.py has refused what may not be changed.

The user's own containers get what they need to reach the replica of their pod: a client's
certificate, the folder with the replica's socket, and variables that name both.
"""

from typing import Any

from partition_operator.api import names
from partition_operator.api.pod_template import LISTS
from partition_operator.resources.pods import RESTRICTED_CONTAINER

Fields = dict[str, Any]

PLACED = (
    "nodeSelector",
    "priorityClassName",
    "preemptionPolicy",
    "schedulerName",
    "runtimeClassName",
    "imagePullSecrets",
    "dnsPolicy",
    "dnsConfig",
    "hostAliases",
)
"""Fields that the pods that restore and verify get, too: they run where replicas run."""

OWN_SECURITY = {
    key: value for key, value in RESTRICTED_CONTAINER.items() if key != "readOnlyRootFilesystem"
}
"""The defaults of the user's own containers: what Pod Security's profile `restricted` asks for."""

SOCKET_MOUNT = {"name": names.SOCKET_VOLUME, "mountPath": names.SOCKET_FOLDER}
CLIENT_TLS_MOUNT = {
    "name": names.CLIENT_TLS_VOLUME,
    "mountPath": names.CLIENT_TLS_PATH,
    "readOnly": True,
}
SOCKET_VARIABLE = {"name": "PARTITION_SOCKET", "value": names.SOCKET}
"""The same for the replica, which reads its flag from it, so that an older image ignores it."""
OWN_VARIABLES = [
    {"name": "PARTITION_ENDPOINTS", "value": f"localhost:{names.GRPC_PORT}"},
    {"name": "PARTITION_TLS_DIR", "value": names.CLIENT_TLS_PATH},
    SOCKET_VARIABLE,
]


def merged(pod: Fields, template: Fields, partition: str) -> Fields:
    """Returns a replica's pod spec with the template merged into it. partition: its name."""
    found = _merge(pod, template)
    for constraint in found["topologySpreadConstraints"]:
        constraint.setdefault("maxSkew", 1)
        constraint.setdefault("labelSelector", {"matchLabels": names.selector(partition)})
    own = [
        container
        for field in ("containers", "initContainers")
        for container in found.get(field, ())
        if container["name"] != names.REPLICA_CONTAINER
    ]
    if own:
        _connect(found, own, partition)
    return found


def placed(pod: Fields, template: Fields) -> Fields:
    """Returns the spec of a pod that restores or verifies, with what places it."""
    return _merge(pod, {field: template[field] for field in PLACED if field in template})


def _connect(pod: Fields, own: list[Fields], partition: str) -> None:
    """Adds to a new pod spec what the user's containers need to reach the replica."""
    secret = {"secretName": names.client_secret(partition), "defaultMode": 0o440}
    pod["volumes"] += [
        {"name": names.CLIENT_TLS_VOLUME, "secret": secret},
        {"name": names.SOCKET_VOLUME, "emptyDir": {}},
    ]
    for container in own:
        security = _merge(OWN_SECURITY, container.get("securityContext", {}))
        container["securityContext"] = security
        container["env"] = [*OWN_VARIABLES, *container.get("env", ())]
        mounts = container.get("volumeMounts", ())
        container["volumeMounts"] = [CLIENT_TLS_MOUNT, SOCKET_MOUNT, *mounts]
    replica = next(c for c in pod["containers"] if c["name"] == names.REPLICA_CONTAINER)
    replica["env"] = [*replica["env"], SOCKET_VARIABLE]
    replica["volumeMounts"] = [*replica["volumeMounts"], SOCKET_MOUNT]


def _merge(ours: Fields, theirs: Fields) -> Fields:
    """Returns new objects, where they differ from ours."""
    found = dict(ours)
    for key, value in theirs.items():
        old = found.get(key)
        if isinstance(value, dict):
            found[key] = _merge(old if isinstance(old, dict) else {}, value)
        elif key in LISTS and isinstance(value, list):
            found[key] = _merge_list(old or [], value, LISTS[key])
        else:
            found[key] = value
    return found


def _merge_list(ours: list[Fields], theirs: list[Any], key: str) -> list[Any]:
    if not all(isinstance(item, dict) and key in item for item in [*ours, *theirs]):
        return theirs
    found = {item[key]: dict(item) for item in ours}
    for item in theirs:
        found[item[key]] = _merge(found.get(item[key], {}), item)
    return list(found.values())
