"""The token that every command of the operator carries."""

from partition_operator.clients.fencing import FencingToken


def test_a_raise_reaches_every_later_command_and_no_earlier_one() -> None:
    token = FencingToken("pod-1", 3)
    earlier = token.message()
    token.raise_to(7)
    assert (token.message().transitions, token.message().holder) == (7, "pod-1")
    assert earlier.transitions == 3


def test_it_never_falls() -> None:
    token = FencingToken("pod-1", 3)
    token.raise_to(2)
    assert token.transitions == 3
