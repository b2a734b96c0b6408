"""Clients of spec.clients, and certificates of spec.tls, against the API server: its rules, the
Secrets that come and go, and what is said. No replica runs, so nothing waits for one."""

import asyncio
import base64
import datetime as dt
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from partition_operator.clients.kube import ApiError
from partition_operator.failpoints import CLIENTS
from partition_operator.resources import clients, trust
from partition_operator.turns import executor

from tests.support.api_server import ApiServer
from tests.support.brought_certificates import CERTIFICATES, DAY, Corp, sign_as_cert_manager
from tests.support.operator_turns import Turns

pytestmark = [pytest.mark.apiserver, pytest.mark.timeout(120)]

REPLICA = "part-replica-tls"


@pytest.fixture
async def turns(server: ApiServer) -> AsyncIterator[Turns]:
    async with Turns(server) as found:
        yield found


async def listed(turns: Turns) -> dict[str, clients.Entry]:
    listing = clients.read(await turns.get("Secret", REPLICA))
    return {entry.name: entry for entry in listing.entries}


async def certificate(turns: Turns, secret: str) -> str:
    """The party that a Secret's certificate names, and its serial number."""
    held = trust.read(await turns.get("Secret", secret)).certificate
    assert held is not None
    return f"{held.extensions} {held.serial_number}"


async def ask(turns: Turns, *wanted: tuple[str, str, int]) -> None:
    items = [{"name": name, "rights": rights, "revision": n} for name, rights, n in wanted]
    await turns.edit("Partition", "part", {"spec": {"clients": items}})
    await turns.turn()
    await turns.turn()


async def test_clients_come_and_go(turns: Turns, monkeypatch: pytest.MonkeyPatch) -> None:
    reached: list[str] = []
    monkeypatch.setattr(executor.failpoints, "reach", reached.append)
    await turns.make()
    await turns.turn()
    assert "clients.json" not in (await turns.get("Secret", REPLICA))["data"]
    await ask(turns, ("billing", "Read", 1), ("orders", "Write", 1))
    first = await listed(turns)
    assert {n: e.rights for n, e in first.items()} == {"billing": "Read", "orders": "Write"}
    for name, entry in first.items():
        assert f"/{turns.namespace}/part/{entry.role}" in await certificate(
            turns, f"part-client-{name}"
        )
    status = (await turns.get("Partition", "part"))["status"]
    assert {c["name"]: c["state"] for c in status["clients"]} == {
        "billing": "Ready",
        "orders": "Ready",
    }
    before = await certificate(turns, "part-client-orders")

    # Other rights change no certificate; a removed client's Secret is deleted.
    await ask(turns, ("orders", "Admin", 1))
    found = await listed(turns)
    assert {n: e.rights for n, e in found.items()} == {"orders": "Admin"}
    assert found["orders"].id == first["orders"].id
    assert await certificate(turns, "part-client-orders") == before
    assert await turns.kube.get("Secret", turns.namespace, "part-client-billing") is None
    assert set(reached) >= CLIENTS
    assert ("ClientRevoked", "every replica refuses client billing") in await turns.events()

    # Another revision, and a client that comes back, have another ID.
    await ask(turns, ("orders", "Admin", 2), ("billing", "Read", 1))
    again = await listed(turns)
    assert again["orders"].id != first["orders"].id
    assert again["billing"].id != first["billing"].id
    assert again["orders"].role in await certificate(turns, "part-client-orders")

    # Nothing is written without a change, and a renewal keeps the list.
    version = (await turns.get("Secret", REPLICA))["metadata"]["resourceVersion"]
    await turns.turn()
    live = await turns.get("Secret", REPLICA)
    assert live["metadata"]["resourceVersion"] == version
    await turns.edit("Secret", REPLICA, {"data": {"tls.crt": "AAAA"}})
    await turns.turn()
    assert await listed(turns) == again


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"clients": [{"name": "tls", "rights": "Read"}]}, "tls is not allowed"),
        ({"clients": [{"name": "a", "rights": "Everything"}]}, "Unsupported value"),
        ({"clients": [{"name": "A", "rights": "Read"}]}, "lower-case letters"),
        ({"clients": [{"name": "a", "rights": "Read", "revision": 0}]}, "greater than or equal"),
        ({"clients": [{"name": "a", "rights": "Read"}] * 2}, "Duplicate value"),
        (
            {"tls": {"secretRef": {"name": "a"}, "issuerRef": {"name": "b"}}},
            "secretRef and issuerRef exclude each other",
        ),
        ({"tls": {"secretRef": {"name": ""}}}, "should be at least 1 chars long"),
    ],
)
async def test_the_api_server_refuses(turns: Turns, spec: dict[str, Any], words: str) -> None:
    with pytest.raises(ApiError) as caught:
        await turns.make(**spec)
    assert words in str(caught.value)


