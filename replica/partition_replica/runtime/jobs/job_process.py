"""The process of one job: `partition-replica snapshot … --job` or `verify … --job`.

It reads and sends while this process continues to apply entries. offline/snapshots/child.py
describes their protocol.
"""

import asyncio
import json
import logging
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from partition_replica.core.limits import Limits
from partition_replica.threads import finish

logger = logging.getLogger(__name__)

LINE_BYTES_MAX = 64 * 1024
"""Maximum length of a line from the process. A report has at most 4000 bytes."""

_CREDENTIALS = "AWS_"
"""Prefix of variables that the process does not inherit: it receives the job's own credentials."""


class JobFailed(Exception):
    """The job did not succeed. reason: a CamelCase word that callers may compare. retriable:
    whether the same job may succeed later without any change."""

    def __init__(self, reason: str, message: str, *, retriable: bool) -> None:
        super().__init__(message)
        self.reason = reason
        self.retriable = retriable


class JobProcess:
    """One run of a job. `told(phase, done, total)` is called with its progress. `capture` is called
    at most once; it copies the state and returns what is sent to the process."""

    def __init__(
        self,
        limits: Limits,
        *,
        told: Callable[[str, int, int], None],
        capture: Callable[[], Awaitable[dict[str, Any]]],
        command: tuple[str, ...] = ("snapshot",),
        stall_s: float | None = None,
    ) -> None:
        """command: the command of `partition-replica` to run. stall_s: seconds without progress
        after which the process is ended; None means `snapshot_job_stall_s`."""
        self.returncode: int | None = None
        self._command = command
        self._stall_s = limits.snapshot_job_stall_s if stall_s is None else stall_s
        self._limits = limits
        self._told = told
        self._capture = capture

    async def run(self, arguments: list[str], environment: dict[str, str]) -> dict[str, Any]:
        """Returns the report of a command that succeeded. Raises JobFailed and the errors of
        `capture`. The process has ended when this returns, raises or is cancelled."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(_CREDENTIALS)}
        process = await self._start(arguments, inherited | environment)
        report, ending = None, False
        try:
            report = await self._talk(process)
            ending = True  # it has sent its report, or closed its output
        except (ConnectionError, _NotOurs) as error:
            # It died while it received the answer of `capture`, or wrote an invalid line.
            logger.warning("the job's process failed: %s", error)
        finally:
            await self._end(process, ending)
            self.returncode = process.returncode
        if report is None:
            raise JobFailed(
                "ProcessDied",
                f"the job's process ended with exit code {process.returncode} and without a "
                "report: see the replica's log, and start the job again",
                retriable=True,
            )
        if report["state"] != "succeeded":
            raise JobFailed(report["reason"], report["message"], retriable=report["retriable"])
        return report

    async def _start(
        self, arguments: list[str], environment: dict[str, str]
    ) -> asyncio.subprocess.Process:
        """Raises JobFailed if the process can't be started: the node lacks memory, processes or
        file descriptors, or an argument is invalid."""
        starting = asyncio.ensure_future(
            asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "partition_replica",
                *self._command,
                *arguments,
                "--job",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env=environment,
                limit=LINE_BYTES_MAX,
            )
        )
        try:
            return await finish(starting)
        except asyncio.CancelledError:
            if not starting.cancelled() and starting.exception() is None:
                await self._end(starting.result(), ending=False)
            raise
        except OSError as error:
            raise JobFailed(
                "ProcessNotStarted",
                f"the job's process could not be started ({error}): start the job again when the "
                "node has free processes, memory and file descriptors",
                retriable=True,
            ) from error
        except ValueError as error:  # a zero byte; not shown, because it may be in a secret
            raise JobFailed(
                "InvalidArgument",
                "the job's process could not be started: a field of the job or its destination "
                "contains a zero byte, which is not allowed",
                retriable=False,
            ) from error

    async def _talk(self, process: asyncio.subprocess.Process) -> dict[str, Any] | None:
        """Returns the process's report, or None if it ends without one."""
        assert process.stdout is not None
        assert process.stdin is not None
        loop = asyncio.get_running_loop()
        last: tuple[str, int, int] | None = None
        deadline = loop.time() + self._stall_s
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    line = await process.stdout.readline()
            except TimeoutError as error:
                raise JobFailed(
                    "Stalled",
                    f"no progress for {self._stall_s:.0f} s, at {last}: the job was ended; "
                    "start it again",
                    retriable=True,
                ) from error
            except ValueError as error:
                raise _NotOurs("a line is too long") from error
            if not line.endswith(b"\n"):
                return None
            message = _parse(line)
            if "report" in message:
                report: dict[str, Any] = message["report"]
                return report
            if "need" in message:
                captured = await self._capture()
                process.stdin.write(json.dumps(captured).encode() + b"\n")
                await process.stdin.drain()
            else:
                found = (message["phase"], message["done"], message["total"])
                if found == last:
                    continue
                last = found
                self._told(*found)
            deadline = loop.time() + self._stall_s

    async def _end(self, process: asyncio.subprocess.Process, ending: bool) -> None:
        """Returns once the process has ended: on its own if it is `ending`, otherwise by SIGTERM.
        It is killed if that takes longer than `snapshot_job_end_s`."""
        await finish(self._ended(process, ending))

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


class _NotOurs(Exception):
    """A line that does not follow our protocol."""


_REPORTED: dict[str, type] = {"state": str}
_FAILED: dict[str, type] = {"reason": str, "message": str, "retriable": bool}
_PROGRESS: dict[str, type] = {"phase": str, "done": int, "total": int}


def _parse(line: bytes) -> dict[str, Any]:
    """Parses a line: a report, a need, or progress. Raises _NotOurs."""
    try:
        message = json.loads(line)
    except ValueError as error:
        raise _NotOurs(f"it is not JSON: {error}") from error
    if not isinstance(message, dict):
        raise _NotOurs("it is not a JSON object")
    if "report" in message:
        report = message["report"]
        _check(report, _REPORTED)
        if report["state"] != "succeeded":
            _check(report, _FAILED)
    elif "need" not in message:
        _check(message, _PROGRESS)
    return message


def _check(found: Any, kinds: dict[str, type]) -> None:
    for name, kind in kinds.items():
        if not isinstance(found, dict) or not isinstance(found.get(name), kind):
            raise _NotOurs(f"its {name} is missing or not a {kind.__name__}")
