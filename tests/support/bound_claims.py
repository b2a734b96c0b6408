"""A Partition with a bound claim, at an API server without controllers."""

from tests.support.operator_turns import Turns


async def make_bound(turns: Turns, storage_class: str) -> None:
    """Makes "part" with one replica, and the claim of its volume: 256Mi, of its group. The test
    writes the claim's status."""
    await turns.make(storage={"size": "256Mi", "className": storage_class})
    await turns.turn()
    await turns.turn()
    cluster = (await turns.get("Partition", "part"))["status"]["clusterID"]
    labels = {"logstore.dev/partition": "part", "app.kubernetes.io/component": "replica"}
    marks = {"logstore.dev/cluster-id": cluster, "pv.kubernetes.io/bind-completed": "yes"}
    await turns.create(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "data-part-0", "labels": labels, "annotations": marks},
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "storageClassName": storage_class,
                "volumeName": "a-volume",
                "resources": {"requests": {"storage": "256Mi"}},
            },
        }
    )
