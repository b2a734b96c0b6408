"""The rights that the chart grants to the operator, and those that an audit log says it used."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import yaml

from dev.cluster.layout import ROOT
from dev.generate.manifests import NAMESPACE

GROUP = "rbac.authorization.k8s.io"
NAME = "partition-operator"
OPERATOR = f"system:serviceaccount:{NAMESPACE}:{NAME}"
"""The user as whom operators work in the tests."""
OWN = frozenset({"partition-operator", "partition-operator-ca"})
"""The objects in its own namespace: the Lease and the authority's Secret. The Role is for these."""


@dataclass(frozen=True, order=True)
class Right:
    """One verb of a rule. role: ClusterRole, or Role for what is in its own namespace."""

    role: str
    group: str
    resource: str
    verb: str


def rules(kind: str) -> list[dict[str, Any]]:
    """Returns the rules of the chart's Role or ClusterRole, where all namespaces are watched."""
    documents = yaml.safe_load_all((ROOT / "manifests" / "install.yaml").read_text())
    found: list[dict[str, Any]] = next(d for d in documents if d["kind"] == kind)["rules"]
    return found


def cluster_wide() -> list[dict[str, Any]]:
    """Returns the ClusterRole of OPERATOR, and its binding."""
    return _bound("Cluster", {"name": NAME})


def own_namespace(namespace: str) -> list[dict[str, Any]]:
    """Returns the Role of OPERATOR in this namespace as its own, and its binding."""
    return _bound("", {"name": NAME, "namespace": namespace})


def _bound(scope: str, metadata: dict[str, str]) -> list[dict[str, Any]]:
    role = f"{scope}Role"
    return [
        {
            "apiVersion": f"{GROUP}/v1",
            "kind": role,
            "metadata": metadata,
            "rules": rules(role),
        },
        {
            "apiVersion": f"{GROUP}/v1",
            "kind": f"{role}Binding",
            "metadata": metadata,
            "roleRef": {"apiGroup": GROUP, "kind": role, "name": NAME},
            "subjects": [{"apiGroup": GROUP, "kind": "User", "name": OPERATOR}],
        },
    ]


def granted() -> set[Right]:
    """Returns every right of the chart."""
    return {
        Right(role, group, resource, verb)
        for role in ("ClusterRole", "Role")
        for rule in rules(role)
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def used(audit_log: Path) -> set[Right]:
    """Returns the rights of OPERATOR with which requests were allowed."""
    with audit_log.open() as lines:
        return {right for line in lines for right in _rights(json.loads(line))}


def _rights(event: dict[str, Any]) -> Iterator[Right]:
    user = event.get("impersonatedUser") or event["user"]
    allowed = (event.get("annotations") or {}).get("authorization.k8s.io/decision") == "allow"
    if user.get("username") != OPERATOR or not allowed or "objectRef" not in event:
        return
    about = event["objectRef"]
    resource = "/".join(filter(None, (about.get("resource", ""), about.get("subresource", ""))))
    role = "Role" if about.get("name") in OWN else "ClusterRole"
    verbs = [event["verb"]]
    made = (event.get("responseStatus") or {}).get("code") == HTTPStatus.CREATED
    if event["verb"] == "patch" and made:
        verbs.append("create")  # an apply that creates is asked for both
    for verb in verbs:
        yield Right(role, about.get("apiGroup", ""), resource, verb)
