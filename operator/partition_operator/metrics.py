"""The operator's metrics. Each scrape reads the current values from their owners.
docs/reference/metrics.md is generated from the names, labels and help texts here."""

import datetime as dt
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from partition_operator import __version__
from partition_operator.reconcile.partition.figures import PartitionFigures
from partition_operator.reconcile.schedule.figures import SnapshotFigures

Family = type[CounterMetricFamily] | type[GaugeMetricFamily]
GAUGE, COUNTER = GaugeMetricFamily, CounterMetricFamily

TURN_SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)


@dataclass(frozen=True)
class Metric:
    """One metric. `name` is without the prefix and, for a counter, without `_total`. measured: it
    has no sample until it has a reader, because 0 would be a wrong measurement."""

    name: str
    family: Family
    help: str
    measured: bool = False


LEADING = Metric("leading", GAUGE, "1 if this process holds the Lease")
QUEUED = Metric("queued", GAUGE, "Objects that wait for a turn")
QUEUE_AGE = Metric(
    "queue_age_seconds", GAUGE, "For how long the turn is due that has waited longest"
)
LOOP_AGE = Metric(
    "loop_age_seconds", GAUGE, "Seconds since the loop that starts turns ran last", measured=True
)
TURNS_RUNNING = Metric("turns_running", GAUGE, "Turns in progress (limit workers)")
RECONCILED = Metric("reconciled", COUNTER, "Reconciliations of a Partition")
EVENTS_DROPPED = Metric("events_dropped", COUNTER, "Events dropped by the limit of 120 per minute")
FOREIGN = Metric("foreign", GAUGE, "Partitions that another operator manages")
WATCHES_DOWN = Metric(
    "watches_down",
    GAUGE,
    "Namespaces, or the cluster, or its nodes, that can't be watched now; the log says why",
)
AUTHORITY_EXPIRY = Metric(
    "authority_expiry_timestamp_seconds",
    GAUGE,
    "When the certificate authority expires, as a Unix time",
    measured=True,
)
CERTIFICATES_REFUSED = Metric(
    "certificates_refused",
    COUNTER,
    "Certificates of spec.tls that were refused, each counted once per reason",
)

ALL = (
    LEADING,
    QUEUED,
    QUEUE_AGE,
    LOOP_AGE,
    TURNS_RUNNING,
    RECONCILED,
    EVENTS_DROPPED,
    FOREIGN,
    WATCHES_DOWN,
    AUTHORITY_EXPIRY,
    CERTIFICATES_REFUSED,
)

PREFIX = "partition_operator_"
INFO = "1; the version of the operator's program"


