"""Deterministic simulation: whole groups in one process, under virtual time, from a seed.

    python -m tests.simulation --seed 7 --trace
    python -m tests.simulation --seeds 1000

Real are the engine (partition_raft), the whole runtime, the storage with its LMDB files, the state
machine. Simulated are:

- time, threads and the event loop (`loop`); the log's writer has no thread (`node`);
- what a crash leaves of the files (`disk`, by the rules of tests/support/power_loss.py);
- the network, in place of gRPC (`network`, `peers`), so neither services nor the wire's codecs;
- the election time-out: raft-rs draws it from the system's randomness, so each process of a replica
  has one fixed time-out, drawn from the seed, and its ticks come late by chance;
- member IDs, which the product draws from the system's randomness.

LMDB works inside of one commit or none: its own crash safety is trusted, as by the product. A full
disk, failing writes and damage are not simulated.

`cluster` is a run; `clients`, `consumers`, `operator` use the group and `faults` disturbs it;
`checks` (as things happen) and `history` (at the end) say what must hold; `settings` is what a seed
draws; `trace` is what happened.
"""
