"""How many requests a Partition's turn costs. One operator may have a thousand Partitions, so each
request too many is a thousand."""

from typing import Any

from partition_operator.turns.partition import Seen
from partition_operator.turns.queue import QueueItem, Version

from tests.support.paper_cluster import KEY, PARTITION_OBJECT, PaperCluster

OBSERVATION = 10
"""The Partition, StatefulSet, budget, account, two Services and two Secrets by name; pods and
claims by label. A pod or a claim that is missing is read by name, too."""


async def ready() -> tuple[PaperCluster, "QueueItem[Seen]"]:
    """A Partition that is Ready and at rest."""
    cluster, item = PaperCluster(), QueueItem[Seen](asked=True)
    await cluster.reconciler.turn(KEY, item)
    cluster.run_pod()
    for _ in range(2):
        await cluster.reconciler.turn(KEY, item)
    assert cluster.state == "Ready"
    assert item.settled
    cluster.forget_requests()
    return cluster, item


async def test_the_objects_of_a_new_partition_cost_one_observation() -> None:
    cluster = PaperCluster()
    await cluster.reconciler.turn(KEY, QueueItem(asked=True))
    writes = cluster.kube.writes
    assert [w for w in writes if w.startswith("apply")] == [
        "apply Secret part-replica-tls",
        "apply Secret part-client-tls",
        "apply ServiceAccount part",
        "apply Service part-replicas",
        "apply Service part",
        "apply StatefulSet part",
    ]
    # To choose the cluster's ID, to create, and to say what is missing now.
    assert cluster.kube.reads.count("list Pod") == 3
    assert writes.count("status part") == 4, "claimed, ID, what will be created, what is missing"


async def test_a_new_partition_becomes_ready_with_few_observations() -> None:
    cluster, item = PaperCluster(), QueueItem[Seen](asked=True)
    await cluster.reconciler.turn(KEY, item)
    cluster.run_pod()
    cluster.forget_requests()
    for _ in range(2):
        await cluster.reconciler.turn(KEY, item)
    assert cluster.state == "Ready"
    assert cluster.kube.reads.count("list Pod") <= 5


async def test_a_partition_at_rest_costs_one_observation_and_no_write() -> None:
    cluster, item = await ready()
    item.asked = True
    await cluster.reconciler.turn(KEY, item)
    assert cluster.kube.writes == []
    assert len(cluster.kube.reads) == OBSERVATION, cluster.kube.reads
    assert item.settled


async def test_between_observations_only_the_replicas_are_asked() -> None:
    cluster, item = await ready()
    item.asked = False
    await cluster.reconciler.turn(KEY, item)
    assert (cluster.kube.reads, cluster.kube.writes) == ([], [])
    assert cluster.replica.asked == 1
    cluster.replica.term += 1  # a replica tells something new
    await cluster.reconciler.turn(KEY, item)
    assert len(cluster.kube.reads) >= OBSERVATION


async def test_a_turn_knows_every_version_that_it_observed_and_wrote() -> None:
    """So the events about them cause no other turn."""
    cluster = PaperCluster()
    written: set[Version] = set()
    put = cluster.kube.put

    def spied(body: dict[str, Any]) -> dict[str, Any]:
        stored = put(body)
        if stored["kind"] != "Event":
            meta = stored["metadata"]
            written.add(Version(meta["uid"], meta["resourceVersion"]))
        return stored

    cluster.kube.put = spied  # type: ignore[method-assign]
    item = QueueItem[Seen](asked=True)
    await cluster.reconciler.turn(KEY, item)
    assert written <= item.known
    cluster.run_pod()
    await cluster.reconciler.turn(KEY, item)
    live = cluster.kube.found.values()
    assert {
        Version(b["metadata"]["uid"], b["metadata"]["resourceVersion"])
        for b in live
        if b["kind"] != "Event"
    } <= item.known


async def test_what_is_kept_of_a_partition_has_none_of_its_objects() -> None:
    _, item = await ready()
    assert item.seen is not None
    assert (item.seen.key, [p.ip for p in item.seen.pods]) == (("ns", "part"), ["10.0.0.1"])
    assert PARTITION_OBJECT[0] not in repr(item.seen)
    assert "containers" not in repr(item.seen)
