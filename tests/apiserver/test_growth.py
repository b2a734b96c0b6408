"""Volumes grow with the spec: the API server's own admission decides whether a class allows it. The
test stands in for the volumes' driver."""

import json
from collections.abc import AsyncIterator

import pytest
from partition_operator.failpoints import VOLUMES
from partition_operator.turns import executor

from tests.support.api_server import ApiServer
from tests.support.bound_claims import make_bound
from tests.support.operator_turns import Turns

pytestmark = [pytest.mark.apiserver, pytest.mark.timeout(120)]

CLASS = {
    "apiVersion": "storage.k8s.io/v1",
    "kind": "StorageClass",
    "provisioner": "tests.example/none",
}
CLUSTER = "11111111-1111-4111-8111-111111111111"


@pytest.fixture
async def turns(server: ApiServer) -> AsyncIterator[Turns]:
    async with Turns(server) as found:
        for name, grows in (("grows", True), ("stays", False)):
            body = CLASS | {"metadata": {"name": name}, "allowVolumeExpansion": grows}
            server.kubectl("apply", "-f", "-", stdin=json.dumps(body))
        yield found


async def bound(turns: Turns, storage_class: str) -> None:
    """A Partition whose volume exists: 256Mi, of its group."""
    await make_bound(turns, storage_class)
    await has(turns, "256Mi")
    await turns.turn()


async def has(turns: Turns, size: str) -> None:
    """As the volume's driver reports it."""
    status = {"phase": "Bound", "capacity": {"storage": size}}
    await turns.put_status("persistentvolumeclaims", "data-part-0", status)


async def asked(turns: Turns) -> str:
    claim = await turns.get("PersistentVolumeClaim", "data-part-0")
    return str(claim["spec"]["resources"]["requests"]["storage"])


async def resize(turns: Turns, size: str) -> None:
    await turns.edit("Partition", "part", {"spec": {"storage": {"size": size}}})


async def test_a_volume_grows_with_the_spec(turns: Turns, monkeypatch: pytest.MonkeyPatch) -> None:
    reached: list[str] = []
    monkeypatch.setattr(executor.failpoints, "reach", reached.append)
    await bound(turns, "grows")
    await turns.turn()
    assert await asked(turns) == "256Mi"
    await resize(turns, "1Gi")
    await turns.turn()
    assert await asked(turns) == "1Gi"
    assert set(reached) >= VOLUMES
    storage = (await turns.conditions())["StorageReady"]
    assert (storage["status"], storage["reason"]) == ("True", "Growing")
    assert "part-0 grow to 1Gi" in storage["message"]
    await has(turns, "1Gi")
    await turns.turn()
    assert (await turns.conditions())["StorageReady"]["reason"] == "Ready"
    reasons = [reason for reason, _ in await turns.events()]
    assert "VolumesGrow" in reasons
    assert "VolumeResized" in reasons
    reached.clear()
    await turns.turn()
    assert not VOLUMES & set(reached)


async def test_a_class_that_does_not_allow_it_is_said_and_nothing_else_stops(
    turns: Turns,
) -> None:
    await bound(turns, "stays")
    await resize(turns, "1Gi")
    await turns.turn()
    assert await asked(turns) == "256Mi"
    applied = (await turns.conditions())["ObjectsApplied"]
    assert (applied["status"], applied["reason"]) == ("False", "ObjectRefused")
    assert "must support resize" in applied["message"]
    await resize(turns, "256Mi")
    await turns.turn()
    assert (await turns.conditions())["ObjectsApplied"]["status"] == "True"
