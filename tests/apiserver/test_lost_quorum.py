"""Two of three volumes are lost: the Partition says what is left, and is recovered by annotation.
Real API server and etcd, real replicas on loopback; the operator ends behind each step."""

import json
from pathlib import Path
from typing import Any

import pytest
from partition_operator.failpoints import RECOVERY

from tests.support.api_server import ApiServer
from tests.support.local_group import eventually
from tests.support.switch_stage import Stage, stage

pytestmark = [pytest.mark.apiserver, pytest.mark.timeout(600)]


async def test_a_lost_quorum_is_recovered_by_annotation(server: ApiServer, tmp_path: Path) -> None:
    async with stage(server, tmp_path) as found:
        await found.three_voters()
        former = (await found.status())["clusterID"]
        async with found.client() as client:
            await client.set_key(b"k", b"1")
        found.operator.stop()
        old = tmp_path / "old-volume"
        found.nodes.lose("part-1")
        found.nodes.lose("part-2", old)
        found.operator.start()
        loss = await said(found, "QuorumLost")
        assert loss["lost"] == ["part-1", "part-2"]
        assert [row["pod"] for row in loss["survivors"]] == ["part-0"]
        ask(found, "0" * 16)
        await told(found, "QuorumRecovered", "Refused")
        found.operator.stop()
        # The survivor ends while it recovers, too.
        found.nodes.arm("part-0", "recovery.switch.after", "recovery.history", "")
        ask(found, loss["token"])
        left = [*RECOVERY]
        while left:
            found.operator.start(*left)
            left.remove(await found.operator.ended_at(*left))
        found.operator.start()
        await found.ready("Raft", 3)
        await told(found, "QuorumRecovered", "Recovered")
        assert found.nodes.restarts["part-0"] >= 3  # for the order, and at each failpoint
        status = await found.status()
        assert status["clusterID"] != former
        assert status["recovery"]["formerClusterID"] == former
        assert "quorumLoss" not in status
        assert await marks(found) == {status["clusterID"]}
        async with found.client() as client:
            assert await client.get_key(b"k") == b"1"
        events = {"QuorumLost", "RecoveryRefused", "RecoveryStarted", "RecoveryCompleted"}
        assert events <= {*found.events()}
        await check_old_volume(found, old)


async def check_old_volume(found: Stage, old: Path) -> None:
    """A lost volume that comes back is named, and not used."""
    found.nodes.lose("part-2")
    old.rename(found.nodes.volume("part-2"))
    message = await told(found, "QuorumRecovered", "VolumesLeft")
    assert "data-part-2" in message
    async with found.client() as client:
        await client.set_key(b"k", b"2")  # the others serve
    assert (await found.status())["state"] == "Degraded"
    found.nodes.lose("part-2")
    await found.ready("Raft", 3)


def ask(found: Stage, token: str) -> None:
    order = json.dumps({"from": "part-0", "acceptLoss": token})
    found.kubectl("annotate", "partition", "part", f"logstore.dev/recover={order}", "--overwrite")


async def said(found: Stage, state: str) -> dict[str, Any]:
    """status.quorumLoss, once the Partition is in that state."""

    async def there() -> dict[str, Any] | None:
        status = await found.status()
        loss: dict[str, Any] = status.get("quorumLoss", {})
        return loss if status.get("state") == state and loss.get("token") else None

    return await eventually(there, f"the Partition is {state}")


async def told(found: Stage, kind: str, reason: str) -> str:
    """The message of a condition, once it has the reason."""

    async def there() -> str | None:
        seen = [c for c in (await found.status()).get("conditions", []) if c["type"] == kind]
        return seen[0]["message"] if seen and seen[0]["reason"] == reason else None

    return await eventually(there, f"{kind} is {reason}", 120)


async def marks(found: Stage) -> set[str]:
    claims = found.server.kubectl.json("-n", found.namespace, "get", "pvc")["items"]
    return {claim["metadata"]["annotations"]["logstore.dev/cluster-id"] for claim in claims}
