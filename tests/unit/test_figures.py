"""What the operator exports about each Partition."""

import datetime as dt
from dataclasses import replace

from partition_operator.api.times import stamp
from partition_operator.metrics import OperatorMetrics
from partition_operator.reconcile.observed.partition import Certificates
from partition_operator.reconcile.partition.figures import figures
from partition_operator.turns.queue import QueueItem
from prometheus_client import CollectorRegistry

from tests.support.partition_views import NOW, after, group, look
from tests.support.schedule_turns import HOUR, KEY, ON_VOLUME, World
from tests.support.schedule_turns import NOW as RUN
from tests.support.snapshot_objects import VOLUME, stored

PART = {"namespace": "ns", "partition": "part"}


def scraped(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(name, PART | labels)


def test_a_group_that_serves() -> None:
    ends = {"part-client-tls": NOW + dt.timedelta(days=90)}
    observed = replace(after(group()), certificates=Certificates(ends=ends))
    metrics = OperatorMetrics()
    metrics.objects.partitions = {("ns", "part"): figures(observed, look(observed).status)}
    registry = metrics.registry
    ready = {"type": "Ready", "status": "True", "reason": "Ready"}
    assert scraped(registry, "partition_condition", **ready) == 1
    assert scraped(registry, "partition_condition", **(ready | {"status": "False"})) is None
    assert scraped(registry, "partition_info", mode="Raft", state="Ready") == 1
    for name, value in (("wanted", 3), ("ready", 3), ("answering", 3)):
        assert scraped(registry, f"partition_replicas_{name}") == value, name
    name = "partition_certificate_expiry_timestamp_seconds"
    expected = ends["part-client-tls"].timestamp()
    assert scraped(registry, name, secret="part-client-tls") == expected


def test_a_replica_that_does_not_answer() -> None:
    observed = after(group())
    silent = replace(observed, replicas=observed.replicas[:2])
    assert figures(silent, look(silent).status).answering == 2


async def test_the_snapshots_of_a_schedule() -> None:
    good = stored("good", RUN - HOUR * 2, state="Succeeded", destination=ON_VOLUME)
    bad = stored("bad", RUN - HOUR, state="Failed", destination=ON_VOLUME)
    spec = {"destination": VOLUME, "schedule": "0 * * * *"}
    world = World(spec, good, bad)
    reconciler = world.reconciler()
    await reconciler.turn(KEY, QueueItem())
    metrics = OperatorMetrics()
    metrics.objects.snapshots = reconciler.figures
    registry = metrics.registry
    assert scraped(registry, "partition_snapshots", state="Failed") == 1
    assert scraped(registry, "partition_snapshots", state="Succeeded") == 1
    assert scraped(registry, "partition_snapshots", state="Running") == 0
    assert scraped(registry, "partition_snapshots_missed_total") == 0
    for what, moment in (("success", RUN - HOUR * 2), ("failure", RUN - HOUR)):
        name = f"partition_snapshot_last_{what}_timestamp_seconds"
        assert scraped(registry, name) == moment.timestamp(), stamp(moment)
    following = RUN.replace(minute=0) + HOUR
    name = "partition_snapshot_next_run_timestamp_seconds"
    assert scraped(registry, name) == following.timestamp()
    valid = {"type": "SnapshotScheduleValid", "status": "True", "reason": "Valid"}
    assert scraped(registry, "partition_condition", **valid) == 1

    world.body = None
    await reconciler.turn(KEY, QueueItem())
    assert scraped(registry, "partition_snapshots", state="Failed") is None, "it is forgotten"
