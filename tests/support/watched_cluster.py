"""Namespaces that are watched in memory: watches fail, and namespaces are missing."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from partition_operator.clients.kube import ApiError
from partition_operator.clients.nodes import NodeBook
from partition_operator.handlers.watches import NODES, Watches
from partition_operator.turns.queue import WorkQueue

from tests.support.local_group import eventually


async def nobody(_: int) -> None:
    raise AssertionError("nobody is deposed here")


class Cluster:
    """In place of kopf and of the API server. `starts`: of watches, by namespace. A namespace in
    `failing` fails when it is watched, one in `missing` can't be listed."""

    def __init__(self) -> None:
        self.queue = WorkQueue(1, nobody)
        self.starts: dict[str, int] = {}
        self.running: set[str] = set()
        self.failing: set[str] = set()
        self.missing: set[str] = set()
        self.threads: set[int] = set()
        self.registries: dict[str, Any] = {}

    async def probe(self, namespace: str) -> None:
        if namespace in self.missing:
            raise ApiError(403, "forbidden")

    async def kopf(
        self, *, registry: Any, namespaces: tuple[str, ...], stop_flag: Any, **_: Any
    ) -> None:
        namespace = namespaces[0] if namespaces else NODES
        self.registries[namespace] = registry
        self.threads.add(threading.get_ident())
        self.starts[namespace] = self.starts.get(namespace, 0) + 1
        self.running.add(namespace)
        try:
            while not stop_flag.is_set():
                if namespace in self.failing:
                    raise RuntimeError("watch-stream: 403")
                await asyncio.sleep(0.01)
        finally:
            self.running.discard(namespace)

    async def tells_of_a_cordoned_node(self, name: str) -> None:
        """As kopf does: calls every handler of nodes, whichever watch has it."""
        for registry in self.registries.values():
            for handler in registry._watching.get_all_handlers():
                if handler.selector.any_name == "nodes" or handler.selector.plural == "nodes":
                    spec = {"unschedulable": True}
                    await handler.fn(event={"type": "MODIFIED"}, name=name, spec=spec)

    @asynccontextmanager
    async def watched(
        self, *namespaces: str, nodes: NodeBook | None = None
    ) -> AsyncIterator[Watches]:
        found = Watches(self.queue, self.probe, "me", namespaces, nodes)
        task = asyncio.create_task(found.run())
        try:
            yield found
        finally:
            task.cancel()
            await asyncio.wait({task})
        assert not self.running, "every thread has ended"

    async def sees(self, *namespaces: str) -> None:
        async def same() -> bool:
            return self.running == set(namespaces)

        await eventually(same, f"watched are {namespaces}", 10)
