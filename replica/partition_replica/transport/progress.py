"""Serves the progress of a command on plain HTTP, for example to the operator. It contains no
secrets."""

import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from partition_replica.transport.listening import parse_listen

Said = tuple[str, int]
"""(phase, percent of the whole command)."""


@asynccontextmanager
async def served_progress(listen: str, said: Callable[[], Said]) -> AsyncIterator[None]:
    """Serves GET /progress, {"phase": …, "percent": …}, at HOST:PORT inside the context. If it
    can't listen, it writes a line to standard error: the command works without it, too."""

    async def progress(_: web.Request) -> web.Response:
        phase, percent = said()
        return web.Response(
            text=json.dumps({"phase": phase, "percent": percent}), content_type="application/json"
        )

    app = web.Application()
    app.router.add_get("/progress", progress)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        try:
            host, port = parse_listen(listen)
            await web.TCPSite(runner, host, port).start()
        except (OSError, ValueError, OverflowError) as error:
            sys.stderr.write(f"partition-replica: progress is not served: {error}\n")
        yield
    finally:
        await runner.cleanup()
