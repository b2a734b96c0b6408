"""How far a pod that restores is, as it says itself."""

import json
from http import HTTPStatus
from typing import Any

import aiohttp

from partition_operator.api import names
from partition_operator.reconcile.observed.progress import JobProgress, parse_progress

TIMEOUT = aiohttp.ClientTimeout(total=0.5)
"""It is asked at each look; a network policy may swallow the question."""
BODY_BYTES_MAX = 4096


async def ask_progress(pod: dict[str, Any] | None) -> JobProgress | None:
    """None for a pod that does not run, or says nothing that makes sense: that is no error, its end
    is what counts. Takes half a second at most."""
    status = (pod or {}).get("status") or {}
    ip = status.get("podIP")
    if status.get("phase") != "Running" or not ip:
        return None
    url = f"http://{names.endpoint(ip, names.HTTP_PORT)}/progress"
    try:
        async with (
            aiohttp.ClientSession(timeout=TIMEOUT, trust_env=False) as session,
            session.get(url, allow_redirects=False) as response,
        ):
            if response.status != HTTPStatus.OK:
                return None
            return parse_progress(json.loads(await _read(response.content)))
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError, RecursionError):
        return None


async def _read(content: aiohttp.StreamReader) -> bytes:
    """All of it, bounded. Raises ValueError."""
    found = b""
    while chunk := await content.read(BODY_BYTES_MAX):
        found += chunk
        if len(found) > BODY_BYTES_MAX:
            raise ValueError(f"more than {BODY_BYTES_MAX} bytes of progress")
    return found
