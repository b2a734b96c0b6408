"""Checks whether the operator can follow a spec. Pure.

The CRDs are the source of the rules, and the API server applies them first. Some specs reach the
operator without these checks: an older CRD admitted them, or the API server did not run a rule. So
the operator checks everything again. An error names the field. A field with a wrong type or value
never gets a guessed value.

`checked` applies all rules. The rules of single fields are generated (schema.RULES). The rules that
read several fields or calculate are written by hand below. If the CRD has the same rule in CEL, the
docstring quotes the beginning of its message.
"""

import datetime as dt
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, TypeVar, cast

from partition_operator.api import pod_template, schema, settings
from partition_operator.api.durations import parse_duration
from partition_operator.api.names import GROUP
from partition_operator.api.quantities import parse_quantity
from partition_operator.api.rule import Rule
from partition_operator.errors import InvalidSpec

T = TypeVar("T")

TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "boolean": (bool,),
    "object": (dict,),
    "array": (list,),
}
WANTED = {
    "string": "is not text; put it into quotes",
    "integer": "is not a whole number",
    "boolean": "is neither true nor false",
    "object": "is not an object with fields",
    "array": "is not a list",
}

NO_RULES: Mapping[str, Rule] = {}

SHOWN_MAX = 100
"""Characters of a value that a message shows."""
SIZE_MIN = 64 * 2**20
GROWTH_MIN = 2**20
AGE_MAX_D = 36500
"""Days of retention.maxAge; a longer time could leave the range of dates."""
PATH_MAX = 512
"""Characters of a store's path in its bucket: a user's prefix, and the group's part after it."""

POD_PREFIXES_RESERVED = (f"{GROUP}/", "statefulset.kubernetes.io/", "apps.kubernetes.io/")
POD_KEYS_RESERVED = frozenset(
    {
        "controller-revision-hash",
        "app.kubernetes.io/name",
        "app.kubernetes.io/instance",
        "app.kubernetes.io/component",
        "app.kubernetes.io/part-of",
        "app.kubernetes.io/managed-by",
    }
)
"""Keys that spec.podTemplate.metadata may not set: the operator and Kubernetes find pods by
them."""

