"""For each alert of the chart: series with which it fires, and such with which it does not, as
promtool reads them. {n} in a value is the last minute of the test."""

from dataclasses import dataclass
from typing import Any

import yaml

from dev.prometheus import RULES

HERE = 'namespace="ns", partition="part"'
REPLICA = f'{HERE}, pod="part-0"'
OPERATOR = 'namespace="system", pod="operator-0", job="system/partition-operator"'
LEADING = (f"partition_operator_leading{{{OPERATOR}}}", "1x{n}")
"""In every case, because without it an alert fires."""

Series = tuple[str, str]


@dataclass(frozen=True)
class Case:
    """also: other alerts that fire with the same series, because they follow from each other.
    after: minutes beyond the alert's `for` at which to look. leading: with LEADING."""

    fires: tuple[Series, ...]
    quiet: tuple[Series, ...]
    also: frozenset[str] = frozenset()
    after: int = 20
    leading: bool = True


def condition(kind: str, status: str, reason: str, value: str = "1x{n}") -> Series:
    labels = f'{HERE}, type="{kind}", status="{status}", reason="{reason}"'
    return f"partition_condition{{{labels}}}", value


def of_condition(bad: tuple[str, str, str], good: tuple[str, str, str], *also: str) -> Case:
    """(type, status, reason) with which the alert fires, and with which it does not."""
    return Case((condition(*bad),), (condition(*good),), frozenset(also))


def gauge(name: str, labels: str, bad: str, good: str, *also: str, after: int = 20) -> Case:
    series = f"{name}{{{labels}}}"
    return Case(((series, bad),), ((series, good),), frozenset(also), after)


BOOTSTRAPPED = condition("Bootstrapped", "True", "Bootstrapped")
DISK_FREE, DISK_TOTAL, DISK_RESERVE = (
    f"logstore_disk_{what}_bytes{{{REPLICA}}}" for what in ("free", "total", "reserve")
)
SUCCESS, FAILURE = (
    f"partition_snapshot_last_{what}_timestamp_seconds{{{HERE}}}" for what in ("success", "failure")
)
EXPIRY = f'partition_certificate_expiry_timestamp_seconds{{{HERE}, secret="part-client-tls"}}'
USED = f"logstore_certificate_expiry_timestamp_seconds{{{REPLICA}}}"
COMMITS = "logstore_log_commit_seconds_bucket"


def volume(free: str) -> tuple[Series, ...]:
    """Of 1,000 bytes with a reserve of 50."""
    return (DISK_FREE, free), (DISK_TOTAL, "1000x{n}"), (DISK_RESERVE, "50x{n}")


def commits(*counts: tuple[str, str]) -> tuple[Series, ...]:
    """(le, values) of the histogram."""
    return tuple((f'{COMMITS}{{{REPLICA}, le="{le}"}}', values) for le, values in counts)


def requests(**values: str) -> tuple[Series, ...]:
    name = "partition_operator_api_requests_total"
    return tuple(
        (f'{name}{{{OPERATOR}, method="GET", status="{status[1:]}"}}', value)
        for status, value in values.items()
    )


DAY = 86400
STALE = ("SnapshotFresh", "False", "Stale")

