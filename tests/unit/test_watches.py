"""Watches that fail: each is started again, and no other notices."""

import asyncio
import threading
from typing import Any

import kopf
import pytest
from partition_common import backoff
from partition_common.backoff import Backoff
from partition_operator.clients.nodes import NodeBook
from partition_operator.handlers import watches
from partition_operator.handlers.watches import NODES, Watches
from partition_operator.handlers.watching import COMPONENTS, WATCHED, apply_settings, build_registry
from partition_operator.turns.queue import (
    PARTITION,
    SCHEDULE,
    Key,
    News,
    QueueItem,
    Version,
    WorkQueue,
)

from tests.support.local_group import eventually
from tests.support.watched_cluster import Cluster, nobody


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    found = Cluster()
    monkeypatch.setattr(kopf, "operator", found.kopf)
    monkeypatch.setattr(backoff, "WATCH", Backoff(0.02))
    return found


async def test_a_watch_that_fails_ends_no_other_and_is_started_again(cluster: Cluster) -> None:
    async with cluster.watched("a", "b") as found:
        await cluster.sees("a", "b")
        assert found.down == 0
        cluster.failing.add("b")

        async def again() -> bool:
            return cluster.starts["b"] > 2

        await eventually(again, "it is tried again", 10)
        assert cluster.running >= {"a"}
        assert cluster.starts["a"] == 1
        cluster.failing.clear()
        await cluster.sees("a", "b")
    assert threading.get_ident() not in cluster.threads, "kopf cancels what runs in its loop"


async def test_what_was_in_a_namespace_that_is_gone_is_forgotten(cluster: Cluster) -> None:
    cluster.missing.add("b")
    for namespace in ("a", "b"):
        cluster.queue.enqueue(PARTITION, namespace, "part")
    async with cluster.watched("a", "b") as found:
        await cluster.sees("a")

        async def forgotten() -> bool:
            return cluster.queue.queued == 1

        await eventually(forgotten, "only the other namespace's is left", 10)
        assert found.down == 1
        cluster.missing.clear()
        await cluster.sees("a", "b")
        assert found.down == 0


async def test_nodes_are_watched_although_no_namespace_can_be(cluster: Cluster) -> None:
    """By a kopf of their own, which is started again like the others."""
    cluster.missing |= {"a", "b"}
    nodes = NodeBook(lambda _: None)
    async with cluster.watched("a", "b", nodes=nodes) as found:
        await cluster.sees(NODES)
        assert found.down == 2
        cluster.failing.add(NODES)

        async def again() -> bool:
            return cluster.starts[NODES] > 2

        await eventually(again, "it is tried again", 10)
        cluster.missing.clear()
        cluster.failing.clear()
        await cluster.sees("a", "b", NODES)
        assert found.down == 0
        await cluster.tells_of_a_cordoned_node("node-1")

        async def cordoned() -> bool:
            return nodes.is_cordoned("node-1")

        await eventually(cordoned, "the cordon is noted in the loop of the turns", 10)


