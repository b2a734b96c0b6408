"""A fence by annotation: the operator ends right behind it, and carries on when it is started
again. Real API server and etcd, real replicas on loopback."""

from pathlib import Path
from typing import Any

import pytest
from partition_operator.failpoints import FENCE

from tests.support.api_server import ApiServer
from tests.support.local_group import eventually
from tests.support.switch_stage import Stage, stage

pytestmark = [pytest.mark.apiserver, pytest.mark.timeout(300)]


async def test_a_replica_is_fenced_and_freed_although_the_operator_ends(
    server: ApiServer, tmp_path: Path
) -> None:
    (failpoint,) = FENCE
    async with stage(server, tmp_path) as found:
        await found.three_voters()
        cluster = (await found.status())["clusterID"]
        restarts = found.nodes.restarts.get("part-1", 0)
        fence_file = found.nodes.volume("part-1") / "fence"
        found.operator.stop()
        for words in ("logstore.dev/fence=part-1", "logstore.dev/fence-"):
            found.kubectl("annotate", "partition", "part", words)
            found.operator.start(failpoint)
            await found.died_at(failpoint)
            assert fence_file.exists() is not words.endswith("-")
            found.operator.start()
            if not words.endswith("-"):
                await told(found, "True", "Fenced")
                assert "part-1 answers nobody" in (await conditions(found))["Ready"]["message"]
                async with found.client() as client:
                    await client.set_key(b"k", b"while one is fenced")
                found.operator.stop()
        await told(found, "False", "None")
        await found.ready("Raft", 3)
        async with found.client() as client:
            endpoint = found.nodes.endpoint(1)

            async def caught_up() -> bool:
                keys = [item async for item in client.list_keys(stale_from=endpoint)]
                return keys == [(b"k", b"while one is fenced")]

            await eventually(caught_up, "the freed replica has what it missed")
        assert (await found.status())["clusterID"] == cluster
        assert found.nodes.restarts.get("part-1", 0) == restarts, "its process stayed"
        assert {"ReplicaFenced", "FenceEnded"} <= {*found.events()}


async def conditions(found: Stage) -> dict[str, Any]:
    return {c["type"]: c for c in (await found.status()).get("conditions", [])}


async def told(found: Stage, status: str, reason: str) -> None:
    async def there() -> bool:
        seen = (await conditions(found)).get("Fenced", {})
        return (seen.get("status"), seen.get("reason")) == (status, reason)

    await eventually(there, f"Fenced is {status}, {reason}", 120)
