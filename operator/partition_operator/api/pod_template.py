"""`spec.podTemplate.spec`: what a user may change of the pods. Pure.

The operator builds the pods of replicas, and merges this into them (resources/pod_template.py). The
group relies on some fields, so they are guarded: a template that sets one is refused, with the path
of the field. Only listed fields are allowed, so that a field of a later Kubernetes is refused, too,
until somebody has looked at it.
"""

import posixpath
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from partition_operator.api import names
from partition_operator.errors import InvalidSpec

Fields = dict[str, Any]

GRACE_MIN_S: Final = 30
"""What a replica needs to hand over leadership and to end its snapshot job."""

ALLOWED: Final = frozenset(
    {
        "affinity",
        "containers",
        "dnsConfig",
        "dnsPolicy",
        "hostAliases",
        "imagePullSecrets",
        "initContainers",
        "nodeSelector",
        "preemptionPolicy",
        "priorityClassName",
        "runtimeClassName",
        "schedulerName",
        "securityContext",
        "terminationGracePeriodSeconds",
        "tolerations",
        "topologySpreadConstraints",
        "volumes",
    }
)
"""Fields of the pod's spec."""
OBJECTS: Final = ("affinity", "dnsConfig", "nodeSelector", "securityContext")
ALLOWED_SECURITY: Final = frozenset(
    {
        "fsGroupChangePolicy",
        "seLinuxChangePolicy",
        "seLinuxOptions",
        "supplementalGroups",
        "supplementalGroupsPolicy",
        "sysctls",
    }
)
"""Fields of the pod's securityContext. The others keep Pod Security's profile `restricted`."""
ALLOWED_REPLICA: Final = frozenset({"name", "env", "imagePullPolicy", "volumeMounts"})
"""Fields of the replica's own container."""

INSTEAD: Final = {
    "automountServiceAccountToken": "mount a projected volume into your own container instead",
    "image": "set spec.image instead",
    "resources": "set spec.resources instead",
    "serviceAccountName": (
        "bind roles to the ServiceAccount of the pods, which has the Partition's name"
    ),
    "shareProcessNamespace": "your containers could read the replica's keys",
}
"""By guarded field: what to do."""

CONTAINERS_RESERVED: Final = frozenset({names.REPLICA_CONTAINER, "restore", "verify"})
PORTS_RESERVED: Final = {
    names.GRPC_PORT: "grpc",
    names.RAFT_PORT: "raft",
    names.HTTP_PORT: "http",
}
"""The containers of a pod share one network: ports of the replica, by their names."""
ENV_OF_CONTAINERS: Final = ("PARTITION_ENDPOINTS", "PARTITION_SOCKET", "PARTITION_TLS_DIR")
"""Variables that the operator sets for the user's containers."""
ENV_OF_REPLICA: Final = "PARTITION_"
"""The replica reads its flags from variables that begin so."""
ENV_OF_REPLICA_ALLOWED: Final = frozenset({"PARTITION_LOG_LEVEL"})
KEPT_IF_EMPTY: Final = frozenset({"storageClassName"})
OMITTED_IF_FALSE: Final = frozenset({"readOnly", "stdin", "stdinOnce", "tty"})
LISTS: Final = {
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "topologySpreadConstraints": "topologyKey",
    "imagePullSecrets": "name",
    "hostAliases": "ip",
    "env": "name",
    "volumeMounts": "mountPath",
}
"""Lists of objects, with the field that identifies an item. They are merged item by item."""


def check(template: Fields, where: str) -> None:
    """Raises InvalidSpec for a field that is guarded or malformed. template: as `cleaned` returns
    it. where: its path."""
    _check_directives(template, where)
    _check_fields(template, ALLOWED, where)
    for field in OBJECTS:
        if not isinstance(template.get(field, {}), dict):
            raise InvalidSpec(f"{where}.{field} {template[field]!r:.100}: is not an object")
    tolerations = template.get("tolerations", [])
    if not isinstance(tolerations, list) or not all(isinstance(t, dict) for t in tolerations):
        raise InvalidSpec(f"{where}.tolerations {tolerations!r:.100}: is not a list of objects")
    _check_fields(template.get("securityContext", {}), ALLOWED_SECURITY, f"{where}.securityContext")
    grace = template.get("terminationGracePeriodSeconds", GRACE_MIN_S)
    if not isinstance(grace, int) or isinstance(grace, bool) or grace < GRACE_MIN_S:
        raise InvalidSpec(
            f"{where}.terminationGracePeriodSeconds {grace!r}: at least {GRACE_MIN_S}, in which a "
            "replica hands over its leadership"
        )
    for field in ("imagePullSecrets", "hostAliases", "topologySpreadConstraints"):
        list(items(template, field, where))
    for path, volume in items(template, "volumes", where):
        if is_reserved_volume(volume["name"]):
            raise InvalidSpec(f"{path}: {_RESERVED_VOLUME}; use another name")
    _check_containers(template, where)


