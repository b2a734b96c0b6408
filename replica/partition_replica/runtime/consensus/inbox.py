"""The Raft messages of peers that wait for the engine."""

from collections import deque
from collections.abc import Iterator

from partition_replica.core.limits import Limits
from partition_replica.engine.port import Message


class Inbox:
    """Bounded by count and bytes: it fills while a follower waits for its disk. Signs of life are
    bounded by the number of members."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._messages: deque[tuple[Message, int]] = deque()
        self._bytes = 0
        self._signs_of_life: dict[int, Message] = {}

    def put_sign_of_life(self, message: Message) -> None:
        """Keeps a message that only says that its sender lives. A later one replaces it."""
        self._signs_of_life[message.sender] = message

    def take_signs_of_life(self) -> list[Message]:
        taken = list(self._signs_of_life.values())
        self._signs_of_life.clear()
        return taken

    def put(self, message: Message, size: int) -> bool:
        """Queues a message of `size` bytes. Returns False, and drops it, above the limits."""
        full = len(self._messages) >= self._limits.inbox_messages_max
        if full or self._bytes + size > self._limits.inbox_bytes_max:
            return False
        self._messages.append((message, size))
        self._bytes += size
        return True

    def take(self) -> Iterator[Message]:
        """Takes the messages that are here now."""
        for _ in range(len(self._messages)):
            message, size = self._messages.popleft()
            self._bytes -= size
            yield message
