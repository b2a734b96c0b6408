"""Which of two operators manages a Partition."""

from typing import Any

import pytest
from partition_operator.api.partition import parse
from partition_operator.reconcile.partition import ownership

from tests.support.partition_views import partition


@pytest.mark.parametrize(
    ("recorded", "annotated", "foreign", "claimed"),
    [
        ("", "", False, True),
        ("mine", "", False, False),
        ("other", "", True, False),
        # Handed over by the annotation, in either direction.
        ("other", "mine", False, True),
        ("mine", "other", True, False),
        ("", "other", True, False),
    ],
)
def test_the_first_one_keeps_it_until_it_is_handed_over(
    recorded: str, annotated: str, foreign: bool, claimed: bool
) -> None:
    body = partition(operator=recorded, state="Ready").body
    metadata: dict[str, Any] = body["metadata"]
    if annotated:
        metadata = metadata | {"annotations": {"logstore.dev/operator": annotated}}
    found = parse(body | {"metadata": metadata})
    assert ownership.is_foreign(found, "mine") is foreign
    assert ownership.has_to_be_claimed(found, "mine") is claimed
    # It is no part of what a plan writes: nothing would ever be settled.
    assert found.status == {"state": "Ready"}


def test_the_way_out_is_said() -> None:
    event = ownership.said(partition(operator="other"), "mine")
    assert (event.kind, event.reason) == ("Warning", "AnotherOperator")
    for words in ("namespace other", "annotate partition part", "logstore.dev/operator=mine"):
        assert words in event.message
