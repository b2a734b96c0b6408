"""What `helm test` finds, against a stand-in for the API server."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from partition_operator.clients.kube import ApiError
from partition_operator.errors import OperatorError
from partition_operator.installation import (
    RENEWED_WITHIN_S,
    Installation,
    Right,
    check,
    check_lease,
    parse,
)

RIGHTS = (
    Right("ns", "logstore.dev", "partitions/status", "patch"),
    Right("home", "coordination.k8s.io", "leases", "update", "partition-operator"),
)
INSTALLED = Installation("home", ("ns",), RIGHTS)


class Api:
    """leases: what is answered, one per look; the last one for ever."""

    def __init__(self, *leases: dict[str, Any] | None) -> None:
        self.leases = list(leases)
        self.missing: set[str] = set()
        self.unserved = ""
        self.asked: list[Mapping[str, str]] = []

    async def probe(self, namespace: str) -> None:
        if self.unserved:
            raise ApiError(404, self.unserved)

    async def may(self, attributes: Mapping[str, str]) -> bool:
        self.asked.append(attributes)
        return attributes["resource"] not in self.missing

    async def get(self, kind: str, namespace: str, name: str) -> dict[str, Any] | None:
        assert (kind, namespace, name) == ("Lease", "home", "partition-operator")
        return self.leases.pop(0) if len(self.leases) > 1 else self.leases[0]


def held(holder: str, renewed: str) -> dict[str, Any]:
    return {"spec": {"holderIdentity": holder, "renewTime": renewed}}


class Clock:
    """Goes on by sleeping alone."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


async def lease(api: Api) -> str:
    clock = Clock()
    return await check_lease(api, INSTALLED, clock, clock.sleep)


async def test_a_lease_that_is_renewed_is_good() -> None:
    api = Api(None, held("", "1"), held("a", "1"), held("b", "2"), held("b", "2"), held("b", "3"))
    assert await lease(api) == "b holds the Lease and renews it"


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (None, "nobody holds it"),
        (held("", "1"), "nobody holds it"),
        (held("a", "1"), "a holds it since 1"),
    ],
)
async def test_a_lease_that_nobody_renews_is_not(seen: dict[str, Any] | None, words: str) -> None:
    with pytest.raises(OperatorError, match=f"within {RENEWED_WITHIN_S:.0f} s: {words}"):
        await lease(Api(seen))


async def test_every_check_has_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    api = Api(held("a", "1"), held("a", "2"))
    assert await check(api, INSTALLED) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["ok"] * 3
    assert [dict(asked) for asked in api.asked] == [right.attributes() for right in RIGHTS]


async def test_one_failure_hides_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    api = Api(held("a", "1"), held("a", "2"))
    api.unserved = "CustomResourceDefinition partitions.logstore.dev is missing"
    api.missing = {"partitions"}
    assert await check(api, INSTALLED) == 2
    served, rights, renewed = capsys.readouterr().out.splitlines()
    assert served == f"FAILED: {api.unserved}"
    assert "patch partitions/status.logstore.dev in namespace ns" in rights
    assert "leases" not in rights
    assert renewed.startswith("ok:")


def test_rules_are_asked_in_each_namespace() -> None:
    rules = [{"apiGroups": [""], "resources": ["pods", "pods/eviction"], "verbs": ["get"]}]
    own = [{"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["x"], "verbs": ["get"]}]
    environment = {
        "PARTITION_OPERATOR_NAMESPACE": "home",
        "PARTITION_OPERATOR_WATCH": "a,b",
        "PARTITION_OPERATOR_RULES": json.dumps(rules),
        "PARTITION_OPERATOR_OWN_RULES": json.dumps(own),
    }
    assert [str(right) for right in parse(environment).rights] == [
        "get pods in namespace a",
        "get pods/eviction in namespace a",
        "get pods in namespace b",
        "get pods/eviction in namespace b",
        "get secrets x in namespace home",
    ]
    everywhere = parse(environment | {"PARTITION_OPERATOR_WATCH": ""})
    assert everywhere.watch == ("",)
    assert str(everywhere.rights[1]) == "get pods/eviction"
    assert everywhere.rights[1].attributes()["subresource"] == "eviction"
    for name in ("PARTITION_OPERATOR_NAMESPACE", "PARTITION_OPERATOR_RULES"):
        for wrong in ("", "{}") if name.endswith("RULES") else ("",):
            with pytest.raises(OperatorError, match=name):
                parse(environment | {name: wrong})
