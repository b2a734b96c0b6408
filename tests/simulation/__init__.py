"""Deterministic simulation: whole groups in one process, under virtual time, from a seed.

    python -m tests.simulation --seed 7 --trace
    python -m tests.simulation --seeds 1000

Real are the engine (partition_raft), the whole runtime, the storage with its LMDB files, the state
machine. Simulated are:

- time, threads and the event loop (`loop`); the log's writer has no thread (`node`);
- what a crash leaves of the files (`disk`, by the rules of tests/support/power_loss.py);
- the network, in place of gRPC (`network`, `peers`); most clients call the replica itself, and
  those that have several appends under way, and tails, call its service (`wire`);
- the election time-out: raft-rs draws it from the system's randomness, so each process of a replica
  has one fixed time-out, drawn from the seed, and its ticks come late by chance;
- member IDs, which the product draws from the system's randomness.

LMDB works inside of one commit or none: its own crash safety is trusted, as by the product. A full
disk, failing writes and damage are not simulated.

`cluster` is a run; `clients`, `pipelines`, `consumers`, `tails`, `operator` use the group, `faults`
disturbs it, and `restores` ends it and makes it anew of a snapshot, in place; `checks` (as things
happen, for each history) and `history` (at the end) say what must hold; `settings` is what a seed
draws; `workload` is what an application writes; `trace` is what happened.

Half of the seeds have restores, half have clients with several appends under way (`pipelines`). A
seed with neither gives the run that it gave before there were such.
"""
