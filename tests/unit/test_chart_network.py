"""The chart's NetworkPolicies: what they mean for the pods that the chart and the operator make."""

from typing import Any

import pytest
from partition_operator.api import names

from dev.generate.manifests import NAMESPACE
from tests.support.chart import Refused, of, render
from tests.support.chart_network import WATCHED, may, pods, policies
from tests.support.network_policies import allowed

HTTPS, API_SERVER, DNS, OPERATOR_HTTP = 443, 6443, 53, 8080
GRPC, RAFT, HTTP = names.GRPC_PORT, names.RAFT_PORT, names.HTTP_PORT

NEEDED = [
    ("replica", "another replica", GRPC),
    ("replica", "another replica", RAFT),
    ("replica", "outside", HTTPS),  # an object store
    ("replica", "outside", DNS),
    ("verify", "outside", HTTPS),
    ("verify", "outside", DNS),
    ("restore", "outside", HTTPS),
    ("operator", "replica", GRPC),
    ("operator", "verify", HTTP),
    ("operator", "restore", HTTP),
    ("operator", "outside", HTTPS),
    ("operator", "outside", API_SERVER),
    ("operator", "outside", DNS),
    ("test", "outside", API_SERVER),
    ("application", "replica", GRPC),
    ("prometheus", "replica", HTTP),
    ("prometheus", "operator", OPERATOR_HTTP),
]
FORBIDDEN = [
    ("application", "replica", RAFT),
    ("application elsewhere", "replica", GRPC),
    ("application elsewhere", "replica", RAFT),
    ("replica elsewhere", "replica", GRPC),
    ("replica elsewhere", "replica", RAFT),
    ("operator's labels elsewhere", "replica", GRPC),
    ("operator", "replica", RAFT),
    ("operator", "replica elsewhere", GRPC),
    ("operator", "application", HTTP),
    ("outside", "replica", GRPC),
    ("outside", "operator", OPERATOR_HTTP),
    ("application", "operator", API_SERVER),
    ("application", "verify", GRPC),
    ("replica", "outside", 25),
    ("replica", "outside", API_SERVER),
    ("replica", "application", GRPC),
    ("replica", "operator", OPERATOR_HTTP),
    ("verify", "replica", GRPC),
    ("restore", "replica", GRPC),
    ("test", "replica", GRPC),
    ("operator", "test", OPERATOR_HTTP),
]


@pytest.mark.parametrize(("source", "target", "port"), NEEDED)
def test_what_we_need_is_allowed(source: str, target: str, port: int) -> None:
    assert may(policies(), source, target, port)


@pytest.mark.parametrize(("source", "target", "port"), FORBIDDEN)
def test_everything_else_is_not(source: str, target: str, port: int) -> None:
    assert not may(policies(), source, target, port)


def test_dns_is_asked_by_udp_too() -> None:
    for name in ("replica", "verify", "operator"):
        assert allowed(policies(), pods()[name], pods()["outside"], DNS, "UDP")
        assert not allowed(policies(), pods()[name], pods()["outside"], HTTPS, "UDP")


def test_by_default_there_are_none() -> None:
    assert of(render(watchNamespaces=[WATCHED]), "NetworkPolicy") == []


def test_each_watched_namespace_has_its_own() -> None:
    places = [p["metadata"]["namespace"] for p in policies(watch=("ns", "other"))]
    assert sorted(places) == sorted(["ns", "ns", "other", "other", NAMESPACE, NAMESPACE])
    # Named ones are for those alone, and the operator reaches all that it watches.
    made = policies(watch=(), namespaces=["ns"])
    assert not may(made, "application elsewhere", "replica", GRPC)
    assert may(made, "application elsewhere", "replica elsewhere", GRPC)
    assert may(made, "operator", "replica elsewhere", GRPC)


def test_of_all_namespaces_the_operator_alone_has_policies() -> None:
    places = {p["metadata"]["namespace"] for p in policies(watch=())}
    assert places == {NAMESPACE}


def test_who_is_a_client_and_who_reads_metrics_can_be_said() -> None:
    shop = {"podSelector": {"matchLabels": {"app": "shop"}}}
    made = policies(clients=[shop | {"namespaceSelector": {}}], metrics=[])
    assert may(made, "application", "replica", GRPC)
    assert may(made, "application elsewhere", "replica", GRPC)
    assert not may(made, "prometheus", "replica", GRPC)
    assert not may(made, "prometheus", "replica", HTTP)
    assert not may(made, "prometheus", "operator", OPERATOR_HTTP)
    # The operator and the other replicas are no clients.
    alone = policies(clients=[])
    assert not may(alone, "application", "replica", GRPC)
    assert may(alone, "operator", "replica", GRPC)
    assert may(alone, "another replica", "replica", GRPC)
    assert may(policies(metrics=[]), "operator", "restore", HTTP)


def test_addresses_outside_can_be_narrowed() -> None:
    here = {"ipBlock": {"cidr": "203.0.113.0/24"}}
    elsewhere = {"ipBlock": {"cidr": "198.51.100.0/24"}}
    for name, source, port in (
        ("apiServer", "operator", 16443),
        ("objectStore", "replica", 9000),
        ("objectStore", "verify", 9000),
        ("dns", "replica", 5353),
        ("dns", "operator", 5353),
    ):
        assert not may(policies(), source, "outside", port)
        assert may(policies(**{name: {"to": [here], "ports": [port]}}), source, "outside", port)
        narrow = policies(**{name: {"to": [elsewhere], "ports": [port]}})
        assert not may(narrow, source, "outside", port)
    assert not may(policies(objectStore={"ports": []}), "replica", "outside", HTTPS)


@pytest.mark.parametrize(
    "wrong",
    [
        {"clients": [{}]},
        {"clients": [{"podSelectors": {}}]},
        {"apiServer": {"ports": []}},
        {"dns": {"ports": ["dns"]}},
        {"namespaces": ["A"]},
    ],
)
def test_wrong_values_are_refused(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(Refused, match=name):
        policies(**wrong)
