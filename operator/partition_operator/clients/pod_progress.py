"""Reads the progress of a restoring or verifying pod from the pod."""

import json
from http import HTTPStatus
from typing import Any

import aiohttp

from partition_operator.api import names
from partition_operator.reconcile.observed.progress import JobProgress, parse_progress

TIMEOUT = aiohttp.ClientTimeout(total=0.5)
"""Short, because each turn asks, and a network policy may drop the request."""
BODY_BYTES_MAX = 4096


async def ask_progress(pod: dict[str, Any] | None) -> JobProgress | None:
    """Returns the progress, or None if the pod does not run or its answer is not valid. That is no
    error, because only the pod's result matters. Takes at most half a second."""
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
    """Reads the whole body. Raises ValueError above BODY_BYTES_MAX."""
    found = b""
    while chunk := await content.read(BODY_BYTES_MAX):
        found += chunk
        if len(found) > BODY_BYTES_MAX:
            raise ValueError(f"the progress has more than {BODY_BYTES_MAX} bytes")
    return found
