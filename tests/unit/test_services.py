"""`spec.service`: the Services, and the names in the replicas' certificate."""

import datetime as dt
from typing import Any

import pytest
from cryptography import x509
from partition_operator.__main__ import parse as parse_settings
from partition_operator.api.partition import Partition, parse, parse_spec
from partition_operator.config import ConfigError
from partition_operator.errors import InvalidSpec
from partition_operator.resources import services
from partition_operator.resources.certificates import (
    LIFETIMES,
    issue_for,
    lacks_names,
    make_authority,
)

from tests.support.partition_views import partition


def test_without_the_field_the_services_are_as_before() -> None:
    found = partition()
    assert set(services.build_client(found)["spec"]) == {"type", "selector", "ports"}
    assert services.build_client(found)["spec"]["type"] == "ClusterIP"
    assert "annotations" not in services.build_client(found)["metadata"]
    assert "ipFamilies" not in services.build_headless(found)["spec"]


def test_the_clients_service_is_as_asked_for() -> None:
    asked = {
        "type": "LoadBalancer",
        "annotations": {"cloud.example/internal": "true"},
        "loadBalancerClass": "cloud.example/nlb",
        "loadBalancerSourceRanges": ["192.0.2.0/24", "2001:db8::/32"],
        "externalTrafficPolicy": "Local",
        "ipFamilyPolicy": "PreferDualStack",
        "ipFamilies": ["IPv6", "IPv4"],
    }
    found = partition({"service": asked | {"externalHostnames": ["a.example.org"]}})
    client, headless = services.build_client(found), services.build_headless(found)
    assert client["metadata"]["annotations"] == asked["annotations"]
    spec = {key: value for key, value in asked.items() if key != "annotations"}
    assert spec.items() <= client["spec"].items()
    assert "externalHostnames" not in client["spec"], "it is a name in a certificate"
    # Members reach each other by the headless Service, which stays inside the cluster.
    assert headless["spec"]["ipFamilies"] == ["IPv6", "IPv4"]
    assert "type" not in headless["spec"]
    assert headless["spec"]["clusterIP"] == "None"


@pytest.mark.parametrize(
    ("service", "why"),
    [
        ({"type": "ExternalName"}, "spec.service.type 'ExternalName': allowed are ClusterIP"),
        ({"loadBalancerClass": "x"}, "loadBalancerClass needs type LoadBalancer, not ClusterIP"),
        ({"externalTrafficPolicy": "Local"}, "needs type NodePort or LoadBalancer, not Cluster"),
        ({"externalHostnames": ["A.b"]}, r"externalHostnames\[0\] 'A.b': a DNS name of two"),
        ({"externalHostnames": ["a.*.b"]}, r"externalHostnames\[0\] 'a.\*.b': a DNS name"),
        ({"externalHostnames": [5]}, r"externalHostnames\[0\] 5: a DNS name"),
        ({"externalHostnames": ["localhost"]}, "'localhost': a DNS name of two labels or more"),
        ({"externalHostnames": ["*.org"]}, "of two labels or more in lower case"),
        ({"externalHostnames": ["b.example.org", "cart.shop.svc"]}, r"\[1\] 'cart.shop.svc'"),
        ({"externalHostnames": ["*.cart-replicas.shop.svc.corp.example"]}, "none of them svc"),
        ({"externalHostnames": ["a"] * 33}, "has 33 items: at most 32"),
        ({"ipFamilies": ["IPv5"]}, r"ipFamilies\[0\] 'IPv5': allowed are IPv4 and IPv6"),
        ({"ipFamilies": ["IPv4", "IPv6"]}, "two of them need ipFamilyPolicy"),
        (
            {"type": "LoadBalancer", "loadBalancerSourceRanges": ["all"]},
            r"loadBalancerSourceRanges\[0\] 'all': a network such as 192.0.2.0/24",
        ),
        ({"annotations": {"logstore.dev/a": ""}}, "spec.service.annotations 'logstore.dev/a'"),
    ],
)
def test_a_service_that_can_not_be_is_refused(service: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidSpec, match=why):
        parse_spec("a", {"storage": {"size": "1Gi"}, "service": service})


# --- names in the certificate -----------------------------------------------------------------


def certificate(found: Partition) -> x509.Certificate:
    now = dt.datetime.now(dt.UTC)
    pair = issue_for(found, "replica", make_authority(now), now, LIFETIMES)
    return x509.load_pem_x509_certificate(pair.certificate)


def hosts(found: x509.Certificate) -> list[str]:
    extension = found.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return extension.value.get_values_for_type(x509.DNSName)


def test_a_certificate_has_the_names_of_today() -> None:
    plain = partition()
    external = {"service": {"externalHostnames": ["a.example.org", "*.b.example.org"]}}
    named = partition(external)
    old, new = certificate(plain), certificate(named)
    assert {"localhost", "part.ns.svc.cluster.local", "*.part-replicas.ns.svc"} <= set(hosts(old))
    assert hosts(new)[-2:] == ["a.example.org", "*.b.example.org"]
    assert not lacks_names(old, plain)
    assert lacks_names(old, named)
    assert not lacks_names(new, plain), "a name too many is no reason to issue another one"


def test_another_domain_needs_another_certificate() -> None:
    found = partition()
    moved = parse(found.body, "corp.example")
    assert "part.ns.svc.corp.example" in hosts(certificate(moved))
    assert lacks_names(certificate(found), moved)


def test_a_spec_that_is_wrong_elsewhere_takes_no_name_away() -> None:
    body = partition(
        {"service": {"externalHostnames": ["a.example.org", 5, "b.c.svc"]}, "replicas": "x"}
    ).body
    assert hosts(certificate(parse(body)))[-1] == "a.example.org"
    for wrong in (None, [], {"externalHostnames": "a"}):
        found = parse(body | {"spec": {"service": wrong}})
        assert found.external_hostnames == ()


def test_the_domain_is_a_setting_of_the_operator() -> None:
    least = {"PARTITION_OPERATOR_NAMESPACE": "x", "PARTITION_OPERATOR_IMAGE": "y"}
    variable = "PARTITION_OPERATOR_CLUSTER_DOMAIN"
    assert parse_settings(least).cluster_domain == "cluster.local"
    assert parse_settings(least | {variable: "corp.example"}).cluster_domain == "corp.example"
    for wrong in ("corp.example.", "*.example", "Corp"):
        with pytest.raises(ConfigError, match=f"{variable}='.*': must be a DNS domain"):
            parse_settings(least | {variable: wrong})