async def test_a_certificate_that_is_brought_along(turns: Turns) -> None:
    corp = Corp(dt.datetime.now(dt.UTC))
    await turns.make(tls={"secretRef": {"name": "corp"}})
    await turns.turn()
    ready = (await turns.conditions())["CertificatesReady"]
    assert (ready["status"], ready["reason"]) == ("False", "SourceInvalid")
    assert "corp does not exist" in ready["message"]
    assert await turns.kube.get("Secret", turns.namespace, REPLICA) is None
    good = corp.pair(turns.namespace, "part")
    await turns.create(corp.secret(good))
    await turns.turn()
    data = (await turns.get("Secret", REPLICA))["data"]
    assert base64.b64decode(data["tls.crt"]) == good.certificate
    assert base64.b64decode(data["ca.crt"]).count(b"BEGIN") == 2
    assert (await turns.conditions())["CertificatesReady"]["reason"] == "Issued"

    # One that has expired is refused, said, and not used; the next one is.
    old = corp.secret(corp.pair(turns.namespace, "part", later=-200 * DAY))
    await turns.edit("Secret", "corp", {"data": old["data"]})
    await turns.turn()
    ready = (await turns.conditions())["CertificatesReady"]
    assert "the certificate expired at" in ready["message"]
    reasons = [reason for reason, _ in await turns.events()]
    assert "CertificatesSourceInvalid" in reasons
    assert turns.observer.certificates_refused == 2
    assert (await turns.get("Secret", REPLICA))["data"]["tls.crt"] == data["tls.crt"]
    following = corp.secret(corp.pair(turns.namespace, "part"))
    await turns.edit("Secret", "corp", {"data": following["data"]})
    await turns.turn()
    live = (await turns.get("Secret", REPLICA))["data"]
    assert live["tls.crt"] == following["data"]["tls.crt"]
    assert (await turns.conditions())["CertificatesReady"]["status"] == "True"


async def test_cert_manager_is_asked_and_its_certificate_is_used(
    turns: Turns, server: ApiServer
) -> None:
    """A stand-in signs what the Certificate asks for."""
    corp = Corp(dt.datetime.now(dt.UTC))
    await turns.make(tls={"issuerRef": {"name": "corp", "kind": "ClusterIssuer"}})
    await turns.turn()
    applied = (await turns.conditions())["ObjectsApplied"]
    assert applied["reason"] == "ObjectRefused"
    assert "install cert-manager" in applied["message"]
    crd = json.dumps(CERTIFICATES)
    await asyncio.to_thread(server.kubectl, "apply", "-f", "-", stdin=crd)
    try:
        wait = ("wait", "--for=condition=Established", "crd/certificates.cert-manager.io")
        await asyncio.to_thread(server.kubectl, *wait)
        turns.executor.writes.forget((turns.namespace, "part"))
        await turns.turn()
        asked = (await turns.get("Certificate", "part-replica"))["spec"]
        assert asked["issuerRef"]["kind"] == "ClusterIssuer"
        secret = await sign_as_cert_manager(turns, corp, "part-replica")
        await turns.create(secret)
        await turns.turn()
        live = (await turns.get("Secret", REPLICA))["data"]
        assert live["tls.crt"] == secret["data"]["tls.crt"]
        conditions = await turns.conditions()
        assert conditions["ObjectsApplied"]["status"] == "True"
        assert conditions["CertificatesReady"]["status"] == "True"
    finally:
        delete = ("delete", "crd", "certificates.cert-manager.io")
        await asyncio.to_thread(server.kubectl, *delete)
