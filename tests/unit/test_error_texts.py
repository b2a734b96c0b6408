"""No error is logged without a text, and the end of the lease says what led to it."""

import ast
import asyncio
import logging
import time
from pathlib import Path
from typing import Any, cast

import pytest
from partition_operator.clients.kube import ApiError, Body
from partition_operator.clients.lease import LeaseHolder
from partition_operator.config import OperatorConfig
from partition_operator.errors import OperatorError, text_of
from partition_operator.turns.queue import Key, QueueItem, WorkQueue

from dev.cluster.layout import ROOT

PACKAGE = ROOT / "operator" / "partition_operator"
LOG = frozenset({"debug", "info", "warning", "error", "critical", "log"})


def test_an_error_without_a_text_is_named() -> None:
    assert text_of(TimeoutError()) == "TimeoutError()"
    assert text_of(OperatorError("  ")) == "OperatorError('  ')"
    assert text_of(OperatorError("why")) == "why"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_every_logged_error_goes_through_text_of(path: Path) -> None:
    """A handler's error as a bare argument of a log call says nothing where it has no text."""
    bare = [
        f"{path.name}:{call.lineno}"
        for handler in ast.walk(ast.parse(path.read_text()))
        if isinstance(handler, ast.ExceptHandler)
        for call in ast.walk(handler)
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr in LOG
        and any(isinstance(word, ast.Name) and word.id == handler.name for word in call.args)
    ]
    assert bare == []


class Kube:
    """An API server with a Lease. `answer`: what becomes of a request to write it."""

    def __init__(self, answer: BaseException | None, *, hangs: bool = False) -> None:
        self.answer = answer
        self.hangs = hangs

    async def get(self, kind: str, namespace: str, name: str) -> Body | None:
        if self.hangs:
            await asyncio.Event().wait()
        if self.answer is not None:
            raise self.answer
        metadata = {"name": name, "resourceVersion": "1"}
        return {"metadata": metadata, "spec": {"holderIdentity": "", "leaseTransitions": 1}}

    async def replace(self, body: Body) -> Body:
        raise ApiError(409, "changed")


@pytest.mark.parametrize(
    ("kube", "why"),
    [
        (Kube(EOFError()), "EOFError()"),
        (Kube(None, hangs=True), "no answer from the API server within"),
        (Kube(None), "another writer changed the Lease"),
        (Kube(ApiError(403, "leases is forbidden")), "leases is forbidden"),
    ],
)
async def test_the_end_of_the_lease_says_what_led_to_it(
    kube: Kube, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    config = OperatorConfig("ns", "me", "i", lease_renew_deadline_s=0.3, lease_retry_s=0.05)
    ends: list[str] = []
    began = time.monotonic()
    await LeaseHolder(cast("Any", kube), config, ends.append).renew()
    assert time.monotonic() - began < 30
    (end,) = ends
    assert why in end
    assert "within 0.3 s" in end
    for record in caplog.records:
        assert not record.getMessage().rstrip().endswith(":"), record.getMessage()


async def test_a_turn_that_fails_without_a_text_is_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)

    async def turn(key: Key, entry: QueueItem) -> float | None:
        raise TimeoutError

    async def deposed(seen: int) -> None:
        raise AssertionError

    queue = WorkQueue(1, deposed)
    queue.serve({"Partition": turn})
    await queue._work(Key("Partition", "ns", "part"), QueueItem())
    assert "TimeoutError()" in caplog.text


async def test_what_others_put_on_the_lease_stays() -> None:
    written: list[Body] = []

    class Marked(Kube):
        async def get(self, kind: str, namespace: str, name: str) -> Body | None:
            metadata = {"name": name, "resourceVersion": "7", "labels": {"theirs": "1"}}
            return {"metadata": metadata, "spec": {"holderIdentity": ""}}

        async def replace(self, body: Body) -> Body:
            written.append(body)
            return body

    holder = LeaseHolder(cast("Any", Marked(None)), OperatorConfig("ns", "me", "i"), lambda _: None)
    await holder.acquire()
    (body,) = written
    assert body["metadata"]["labels"] == {"theirs": "1"}
    assert body["metadata"]["resourceVersion"] == "7"
    assert body["spec"]["holderIdentity"] == "me"
