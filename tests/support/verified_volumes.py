"""A volume of a sole voter, and its verification in this process."""

import random
from collections.abc import Callable
from pathlib import Path

from partition_replica.core.model import (
    Configuration,
    Position,
    VerifyReport,
)
from partition_replica.ids import LSN, Term
from partition_replica.storage.verification import Verification
from partition_replica.storage.volume import Volume

from tests.support.proposals import body, mkdir, opening, proposal, set_key
from tests.support.seed_logs import CLUSTER, open_volume
from tests.support.stored import append

Progress = Callable[[str, int, int], None]


def fill(data: Path, count: int, value_bytes: int = 10) -> Volume:
    """An open volume of a sole voter with so many entries behind LSN 1, all applied."""
    volume = open_volume(data)
    volume.state.start(Position(LSN(1), Term(1)), {7: "here:1"})
    volume.log.bootstrap(CLUSTER, Configuration((volume.log.identity.member_id,)))
    bodies = [opening()]
    rng = random.Random(3)
    for n in range(1, count):
        value = rng.randbytes(value_bytes)
        bodies.append(body(proposal(2, n, [set_key(b"k%d" % n, value), mkdir(b"d%d" % n)])))
    append(volume, bodies, 1)
    return volume


def verify(
    volume: Volume, scratch: Path, progress: Progress = lambda *_: None, *, live: bool = True
) -> tuple[VerifyReport, bool]:
    """(report, whether it was cut off)."""
    run = Verification(
        volume.log,
        volume.state,
        volume.blobs.path,
        volume.blobs.digests,
        scratch,
        live=live,
        progress=progress,
    )
    return run.run(), run.cut_off
