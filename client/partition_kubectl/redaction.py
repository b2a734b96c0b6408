"""Takes out of objects and logs what a stranger must not read. Pure.

Secrets are never read in the first place. But a user may have written a password into a variable, a
flag or an address, and `kubectl apply` keeps a copy of that in an annotation.
"""

import json
import re
from typing import Any

from partition_kubectl import names

GONE = "REDACTED"
COPIES = frozenset({"kubectl.kubernetes.io/last-applied-configuration"})
"""Annotations that repeat the object."""
OUR_VARIABLE = re.compile(r"PARTITION_[A-Z_]+|POD_IP|POD_NAME|TMPDIR")
OUR_CONTAINERS = frozenset({names.REPLICA, names.OPERATOR_CONTAINER, "restore", "verify"})
"""Their flags hold no secrets. Flags of other containers are taken out."""
SECRET_FIELD = re.compile(r"password|passwd|accessKeyId|secretAccessKey|sessionToken|apiKey", re.I)
"""Fields and annotations with a secret in plain text, which a user may have invented."""

IN_TEXT = (
    (
        re.compile(
            r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.S
        ),
        GONE,
    ),
    (re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^/\s:@]*:[^/\s@]*@", re.I), rf"\1{GONE}@"),
    (re.compile(r"(authorization\s*[:=]\s*)\S+(\s+\S+)?", re.I), rf"\1{GONE}"),
    (
        re.compile(
            r"((?:password|passwd|secret[_-]?access[_-]?key|access[_-]?key[_-]?id|api[_-]?key|"
            r"session[_-]?token|bearer)\"?\s*[:=]\s*\"?)[^\s\"',;}]+",
            re.I,
        ),
        rf"\1{GONE}",
    ),
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"), GONE),
    (
        re.compile(
            r"([?&](?:X-Amz-Signature|X-Amz-Credential|X-Amz-Security-Token)=)[^&\s]+", re.I
        ),
        rf"\1{GONE}",
    ),
)
"""Patterns and what replaces them: private keys, passwords in URLs, headers, assignments, JSON web
tokens, signed URLs."""


def text(said: str) -> str:
    """Returns a log or a message without what looks like a secret."""
    for pattern, instead in IN_TEXT:
        said = pattern.sub(instead, said)
    return said


def body(found: dict[str, Any]) -> dict[str, Any]:
    """Returns an object without secrets, and without managedFields. Raises ValueError for a Secret:
    none may ever get here."""
    if found.get("kind") == "Secret":
        raise ValueError("a Secret must not be read")
    cleaned = _clean(found)
    assert isinstance(cleaned, dict)
    return cleaned


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return text(value)
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if not isinstance(value, dict):
        return value
    cleaned = {key: _field(key, item) for key, item in value.items() if key != "managedFields"}
    if "annotations" in value:
        cleaned["annotations"] = _annotations(value["annotations"] or {})
    for key in ("containers", "initContainers", "ephemeralContainers"):
        if isinstance(value.get(key), list):
            cleaned[key] = [_container(one) for one in value[key]]
    return cleaned


def _field(key: str, value: Any) -> Any:
    if key == "env" and isinstance(value, list):
        return [_variable(one) if isinstance(one, dict) else GONE for one in value]
    if isinstance(value, str) and SECRET_FIELD.fullmatch(key):
        return GONE
    return _clean(value)


def _annotations(marks: dict[str, Any]) -> dict[str, str]:
    return {key: _mark(key, str(value)) for key, value in marks.items() if key not in COPIES}


def _mark(key: str, value: str) -> str:
    if SECRET_FIELD.fullmatch(key.rpartition("/")[2]):
        return GONE
    if key != names.POD_SPEC:
        return text(value)
    # A pod's spec as text: it has containers, too.
    try:
        return json.dumps(_clean(json.loads(value)))
    except ValueError:
        return GONE


def _container(one: Any) -> Any:
    if not isinstance(one, dict):
        return one
    cleaned = {key: _field(key, value) for key, value in one.items()}
    if one.get("name") not in OUR_CONTAINERS:
        for key in ("command", "args"):
            if key in one:
                cleaned[key] = [GONE]
    return cleaned


def _variable(variable: dict[str, Any]) -> dict[str, Any]:
    """A reference to a Secret says its name and key, and no value."""
    if "value" not in variable or OUR_VARIABLE.fullmatch(str(variable.get("name", ""))):
        return dict(variable)
    return variable | {"value": GONE}
