"""A script of everything that a log does durably, run by a process that a failpoint ends.

`python -m tests.support.log_script FOLDER` runs it on LMDB and prints each step's number when the
step has returned; the same steps, up to any number, run on the reference.
"""

import sys
from collections.abc import Callable
from pathlib import Path

from partition_replica.core.model import Configuration, LogBatch, Position, StateSwitch
from partition_replica.core.ports import LogStorage
from partition_replica.ids import LSN, Term
from partition_replica.storage.log.journal import JournalLimits

from tests.support.logs import CLUSTER, MEMBER, Subject, entry, hard
from tests.support.proposals import body, link, payload, proposal

NAMED = body(proposal(1, 1, [link(b"a")], [payload(b"z" * 70_000)])).SerializeToString()

JOURNAL = JournalLimits(file_bytes=16 * 1024, entries_max=10)

Step = Callable[[LogStorage], object]


def _finish(log: LogStorage) -> None:
    log.finish_backfill(log.backfilled_position(LSN(9)))


STEPS: list[Step] = [
    lambda log: log.initialize(LSN(0)),
    # A standalone log, and what its consumers do.
    lambda log: log.bootstrap_standalone(CLUSTER),
    lambda log: log.append(LSN(1), [b"1", NAMED, b"3"]),
    lambda log: log.append(LSN(4), [b"%d" % n for n in range(4, 12)]),
    lambda log: log.register("consumer", LSN(1)),
    lambda log: log.acknowledge("applied", LSN(5)),
    lambda log: log.truncate_from(LSN(10)),
    lambda log: log.acknowledge("consumer", LSN(3)),
    lambda log: log.compact(LSN(2)),
    lambda log: log.prune(1),
    lambda log: log.prune(10),
    # Replication is switched on, batch by batch.
    lambda log: log.begin_backfill(),
    lambda log: log.step_backfill(3),
    lambda log: log.append(None, [b"while"]),
    lambda log: log.step_backfill(3),
    lambda log: log.step_backfill(3),
    _finish,
    # Raft writes, overwrites, compacts.
    lambda log: log.commit(LogBatch([entry(1, n, NAMED) for n in (11, 12, 13)], hard(2, 7, 11))),
    lambda log: log.commit(LogBatch([entry(2, 12, b"other")])),
    lambda log: log.commit(LogBatch([entry(2, 13), entry(2, 14)], hard(2, 7, 13))),
    lambda log: log.commit(LogBatch([entry(2, 15, b"journaled")])),
    lambda log: log.commit(LogBatch([entry(2, 16)], hard(2, 7, 14))),
    lambda log: log.commit(LogBatch([entry(3, 16, b"overwrites the journal")], hard(3, 9, 15))),
    lambda log: log.commit(LogBatch([entry(3, 17)], hard(3, 9, 16))),
    lambda log: log.checkpoint(),
    lambda log: log.save_configuration(LSN(13), Configuration(voters=(MEMBER,))),
    lambda log: log.save_fencing_token(3, "operator"),
    lambda log: log.acknowledge("applied", LSN(12)),
    lambda log: log.acknowledge("consumer", LSN(12)),
    lambda log: log.compact(LSN(11)),
    lambda log: log.prune(2),
    lambda log: log.prune(100),
    # Off, on again, and a snapshot takes its place.
    lambda log: log.disable_replication(),
    lambda log: log.append(None, [b"plain"]),
    lambda log: log.append(None, [b"plain", b"too"]),
    lambda log: log.begin_backfill(),
    lambda log: log.step_backfill(100),
    lambda log: log.finish_backfill(log.backfilled_position(LSN(13))),
    lambda log: log.commit(
        LogBatch(
            [entry(9, 51, NAMED)],
            hard(9, 7, 51),
            StateSwitch(Position(LSN(50), Term(8)), Configuration(voters=(1, 7)), 2),
        )
    ),
    lambda log: log.unregister("consumer"),
]

FAILPOINTS = (
    "log.commit.before",
    "log.commit.after",
    "log.journal.before",
    "log.journal.after",
    "log.checkpoint.before",
    "log.checkpoint.after",
    "log.overwrite",
    "log.snapshot.before",
    "log.truncate.before",
    "log.compact.before",
    "log.compact.after",
    "log.prune.before",
    "log.prune.after",
    "backfill.begun",
    "backfill.step.before",
    "backfill.step.after",
    "backfill.finish.before",
    "backfill.finish.after",
    "replication.stop.before",
    "replication.stop.after",
)


def main() -> None:
    subject = Subject(Path(sys.argv[1]), journal=JOURNAL)
    for number, step in enumerate(STEPS, 1):
        step(subject.log)
        print(number, flush=True)


if __name__ == "__main__":
    main()