_SNAPSHOT = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
HOSTNAME = re.compile(r"(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
CLUSTER_IP = "ClusterIP"
_SERVICE_TYPES = {
    "loadBalancerClass": ("LoadBalancer",),
    "loadBalancerSourceRanges": ("LoadBalancer",),
    "externalTrafficPolicy": ("NodePort", "LoadBalancer"),
}
"""By field of a Service: the types that have it."""
_SERVICE_WORDS = {
    "externalHostnames": (
        "a DNS name of two labels or more in lower case, none of them svc, such as *.example.org"
    ),
    "ipFamilies": "allowed are IPv4 and IPv6",
    "loadBalancerSourceRanges": "a network such as 192.0.2.0/24",
}
_PATHS = re.compile(r"[A-Za-z0-9!_.*'()-]+(/[A-Za-z0-9!_.*'()-]+)*")


# --- rules of single fields -------------------------------------------------------------------


def checked(
    kind: type[T], body: object, where: str, *, instead: Mapping[str, Rule] = NO_RULES
) -> T:
    """Checks an object. Returns it with the CRD's defaults, as one of the types in schema.

    where: its path, for messages. instead: by field, rules that replace the CRD's. Raises
    InvalidSpec.
    """
    return cast(T, _object(kind.__name__, body, where, instead))


def check_name(kind: type[Any], name: str) -> None:
    """Checks an object's metadata.name. Raises InvalidSpec."""
    _check(schema.RULES[kind.__name__]["metadata.name"], name, "metadata.name")


def _object(
    of: str, body: object, where: str, instead: Mapping[str, Rule] = NO_RULES
) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise _wrong(where, body, WANTED["object"])
    found = {key: value for key, value in body.items() if value is not None}
    if of in _CHOICES:
        _CHOICES[of](found, where)
    for field, rule in {**schema.RULES[of], **instead}.items():
        value = found.get(field, rule.default)
        if value is not None:
            found[field] = _value(rule, value, f"{where}.{field}")
        elif rule.required:
            words = f": {rule.words}" if rule.words else ""
            raise InvalidSpec(f"{where}.{field} is missing{words}")
    if of in _RULES:
        _RULES[of](found, where)
    return found


def _value(rule: Rule, value: object, where: str) -> object:
    if rule.of and rule.type == "object":
        return _object(rule.of, value, where)
    _check(rule, value, where)
    if rule.of and isinstance(value, list):
        return [_object(rule.of, item, f"{where}[{n}]") for n, item in enumerate(value)]
    for key, inner in value.items() if rule.values and isinstance(value, dict) else ():
        _check(Rule(rule.values), inner, f"{where}.{key}")
    return value


def _check(rule: Rule, value: object, where: str) -> None:
    if not isinstance(value, TYPES[rule.type]) or isinstance(value, bool) != (
        rule.type == "boolean"
    ):
        raise _wrong(where, value, WANTED[rule.type])
    if rule.allowed and value not in rule.allowed:
        *most, last = map(str, rule.allowed)
        allowed = f"{most[0]} and {last}" if len(most) == 1 else ", ".join([*most, last])
        raise _wrong(where, value, f"allowed are {allowed}")
    if isinstance(value, int) and rule.minimum is not None and value < rule.minimum:
        raise _wrong(where, value, f"at least {rule.minimum}")
    if isinstance(value, int) and rule.maximum is not None and value > rule.maximum:
        raise _wrong(where, value, f"at most {rule.maximum}")
    if isinstance(value, list) and rule.max_items is not None and len(value) > rule.max_items:
        raise InvalidSpec(f"{where} has {len(value)} items: at most {rule.max_items} are allowed")
    if isinstance(value, str):
        _check_text(rule, value, where)


def _check_text(rule: Rule, value: str, where: str) -> None:
    if rule.max_length is not None and len(value) > rule.max_length:
        raise _wrong(where, value, f"at most {rule.max_length} characters are allowed")
    if len(value) < rule.min_length or (rule.pattern and not _pattern(rule.pattern).search(value)):
        raise _wrong(where, value, rule.words)


@cache
def _pattern(text: str) -> re.Pattern[str]:
    """Compiles a pattern with the API server's meaning: ASCII classes; `$` is the end of the
    text."""
    return re.compile(re.sub(r"\$$", r"\\Z", text), re.ASCII)


def _wrong(where: str, value: object, why: str) -> InvalidSpec:
    return InvalidSpec(f"{where} {repr(value)[:SHOWN_MAX]}: {why}")


def hostnames(given: object) -> list[str]:
    """Returns the items of a list that may be external names."""
    return [item for item in (given if isinstance(given, list) else []) if is_external(item)]


def is_external(name: object) -> bool:
    """Whether a name may be in the certificate of a Partition because its user asked for it. All
    Partitions of an operator share an authority, so a name that another Partition has inside the
    cluster is none: all of those have a label `svc`, except localhost."""
    if not isinstance(name, str) or not HOSTNAME.fullmatch(name):
        return False
    labels = name.removeprefix("*.").split(".")
    return len(labels) > 1 and "svc" not in labels


# --- rules that read several fields, or calculate ----------------------------------------------


def _one_destination(destination: dict[str, Any], where: str) -> None:
    """CEL: "destination: one of volume and objectStore is wanted"."""
    kinds = sorted(destination)
    if kinds not in (["volume"], ["objectStore"]):
        raise InvalidSpec(
            f"{where}: set exactly one of volume and objectStore, not {kinds or 'none'}"
        )


def _one_beginning(bootstrap: dict[str, Any], where: str) -> None:
    """CEL: "spec.bootstrap: adopt, snapshotRef and objectStore exclude each other"."""
    given = [key for key in ("adopt", "snapshotRef", "objectStore") if bootstrap.get(key)]
    if len(given) > 1:
        raise InvalidSpec(f"{where}: {' and '.join(given)} exclude each other: set only one")


def _client(client: schema.Client, where: str) -> None:
    """CEL: "spec.clients.name: tls is not allowed"."""
    if client["name"] == "tls":
        words = "not allowed, because NAME-client-tls is the Secret that all clients may share"
        raise _wrong(f"{where}.name", client["name"], words)


def _one_source(tls: dict[str, Any], where: str) -> None:
    """CEL: "spec.tls: secretRef and issuerRef exclude each other"."""
    if tls.get("secretRef") and tls.get("issuerRef"):
        raise InvalidSpec(f"{where}: secretRef and issuerRef exclude each other: set only one")


def _storage(storage: schema.Storage, where: str) -> None:
    """CEL: "spec.storage.size: a quantity of at least 64Mi is allowed"."""
    size = storage["size"]
    if (parse_quantity(size) or 0) < SIZE_MIN:
        raise _wrong(f"{where}.size", size, "a quantity of at least 64Mi, such as 10Gi")


def _settings(given: dict[str, Any], where: str) -> None:
    """CEL: "at least five times heartbeatIntervalMilliseconds", "a multiple of 10 is allowed", and
    "a quantity from"."""
    heartbeat = given.get("heartbeatIntervalMilliseconds", settings.HEARTBEAT_MS)
    if heartbeat % settings.HEARTBEAT_STEP_MS:
        raise _wrong(
            f"{where}.heartbeatIntervalMilliseconds",
            heartbeat,
            f"a multiple of {settings.HEARTBEAT_STEP_MS} is allowed",
        )
    timeout = given.get("electionTimeoutMilliseconds", settings.ELECTION_TIMEOUT_MS)
    least = settings.HEARTBEATS_A_TIMEOUT_MIN * heartbeat
    if timeout < least:
        words = f"at least {least} is allowed, five times heartbeatIntervalMilliseconds"
        raise _wrong(f"{where}.electionTimeoutMilliseconds", timeout, words)
    for field, (smallest, largest, allowed) in settings.SIZES.items():
        size = parse_quantity(given.get(field, smallest))
        if size is None or not smallest <= size <= largest:
            words = f"a quantity {allowed} is allowed, such as 1Gi"
            raise _wrong(f"{where}.{field}", given[field], words)


def _autogrow(autogrow: schema.Autogrow, where: str) -> None:
    """CEL: "spec.storage.autogrow: step and max are quantities of at least 1Mi"."""
    for field, text in (("step", autogrow["step"]), ("max", autogrow["max"])):
        if (parse_quantity(text) or 0) < GROWTH_MIN:
            raise _wrong(f"{where}.{field}", text, "a quantity of at least 1Mi, such as 10Gi")
    below = autogrow["whenFreeBelow"]
    if not below.endswith("%") and not parse_quantity(below):
        words = "a share such as 20%, or a quantity such as 5Gi"
        raise _wrong(f"{where}.whenFreeBelow", below, words)


def _one_name_each(spec: dict[str, Any], where: str) -> None:
    """In the CRD the list of clients is a map by name."""
    found = [client["name"] for client in spec.get("clients", [])]
    if twice := sorted({name for name in found if found.count(name) > 1}):
        raise InvalidSpec(f"{where}.clients: {', '.join(twice)}: each name is allowed once")


def _partition(spec: dict[str, Any], where: str) -> None:
    """CEL: "spec.deletionPolicy: SnapshotThenDelete needs spec.snapshots.destination"."""
    _one_placement(spec, where)
    _one_name_each(spec, where)
    if spec.get("deletionPolicy") != "SnapshotThenDelete":
        return
    snapshots = spec.get("snapshots")
    destination = snapshots.get("destination") if isinstance(snapshots, dict) else None
    if not isinstance(destination, dict) or "objectStore" not in destination:
        raise InvalidSpec(
            f"{where}.deletionPolicy: SnapshotThenDelete needs {where}.snapshots.destination."
            "objectStore: a snapshot on a volume would be deleted with it"
        )


def _restore_store(store: schema.RestoreStore, where: str) -> None:
    """Checks a store to restore from. For `snapshot` the CRD checks only the length."""
    _endpoint(store, where)
    _path(store["path"], f"{where}.path")
    snapshot = store.get("snapshot")
    if snapshot and not _SNAPSHOT.fullmatch(snapshot):
        words = "a snapshot's ID, or latest; `partitionctl snapshot ls` lists them"
        raise _wrong(f"{where}.snapshot", snapshot, words)


def _object_store(store: schema.ObjectStore, where: str) -> None:
    _endpoint(store, where)
    _path(store.get("prefix", ""), f"{where}.prefix")


def _endpoint(store: schema.ObjectStore | schema.RestoreStore, where: str) -> None:
    """CEL: "endpoint: use https://, or set allowHTTP to true"."""
    endpoint = store.get("endpoint", "")
    if endpoint.startswith("http://") and not store.get("allowHTTP"):
        words = "use https://, or set allowHTTP to true to send data and requests unencrypted"
        raise _wrong(f"{where}.endpoint", endpoint, words)


def _path(text: str, where: str) -> None:
    """Checks a path in a bucket. The CRD checks only its length. The replica refuses the same
    characters (partition_snapshots.destination)."""
    path = text.strip("/")
    dots = any(part in (".", "..") for part in path.split("/"))
    if path and (not _PATHS.fullmatch(path) or dots or len(path) > PATH_MAX):
        words = f"at most {PATH_MAX} letters, digits and !_.*'()-, in parts separated by '/'"
        raise _wrong(where, path, words)


def _snapshots(snapshots: schema.Snapshots, where: str) -> None:
    """CEL: "spec.snapshots.destination: a schedule needs one"."""
    if snapshots.get("schedule", "").strip() and not snapshots.get("destination"):
        raise InvalidSpec(f"{where}.destination: a schedule needs one: set volume or objectStore")


def _retention(retention: schema.Retention, where: str) -> None:
    """CEL: "spec.snapshots.retention.maxAge: at most 36500d". Only the operator refuses a duration
    of 0."""
    text = retention.get("maxAge")
    if text is None:
        return
    age = parse_duration(text)
    if not age:
        raise _wrong(f"{where}.maxAge", text, "a duration above 0 such as 720h or 30d")
    if age > dt.timedelta(days=AGE_MAX_D):
        raise _wrong(f"{where}.maxAge", text, f"at most {AGE_MAX_D}d; omit it to set no limit")


def _pod_template(template: dict[str, Any], where: str) -> None:
    """The CRD does not look into the pods' spec."""
    pod_template.check(pod_template.cleaned(template.get("spec", {})), f"{where}.spec")


def _account(account: dict[str, Any], where: str) -> None:
    """CEL: "keys of logstore.dev are the operator's"."""
    for key in account.get("annotations") or ():
        if key.startswith(f"{GROUP}/"):
            raise InvalidSpec(f"{where}.annotations {key!r}: keys of {GROUP} are the operator's")


def _service(service: dict[str, Any], where: str) -> None:
    """CEL: "need type LoadBalancer", "needs type NodePort or LoadBalancer", and "two ipFamilies
    need". Of the items of lists, the CRD checks the form."""
    _account(service, where)
    kind = service.get("type", CLUSTER_IP)
    for field, needed in _SERVICE_TYPES.items():
        if field in service and kind not in needed:
            raise InvalidSpec(f"{where}.{field} needs type {' or '.join(needed)}, not {kind}")
    for field, allows in _SERVICE_ITEMS.items():
        for number, item in enumerate(service.get(field, [])):
            if not isinstance(item, str) or not allows(item):
                raise _wrong(f"{where}.{field}[{number}]", item, _SERVICE_WORDS[field])
    families = service.get("ipFamilies", [])
    if len(families) > 1 and service.get("ipFamilyPolicy", "SingleStack") == "SingleStack":
        words = "two of them need ipFamilyPolicy PreferDualStack or RequireDualStack"
        raise _wrong(f"{where}.ipFamilies", families, words)


_SERVICE_ITEMS: dict[str, Callable[[str], object]] = {
    "externalHostnames": is_external,
    "ipFamilies": re.compile(r"IPv[46]").fullmatch,
    "loadBalancerSourceRanges": re.compile(r"[0-9a-fA-F.:]+/[0-9]{1,3}").fullmatch,
}
"""By list of a Service: what an item must be."""


def _one_placement(spec: dict[str, Any], where: str) -> None:
    """Only the operator refuses a field that is there twice."""
    template = (spec.get("podTemplate") or {}).get("spec") or {}
    for field in ("affinity", "tolerations"):
        if spec.get(field) and template.get(field):
            other = f"{where}.podTemplate.spec.{field}"
            raise InvalidSpec(f"{where}.{field} and {other} exclude each other: set only one")


def _pod_marks(marks: dict[str, Any], where: str) -> None:
    """CEL, of labels: "keys that the operator and Kubernetes set can't be used". Of annotations the
    CRD refuses only those of our group."""
    for kind in ("labels", "annotations"):
        for key in marks.get(kind) or ():
            if key in POD_KEYS_RESERVED or key.startswith(POD_PREFIXES_RESERVED):
                words = "the operator and Kubernetes set it; use another key"
                raise InvalidSpec(f"{where}.{kind} {key!r}: {words}")


_CHOICES: dict[str, Callable[[Any, str], None]] = {
    "Bootstrap": _one_beginning,
    "Destination": _one_destination,
    "Tls": _one_source,
}
"""By object: applied before the rules of its fields, so that a surplus field is reported first."""
_RULES: dict[str, Callable[[Any, str], None]] = {
    "Autogrow": _autogrow,
    "Client": _client,
    "ObjectStore": _object_store,
    "PartitionSpec": _partition,
    "PodMarks": _pod_marks,
    "PodTemplate": _pod_template,
    "RestoreStore": _restore_store,
    "Retention": _retention,
    "Service": _service,
    "ServiceAccount": _account,
    "Settings": _settings,
    "Snapshots": _snapshots,
    "Storage": _storage,
}
"""By object: applied after the rules of its fields."""
