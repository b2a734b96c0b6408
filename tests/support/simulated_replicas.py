"""An operator whose replicas are simulated at the RPC boundary:
`python -m tests.support.simulated_replicas FOLDER`.

Each Partition has one replica. It is bootstrapped when it is told so, and that is kept in FOLDER,
so that it outlasts the operator's process, as a volume does.
"""

import asyncio
import sys
from pathlib import Path
from typing import Any

from partition_operator import assembly
from partition_operator.__main__ import main
from partition_operator.api import names
from partition_operator.api.partition import Partition
from partition_operator.clients.replica import Replicas
from partition_operator.reconcile.observed.partition import (
    ObservedMember,
    ObservedPod,
    ObservedReplica,
)

FOLDER = Path(sys.argv[1]) if len(sys.argv) > 1 else Path()
MEMBER = 0x1CC5


class SimulatedReplicas(Replicas):
    """Answers at once, as a healthy replica would."""

    async def status(self, partition: Partition, pod: ObservedPod) -> ObservedReplica | None:
        await asyncio.sleep(0)
        volume = FOLDER / f"{partition.namespace}.{partition.name}"
        cluster = volume.read_text() if volume.exists() else ""
        address = names.address(partition.name, partition.namespace, pod.ordinal)
        member = ObservedMember(MEMBER, address, True, 10, True, "replicate")
        return ObservedReplica(
            ordinal=pod.ordinal,
            cluster_id=cluster,
            member_id=MEMBER,
            role="leader" if cluster else "unbootstrapped",
            term=2,
            leader_id=MEMBER,
            last_index=10,
            committed=10,
            applied=10,
            serving=bool(cluster),
            changing=False,
            disk_full=False,
            members=(member,) if cluster else (),
        )

    async def command(
        self, partition: Partition, pod: ObservedPod, method: str, request: Any
    ) -> Any:
        assert method == "Bootstrap", f"{method} is not simulated"
        (FOLDER / f"{partition.namespace}.{partition.name}").write_text(request.cluster_id)


if __name__ == "__main__":
    assembly.Replicas = SimulatedReplicas  # type: ignore[misc]
    sys.argv = sys.argv[:1]
    main()
