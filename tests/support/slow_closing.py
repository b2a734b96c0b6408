"""A replica that closes a session late, and a lock that tells who wants it."""

import asyncio
import threading
from typing import Any

from partition_proto.v1 import log_store_pb2 as api

from tests.support.stand_in_replica import StandInReplica


class Slow(StandInReplica):
    """Closes a session once it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()
        self.go_on = asyncio.Event()

    async def CloseSession(self, request: Any, context: Any) -> api.CloseSessionResponse:
        self._count("CloseSession")
        self.asked.set()
        await self.go_on.wait()
        return api.CloseSessionResponse()


class Interrupted(Exception):
    """Stands for KeyboardInterrupt, which would end the loop, too."""


class Wanted:
    """A lock that tells when a second thread wants it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._wants = 0
        self.twice = threading.Event()

    def __enter__(self) -> None:
        self._wants += 1
        if self._wants == 2:
            self.twice.set()
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
