"""What a refusal says has to arrive: gRPC drops an answer whose metadata is above some KiB."""

import pytest
from partition_replica.errors import NotFound, ReplicaError, WrongCluster
from partition_replica.transport.failures import TEXT_CHARACTERS_MAX, detail


@pytest.mark.parametrize("error", [NotFound("x" * 5000), WrongCluster("\U0001f600" * 5000)])
def test_a_long_text_is_cut(error: ReplicaError) -> None:
    message = detail(error).message
    assert len(message) == TEXT_CHARACTERS_MAX + 1
    assert message.endswith("…")
    assert len(detail(error).SerializeToString()) < 5000


def test_a_short_text_stays() -> None:
    assert detail(NotFound("b'a' is no file")).message == "b'a' is no file"
