"""What a pod that restores says of itself, and what the operator makes of it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from partition_operator.api import names
from partition_operator.clients import pod_progress
from partition_operator.reconcile.observed.progress import JobProgress, parse_progress
from partition_replica.transport.progress import served_progress

from dev.ports import free_port


def pod(ip: str = "127.0.0.1", phase: str = "Running") -> dict[str, Any]:
    return {"status": {"phase": phase, "podIP": ip}}


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    found = free_port()
    monkeypatch.setattr(names, "HTTP_PORT", found)
    return found


async def test_both_sides_understand_each_other(port: int) -> None:
    said = ("Preparing", 0)
    async with served_progress(f"127.0.0.1:{port}", lambda: said):
        assert await pod_progress.ask_progress(pod()) == JobProgress("Preparing", 0)
        said = ("Restoring", 57)
        assert await pod_progress.ask_progress(pod()) == JobProgress("Restoring", 55)
        assert await pod_progress.ask_progress(pod(phase="Succeeded")) is None
    assert await pod_progress.ask_progress(pod()) is None
    assert await pod_progress.ask_progress(None) is None


async def test_work_goes_on_unseen_where_the_port_is_taken(
    port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    async with served_progress(f"127.0.0.1:{port}", lambda: ("First", 1)):
        async with served_progress(f"127.0.0.1:{port}", lambda: ("Second", 2)):
            assert "progress is not served" in capsys.readouterr().err
        assert await pod_progress.ask_progress(pod()) == JobProgress("First", 0)
    async with served_progress("127.0.0.1:none", lambda: ("Third", 3)):
        assert "progress is not served" in capsys.readouterr().err


@asynccontextmanager
async def answering(port: int, body: bytes, status: int = 200) -> AsyncIterator[None]:
    async def answer(_: web.Request) -> web.Response:
        headers = {"Location": "/elsewhere"} if status == 302 else {}
        return web.Response(body=body, status=status, headers=headers)

    app = web.Application()
    app.router.add_get("/{any}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield
    finally:
        await runner.cleanup()


GOOD = b'{"phase": "Restoring", "percent": 20}'


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 200),
        (b"no JSON", 200),
        (b"[1]", 200),
        (GOOD, 500),
        (GOOD, 302),
        (b" " * pod_progress.BODY_BYTES_MAX + GOOD, 200),
        (b"[" * 4000, 200),
    ],
)
async def test_an_answer_without_sense_is_none(port: int, body: bytes, status: int) -> None:
    async with answering(port, body, status):
        assert await pod_progress.ask_progress(pod()) is None


@pytest.mark.parametrize(
    "said",
    [
        None,
        {},
        {"phase": "X"},
        {"phase": "X", "percent": "5"},
        {"phase": "X", "percent": True},
        {"phase": "X", "percent": 100},
        {"phase": "X", "percent": -1},
        {"phase": "<b>", "percent": 1},
        {"phase": "", "percent": 1},
        {"phase": "X" * 41, "percent": 1},
    ],
)
def test_only_a_phase_and_a_percentage_are_taken(said: Any) -> None:
    assert parse_progress(said) is None