def cleaned(value: Any) -> Any:
    """Returns a template without what the API server leaves out of an object: null and empty text,
    and the value false of OMITTED_IF_FALSE. Otherwise the live object would always differ."""
    if isinstance(value, list):
        return [cleaned(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: cleaned(inner)
        for key, inner in value.items()
        if inner is not None
        and (inner != "" or key in KEPT_IF_EMPTY)
        and (inner is not False or key not in OMITTED_IF_FALSE)
    }


def is_reserved_volume(name: str) -> bool:
    return name in (names.VOLUME, names.TLS_VOLUME) or name.startswith(names.VOLUME_PREFIX)


def items(body: Fields, field: str, where: str) -> Iterator[tuple[str, Fields]]:
    """Yields (path, item) of a list of LISTS. Raises InvalidSpec if it is no list of objects that
    have their key, or if two have the same one."""
    found, key = body.get(field, []), LISTS[field]
    if not isinstance(found, list):
        raise InvalidSpec(f"{where}.{field} {found!r:.100}: is not a list")
    seen = set[str]()
    for number, item in enumerate(found):
        name = item.get(key) if isinstance(item, dict) else None
        if not isinstance(item, dict) or not isinstance(name, str) or not name:
            raise InvalidSpec(f"{where}.{field}[{number}]: is not an object with {key}, as text")
        path = f"{where}.{field}[{name}]"
        if name in seen:
            raise InvalidSpec(f"{path}: is there twice; {key} must differ from that of the others")
        seen.add(name)
        yield path, item


_RESERVED_VOLUME = (
    f"the names {names.VOLUME}, {names.TLS_VOLUME} and those that begin with "
    f"{names.VOLUME_PREFIX} are the operator's"
)


def _check_directives(value: object, where: str) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            if str(key).startswith("$"):
                raise InvalidSpec(
                    f"{where}.{key}: directives of a strategic merge patch are not supported; name "
                    "only what you add or change"
                )
            _check_directives(inner, f"{where}.{key}")
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            _check_directives(inner, f"{where}[{number}]")


def _check_fields(given: Mapping[str, object], allowed: Iterable[str], where: str) -> None:
    for field in given:
        if field not in allowed:
            words = INSTEAD.get(field, f"allowed here are {', '.join(sorted(allowed))}")
            raise InvalidSpec(f"{where}.{field}: the operator keeps this field; {words}")


def _check_containers(template: Fields, where: str) -> None:
    seen = set[str]()
    for field in ("containers", "initContainers"):
        for path, container in items(template, field, where):
            name = container["name"]
            if name in seen:
                raise InvalidSpec(f"{path}: another container has this name; use another one")
            seen.add(name)
            if field == "containers" and name == names.REPLICA_CONTAINER:
                _check_replica(container, path)
            elif name in CONTAINERS_RESERVED:
                raise InvalidSpec(
                    f"{path}: the names {', '.join(sorted(CONTAINERS_RESERVED))} are those of the "
                    "operator's containers; use another name"
                )
            else:
                _check_own(container, path)


def _check_replica(container: Fields, where: str) -> None:
    _check_fields(container, ALLOWED_REPLICA, where)
    for path, variable in items(container, "env", where):
        name = variable["name"]
        reserved = name.startswith(ENV_OF_REPLICA) and name not in ENV_OF_REPLICA_ALLOWED
        if reserved or name == names.POD_NAME_VARIABLE:
            raise InvalidSpec(
                f"{path}: the operator sets {names.POD_NAME_VARIABLE} and what begins with "
                f"{ENV_OF_REPLICA}; of these you may set "
                f"{', '.join(sorted(ENV_OF_REPLICA_ALLOWED))} alone. spec.settings has the limits"
            )
    paths = (names.DATA_PATH, names.TLS_PATH, names.SOCKET_FOLDER)
    _check_mounts(container, where, paths)


def _check_own(container: Fields, where: str) -> None:
    if not isinstance(container.get("securityContext", {}), dict):
        raise InvalidSpec(f"{where}.securityContext: is not an object with fields")
    for path, variable in items(container, "env", where):
        if variable["name"] in ENV_OF_CONTAINERS:
            raise InvalidSpec(f"{path}: the operator sets this variable; use another name")
    _check_ports(container, f"{where}.ports")
    _check_mounts(container, where, (names.CLIENT_TLS_PATH, names.SOCKET_FOLDER))


def _check_ports(container: Fields, where: str) -> None:
    ports = container.get("ports", [])
    if not isinstance(ports, list) or not all(isinstance(port, dict) for port in ports):
        raise InvalidSpec(f"{where}: is not a list of objects")
    for port in ports:
        number, name = port.get("containerPort", 0), port.get("name")
        if not isinstance(number, int):
            raise InvalidSpec(f"{where}: containerPort {number!r:.100} is not a number")
        if number in PORTS_RESERVED or name in PORTS_RESERVED.values():
            taken = ", ".join(f"{name} ({port})" for port, name in PORTS_RESERVED.items())
            raise InvalidSpec(
                f"{where}: the replica has the ports {taken}, and the containers of a pod share "
                "one network; use another number and another name"
            )


def _check_mounts(container: Fields, where: str, taken: tuple[str, ...]) -> None:
    for path, mount in items(container, "volumeMounts", where):
        if is_reserved_volume(str(mount.get("name"))):
            raise InvalidSpec(
                f"{path}.name: {_RESERVED_VOLUME}, and are mounted by it alone; "
                "docs/operations/pods.md says how a container reaches its replica"
            )
        place = f"{posixpath.normpath(mount['mountPath'])}/"
        for other in taken:
            if place.startswith(f"{other}/"):
                raise InvalidSpec(f"{path}: the operator mounts {other}; use another path")