CASES: dict[str, Case] = {
    "PartitionQuorumLost": Case(
        (condition("QuorumAvailable", "False", "NoLeader"), BOOTSTRAPPED),
        (condition("QuorumAvailable", "False", "Hibernated"), BOOTSTRAPPED),
    ),
    "PartitionNoLeader": Case(
        (
            (f"logstore_serving{{{REPLICA}}}", "0x{n}"),
            (f'logstore_serving{{{HERE}, pod="part-1"}}', "0x{n}"),
        ),
        (
            (f"logstore_serving{{{REPLICA}}}", "0x{n}"),
            (f'logstore_serving{{{HERE}, pod="part-1"}}', "1x{n}"),
        ),
    ),
    "PartitionQuorumAtRisk": of_condition(
        ("QuorumAvailable", "True", "NoSpare"), ("QuorumAvailable", "True", "Quorum")
    ),
    "PartitionVolumeLost": of_condition(
        ("Ready", "False", "QuorumLost"), ("Ready", "True", "Ready"), "PartitionNotReady"
    ),
    "PartitionNotReady": Case(
        (condition("Ready", "Unknown", "NotSeen"), condition("Accepted", "True", "Valid")),
        (condition("Ready", "False", "Hibernated"), condition("Accepted", "True", "Valid")),
    ),
    "PartitionDegraded": of_condition(("Ready", "True", "Degraded"), ("Ready", "True", "Ready")),
    "PartitionVolumeNotRebuilt": of_condition(
        ("StorageReady", "False", "VolumeLost"), ("StorageReady", "True", "Rebuilding")
    ),
    "PartitionPodStuck": of_condition(
        ("PodsPlaced", "False", "PodStuck"), ("PodsPlaced", "False", "AllOnOneNode")
    ),
    "PartitionSpecRefused": Case(
        (
            condition("Accepted", "False", "InvalidSpec"),
            condition("Ready", "False", "InvalidSpec"),
        ),
        (condition("Accepted", "True", "Valid"),),
    ),
    "PartitionObjectRefused": of_condition(
        ("ObjectsApplied", "False", "ObjectRefused"), ("ObjectsApplied", "True", "Altered")
    ),
    "PartitionReplicaLagging": gauge(
        "logstore_member_lag_entries", f'{REPLICA}, member="part-1:7000"', "20000x{n}", "900x{n}"
    ),
    "PartitionApplyLagging": Case(
        (
            (f"logstore_committed_lsn{{{REPLICA}}}", "50000x{n}"),
            (f"logstore_applied_lsn{{{REPLICA}}}", "10x{n}"),
        ),
        (
            (f"logstore_committed_lsn{{{REPLICA}}}", "50000x{n}"),
            (f"logstore_applied_lsn{{{REPLICA}}}", "49000x{n}"),
        ),
    ),
    "PartitionDiskFull": gauge("logstore_disk_full", REPLICA, "1x{n}", "0x{n}"),
    "PartitionDiskNearlyFull": Case(volume("140x{n}"), volume("500x{n}")),
    "PartitionDiskFillsUp": Case(volume("900-0.5x{n}"), volume("900x{n}"), after=360),
    "PartitionSlowDisk": Case(
        commits(("0.5", "0+90x{n}"), ("1", "0+100x{n}"), ("+Inf", "0+100x{n}")),
        commits(("0.5", "0+100x{n}"), ("1", "0+100x{n}"), ("+Inf", "0+100x{n}")),
    ),
    "PartitionElectionsFrequent": gauge(
        "logstore_elections_started_total", REPLICA, "0+1x{n}", "0x10 1x{n}"
    ),
    "PartitionPruneFailing": gauge("logstore_prunes_failed_total", REPLICA, "0+1x{n}", "7x{n}"),
    "PartitionSnapshotStale": of_condition(STALE, ("SnapshotFresh", "Unknown", "Suspended")),
    "PartitionSnapshotMissed": gauge(
        "partition_snapshots_missed_total", HERE, "0x5 2x{n}", "3x{n}"
    ),
    "PartitionSnapshotFailed": Case(
        ((SUCCESS, "100x{n}"), (FAILURE, "200x{n}")), ((SUCCESS, "300x{n}"), (FAILURE, "200x{n}"))
    ),
    "PartitionSnapshotDamaged": gauge(
        "partition_snapshots", f'{HERE}, state="VerifyFailed"', "1x{n}", "0x{n}"
    ),
    "PartitionSnapshotScheduleInvalid": of_condition(
        ("SnapshotScheduleValid", "False", "InvalidSpec"),
        ("SnapshotScheduleValid", "True", "Valid"),
    ),
    "PartitionRetentionFailing": of_condition(
        ("RetentionEnforced", "False", "StoreRefused"), ("RetentionEnforced", "True", "Enforced")
    ),
    "PartitionRolloutStalled": of_condition(
        ("RolledOut", "False", "Stalled"), ("RolledOut", "False", "Rolling")
    ),
    "PartitionBackfillStalled": of_condition(
        ("BackfillComplete", "False", "Stalled"), ("BackfillComplete", "False", "Running")
    ),
    "PartitionRestoreFailed": Case(
        ((f'partition_info{{{HERE}, mode="", state="RestoreFailed"}}', "1x{n}"),),
        ((f'partition_info{{{HERE}, mode="", state="Restoring"}}', "1x{n}"),),
    ),
    "PartitionPaused": of_condition(("Paused", "True", "Paused"), ("Paused", "False", "Followed")),
    "PartitionFenced": of_condition(("Fenced", "True", "Fenced"), ("Fenced", "False", "None")),
    "PartitionCertificateExpiring": Case(
        ((EXPIRY, f"{100 * DAY}x{{n}}"), (USED, f"{10 * DAY}x{{n}}")),
        ((EXPIRY, f"{100 * DAY}x{{n}}"), (USED, f"{100 * DAY}x{{n}}")),
    ),
    "PartitionCertificateExpiringSoon": Case(
        ((EXPIRY, f"{2 * DAY}x{{n}}"),), ((EXPIRY, f"{20 * DAY}x{{n}}"),)
    ),
    "PartitionCertificatesRefused": of_condition(
        ("CertificatesReady", "False", "Refused"),
        ("CertificatesReady", "False", "AuthorityChanging"),
    ),
    "PartitionTlsFilesInvalid": gauge(
        "logstore_tls_files_bad", f'{REPLICA}, user="server"', "1x{n}", "0x{n}"
    ),
    "PartitionAuthorityExpiring": gauge(
        "partition_operator_authority_expiry_timestamp_seconds",
        OPERATOR,
        f"{30 * DAY}x{{n}}",
        f"{300 * DAY}x{{n}}",
    ),
    "PartitionOperatorAbsent": Case((), (LEADING,), leading=False),
    "PartitionOperatorNotLeading": Case(
        ((LEADING[0], "0x{n}"),),
        (
            (LEADING[0], "0x{n}"),
            (LEADING[0].replace("operator-0", "operator-1"), "1x{n}"),
        ),
        leading=False,
    ),
    "PartitionOperatorNotReconciling": gauge(
        "partition_operator_queue_age_seconds", OPERATOR, "400x{n}", "2x{n}"
    ),
    "PartitionOperatorTurnsFailing": gauge(
        "partition_operator_failed_total",
        f'{OPERATOR}, kind="Partition"',
        "0+2x{n}",
        "0x10 1x{n}",
    ),
    "PartitionOperatorApiErrors": Case(
        requests(s200="0+60x{n}", s503="0+10x{n}", s0="0+5x{n}"),
        requests(s200="0+60x{n}", s404="0+30x{n}"),
    ),
    "PartitionOperatorWatchDown": gauge(
        "partition_operator_watches_down", OPERATOR, "1x{n}", "0x{n}"
    ),
}

