"""What a run is made of, all of it drawn from the seed: limits of the replicas, habits of network
and disks, how often what fails."""

import random
from dataclasses import dataclass, replace

from partition_replica.core.limits import Limits


@dataclass(frozen=True, slots=True)
class Settings:
    """Probabilities are of one message or call; times in seconds of the simulation. voters: how
    many the operator wants at least; patience: the chance that it lets a learner wait. restores: in
    place, of a snapshot; pipelines, tails: clients of those kinds; resets: whether connections of
    members that live end; lease_reads: the leader answers reads by its lease."""

    limits: Limits
    latency_s: tuple[float, float]
    loss: float
    duplication: float
    reordering: bool
    broken_call: float
    voters: int
    patience: float
    clients: int
    consumers: int
    think_s: float
    faults_every_s: float
    power_loss: float
    active_s: float = 30.0
    restores: int = 0
    pipelines: int = 0
    tails: int = 0
    resets: bool = False
    lease_reads: bool = False


def draw_settings(rng: random.Random, active_s: float) -> Settings:
    rough = rng.random() < 0.6
    return Settings(
        limits=_draw_limits(rng),
        latency_s=rng.choice([(0.0005, 0.003), (0.001, 0.02), (0.005, 0.06)]),
        loss=rng.choice([0.0, 0.01, 0.05]) if rough else 0.0,
        duplication=rng.choice([0.0, 0.02]) if rough else 0.0,
        reordering=rough and rng.random() < 0.5,
        broken_call=rng.choice([0.0, 0.05, 0.2]),
        voters=rng.choice([1, 2, 3, 3, 3, 3, 4, 5]),
        patience=rng.choice([0.0, 0.0, 0.8]),
        clients=rng.randint(2, 4),
        consumers=rng.randint(0, 2),
        think_s=rng.choice([0.05, 0.15, 0.4]),
        faults_every_s=rng.choice([0.7, 1.5, 3.0, 5.0]),
        power_loss=rng.choice([0.3, 0.7, 1.0]),
        active_s=active_s,
    )


def draw_more(rng: random.Random, settings: Settings) -> Settings:
    """What came later, of a stream of its own: a seed that draws none of it runs as before."""
    restores = rng.choice([0, 0, 0, 1, 1, 2])
    found = replace(
        settings,
        restores=restores,
        pipelines=rng.choice([0, 0, 0, 1, 1, 2]),
        tails=rng.randint(1, 2) if restores else 0,
        resets=rng.random() < 0.5,
        limits=replace(
            settings.limits,
            apply_delay_s=rng.choice([0.0, 0.02, 0.02, 5.0]),
        ),
        lease_reads=rng.random() < 0.5,
    )
    journal = replace(
        found.limits,
        log_journal_bytes=rng.choice([0, 12 * 1024, 64 * 1024, 256 * 1024]),
        log_journal_entries_max=rng.choice([3, 30, 1024]),
    )
    return replace(found, limits=journal)


def _draw_limits(rng: random.Random) -> Limits:
    """Small enough that everything which has a limit meets it."""
    return Limits(
        inbox_messages_max=rng.choice([64, 4096]),
        proposal_batch_max=rng.choice([1, 8, 1024]),
        apply_batch_max=rng.choice([1, 4, 1024]),
        apply_queue_bytes_max=rng.choice([2_000, 64 * 1024**2]),
        entry_cache_bytes_max=rng.choice([4 * 1024, 64 * 1024**2]),
        held_appends_max=rng.choice([2, 64]),
        pin_time_to_live_s=rng.choice([1.5, 5.0, 60.0]),
        transfer_keep_s=rng.choice([2.0, 10.0]),
        transfer_hold_s=rng.choice([0.5, 3.0]),
        transfers_max=rng.choice([1, 4]),
        transfer_partial_keep_s=rng.choice([0.5, 120.0]),
        log_trail_entries=rng.choice([0, 0, 3, 20]),
        log_trail_bytes=rng.choice([1_000, 100_000, 1024**3]),
        log_compaction_step_entries=rng.choice([1, 5, 15]),
        log_prune_rows=rng.choice([2, 16, 4096]),
        consumer_lag_entries_max=rng.choice([20, 5_000_000]),
        disk_reserve_bytes=0,
        learner_lag_max=rng.choice([5, 1000]),
        chunk_bytes=16 * 1024,
    )
