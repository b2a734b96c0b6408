"""Probes and metrics on plain HTTP: the kubelet's gRPC probe does not support TLS, and the answers
contain no secrets."""

from collections.abc import Callable

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from partition_replica.transport.listening import parse_listen


async def serve_http(
    listen: str,
    *,
    ready: Callable[[], tuple[bool, str]],
    measure: Callable[[], None],
    registry: CollectorRegistry,
) -> web.AppRunner:
    """Serves /livez (the process runs), /readyz (the replica serves) and /metrics, for which
    `measure` sets gauges first. The caller cleans up the returned runner."""

    async def livez(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        is_ready, why = ready()
        return web.Response(text=f"{why}\n", status=200 if is_ready else 503)

    async def metrics(_: web.Request) -> web.Response:
        measure()
        return web.Response(
            body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    app = web.Application()
    app.router.add_get("/livez", livez)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    host, port = parse_listen(listen)
    await web.TCPSite(runner, host, port).start()
    return runner
