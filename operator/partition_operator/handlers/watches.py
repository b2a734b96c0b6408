"""Keeps watching: one kopf for each namespace, or one for the whole cluster.

Each runs in a thread with an event loop of its own. When kopf fails it cancels every task of its
loop that is younger than itself, and it takes the process's signal handlers over; neither may reach
the reconcile loop or the other namespaces. A watch that failed is started again.
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

from partition_operator.errors import OperatorError, text_of
from partition_operator.handlers.watching import KeyQueue, build_registry

logger = logging.getLogger(__name__)

EVERYWHERE = ""
"""In place of a namespace: the whole cluster is watched."""
STOP_S = 15.0
"""How long the threads may take to end."""

Probe = Callable[[str], Awaitable[None]]
"""Whether our objects can be listed in a namespace, or everywhere. Raises OperatorError."""


_Flag = tuple[asyncio.AbstractEventLoop, asyncio.Event]
"""What ends one kopf, and the loop that it runs in."""


class ForgettingQueue(KeyQueue, Protocol):
    def forget(self, namespace: str) -> None:
        """Drops the keys of a namespace that is watched no more."""


class Watches:
    """Enqueues the keys of what changes. `down`: how many watches do not run."""

    def __init__(
        self, queue: ForgettingQueue, probe: Probe, identity: str, namespaces: tuple[str, ...]
    ) -> None:
        """namespaces: empty for all."""
        self._queue = queue
        self._probe = probe
        # kopf's own guess asks for a user name, which a random UID does not have.
        self._identity = identity
        self._scopes = tuple(dict.fromkeys(namespaces)) or (EVERYWHERE,)
        self._up: set[str] = set()
        self._stopping = threading.Event()
        self._flags: set[_Flag] = set()
        self._lock = threading.Lock()

    @property
    def down(self) -> int:
        return len(self._scopes) - len(self._up)

    async def run(self) -> None:
        """Watches until it is cancelled, and then ends every thread."""
        executor = ThreadPoolExecutor(len(self._scopes), thread_name_prefix="watch")
        keeping = [asyncio.create_task(self._keep(scope, executor)) for scope in self._scopes]
        try:
            done, _ = await asyncio.wait(keeping, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # they end by a defect alone
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
                # kopf alone would not say that the CRDs are missing, and retries for long what it
                # may not list.
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
        """Said at first and then now and then; the metric says it all the time."""
        level = logging.WARNING if failures % 20 == 0 else logging.DEBUG
        hint = (
            "" if scope == EVERYWHERE else "; if it is gone for good, remove it from the settings"
        )
        why = text_of(error)
        logger.log(level, "can't watch %s, it is tried again%s: %s", _where(scope), hint, why)
        if scope != EVERYWHERE:
            # Looking at what was there would fail in the same way; the next listing enqueues it.
            self._queue.forget(scope)

    async def _watch(self, scope: str, executor: ThreadPoolExecutor) -> None:
        """Returns when the watch has failed."""
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
            logger.warning("the watch of %s failed, it is started again: %s", _where(scope), why)
        finally:
            self._up.discard(scope)

    def _run_kopf(self, scope: str, loop: asyncio.AbstractEventLoop) -> None:
        """In a thread of its own."""
        queue = _FromThread(self._queue, loop)
        namespaces = (scope,) if scope != EVERYWHERE else ()

        async def run() -> None:
            # Not a flag of threads: kopf waits for that on one of the loop's own threads, which
            # the loop joins when kopf has failed, so a failed watch would never end.
            flag = asyncio.Event()
            entry = asyncio.get_running_loop(), flag
            with self._lock:
                self._flags.add(entry)
            if self._stopping.is_set():
                flag.set()
            try:
                await kopf.operator(
                    registry=build_registry(queue, namespaced=bool(namespaces)),
                    # kopf's type of an identity is a str with a name in a private module.
                    identity=cast(Any, self._identity),
                    # No peering: the Lease decides who works.
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
        """Ends what runs in the threads, and what is about to."""
        self._stopping.set()
        with self._lock:
            flags = list(self._flags)
        for loop, flag in flags:
            with suppress(RuntimeError):  # it has just ended
                loop.call_soon_threadsafe(flag.set)


class _FromThread:
    """The queue, for handlers that run in another thread than the queue's loop."""

    def __init__(self, queue: KeyQueue, loop: asyncio.AbstractEventLoop) -> None:
        self._queue = queue
        self._loop = loop

    def enqueue(self, kind: str, namespace: str, name: str) -> None:
        self._loop.call_soon_threadsafe(self._queue.enqueue, kind, namespace, name)


def _where(scope: str) -> str:
    return f"namespace {scope}" if scope != EVERYWHERE else "the cluster"