UNITS = {"m": 1, "h": 60}


def rules() -> dict[str, dict[str, Any]]:
    """The chart's alerts by name."""
    found = yaml.safe_load(RULES.read_text())
    return {rule["alert"]: rule for group in found["groups"] for rule in group["rules"]}


def minutes(duration: str) -> int:
    return int(duration[:-1]) * UNITS[duration[-1]]


LONG_MINUTES, LONG_STEP = 600, 4
"""A longer test has a sample in so many minutes: with one per minute it takes seconds."""


def step(at: int) -> int:
    return LONG_STEP if at > LONG_MINUTES else 1


def unit_tests() -> list[dict[str, Any]]:
    """promtool's unit tests. Each says which alerts fire, all in all, a while after the alert's
    `for` has passed."""
    found = []
    for name, case in CASES.items():
        waits = minutes(rules()[name].get("for", "0m"))
        at = waits + case.after
        leading = (LEADING,) if case.leading else ()
        firing = {name} | case.also
        found.append(_test(f"{name} fires", at, (*case.fires, *leading), firing))
        found.append(_test(f"{name} is quiet", at, (*case.quiet, *leading), frozenset()))
        if waits > 1:
            text = f"{name} waits"
            found.append(_test(text, waits - 1, (*case.fires, *leading), None, without=name))
    return found


def _test(
    name: str,
    at: int,
    series: tuple[Series, ...],
    firing: set[str] | frozenset[str] | None,
    without: str = "",
) -> dict[str, Any]:
    """firing: None only asks that `without` does not fire."""
    chosen = f'alertname="{without}", ' if firing is None else ""
    names = sorted(firing or ())
    return {
        "name": name,
        "interval": f"{step(at)}m",
        "input_series": [
            {"series": text, "values": values.format(n=at // step(at) + 1)}
            for text, values in series
        ],
        "promql_expr_test": [
            {
                "expr": f'count by (alertname) (ALERTS{{{chosen}alertstate="firing"}})',
                "eval_time": f"{at}m",
                "exp_samples": [
                    {"labels": f'{{alertname="{alert}"}}', "value": 1} for alert in names
                ],
            }
        ],
    }