async def test_nodes_that_cannot_be_listed_hold_up_no_namespace(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.missing.add(NODES)
    async with cluster.watched("a", nodes=NodeBook(lambda _: None)) as found:
        await cluster.sees("a")
        assert found.down == 1
    assert "can't watch the nodes" in caplog.text
    assert "watchNamespaces" not in caplog.text


async def test_a_key_that_is_forgotten_before_its_turn_has_none() -> None:
    queue = WorkQueue(1, nobody)
    turns: list[str] = []

    async def turn(key: Key, _: QueueItem) -> float:
        turns.append(key.name)
        if key.name == "first":
            queue.forget("gone")
        return 60.0

    queue.serve({PARTITION: turn})
    for namespace, name in (("here", "first"), ("gone", "second"), ("here", "third")):
        queue.enqueue(PARTITION, namespace, name)
    running = asyncio.create_task(queue.run())

    async def all_others() -> bool:
        return turns == ["first", "third"]

    try:
        await eventually(all_others, "the others have their turns", 10)
    finally:
        running.cancel()


@pytest.mark.parametrize("kind", WATCHED)
def test_only_objects_with_our_labels_are_asked_for(kind: tuple[str, str, str]) -> None:
    settings = kopf.OperatorSettings()
    apply_settings(settings, namespaced=False)
    group, version, plural = kind
    found = settings.watching.label_selectors.collect(kopf.Resource(group, version, plural))
    assert list(found) == [
        "logstore.dev/partition,app.kubernetes.io/component in (replica,restore,verify)"
    ]
    ours = kopf.Resource("logstore.dev", "v1alpha1", "partitions")
    assert not list(settings.watching.label_selectors.collect(ours))


def test_every_handler_is_within_what_is_asked_for() -> None:
    registry = build_registry(WorkQueue(1, nobody), namespaced=True)
    for handler in registry._watching.get_all_handlers():
        if handler.selector.group == "logstore.dev":
            continue
        assert handler.labels["logstore.dev/partition"] == kopf.PRESENT
        assert handler.labels["app.kubernetes.io/component"] in COMPONENTS


async def test_handlers_run_in_no_thread_of_kopfs() -> None:
    registry = build_registry(WorkQueue(1, nobody), namespaced=True)
    handlers = list(registry._watching.get_all_handlers())
    assert handlers
    assert all(asyncio.iscoroutinefunction(handler.fn) for handler in handlers)


class Told:
    """A queue that only takes down what it is told, by kind."""

    def __init__(self) -> None:
        self.news: dict[str, News] = {}

    def enqueue(self, kind: str, namespace: str, name: str, news: News) -> None:
        self.news[kind] = news


async def told(change: str | None, version: str, **body: Any) -> dict[str, News]:
    """What an event of a Partition tells. change: kopf's type of the event."""
    queue = Told()
    found = build_registry(queue, namespaced=True)._watching.get_all_handlers()
    handler = next(h for h in found if h.selector.any_name == "partitions")
    metadata = {"uid": "u", "resourceVersion": version, "generation": 4}
    event = {"type": change, "object": {"metadata": metadata} | body}
    await handler.fn(namespace="ns", name="part", event=event)
    return queue.news


async def test_an_event_tells_the_version_and_whether_it_is_of_a_listing() -> None:
    assert (await told("MODIFIED", "7"))[PARTITION] == News(Version("u", "7"))
    assert (await told(None, "7"))[PARTITION] == News(Version("u", "7"), listed=True)
    assert (await told("DELETED", "7"))[PARTITION] == News(None)


async def test_without_a_policy_a_status_tells_nothing_about_snapshots() -> None:
    """Otherwise each write of a Partition's status would cost a turn of its schedule, too."""
    first, second = await told("MODIFIED", "7"), await told("MODIFIED", "8", status={"state": "a"})
    assert first[SCHEDULE] == second[SCHEDULE]
    assert first[PARTITION] != second[PARTITION]
    for body in ({"spec": {"snapshots": {"schedule": "x"}}}, {"status": {"snapshots": {"a": 1}}}):
        assert (await told("MODIFIED", "8", **body))[SCHEDULE] == News(Version("u", "8"))
    assert (await told("DELETED", "8"))[SCHEDULE] == News(None)


def test_kopf_copies_no_object_to_find_out_what_has_changed() -> None:
    settings = kopf.OperatorSettings()
    apply_settings(settings, namespaced=True)
    storage = settings.persistence.diffbase_storage
    body = kopf.Body({"metadata": {"name": "part"}, "spec": {"replicas": 1}})
    assert (storage.build(body=body), storage.fetch(body=body)) == ({}, None)


@pytest.mark.parametrize("namespaced", [True, False])
def test_what_is_cluster_wide_is_scanned_only_with_the_right_to(namespaced: bool) -> None:
    settings = kopf.OperatorSettings()
    apply_settings(settings, namespaced=namespaced)
    assert settings.scanning.disabled is namespaced


async def test_a_watch_whose_kopf_fails_is_started_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The real kopf: it has to let go of its thread."""
    starts: list[int] = []

    def registry(*_: Any, **__: Any) -> kopf.OperatorRegistry:
        found = kopf.OperatorRegistry()

        @kopf.on.startup(registry=found, errors=kopf.ErrorsMode.PERMANENT)
        async def fail(**_: Any) -> None:
            starts.append(1)
            raise kopf.PermanentError("a planted fault")

        return found

    async def probe(_: str) -> None: ...

    monkeypatch.setattr(watches, "build_registry", registry)
    monkeypatch.setattr(backoff, "WATCH", Backoff(0.01))
    found = Watches(WorkQueue(1, nobody), probe, "me", ("ns",))
    task = asyncio.create_task(found.run())

    async def twice() -> bool:
        return len(starts) > 1

    await eventually(twice, "it is started again", 30)
    assert "is restarted" in caplog.text
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
