"""The checks find what is planted into restores in place, and into several appends under way."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from partition_client.append_queue import AppendQueue
from partition_client.pending_append import PendingAppend
from partition_replica.core.model import ProposalResult
from partition_replica.ids import SessionID
from partition_replica.offline.snapshots import restore as snapshot_restore
from partition_replica.runtime.serving.applications import Applications
from partition_replica.storage.memory import MemoryView
from partition_replica.storage.state_view import LmdbView

from tests.simulation.checks import Violation
from tests.simulation.clients import Client
from tests.simulation.test_simulation import find

pytestmark = pytest.mark.timeout(900)

check_history = Applications.check_history


def _plant(monkeypatch: pytest.MonkeyPatch, *, leading: bool) -> None:
    """Replicas compare no histories: of appends and session calls, or of all other calls."""

    def careless(applications: Applications, history: str, **options: Any) -> None:
        if options.get("leading", False) is leading:
            history = ""
        check_history(applications, history, **options)

    monkeypatch.setattr(Applications, "check_history", careless)


def test_finds_appends_of_another_history(monkeypatch: pytest.MonkeyPatch) -> None:
    _plant(monkeypatch, leading=True)
    found = find()
    assert found.check == "history"
    assert "not told of it" in found.text or "named another one" in found.text


def test_finds_readers_of_another_history(monkeypatch: pytest.MonkeyPatch) -> None:
    _plant(monkeypatch, leading=False)
    assert find().check in ("history", "tail", "consumer", "liveness")


def test_finds_sessions_that_outlive_a_restore(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot_restore, "SESSION_TTL_MS_MAX", -1)
    found = find()
    assert found.check == "history"
    assert "is acknowledged by history" in found.text or "earlier history" in found.text


def test_finds_results_that_a_later_append_drops(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if each session had one append under way: a retry behind a later one is written again."""

    async def nothing(_: Client) -> None:
        """No client uses a sequence again, which would find it, too."""

    def drop_before(view: type[LmdbView | MemoryView]) -> None:
        put: Callable[..., None] = view.put_result

        def put_result(self: Any, session: SessionID, sequence: int, row: ProposalResult) -> None:
            self.drop_results_below(session, sequence)
            put(self, session, sequence, row)

        monkeypatch.setattr(view, "put_result", put_result)

    drop_before(LmdbView)
    drop_before(MemoryView)
    monkeypatch.setattr(Client, "_misuse_a_sequence", nothing)
    _assert_applied_twice(find())


def test_finds_retries_under_another_sequence(monkeypatch: pytest.MonkeyPatch) -> None:
    take = AppendQueue.take

    def numbered_anew(queue: AppendQueue, session: int) -> list[PendingAppend]:
        for sequence, pending in list(queue.again.items()):
            if pending.doubts and not pending.future.done():
                del queue.again[sequence], queue.unanswered[sequence]
                queue.new[pending] = None
        return take(queue, session)

    monkeypatch.setattr(AppendQueue, "take", numbered_anew)
    _assert_applied_twice(find())


def _assert_applied_twice(found: Violation) -> None:
    """By its effect; or by its precondition, which its first try has changed."""
    pipelined = "pipeline" in found.text and "did not hold" in found.text
    assert pipelined or re.search(r"took effect (\d+ times|at \[)", found.text)
