"""A member without a Raft loop, for tests of the replica that stops it."""

import asyncio
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any, Literal

from partition_replica.core.model import Configuration
from partition_replica.ids import MemberID


class StandInMember:
    """One of two voters. `handed_over` is set once it has handed leadership over, `closed_as` is
    its role when it was closed."""

    def __init__(self, role: str) -> None:
        self.loop = SimpleNamespace(role=role)
        self.configuration = Configuration((MemberID(1), MemberID(2)))
        self.handed_over = asyncio.Event()
        self.closed_as = ""
        self._changed = asyncio.Event()

    def becomes(self, role: str) -> None:
        self.loop.role = role
        self._changed.set()
        self._changed = asyncio.Event()

    def leader_changed(self) -> Coroutine[Any, Any, Literal[True]]:
        return self._changed.wait()

    async def hand_over(self, *_: object) -> None:
        """In place of Administration.transfer."""
        assert self.loop.role == "leader"
        self.becomes("follower")
        self.handed_over.set()

    async def close(self) -> None:
        self.closed_as = self.loop.role
