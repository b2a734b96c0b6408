"""A snapshot job's own process: `partition-replica snapshot … --job`, which reads and sends while
this one goes on applying. How the two talk: offline/snapshot_child.py."""

import asyncio
import json
import logging
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from partition_replica.core.limits import Limits

logger = logging.getLogger(__name__)

LINE_BYTES_MAX = 64 * 1024
"""Of what the process says; a report has at most 4000."""

_CREDENTIALS = "AWS_"
"""Of variables that are ours, or the node's, and not the store's: the process gets the job's."""


class JobFailed(Exception):
    """reason: a CamelCase word that callers may compare. retriable: the same job may succeed later
    without anybody changing anything."""

    def __init__(self, reason: str, message: str, *, retriable: bool) -> None:
        super().__init__(message)
        self.reason = reason
        self.retriable = retriable


class SnapshotProcess:
    """One run. `told(phase, done, total)` hears how far it is; `capture` is asked for the state at
    most once, and its answer passed on."""

    def __init__(
        self,
        limits: Limits,
        *,
        told: Callable[[str, int, int], None],
        capture: Callable[[], Awaitable[dict[str, Any]]],
        command: tuple[str, ...] = ("snapshot",),
        stall_s: float | None = None,
    ) -> None:
        """command: what of `partition-replica` is run; stall_s: after how long without progress it
        is ended, in seconds, where that is not a snapshot job's."""
        self.returncode: int | None = None
        self._command = command
        self._stall_s = limits.snapshot_job_stall_s if stall_s is None else stall_s
        self._limits = limits
        self._told = told
        self._capture = capture

    async def run(self, arguments: list[str], environment: dict[str, str]) -> dict[str, Any]:
        """The report of a command that succeeded. The process is gone when this returns or raises,
        cancelled, too. Raises JobFailed, and what `capture` raises."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(_CREDENTIALS)}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "partition_replica",
            *self._command,
            *arguments,
            "--job",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=inherited | environment,
            limit=LINE_BYTES_MAX,
        )
        report, ending = None, False
        try:
            report = await self._talk(process)
            ending = True  # it has reported, or closed its output
        except (ConnectionError, ValueError) as error:
            # It died while it was told something, or said what is no line of ours.
            logger.warning("the snapshot process broke off: %s", error)
        finally:
            await self._end(process, ending)
            self.returncode = process.returncode
        if report is None:
            raise JobFailed(
                "ProcessDied",
                f"the snapshot process ended with {process.returncode} and without a report: see "
                "the replica's log; it may succeed when it is tried again",
                retriable=True,
            )
        if report["state"] != "succeeded":
            raise JobFailed(report["reason"], report["message"], retriable=report["retriable"])
        return report

    async def _talk(self, process: asyncio.subprocess.Process) -> dict[str, Any] | None:
        """Its report; None where it ends without one."""
        assert process.stdout is not None
        assert process.stdin is not None
        loop = asyncio.get_running_loop()
        last: tuple[str, int] | None = None
        deadline = loop.time() + self._stall_s
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    line = await process.stdout.readline()
            except TimeoutError as error:
                raise JobFailed(
                    "Stalled",
                    f"no progress for {self._stall_s:.0f} s, at {last}: it is "
                    "ended, and may succeed when it is tried again",
                    retriable=True,
                ) from error
            if not line.endswith(b"\n"):
                return None
            message = json.loads(line)
            if "report" in message:
                report: dict[str, Any] = message["report"]
                return report
            if "need" in message:
                captured = await self._capture()
                process.stdin.write(json.dumps(captured).encode() + b"\n")
                await process.stdin.drain()
            else:
                found = (message["phase"], message["done"])
                if found == last:
                    continue
                last = found
                self._told(message["phase"], message["done"], message["total"])
            deadline = loop.time() + self._stall_s

    async def _end(self, process: asyncio.subprocess.Process, ending: bool) -> None:
        """Returns when it is gone: by itself where it does already, else told to, then killed."""
        waiting = asyncio.ensure_future(self._ended(process, ending))
        try:
            await asyncio.shield(waiting)
        except asyncio.CancelledError:
            await asyncio.wait([waiting])
            raise

    async def _ended(self, process: asyncio.subprocess.Process, ending: bool) -> None:
        try:
            if process.returncode is None and not ending:
                process.terminate()
            async with asyncio.timeout(self._limits.snapshot_job_end_s):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        except ProcessLookupError:
            await process.wait()
        finally:
            if process.stdin is not None:
                process.stdin.close()
