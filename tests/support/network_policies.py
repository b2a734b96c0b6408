"""Which connections NetworkPolicies allow, as their specification has it. No plugin enforces them
here, so this says what they mean, and not that a cluster does it."""

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

NAME = "kubernetes.io/metadata.name"


@dataclass(frozen=True)
class Pod:
    """An end of a connection. labels: of the pod; its namespace has its name as a label. ip: for
    what is not a pod, with namespace ""."""

    namespace: str
    labels: dict[str, str] = field(default_factory=dict)
    ip: str = ""


def allowed(
    policies: list[dict[str, Any]], source: Pod, target: Pod, port: int, protocol: str = "TCP"
) -> bool:
    """Whether the policies let source open a connection to this port of target."""
    return all(
        _one_way(policies, own, way, other, port, protocol)
        for own, way, other in ((source, "Egress", target), (target, "Ingress", source))
    )


def _one_way(
    policies: list[dict[str, Any]], own: Pod, way: str, other: Pod, port: int, protocol: str
) -> bool:
    """Policies add up: one that allows it is enough; a pod that none selects is open."""
    about = [p["spec"] for p in policies if _is_about(p, own) and way in p["spec"]["policyTypes"]]
    rules = [rule for spec in about for rule in spec.get(way.lower()) or []]
    peers = "from" if way == "Ingress" else "to"
    return not about or any(
        _has_port(rule, port, protocol) and _has_peer(rule, peers, own, other) for rule in rules
    )


def _is_about(policy: dict[str, Any], pod: Pod) -> bool:
    here = policy["metadata"]["namespace"] == pod.namespace
    return here and _matches(policy["spec"]["podSelector"], pod.labels)


def _has_port(rule: dict[str, Any], port: int, protocol: str) -> bool:
    ports = rule.get("ports") or []
    return not ports or {"protocol": protocol, "port": port} in ports


def _has_peer(rule: dict[str, Any], key: str, own: Pod, other: Pod) -> bool:
    """No peers, or an empty list of them, are all."""
    peers = rule.get(key) or []
    return not peers or any(all(_agreements(peer, own, other)) for peer in peers)


def _agreements(peer: dict[str, Any], own: Pod, other: Pod) -> Iterator[bool]:
    if "ipBlock" in peer:
        address = other.ip and ipaddress.ip_address(other.ip)
        yield bool(address) and address in ipaddress.ip_network(peer["ipBlock"]["cidr"])
        return
    yield bool(other.namespace)
    if "namespaceSelector" in peer:
        yield _matches(peer["namespaceSelector"], {NAME: other.namespace})
    else:
        yield other.namespace == own.namespace
    yield _matches(peer.get("podSelector") or {}, other.labels)


def _matches(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    equal = all(labels.get(k) == v for k, v in (selector.get("matchLabels") or {}).items())
    return equal and all(_holds(rule, labels) for rule in selector.get("matchExpressions") or [])


def _holds(rule: dict[str, Any], labels: dict[str, str]) -> bool:
    match rule["operator"]:
        case "In":
            return labels.get(rule["key"]) in rule["values"]
        case "Exists":
            return rule["key"] in labels
    raise AssertionError(f"an operator that no policy of ours uses: {rule}")
