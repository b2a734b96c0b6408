"""Writes events: one object per reason and message, whose count rises. The rate per minute is
limited."""

import datetime as dt
import hashlib
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from partition_operator.api import names
from partition_operator.api.events import Event
from partition_operator.clients.kube import Body, Kube
from partition_operator.errors import OperatorError, text_of

logger = logging.getLogger(__name__)

MESSAGE_MAX = 1000


class Subject(Protocol):
    """The object that an event is about."""

    @property
    def kind(self) -> str: ...
    @property
    def namespace(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def uid(self) -> str: ...


class Recorder:
    """Posts events about our objects. A failure is logged and does not stop the work."""

    def __init__(
        self,
        kube: Kube,
        a_minute_max: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kube = kube
        self._a_minute_max = a_minute_max
        self._clock = clock
        self._posted: deque[float] = deque()
        self.dropped = 0

    async def post(self, subject: Subject, event: Event) -> None:
        if not self._allowed(self._a_minute_max):
            self.dropped += 1
            logger.warning(
                "event dropped, limit per minute reached: %s %s", event.reason, event.message
            )
            return
        await self._try(subject, event)

    async def offer(self, subject: Subject, event: Event) -> bool:
        """Posts an event that can wait. It may use only half of the limit. Returns whether it was
        written; if not, the caller offers it again later."""
        if not self._allowed((self._a_minute_max + 1) // 2):
            return False
        return await self._try(subject, event)

    async def _try(self, subject: Subject, event: Event) -> bool:
        try:
            await self._post(subject, event)
        except OperatorError as error:
            logger.warning("event %s was not written: %s", event.reason, text_of(error))
            return False
        return True

    def _allowed(self, a_minute_max: int) -> bool:
        now = self._clock()
        while self._posted and self._posted[0] < now - 60:
            self._posted.popleft()
        if len(self._posted) >= a_minute_max:
            return False
        self._posted.append(now)
        return True

    async def _post(self, subject: Subject, event: Event) -> None:
        text = f"{subject.uid} {event.kind} {event.reason} {event.message}"
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        name = f"{subject.name}.{digest}"
        stamp = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        live = await self._kube.get("Event", subject.namespace, name)
        if live is not None:
            change: Body = {"count": live.get("count", 1) + 1, "lastTimestamp": stamp}
            await self._kube.merge("Event", live, change)
            return
        await self._kube.create(
            {
                "apiVersion": "v1",
                "kind": "Event",
                "metadata": {"name": name, "namespace": subject.namespace},
                "type": event.kind,
                "reason": event.reason,
                "message": event.message[:MESSAGE_MAX],
                "involvedObject": {
                    "apiVersion": names.API_VERSION,
                    "kind": subject.kind,
                    "name": subject.name,
                    "namespace": subject.namespace,
                    "uid": subject.uid,
                },
                "source": {"component": names.MANAGED_BY},
                "firstTimestamp": stamp,
                "lastTimestamp": stamp,
                "count": 1,
            }
        )
