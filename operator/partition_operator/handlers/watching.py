"""The handlers and settings of kopf.

The handlers are coroutines, because kopf runs plain functions in threads.
"""

from typing import Any, Protocol

import kopf

from partition_operator.api import names
from partition_operator.clients.nodes import NodeFacts, facts
from partition_operator.turns.queue import PARTITION, SCHEDULE, SNAPSHOT, News, Version
from partition_operator.turns.schedule import version_of


class KeyQueue(Protocol):
    """A queue of keys that wait for a turn."""

    def enqueue(self, kind: str, namespace: str, name: str, news: News) -> None: ...


class NodeNotes(Protocol):
    """Takes what the watch tells of nodes."""

    def note(self, name: str, found: NodeFacts | None) -> None: ...


def _component(name: str) -> dict[str, Any]:
    return {names.LABEL_PARTITION: kopf.PRESENT, "app.kubernetes.io/component": name}


WATCHED = (("apps", "v1", "statefulsets"), ("", "v1", "pods"), ("", "v1", "persistentvolumeclaims"))
COMPONENTS = ("replica", "restore", "verify")
SELECTOR = f"{names.LABEL_PARTITION},app.kubernetes.io/component in ({','.join(COMPONENTS)})"
"""Sent to the API server, so that other objects cost neither traffic nor memory."""


def news_of(event: Any) -> News:
    """event: as kopf passes it. Its type is None for an object of a listing."""
    metadata = event["object"]["metadata"]
    if event["type"] == "DELETED":
        return News(None)
    version = Version(metadata["uid"], metadata["resourceVersion"])
    return News(version, listed=event["type"] is None)


def build_registry(queue: KeyQueue, *, namespaced: bool) -> kopf.OperatorRegistry:
    """Returns a registry with the handlers. namespaced: the operator has rights in its namespaces
    only."""
    registry = _registry(scans=not namespaced)

    @kopf.on.event(names.GROUP, names.VERSION, names.PLURAL, registry=registry)
    async def on_partition(*, namespace: str | None, name: str, event: Any, **_: Any) -> None:
        assert namespace is not None, "Partitions are namespaced"
        news = news_of(event)
        queue.enqueue(PARTITION, namespace, name, news)
        if news.version is not None:
            news = news._replace(version=version_of(event["object"]))
        queue.enqueue(SCHEDULE, namespace, name, news)

    @kopf.on.event(names.GROUP, names.VERSION, names.SNAPSHOT_PLURAL, registry=registry)
    async def on_snapshot(
        *, namespace: str | None, name: str, spec: Any, event: Any, **_: Any
    ) -> None:
        assert namespace is not None, "PartitionSnapshots are namespaced"
        queue.enqueue(SNAPSHOT, namespace, name, news_of(event))
        partition = (spec.get("partitionRef") or {}).get("name")
        if partition:
            queue.enqueue(SCHEDULE, namespace, partition, news_of(event))

    async def on_part(*, namespace: str | None, labels: Any, event: Any, **_: Any) -> None:
        assert namespace is not None, "the watched kinds are namespaced"
        queue.enqueue(PARTITION, namespace, labels[names.LABEL_PARTITION], news_of(event))

    async def on_claim(*, namespace: str | None, labels: Any, event: Any, **_: Any) -> None:
        assert namespace is not None, "the watched kinds are namespaced"
        queue.enqueue(SCHEDULE, namespace, labels[names.LABEL_PARTITION], news_of(event))

    async def on_verifying(*, namespace: str | None, labels: Any, event: Any, **_: Any) -> None:
        assert namespace is not None, "the watched kinds are namespaced"
        queue.enqueue(SNAPSHOT, namespace, labels[names.LABEL_SNAPSHOT], news_of(event))

    replica, claims = _component("replica"), WATCHED[2]
    for group, version, plural in WATCHED:
        kopf.on.event(group, version, plural, labels=replica, registry=registry)(on_part)
    kopf.on.event(*claims, labels=replica, registry=registry)(on_claim)
    pods, verifying = WATCHED[1], _component("verify") | {names.LABEL_SNAPSHOT: kopf.PRESENT}
    kopf.on.event(*pods, labels=_component("restore"), registry=registry)(on_part)
    kopf.on.event(*pods, labels=verifying, registry=registry)(on_verifying)
    return registry


def build_node_registry(nodes: NodeNotes) -> kopf.OperatorRegistry:
    """Returns a registry with the handler of nodes, for a watch of its own. It needs rights on
    nodes in the cluster, and no others."""
    registry = _registry(scans=False)

    @kopf.on.event("", "v1", "nodes", registry=registry)
    async def on_node(event: Any, name: str | None, spec: Any, **_: Any) -> None:
        assert name is not None, "every object has a name"
        nodes.note(name, None if event["type"] == "DELETED" else facts(spec))

    return registry


def _registry(*, scans: bool) -> kopf.OperatorRegistry:
    """Returns a registry with our settings and no handlers of objects. scans: kopf watches
    namespaces and CRDs, for which it needs rights in the cluster."""
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    def login(**kwargs: Any) -> Any:
        return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)

    @kopf.on.startup(registry=registry)
    def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
        apply_settings(settings, namespaced=not scans)

    return registry


class NoDifferences(kopf.DiffBaseStorage):
    """Keeps nothing. kopf copies each object in each event to find out what has changed, also if
    no handler wants to know, as here. That was a third of the time of a listing."""

    def build(self, *, body: Any, extra_fields: Any = None) -> Any:
        return {}

    def fetch(self, *, body: Any) -> Any:
        return None

    def store(self, *, body: Any, patch: Any, essence: Any) -> None:
        raise AssertionError("there are no handlers of changes")


def apply_settings(settings: kopf.OperatorSettings, *, namespaced: bool) -> None:
    """Configures kopf. It posts no events: clients/recorder does. It reopens an inactive watch, and
    every wait has a timeout, so a dead connection costs at most about a minute."""
    settings.posting.enabled = False
    # Namespaces and CRDs are cluster-wide. Without the right to list them, kopf retries for half a
    # minute before it watches anything.
    settings.scanning.disabled = namespaced
    settings.watching.inactivity_timeout = 70
    settings.watching.server_timeout = 600
    settings.watching.client_timeout = 660
    settings.watching.connect_timeout = 10
    settings.watching.chunk_size = 100
    for kind in WATCHED:
        settings.watching.label_selectors[kind] = SELECTOR
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 5
    settings.networking.error_backoffs = [1, 2, 4, 8, 16]
    settings.queueing.exit_timeout = 10
    settings.queueing.idle_timeout = 0.5
    settings.persistence.finalizer = f"{names.GROUP}/kopf"
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=names.GROUP)
    settings.persistence.diffbase_storage = NoDifferences()
    # This timeout would kill the whole process because one watch ends slowly. The liveness probe
    # ends a stuck process.
    settings.process.ultimate_exiting_timeout = None
