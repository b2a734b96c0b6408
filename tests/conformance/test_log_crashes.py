"""A process that writes a log ends, without any clean-up, before and after each durable step, each
time that it is reached: what the next one finds is what the reference holds after the last step
that returned, or after the one that was under way; nothing else, and nothing half."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from partition_replica.core.model import InitStatus
from partition_replica.ids import LSN
from partition_replica.storage.failpoints import ENVIRONMENT, EXIT_CODE

from tests.support.log_script import FAILPOINTS, STEPS
from tests.support.logs import MEMBER, Subject

ROOT = Path(__file__).parents[2]


def held(subject: Subject) -> dict[str, Any]:
    """What a restart finds, but for what is kept in memory."""
    log = subject.log
    names = (
        "identity",
        "boundary",
        "first_stored",
        "last",
        "hard_state",
        "configuration",
        "backfill",
        "fencing_token",
    )
    found = {name: getattr(log, name) for name in names}
    found["positions"] = {n: at for n, at in log.positions.items() if n != "applied"}
    found["rows"] = subject.rows()
    return found


def expected(steps: int) -> dict[str, Any]:
    subject = Subject(None)
    for step in STEPS[:steps]:
        step(subject.log)
    return held(subject)


def run(folder: Path, armed: str) -> tuple[int, int]:
    """(exit code, steps that returned)."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.log_script", str(folder)],
        cwd=ROOT,
        env={**os.environ, ENVIRONMENT: armed},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode in (0, EXIT_CODE), done.stderr
    return done.returncode, len(done.stdout.split())


@pytest.mark.parametrize("failpoint", FAILPOINTS)
def test_ended_at(failpoint: str, tmp_path: Path) -> None:
    for hit in range(1, 100):
        folder = tmp_path / str(hit)
        code, returned = run(folder, f"{failpoint}:{hit}")
        subject = Subject(folder)
        found = held(subject)
        if code == 0:
            assert hit > 1, f"{failpoint} was never reached"
            assert found == expected(len(STEPS))
            subject.log.close()
            return
        assert found in (expected(returned), expected(returned + 1)), (hit, returned)
        if failpoint == "log.checkpoint.after":
            pass  # of the step that it is a part of, or of the ones before
        elif failpoint.endswith(".after") or failpoint == "backfill.begun":
            assert found == expected(returned + 1)
        else:
            assert found == expected(returned)
        # It goes on from there.
        applied = min(subject.log.last.index, max(subject.log.boundary.index, LSN(1)))
        assert subject.initialize(applied) != InitStatus.UNKNOWN
        assert subject.log.identity.member_id == MEMBER
        subject.log.close()
    raise AssertionError(f"{failpoint} is reached again and again")
