"""A link that moves from its gRPC stream to a Raft connection."""

from partition_replica.errors import WrongCluster

from tests.support.raft_receivers import Receiver, Sender


async def test_what_is_acknowledged_while_the_link_moves_is_no_rolled_back_volume() -> None:
    """Over the stream, after the hello of the Raft connection was made."""
    checked: list[tuple[int, int]] = []

    def check(_: str, __: int, sender: int = 0, last_index: int = 0) -> None:
        checked.append((sender, last_index))
        if sender and len(checked) > 1:
            raise WrongCluster("its volume was rolled back")

    async with Receiver().serving() as receiver:
        receiver.listen()
        receiver.replica.check_peer = check  # type: ignore[method-assign]
        async with Sender(receiver.address) as sender:
            await sender.connected()
            assert sender.traffic.members == {"stream": 0, "connection": 1}
    assert [sender for sender, _ in checked][1:] == [0], "the same process, which moves"