class TurnMetrics:
    """The durations and failures of turns, by the kind of their key."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._waited = Histogram(
            f"{PREFIX}queue_wait_seconds",
            "From when a turn is due until it begins",
            ["kind"],
            buckets=TURN_SECONDS,
            registry=registry,
        )
        self._took = Histogram(
            f"{PREFIX}turn_seconds",
            "A turn, from its observations to its last step",
            ["kind"],
            buckets=TURN_SECONDS,
            registry=registry,
        )
        self._failed = Counter(
            f"{PREFIX}failed", "Turns that failed and are retried", ["kind"], registry=registry
        )

    def serve(self, kinds: tuple[str, ...]) -> None:
        """Exports zeros for these kinds, so that the first failure counts as an increase."""
        for kind in kinds:
            self._waited.labels(kind)
            self._took.labels(kind)
            self._failed.labels(kind)

    def began(self, kind: str, waited_s: float) -> None:
        self._waited.labels(kind).observe(waited_s)

    def ended(self, kind: str, seconds: float, *, failed: bool) -> None:
        self._took.labels(kind).observe(seconds)
        if failed:
            self._failed.labels(kind).inc()


@dataclass(frozen=True)
class ObjectMetric:
    """A metric of each Partition: its whole name, without `_total` for a counter, and its labels
    after `namespace` and `partition`."""

    name: str
    family: Family
    help: str
    labels: tuple[str, ...] = ()


Samples = Iterator[tuple[tuple[str, ...], float]]


def _one(value: float) -> Samples:
    yield (), value


def _time(moment: dt.datetime | None) -> Samples:
    if moment is not None:
        yield (), moment.timestamp()


def _by_label(values: Mapping[str, float]) -> Samples:
    for label, value in values.items():
        yield (label,), value


OF_PARTITIONS: dict[ObjectMetric, Callable[[PartitionFigures], Samples]] = {
    ObjectMetric(
        "partition_info",
        GAUGE,
        "1; how entries are replicated, and the STATUS of the Partition",
        ("mode", "state"),
    ): lambda f: iter([((f.mode, f.state), 1.0)]),
    ObjectMetric(
        "partition_condition",
        GAUGE,
        "1 for the present status and reason of each condition",
        ("type", "status", "reason"),
    ): lambda f: ((condition, 1.0) for condition in f.conditions),
    ObjectMetric("partition_replicas_wanted", GAUGE, "Replicas that the spec asks for"): lambda f: (
        _one(f.wanted)
    ),
    ObjectMetric("partition_replicas_ready", GAUGE, "Pods that are ready"): lambda f: _one(f.ready),
    ObjectMetric(
        "partition_replicas_updated", GAUGE, "Pods that have the newest pod template"
    ): lambda f: _one(f.updated),
    ObjectMetric(
        "partition_replicas_answering", GAUGE, "Replicas that answered the operator last time"
    ): lambda f: _one(f.answering),
    ObjectMetric(
        "partition_certificate_expiry_timestamp_seconds",
        GAUGE,
        "When the certificate in a Secret expires, as a Unix time",
        ("secret",),
    ): lambda f: _by_label({name: end.timestamp() for name, end in f.certificates.items()}),
}

OF_SNAPSHOTS: dict[ObjectMetric, Callable[[SnapshotFigures], Samples]] = {
    ObjectMetric(
        "partition_snapshots",
        GAUGE,
        "PartitionSnapshots of a Partition, by their state",
        ("state",),
    ): lambda f: _by_label(f.states),
    ObjectMetric(
        "partition_snapshots_missed", COUNTER, "Runs of the schedule that were missed"
    ): lambda f: _one(f.missed),
    ObjectMetric(
        "partition_snapshot_last_success_timestamp_seconds",
        GAUGE,
        "When the newest successful snapshot began, as a Unix time",
    ): lambda f: _time(f.last_success),
    ObjectMetric(
        "partition_snapshot_last_failure_timestamp_seconds",
        GAUGE,
        "When the newest failed snapshot began, as a Unix time",
    ): lambda f: _time(f.last_failure),
    ObjectMetric(
        "partition_snapshot_next_run_timestamp_seconds",
        GAUGE,
        "When the schedule is due next, as a Unix time",
    ): lambda f: _time(f.next_run),
}
"""A condition of snapshots is a sample of `partition_condition`, too."""

CONDITION = next(m for m in OF_PARTITIONS if m.name == "partition_condition")

Name = tuple[str, str]
"""Namespace and name of a Partition."""


class PartitionMetrics(Collector):
    """What the operator knows about each Partition that it manages. Only the process that holds the
    Lease knows anything."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.partitions: Mapping[Name, PartitionFigures] = {}
        self.snapshots: Mapping[Name, SnapshotFigures] = {}
        registry.register(self)

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        for metric, samples in OF_PARTITIONS.items():
            family = _family(metric)
            for name, figures in self.partitions.items():
                _add(family, name, samples(figures))
            if metric is CONDITION:
                for name, seen in self.snapshots.items():
                    _add(family, name, ((condition, 1.0) for condition in seen.conditions))
            yield family
        for metric, read in OF_SNAPSHOTS.items():
            family = _family(metric)
            for name, seen in self.snapshots.items():
                _add(family, name, read(seen))
            yield family


def _family(metric: ObjectMetric) -> CounterMetricFamily | GaugeMetricFamily:
    return metric.family(
        metric.name, metric.help, labels=("namespace", "partition", *metric.labels)
    )


def _add(family: CounterMetricFamily | GaugeMetricFamily, name: Name, samples: Samples) -> None:
    for labels, value in samples:
        family.add_metric((*name, *labels), value)


class OperatorMetrics(Collector):
    """The metrics of one process, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._readers: dict[Metric, Callable[[], float]] = {}
        self.registry.register(self)
        self.turns = TurnMetrics(self.registry)
        self.objects = PartitionMetrics(self.registry)
        self._requests = Counter(
            f"{PREFIX}api_requests",
            "Requests to the API server, by their answer's status; 0 for no answer. Watches are "
            "not counted",
            ["method", "status"],
            registry=self.registry,
        )
        # Memory, processor time, open files and start of the process, under their usual names.
        ProcessCollector(registry=self.registry)

    def read(self, metric: Metric, reader: Callable[[], float]) -> None:
        """Sets the reader that each scrape calls. A metric without a reader is 0, or absent if it
        is `measured`."""
        self._readers[metric] = reader

    def requested(self, method: str, status: int) -> None:
        """Counts a request to the API server. status: of HTTP; 0 for no answer."""
        self._requests.labels(method, str(status)).inc()

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        version = GaugeMetricFamily(f"{PREFIX}info", INFO, labels=("version",))
        version.add_metric((__version__,), 1.0)
        yield version
        for metric in ALL:
            reader = self._readers.get(metric)
            family = metric.family(PREFIX + metric.name, metric.help)
            if reader is not None or not metric.measured:
                family.add_metric((), 0.0 if reader is None else float(reader()))
            yield family
