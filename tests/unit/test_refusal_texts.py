"""What a refusal says has to arrive: gRPC drops an answer whose metadata is above some KiB."""

from urllib.parse import quote

import pytest
from partition_replica.errors import NotFound, ReplicaError, WrongCluster
from partition_replica.transport.failures import TEXT_BYTES_MAX, detail


@pytest.mark.parametrize(
    ("error", "characters"),
    [
        (NotFound("x" * 5000), TEXT_BYTES_MAX),
        (WrongCluster("\U0001f600" * 5000), TEXT_BYTES_MAX // 12),
        (WrongCluster("%" * 5000), TEXT_BYTES_MAX // 3),
    ],
)
def test_a_long_text_is_cut_to_what_grpc_sends(error: ReplicaError, characters: int) -> None:
    message = detail(error).message
    assert len(message) == characters + 1
    assert message.endswith("…")
    assert len(quote(message[:-1])) <= TEXT_BYTES_MAX


def test_a_short_text_stays() -> None:
    assert detail(NotFound("b'a' is no file")).message == "b'a' is no file"
