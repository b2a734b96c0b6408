"""What the Raft loop tells the member that it belongs to."""

from collections.abc import Callable
from dataclasses import dataclass

from partition_replica.engine.port import Message, TransferHeader
from partition_replica.ids import Digest


@dataclass(slots=True)
class LoopHooks:
    """Callbacks of the loop. All run on the event loop; none may raise."""

    role_changed: Callable[[str, int], None]
    send_state: Callable[[Message], None]
    staged_state: Callable[[TransferHeader], int]
    state_installed: Callable[[TransferHeader], None]
    released: Callable[[list[Digest]], None]
