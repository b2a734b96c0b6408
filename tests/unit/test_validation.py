"""What a proposal may say: every refusal names what was wrong and what is allowed."""

import pytest
from partition_proto.v1 import types_pb2 as types
from partition_replica.core.limits import PROPOSAL_BYTES_MAX
from partition_replica.core.validation import check_proposal, session_time_to_live_ms
from partition_replica.errors import InvalidArgument, PayloadMismatch

from tests.support.proposals import copy, link, mkdir, payload, proposal, remove, set_key


def test_a_good_proposal_passes() -> None:
    check_proposal(
        proposal(
            5,
            1,
            [set_key(b"k", b""), mkdir(b"a/b"), link(b"a/b/c"), copy(b"a/b/c", b"d"), remove(b"d")],
            [payload(b"hello")],
        )
    )


@pytest.mark.parametrize(
    "path",
    [
        b"",
        b"/etc/passwd",
        b"../x",
        b"a/../../x",
        b"a//b",
        b"a/.",
        b"./a",
        b"a\0b",
        b"/".join([b"x" * 255] * 16) + b"y",  # 4,096 bytes
        b"a/",
    ],
)
def test_paths_that_leave_the_tree_are_refused(path: bytes) -> None:
    for operation in (mkdir(path), link(path), copy(path, b"ok"), copy(b"ok", path), remove(path)):
        with pytest.raises(InvalidArgument, match="operation 1"):
            check_proposal(proposal(5, 1, [operation], [payload(b"x")]))


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (proposal(0, 1), "open a session"),
        (proposal(5, 0), "begin a session's sequences at 1"),
        (proposal(5, 5000), "wait for earlier answers"),
        (proposal(5, 3, below=4), "already acknowledged"),
        (proposal(5, 1, [set_key(b"", b"x")]), "key has 0 bytes"),
        (
            proposal(5, 1, [set_key(b"k" * 65_001, b"x")]),
            "key has 65001 bytes; allowed are 1 to 65000",
        ),
        (
            proposal(5, 1, [mkdir(b"a/" + b"x" * 256)]),
            "component of 256 bytes; allowed are 1 to 255",
        ),
        (proposal(5, 1, [link(b"x" * 256)], [payload(b"x")]), "destination_path b'xxx"),
        (proposal(5, 1, [set_key(b"k", b"x" * 600_000)]), "store it as a file"),
        (proposal(5, 1, [types.Operation()]), "does not know; allowed are"),
        (proposal(5, 1, [link(b"a", 2)], [payload(b"x")]), "links payload 2; the proposal has 1"),
        (proposal(5, 1, [mkdir(b"a", 0o1777)]), "allowed are 0 to 0777"),
        (proposal(5, 1, [mkdir(b"a")] * 8193), "8193 operations; allowed are 8192"),
        (proposal(5, 1, [], [payload(b"x" * 60_000)] * 20), f"allowed are {PROPOSAL_BYTES_MAX}"),
        (
            proposal(5, 1, preconditions=[types.Precondition()]),
            "precondition 1 is of a kind that this replica",
        ),
    ],
)
def test_refusals_say_what_is_allowed(bad: types.Proposal, why: str) -> None:
    with pytest.raises(InvalidArgument, match=why):
        check_proposal(bad)


def test_the_longest_names_pass() -> None:
    path = b"/".join([b"x" * 255] * 16)
    assert len(path) == 4095
    check_proposal(
        proposal(
            5,
            1,
            [set_key(b"k" * 65_000, b""), mkdir(path), link(path), copy(path, path), remove(path)],
            [payload(b"x")],
            preconditions=[
                types.Precondition(key_absent=b"k" * 65_000),
                types.Precondition(path_absent=path),
            ],
        )
    )


def test_names_that_earlier_versions_made_are_still_read_and_removed() -> None:
    long = b"x" * 480
    check_proposal(proposal(5, 1, [remove(long), copy(long, b"ok"), mkdir(long + b"/inside")]))


@pytest.mark.parametrize(
    "path", [b"x" * 3000 + b"\0", b"/" + b"\xff" * 4000, b"\xff" * 4000 + b"//"]
)
def test_a_refusal_shows_the_beginning_of_a_long_path(path: bytes) -> None:
    """gRPC delivers no status with a text of some KiB."""
    with pytest.raises(InvalidArgument, match=rf"… \({len(path)} bytes\)") as refused:
        check_proposal(proposal(5, 1, [remove(path)]))
    assert len(str(refused.value)) < 1000


def test_payloads_must_match_their_digest() -> None:
    lying = payload(b"hello")
    lying.data = b"jello"
    with pytest.raises(PayloadMismatch, match="payload 1 has SHA-256"):
        check_proposal(proposal(5, 1, [link(b"a")], [lying]))
    lying.data = b"hell"
    with pytest.raises(PayloadMismatch, match="has size 5 and 4 bytes of data"):
        check_proposal(proposal(5, 1, [link(b"a")], [lying]))
    large = payload(b"x" * 70_000)
    large.data = b"x" * 70_000
    with pytest.raises(InvalidArgument, match="must be uploaded"):
        check_proposal(proposal(5, 1, [link(b"a")], [large]))


def test_time_to_live() -> None:
    assert session_time_to_live_ms(0) == 600_000
    with pytest.raises(InvalidArgument, match="allowed are 10000 to 86400000"):
        session_time_to_live_ms(5)
