"""The operator's token: none below one that was obeyed, whoever comes when, however saves end."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from partition_replica.core.payloads import blob_digests
from partition_replica.errors import Deposed
from partition_replica.ids import MemberID
from partition_replica.runtime.administration import Administration
from partition_replica.storage.log import LmdbLog


class HeldLog(LmdbLog):
    """Saves of a token wait for `released`."""

    released: threading.Event
    saving: threading.Event

    def save_fencing_token(self, transitions: int, holder: str) -> None:
        self.saving.set()
        assert self.released.wait(60)
        super().save_fencing_token(transitions, holder)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[HeldLog]:
    found = HeldLog(tmp_path / "log", MemberID(7), blob_digests)
    found.released, found.saving = threading.Event(), threading.Event()
    found.released.set()
    yield found
    found.close()


@pytest.fixture
def administration(log: HeldLog) -> Administration:
    return Administration(None, log, None, None, None)  # type: ignore[arg-type]


async def test_tokens_that_come_together(log: HeldLog, administration: Administration) -> None:
    for base in range(0, 100, 10):
        tokens = [base + number for number in (4, 6, 5, 6, 5)]
        found = await asyncio.gather(
            *(administration.check_fencing_token(token, f"{token}") for token in tokens),
            return_exceptions=True,
        )
        refused = [isinstance(one, Deposed) for one in found]
        assert refused == [False, False, True, False, True], found
        assert log.fencing_token == base + 6


async def test_who_goes_away_does_not_take_the_token_along(
    log: HeldLog, administration: Administration
) -> None:
    """Its save goes on: a lower token waits for it, and is refused then."""
    log.released.clear()
    newer = asyncio.create_task(administration.check_fencing_token(6, "newer"))
    await asyncio.to_thread(log.saving.wait, 60)
    newer.cancel()
    older = asyncio.create_task(administration.check_fencing_token(5, "older"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    log.released.set()
    with pytest.raises(asyncio.CancelledError):
        await newer
    with pytest.raises(Deposed, match="below 6"):
        await older
    assert log.fencing_token == 6
