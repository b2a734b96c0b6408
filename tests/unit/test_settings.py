"""`spec.settings`: which values are allowed, and that the replica understands what it is told."""

from typing import Any

import pytest
from partition_operator.api.partition import parse_spec
from partition_operator.errors import InvalidSpec
from partition_operator.resources import statefulset
from partition_replica.__main__ import parse
from partition_replica.config import ReplicaConfig

from tests.support.partition_views import partition


def told(settings: dict[str, Any]) -> ReplicaConfig:
    """What a replica makes of the arguments of its container."""
    found = partition({"settings": settings} if settings else None)
    template = statefulset.build(found, found.spec(), 3, "image:1")["spec"]["template"]
    config = parse(template["spec"]["containers"][0]["args"])
    assert isinstance(config, ReplicaConfig)
    return config


@pytest.mark.parametrize("heartbeat", [50, 70, 200, 1000, 10000])
@pytest.mark.parametrize("timeout", [250, 1000, 1001, 5000, 60000])
def test_a_replica_has_the_times_that_were_asked_for(heartbeat: int, timeout: int) -> None:
    settings = {"heartbeatIntervalMilliseconds": heartbeat, "electionTimeoutMilliseconds": timeout}
    if timeout < 5 * heartbeat:
        with pytest.raises(InvalidSpec, match=f"at least {5 * heartbeat} is allowed"):
            told(settings)
        return
    found = told(settings)
    assert found.tick_s * found.heartbeat_ticks * 1000 == pytest.approx(heartbeat)
    longer = found.tick_s * found.election_ticks * 1000 - timeout
    assert 0 <= round(longer, 6) < heartbeat / 2


def test_one_of_the_times_alone_leaves_the_other_as_it_is() -> None:
    default = told({})
    assert (default.tick_s, default.election_ticks, default.heartbeat_ticks) == (0.1, 10, 2)
    assert told({"electionTimeoutMilliseconds": 1000}) == default
    assert told({"heartbeatIntervalMilliseconds": 200}) == default
    longer = told({"electionTimeoutMilliseconds": 3000})
    assert (longer.tick_s, longer.election_ticks) == (0.1, 30)
    faster = told({"heartbeatIntervalMilliseconds": 100})
    assert (faster.tick_s, faster.election_ticks) == (0.05, 20)


def test_a_replica_has_the_limits_that_were_asked_for() -> None:
    limits = told(
        {
            "logTrailEntries": 7,
            "logTrailSize": "2Gi",
            "diskReserve": "100M",
            "consumerLagEntries": 1000,
        }
    ).limits
    assert (limits.log_trail_entries, limits.log_trail_bytes) == (7, 2 * 2**30)
    assert (limits.disk_reserve_bytes, limits.consumer_lag_entries_max) == (10**8, 1000)
    assert told({"logTrailEntries": 7}).limits.log_trail_bytes == told({}).limits.log_trail_bytes


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"electionTimeoutMilliseconds": 249}, "electionTimeoutMilliseconds 249: at least 250"),
        ({"electionTimeoutMilliseconds": 999}, "999: at least 1000 is allowed, five times"),
        ({"electionTimeoutMilliseconds": 60001}, "60001: at most 60000"),
        ({"electionTimeoutMilliseconds": "1s"}, "'1s': is not a whole number"),
        ({"heartbeatIntervalMilliseconds": 55}, "55: a multiple of 10 is allowed"),
        ({"heartbeatIntervalMilliseconds": 210}, "1000: at least 1050 is allowed"),
        ({"logTrailEntries": 0}, "spec.settings.logTrailEntries 0: at least 1"),
        ({"logTrailSize": "1023Ki"}, "'1023Ki': a quantity from 1Mi to 1Ti is allowed"),
        ({"diskReserve": "many"}, "spec.settings.diskReserve 'many': a quantity from 64Mi to 1Ti"),
        ({"diskReserve": "1025Gi"}, "'1025Gi': a quantity from 64Mi to 1Ti"),
        ({"consumerLagEntries": 999}, "consumerLagEntries 999: at least 1000"),
    ],
)
def test_a_value_out_of_range_is_refused(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidSpec, match=why):
        parse_spec("a", {"storage": {"size": "1Gi"}, "settings": settings})
