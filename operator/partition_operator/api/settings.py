"""`spec.settings`: limits of the replicas that a user may tune, and the flags that set them."""

from typing import Any, Final

from partition_operator.api import schema
from partition_operator.api.quantities import parse_quantity

ELECTION_TIMEOUT_MS: Final = 1000
HEARTBEAT_MS: Final = 200
"""The replica's defaults. tests/unit/test_settings.py compares them."""
HEARTBEATS_A_TIMEOUT_MIN: Final = 5
"""The replica sends a heartbeat every two ticks if so many fit into an election time-out."""
HEARTBEAT_STEP_MS: Final = 10

LIMITS: Final = {
    "logTrailEntries": "log_trail_entries",
    "logTrailSize": "log_trail_bytes",
    "diskReserve": "disk_reserve_bytes",
    "consumerLagEntries": "consumer_lag_entries_max",
}
"""By field: the replica's limit."""
SIZES: Final = {
    "logTrailSize": (2**20, 2**40, "from 1Mi to 1Ti"),
    "diskReserve": (64 * 2**20, 2**40, "from 64Mi to 1Ti"),
}
"""By field: the smallest and the largest size in bytes, and both in words."""


def parse_settings(body: schema.Settings) -> tuple[str, ...]:
    """Returns the flags of `partition-replica serve`. body: checked. An absent field has no flag,
    so that the replica's default counts."""
    given: dict[str, Any] = dict(body)
    found = []
    if {"electionTimeoutMilliseconds", "heartbeatIntervalMilliseconds"} & given.keys():
        heartbeat = given.get("heartbeatIntervalMilliseconds", HEARTBEAT_MS)
        tick = heartbeat // 2
        ticks = -(-given.get("electionTimeoutMilliseconds", ELECTION_TIMEOUT_MS) // tick)
        found += [f"--tick-ms={tick}", f"--election-ticks={ticks}"]
    for field, limit in LIMITS.items():
        if field in given:
            value = parse_quantity(given[field])
            assert value is not None, "validation.py has checked it"
            found.append(f"--limit={limit}={int(value)}")
    return tuple(found)
