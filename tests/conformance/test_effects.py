"""A reader of the log is told what each entry did when it was applied."""

from pathlib import Path

import pytest
from partition_proto.v1 import log_store_pb2 as api
from partition_replica.errors import Compacted
from partition_replica.ids import LSN

from tests.support.effects import ENTRIES, Replica, read


async def test_each_entry_says_what_it_did(tmp_path: Path) -> None:
    replica = Replica(tmp_path / "state")
    for first in range(1, len(ENTRIES) + 1):
        found = await read(replica, from_lsn=first)
        wanted = list(enumerate(ENTRIES, 1))[first - 1 :]
        assert [(r.lsn, r.effect, list(r.outcomes)) for r in found] == [
            (lsn, effect, outcomes) for lsn, (_, effect, outcomes) in wanted
        ]
    replica.state.close()


async def test_nothing_is_said_of_what_an_import_took_over(tmp_path: Path) -> None:
    """The base's state was made elsewhere: what its entries did there is not known here."""
    replica = Replica(tmp_path / "state")
    replica.stored.base = LSN(4)
    found = await read(replica, from_lsn=1)
    assert {r.effect for r in found[:4]} == {api.EFFECT_UNSPECIFIED}
    assert [r.effect for r in found[4:]] == [effect for _, effect, _ in ENTRIES[4:]]
    assert api.EFFECT_NONE in [effect for _, effect, _ in ENTRIES[:4]]
    replica.state.close()


def test_what_was_forgotten_is_not_taken_for_applied(tmp_path: Path) -> None:
    """Notes go after their entries; a reader that holds the entries is told that they are gone."""
    replica = Replica(tmp_path / "state")
    entries, _ = replica.reads.entries(1, 1000)
    replica.stored.first_stored = 4
    replica.state.forget_unapplied(LSN(4))
    with pytest.raises(Compacted):
        replica.reads.unapplied(entries)
    assert replica.reads.unapplied([]) == {}
    assert set(replica.reads.unapplied(replica.log[3:])) == {4, 5, 7, 8}
    replica.state.close()
