"""What operator, replica and client have in common."""

from dataclasses import dataclass

import pytest
from google.protobuf.message import DecodeError
from partition_common import backoff, error_details, limit_flags
from partition_common.backoff import Backoff
from partition_proto.v1 import types_pb2 as types


def test_a_backoff_grows_with_each_failure_and_then_stays() -> None:
    pauses = Backoff(1.0, 2.0, 5.0)
    assert [pauses.after(failures) for failures in (-1, 0, 1, 2, 3, 4, 1000)] == [
        *(1.0, 1.0, 1.0),
        *(2.0, 5.0, 5.0, 5.0),
    ]
    with pytest.raises(ValueError, match="at least one pause"):
        Backoff()


def test_jitter_shortens_a_pause_by_up_to_its_part(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses = Backoff(1.0, 2.0, jitter=0.25)
    for drawn, expected in ((0.0, 2.0), (0.5, 1.75), (0.999, 1.5)):
        monkeypatch.setattr(backoff, "draw", lambda drawn=drawn: drawn)
        assert pauses.after(2) == pytest.approx(expected, abs=0.001)


def test_a_client_looks_often_while_a_leader_is_elected_and_seldom_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backoff, "draw", lambda: 0.0)
    pauses = [backoff.CALL.after(failures) for failures in range(1, 40)]
    assert pauses[0] == 0
    half_second = [pause for n, pause in enumerate(pauses) if sum(pauses[:n]) < 0.5]
    assert max(half_second) <= 0.05
    assert pauses[-1] >= 0.4


def test_every_backoff_of_the_project_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "draw", lambda: 0.0)
    tables = [found for found in vars(backoff).values() if isinstance(found, Backoff)]
    assert len(tables) >= 10
    for table in tables:
        pauses = [table.after(failures) for failures in range(1, 20)]
        assert pauses == sorted(pauses)
        assert pauses[0] < pauses[-1]


def test_an_error_detail_is_found_in_what_carries_it() -> None:
    detail = types.ErrorDetail(reason=types.REASON_DISK_FULL, message="full")
    carried = error_details.attach(detail)
    assert error_details.find([("grpc-status", "8"), *carried]) == detail
    assert error_details.find(None) is None
    assert error_details.find([("grpc-status", "8"), (error_details.KEY, "text")]) is None
    with pytest.raises(DecodeError):
        error_details.find([(error_details.KEY, b"\xff")])


@dataclass(frozen=True)
class Some:
    count: int = 3
    share: float = 0.5


@dataclass(frozen=True)
class Checked(Some):
    def __post_init__(self) -> None:
        if self.count > 6:
            raise ValueError("count must be at most 6")
        if self.count + self.share > 8:
            raise ValueError("count and share must be at most 8 together")


def test_flags_override_limits_by_name() -> None:
    assert limit_flags.override(Some(), []) == Some()
    assert limit_flags.override(Some(), ["count=4", "share=1", "count=5"]) == Some(5, 1.0)
    assert limit_flags.override(Some(), ["count=0"], positive=False) == Some(0)


def test_a_deprecated_name_sets_its_limit_and_is_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    names = {"number": "count"}
    assert limit_flags.override(Some(), ["number=4"], deprecated=names) == Some(4)
    assert caplog.messages == ["--limit number is deprecated: use count"]
    with pytest.raises(ValueError, match="--limit other: known are count, share"):
        limit_flags.override(Some(), ["other=1"], deprecated=names)
    with pytest.raises(ValueError, match="--limit number: known are count, share"):
        limit_flags.override(Some(), ["number=1"])


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("other=1", "--limit other: known are count, share"),
        ("count", "--limit count: must be a whole number"),
        ("count=1.5", "--limit count=1.5: must be a whole number"),
        ("share=much", "--limit share=much: must be a number"),
        ("count=0", "--limit count=0: must be a number above 0, at most 9223372036854775807"),
        ("share=nan", "--limit share=nan: must be a number above 0, at most 9223372036854775807"),
        (f"count={2**63}", f"--limit count={2**63}: must be a number above 0"),
    ],
)
def test_a_flag_that_sets_no_limit_is_refused_by_name(flag: str, said: str) -> None:
    with pytest.raises(ValueError, match="--limit") as caught:
        limit_flags.override(Some(), [flag])
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("share=nan", "--limit share=nan: must be a number of 0 or above, at most"),
        ("share=inf", "--limit share=inf: must be a number of 0 or above, at most"),
        ("count=-1", "--limit count=-1: must be a number of 0 or above, at most"),
        ("count=7", "--limit count=7: count must be at most 6"),
    ],
)
def test_limits_that_may_be_0_name_the_flag_too(flag: str, said: str) -> None:
    """Also if their own class refuses a value, which knows nothing of flags."""
    with pytest.raises(ValueError, match="--limit") as caught:
        limit_flags.override(Checked(), [flag], positive=False)
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["share=1", "count=7"], "--limit count=7: count must be at most 6"),
        (["count=6", "count=7", "share=1"], "--limit count=7: count must be at most 6"),
        (["share=4", "count=5"], "--limit share=4 count=5: count and share must be at most 8"),
    ],
)
def test_of_several_flags_the_one_that_is_wrong_is_named(flags: list[str], said: str) -> None:
    with pytest.raises(ValueError, match="--limit") as caught:
        limit_flags.override(Checked(), flags, positive=False)
    assert str(caught.value).startswith(said)
