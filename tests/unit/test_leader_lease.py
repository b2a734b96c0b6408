"""The leader's lease: how long a round gives one, and what ends it at once."""

from partition_replica.ids import LSN
from partition_replica.runtime.consensus.lease import LeaderLease, machine_clock
from partition_replica.runtime.consensus.waits import ReadIndexes

TICK_S, TICKS = 0.1, 10
FULL_S = 0.81
"""Nine ticks, and a tenth less for clocks that drift."""


class Machine:
    def __init__(self) -> None:
        self.now = self.suspended = 0.0
        self.lease = LeaderLease(TICKS, TICK_S, lambda: (self.now + self.suspended, self.now))

    def run(self, seconds: float) -> None:
        """Time passes, with its ticks."""
        end = self.now + seconds
        while self.now + TICK_S < end:
            self.now += TICK_S
            self.lease.ticked()
        self.now = end

    def round(self, took_s: float = 0.0, context: bytes = b"1") -> None:
        self.lease.asked(context)
        self.run(took_s)
        self.lease.confirmed(context)


def test_a_lease_counts_from_where_its_round_was_sent() -> None:
    machine = Machine()
    assert not machine.lease.holds()
    machine.lease.asked(b"1")
    assert not machine.lease.holds(), "nobody has answered"
    machine.run(0.5)
    machine.lease.confirmed(b"1")
    machine.run(FULL_S - 0.5 - 0.01)
    assert machine.lease.holds()
    machine.run(0.02)
    assert not machine.lease.holds()


def test_a_round_that_took_longer_than_the_lease_gives_none() -> None:
    machine = Machine()
    machine.round(took_s=FULL_S)
    assert not machine.lease.holds()


def test_an_earlier_round_that_is_answered_later_shortens_nothing() -> None:
    machine = Machine()
    machine.lease.asked(b"1")
    machine.run(0.4)
    machine.lease.asked(b"2")
    machine.lease.confirmed(b"2")
    machine.lease.confirmed(b"1")
    machine.run(FULL_S - 0.01)
    assert machine.lease.holds()


def test_a_process_that_was_stopped_has_no_lease() -> None:
    """Neither before its first tick after that nor behind it, though the lease is not over."""
    for ticked in (False, True):
        machine = Machine()
        machine.round()
        machine.now += 0.35  # SIGSTOP: no tick came
        if ticked:
            machine.lease.ticked()
        assert not machine.lease.holds()
        machine.lease.ticked()
        machine.round()
        assert machine.lease.holds(), "the next round gives one again"


def test_a_machine_that_was_suspended_has_no_lease() -> None:
    """Its monotonic clock did not go on."""
    for ticked in (False, True):
        machine = Machine()
        machine.round()
        machine.run(0.1)
        machine.suspended += 0.2
        if ticked:
            machine.lease.ticked()
        assert not machine.lease.holds()
        machine.lease.ticked()
        machine.round()
        assert machine.lease.holds()


def test_a_round_from_before_a_gap_gives_no_lease_behind_it() -> None:
    machine = Machine()
    machine.lease.asked(b"1")
    machine.suspended += 0.2
    machine.lease.ticked()
    machine.lease.confirmed(b"1")
    assert not machine.lease.holds()


def test_other_members_or_another_role_end_it_and_its_rounds() -> None:
    for end in ("end", "role_changed"):
        machine = Machine()
        machine.round()
        machine.lease.asked(b"2")
        getattr(machine.lease, end)()
        assert not machine.lease.holds()
        machine.lease.confirmed(b"2")
        assert not machine.lease.holds(), "that round asked others"
        machine.round(context=b"3")
        assert machine.lease.holds()


def test_a_transfer_ends_it_for_the_rest_of_the_term() -> None:
    machine = Machine()
    machine.round()
    machine.lease.forbid()
    machine.round(context=b"2")
    assert not machine.lease.holds()
    assert not machine.lease.wants_round()
    machine.lease.role_changed()
    machine.round(context=b"3")
    assert machine.lease.holds()


def test_rounds_that_nobody_answers_are_forgotten() -> None:
    machine = Machine()
    for number in range(1000):
        machine.lease.asked(b"%d" % number)
    assert len(machine.lease._asked) == 64
    machine.lease.confirmed(b"0")
    assert not machine.lease.holds()


def test_reads_keep_the_lease_going_with_few_rounds() -> None:
    machine = Machine()
    reads = ReadIndexes(16, machine.lease)
    assert not reads.leased()
    assert not reads.wanted, "the read itself asks for a round"
    reads.confirmed(LSN(1), reads.start())
    rounds = 0
    for number in range(1000):  # ten seconds of reads
        machine.run(0.01)
        if number % 10 == 0:
            machine.lease.ticked()
        assert reads.leased()
        if reads.wanted:
            rounds += 1
            reads.confirmed(LSN(1), reads.start())
    assert 20 <= rounds <= 30


def test_without_the_option_there_is_no_lease() -> None:
    reads = ReadIndexes(16)
    reads.confirmed(LSN(1), reads.start())
    assert not reads.leased()
    assert not reads.wanted


def test_the_machine_has_both_clocks() -> None:
    first, second = machine_clock(), machine_clock()
    assert second[0] >= first[0]
    assert second[1] >= first[1]
    assert first[0] >= first[1] - 0.001
