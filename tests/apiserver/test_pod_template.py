"""Settings, the pod template and the Services, against an API server: what it refuses, and that
what it makes of them is not written again and again."""

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from cryptography import x509
from partition_operator.api import names

from tests.support.api_server import ApiServer
from tests.support.operator_turns import Turns

pytestmark = [pytest.mark.apiserver, pytest.mark.timeout(180)]

TEMPLATE: dict[str, Any] = {
    "nodeSelector": {"disk": "fast"},
    "imagePullSecrets": [{"name": "registry"}],
    "topologySpreadConstraints": [
        {"topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "ScheduleAnyway"}
    ],
    "tolerations": [{"key": "a", "operator": "Exists", "value": ""}],
    "securityContext": {"supplementalGroups": [7]},
    "containers": [
        {
            "name": "replica",
            "env": [{"name": "TZ", "value": "UTC"}],
            "volumeMounts": [{"name": "more", "mountPath": "/more"}],
        },
        {
            "name": "app",
            "image": "app:1",
            "tty": False,
            "env": [{"name": "EMPTY", "value": ""}],
            "ports": [{"containerPort": 8080}],
            "resources": {"requests": {"cpu": 0.5, "memory": "1024Mi"}},
            "readinessProbe": {"tcpSocket": {"port": 8080}},
            "volumeMounts": [{"name": "more", "mountPath": "/more", "readOnly": False}],
        },
    ],
    "initContainers": [{"name": "first", "image": "app:1", "command": ["true"]}],
    "volumes": [{"name": "more", "emptyDir": {"sizeLimit": "1000Mi"}}],
}


@pytest.fixture
async def turns(server: ApiServer) -> AsyncIterator[Turns]:
    async with Turns(server) as found:
        yield found


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({"settings": {"electionTimeoutMilliseconds": 999}}, "at least five times heartbeat"),
        ({"settings": {"heartbeatIntervalMilliseconds": 210}}, "at least five times heartbeat"),
        ({"settings": {"heartbeatIntervalMilliseconds": 55}}, "a multiple of 10 is allowed"),
        ({"settings": {"logTrailSize": "1Ki"}}, "a quantity from 1Mi to 1Ti is allowed"),
        ({"settings": {"diskReserve": "2Ti"}}, "a quantity from 64Mi to 1Ti is allowed"),
        ({"settings": {"consumerLagEntries": 1}}, "greater than or equal to 1000"),
        ({"service": {"loadBalancerClass": "x"}}, "need type LoadBalancer"),
        ({"service": {"externalTrafficPolicy": "Local"}}, "needs type NodePort or LoadBalancer"),
        ({"service": {"ipFamilies": ["IPv4", "IPv6"]}}, "two ipFamilies need ipFamilyPolicy"),
        ({"service": {"externalHostnames": ["A"]}}, "should match"),
        ({"service": {"externalHostnames": ["localhost"]}}, "names of two labels or more"),
        ({"service": {"externalHostnames": ["*.org"]}}, "names of two labels or more"),
        ({"service": {"externalHostnames": ["a.b.svc"]}}, "none of them svc"),
        ({"service": {"externalHostnames": ["a.svc.corp.example"]}}, "none of them svc"),
        ({"service": {"annotations": {"logstore.dev/a": "b"}}}, "keys of logstore.dev"),
        ({"serviceAccount": {"annotations": {"logstore.dev/a": "b"}}}, "keys of logstore.dev"),
    ],
)
def test_the_api_server_refuses_what_can_be_seen_at_once(
    server: ApiServer, spec: dict[str, Any], why: str
) -> None:
    body = {
        "apiVersion": "logstore.dev/v1alpha1",
        "kind": "Partition",
        "metadata": {"name": "x"},
        "spec": {"storage": {"size": "1Gi"}} | spec,
    }
    with pytest.raises(RuntimeError, match=why):
        server.kubectl("apply", "--dry-run=server", "-f", "-", stdin=json.dumps(body))


async def settled(turns: Turns) -> dict[str, str]:
    """The versions of all objects after two turns, of which the second one wrote nothing."""
    kinds = [("StatefulSet", "part"), ("Service", "part"), ("Service", "part-replicas")]
    kinds += [("ServiceAccount", "part"), ("Secret", "part-replica-tls")]
    found = []
    for _ in range(2):
        await turns.turn()
        objects = [await turns.get(*key) for key in kinds]
        found.append({f"{o['kind']} {o['metadata']['name']}": version(o) for o in objects})
    assert found[0] == found[1]
    applied = (await turns.conditions())["ObjectsApplied"]
    assert (applied["status"], applied["reason"]) == ("True", "Applied"), applied["message"]
    return found[0]


