"""How far a command is, on plain HTTP, for whoever runs it where no terminal is: nothing of it is
secret."""

import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from partition_replica.transport.listening import parse_listen

Said = tuple[str, int]
"""A phase, and percent of the whole."""


@asynccontextmanager
async def served_progress(listen: str, said: Callable[[], Said]) -> AsyncIterator[None]:
    """Serves GET /progress, {"phase": …, "percent": …}, at HOST:PORT meanwhile. Where it can't, it
    says so on standard error: a command does its work unseen, too."""

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
