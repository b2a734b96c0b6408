"""Runs the watches: one kopf per namespace, or one for the whole cluster; and one for the nodes.

Each kopf runs in its own thread with its own event loop. When kopf fails, it cancels every task of
its loop that is younger than itself. It also takes over the process's signal handlers. Neither may
affect the reconcile loop or other namespaces. A failed watch is restarted.
"""

import asyncio
import logging
import random
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Protocol, cast

import kopf
from partition_common import backoff

from partition_operator.clients.nodes import NodeBook, NodeFacts
from partition_operator.errors import OperatorError, text_of
from partition_operator.handlers.watching import KeyQueue, build_node_registry, build_registry
from partition_operator.turns.queue import News

logger = logging.getLogger(__name__)

EVERYWHERE = ""
"""Used instead of a namespace to watch the whole cluster."""
NODES = "*nodes"
"""Used instead of a namespace to watch the nodes. No namespace has such a name."""
STOP_S = 15.0
"""Seconds that the threads may take to end."""

Probe = Callable[[str], Awaitable[None]]
"""Checks that our objects can be listed in a namespace, or everywhere; or, for NODES, the nodes.
Raises OperatorError."""


_Flag = tuple[asyncio.AbstractEventLoop, asyncio.Event]
"""The loop of one kopf, and the event that stops it."""


class ForgettingQueue(KeyQueue, Protocol):
    def forget(self, namespace: str) -> None:
        """Drops the keys of a namespace that is not watched any more."""


class Watches:
    """Enqueues the keys of changed objects. down: how many watches do not run."""

    def __init__(
        self,
        queue: ForgettingQueue,
        probe: Probe,
        identity: str,
        namespaces: tuple[str, ...],
        nodes: NodeBook | None = None,
    ) -> None:
        """namespaces: empty for all. nodes: None to watch no nodes."""
        self._nodes = nodes
        self._queue = queue
        self._probe = probe
        # kopf's default needs a user name, which a random UID does not have.
        self._identity = identity
        self._scopes = tuple(dict.fromkeys(namespaces)) or (EVERYWHERE,)
        if nodes is not None:
            # By itself: whatever happens to a namespace, cordons are seen.
            self._scopes += (NODES,)
        self._up: set[str] = set()
        self._stopping = threading.Event()
        self._flags: set[_Flag] = set()
        self._lock = threading.Lock()

    @property
    def down(self) -> int:
        return len(self._scopes) - len(self._up)

    async def run(self) -> None:
        """Watches until it is cancelled, then ends every thread."""
        executor = ThreadPoolExecutor(len(self._scopes), thread_name_prefix="watch")
        keeping = [asyncio.create_task(self._keep(scope, executor)) for scope in self._scopes]
        try:
            done, _ = await asyncio.wait(keeping, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # these tasks end only because of a bug
        finally:
            self._stop()
            for task in keeping:
                task.cancel()
            await asyncio.gather(*keeping, return_exceptions=True)
            executor.shutdown(wait=False, cancel_futures=True)

    async def _keep(self, scope: str, executor: ThreadPoolExecutor) -> None:
        failures = 0
        while not self._stopping.is_set():
            try:
                # kopf does not report missing CRDs, and retries a forbidden list for a long time.
                await self._probe(scope)
            except OperatorError as error:
                self._unreachable(scope, error, failures)
            else:
                if failures:
                    logger.info("watching %s again", _where(scope))
                failures = 0
                await self._watch(scope, executor)
            pause = backoff.WATCH.after(failures + 1)
            failures += 1
            await asyncio.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311  # spreads retries

    def _unreachable(self, scope: str, error: OperatorError, failures: int) -> None:
        """Logs a warning at the first failure and at every 20th. The metric shows it all the
        time."""
        level = logging.WARNING if failures % 20 == 0 else logging.DEBUG
        hint = (
            "; if the namespace was deleted for good, remove it from watchNamespaces"
            if _is_namespace(scope)
            else ""
        )
        why = text_of(error)
        logger.log(level, "can't watch %s; the operator retries%s: %s", _where(scope), hint, why)
        if _is_namespace(scope):
            # Turns of its objects would fail, too. The next listing enqueues them again.
            self._queue.forget(scope)

    async def _watch(self, scope: str, executor: ThreadPoolExecutor) -> None:
        """Watches until the watch fails."""
        loop = asyncio.get_running_loop()
        self._up.add(scope)
        watch = loop.run_in_executor(executor, self._run_kopf, scope, loop)
        try:
            await asyncio.shield(watch)
        except asyncio.CancelledError:
            self._stop()
            await asyncio.wait({watch}, timeout=STOP_S)
            raise
        except Exception as error:  # kopf's own errors have no common base
            why = f"{type(error).__name__}: {text_of(error)}"
            logger.warning("the watch of %s failed and is restarted: %s", _where(scope), why)
        finally:
            self._up.discard(scope)

    def _run_kopf(self, scope: str, loop: asyncio.AbstractEventLoop) -> None:
        """Runs kopf until it fails or is stopped. Called in its own thread."""
        queue = _FromThread(self._queue, loop)
        namespaces = (scope,) if _is_namespace(scope) else ()
        if scope == NODES:
            assert self._nodes is not None, "this scope exists only with a book"
            registry = build_node_registry(_NodesFromThread(self._nodes, loop))
        else:
            registry = build_registry(queue, namespaced=bool(namespaces))

        async def run() -> None:
            # Not a threading.Event: kopf waits for that in a thread of the loop's executor. The
            # loop joins that thread after kopf has failed, so a failed watch would never end.
            flag = asyncio.Event()
            entry = asyncio.get_running_loop(), flag
            with self._lock:
                self._flags.add(entry)
            if self._stopping.is_set():
                flag.set()
            try:
                await kopf.operator(
                    registry=registry,
                    # kopf's type of an identity is a str with a name in a private module.
                    identity=cast(Any, self._identity),
                    # No peering: the Lease elects the working operator.
                    standalone=True,
                    clusterwide=not namespaces,
                    namespaces=namespaces,
                    stop_flag=flag,
                )
            finally:
                with self._lock:
                    self._flags.discard(entry)

        asyncio.run(run())

    def _stop(self) -> None:
        """Ends every kopf that runs or is about to run."""
        self._stopping.set()
        with self._lock:
            flags = list(self._flags)
        for loop, flag in flags:
            with suppress(RuntimeError):  # it has just ended
                loop.call_soon_threadsafe(flag.set)


class _FromThread:
    """The queue, for handlers in another thread than the queue's loop."""

    def __init__(self, queue: KeyQueue, loop: asyncio.AbstractEventLoop) -> None:
        self._queue = queue
        self._loop = loop

    def enqueue(self, kind: str, namespace: str, name: str, news: News) -> None:
        self._loop.call_soon_threadsafe(self._queue.enqueue, kind, namespace, name, news)


class _NodesFromThread:
    """The notes of nodes, for handlers in another thread than the loop of the turns."""

    def __init__(self, book: NodeBook, loop: asyncio.AbstractEventLoop) -> None:
        self._book = book
        self._loop = loop

    def note(self, name: str, found: NodeFacts | None) -> None:
        self._loop.call_soon_threadsafe(self._book.note, name, found)


def _is_namespace(scope: str) -> bool:
    return scope not in (EVERYWHERE, NODES)


def _where(scope: str) -> str:
    if scope == NODES:
        return "the nodes"
    return f"namespace {scope}" if scope != EVERYWHERE else "the cluster"
