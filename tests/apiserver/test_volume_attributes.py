"""Volumes get another VolumeAttributesClass: the API server's own validation decides what may be.
The test stands in for the volumes' driver."""

import json
from collections.abc import AsyncIterator

import pytest
from partition_operator.clients.nodes import NodeBook
from partition_operator.failpoints import ATTRIBUTES
from partition_operator.turns import executor

from tests.support.api_server import ApiServer
from tests.support.bound_claims import make_bound
from tests.support.operator_turns import Turns

pytestmark = [pytest.mark.apiserver, pytest.mark.timeout(120)]

DRIVER = "attributes.tests.example"
STORAGE = "storage.k8s.io/v1"
OBJECTS = [
    {"kind": "StorageClass", "metadata": {"name": "modifiable"}, "provisioner": DRIVER},
    *(
        {
            "kind": "VolumeAttributesClass",
            "metadata": {"name": name},
            "driverName": driver,
            "parameters": {"iops": "100"},
        }
        for name, driver in (("gold", DRIVER), ("silver", DRIVER), ("foreign", "other.example"))
    ),
]


@pytest.fixture
async def turns(server: ApiServer) -> AsyncIterator[Turns]:
    for body in OBJECTS:
        text = json.dumps({"apiVersion": STORAGE} | body)
        server.kubectl("apply", "-f", "-", stdin=text)
    async with Turns(server) as found:
        found.observer._nodes = NodeBook(lambda _: None)  # as with watchNodes
        yield found


async def bound(turns: Turns) -> None:
    """A Partition whose volume exists, without a VolumeAttributesClass."""
    await make_bound(turns, "modifiable")
    await driver(turns, None)
    await turns.turn()


async def driver(turns: Turns, has: str | None, refuses: str = "") -> None:
    """As the driver's controller reports it."""
    change = {"status": "Infeasible", "targetVolumeAttributesClassName": refuses}
    status = {
        "phase": "Bound",
        "capacity": {"storage": "256Mi"},
        "currentVolumeAttributesClassName": has,
        "modifyVolumeStatus": change if refuses else None,
    }
    await turns.put_status("persistentvolumeclaims", "data-part-0", status)


async def asked(turns: Turns) -> str:
    claim = await turns.get("PersistentVolumeClaim", "data-part-0")
    return str(claim["spec"].get("volumeAttributesClassName", ""))


async def want(turns: Turns, name: str | None) -> None:
    change = {"spec": {"storage": {"volumeAttributesClassName": name}}}
    await turns.edit("Partition", "part", change)
    await turns.turn()


async def told(turns: Turns) -> tuple[str, str]:
    found = (await turns.conditions())["StorageReady"]
    assert found["status"] == "True"
    return found["reason"], found["message"]


async def test_a_volume_changes_in_place(turns: Turns, monkeypatch: pytest.MonkeyPatch) -> None:
    reached: list[str] = []
    monkeypatch.setattr(executor.failpoints, "reach", reached.append)
    await bound(turns)
    await turns.turn()
    assert await asked(turns) == ""
    await want(turns, "gold")
    assert await asked(turns) == "gold"
    assert set(reached) >= ATTRIBUTES
    assert (await told(turns))[0] == "Modifying"
    await driver(turns, "gold")
    await turns.turn()
    assert (await told(turns))[0] == "Ready"
    status = (await turns.get("Partition", "part"))["status"]["storage"]
    assert status["volumeAttributesClassName"] == "gold"
    reasons = [reason for reason, _ in await turns.events()]
    assert "VolumesModify" in reasons
    assert "VolumesModified" in reasons
    reached.clear()
    await turns.turn()
    assert not ATTRIBUTES & set(reached)


@pytest.mark.parametrize("before", ["silver", None])
async def test_what_the_driver_refuses_is_said_and_can_be_taken_back(
    turns: Turns, before: str | None
) -> None:
    await bound(turns)
    if before:
        await want(turns, before)
        await driver(turns, before)
    await want(turns, "gold")
    await driver(turns, before, refuses="gold")
    await turns.turn()
    reason, message = await told(turns)
    assert reason == "AttributesRefused"
    assert "set spec.storage.replacement to Rolling" in message
    await want(turns, before)
    assert await asked(turns) == (before or "")
    await driver(turns, before)
    await turns.turn()
    assert (await told(turns))[0] == "Ready"


@pytest.mark.parametrize(
    ("name", "why"),
    [("none", "there is no VolumeAttributesClass none"), ("foreign", "is of driver other.example")],
)
async def test_a_class_that_cannot_be_is_said_before_anything_changes(
    turns: Turns, name: str, why: str
) -> None:
    await bound(turns)
    await want(turns, name)
    assert await asked(turns) == ""
    reason, message = await told(turns)
    assert (reason, why in message) == ("AttributesRefused", True), message