def version(body: dict[str, Any]) -> str:
    return str(body["metadata"]["resourceVersion"])


async def test_a_template_is_written_once_and_taken_back(turns: Turns) -> None:
    marks = {"cloud.example/role": "storage"}
    await turns.make()
    before = await settled(turns)
    plain = (await turns.get("StatefulSet", "part"))["spec"]["template"]["spec"]

    change = {"podTemplate": {"spec": TEMPLATE}, "serviceAccount": {"annotations": marks}}
    await turns.edit("Partition", "part", {"spec": change})
    changed = await settled(turns)
    assert {key for key in before if before[key] != changed[key]} == {
        "StatefulSet part",
        "ServiceAccount part",
    }
    live = (await turns.get("StatefulSet", "part"))["spec"]["template"]["spec"]
    assert [c["name"] for c in live["containers"]] == ["replica", "app"]
    assert live["nodeSelector"] == {"disk": "fast"}
    account = await turns.get("ServiceAccount", "part")
    assert marks.items() <= account["metadata"]["annotations"].items()

    removed = {"podTemplate": None, "serviceAccount": None}
    await turns.edit("Partition", "part", {"spec": removed})
    await settled(turns)
    assert (await turns.get("StatefulSet", "part"))["spec"]["template"]["spec"] == plain
    account = await turns.get("ServiceAccount", "part")
    assert not marks.keys() & account["metadata"]["annotations"].keys()


async def test_a_guarded_field_changes_nothing_and_says_so(turns: Turns) -> None:
    await turns.make()
    before = await settled(turns)
    guarded = {"containers": [{"name": "replica", "command": ["sh"]}]}
    await turns.edit("Partition", "part", {"spec": {"podTemplate": {"spec": guarded}}})
    await turns.turn()
    accepted = (await turns.conditions())["Accepted"]
    assert (accepted["status"], accepted["reason"]) == ("False", "InvalidSpec")
    assert "spec.podTemplate.spec.containers[replica].command" in accepted["message"]
    assert version(await turns.get("StatefulSet", "part")) == before["StatefulSet part"]


async def test_settings_change_the_template(turns: Turns) -> None:
    await turns.make()
    await settled(turns)
    settings = {"electionTimeoutMilliseconds": 2000, "logTrailSize": "1Gi"}
    await turns.edit("Partition", "part", {"spec": {"settings": settings}})
    await settled(turns)
    template = (await turns.get("StatefulSet", "part"))["spec"]["template"]["spec"]
    flags = ["--tick-ms=100", "--election-ticks=20", f"--limit=log_trail_bytes={2**30}"]
    assert template["containers"][0]["args"][-3:] == flags


async def test_the_service_and_the_certificate_follow_the_spec(turns: Turns) -> None:
    await turns.make()
    before = await settled(turns)

    service = {"type": "NodePort", "externalTrafficPolicy": "Local", "annotations": {"a": "b"}}
    service |= {"ipFamilyPolicy": "PreferDualStack", "externalHostnames": ["a.example.org"]}
    await turns.edit("Partition", "part", {"spec": {"service": service}})
    changed = await settled(turns)
    assert before["StatefulSet part"] == changed["StatefulSet part"], "no pod is replaced"
    found = await turns.get("Service", "part")
    assert (found["spec"]["type"], found["metadata"]["annotations"]["a"]) == ("NodePort", "b")
    assert found["spec"]["ipFamilyPolicy"] == "PreferDualStack"
    assert "a.example.org" in await hosts(turns)

    await turns.edit("Partition", "part", {"spec": {"service": None}})
    await settled(turns)
    found = await turns.get("Service", "part")
    assert found["spec"]["type"] == "ClusterIP"
    assert "nodePort" not in found["spec"]["ports"][0]
    assert "a" not in found["metadata"]["annotations"]


async def hosts(turns: Turns) -> list[str]:
    secret = await turns.get("Secret", names.tls_secret("part"))
    found = x509.load_pem_x509_certificate(base64.b64decode(secret["data"]["tls.crt"]))
    extension = found.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return extension.value.get_values_for_type(x509.DNSName)
