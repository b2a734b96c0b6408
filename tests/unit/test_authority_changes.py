"""The operator renews its authority, step by step: whatever comes late, restarts or is silent,
nobody is refused, and in the end nothing of the old authority is left."""

import datetime as dt

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from partition_operator.resources import trust
from partition_operator.resources.trust import Phase, Question, TrustStep

from tests.support.authority_model import (
    CART,
    CLIENT,
    HOUR,
    LIFETIMES,
    REPLICA,
    ROLES,
    Model,
    trusted_by,
)

EVENTS = st.one_of(
    st.tuples(st.just("time"), st.floats(0.5, 60)),
    st.tuples(st.just("ask"), st.integers(0, 9)),
    st.tuples(st.just("bring"), st.integers(0, 2)),
    st.tuples(st.just("silent"), st.integers(0, 1)),
    st.tuples(st.just("back"), st.integers(0, 1)),
)


def settle(model: Model) -> None:
    """Everybody is there again, and the overlap passes."""
    for party in model.parties:
        party.silent = False
        model.bring(party)
    model.pass_time(60)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(EVENTS, min_size=3, max_size=8))
def test_nobody_is_refused_at_any_time(events: list[tuple[str, float]]) -> None:
    model = Model()
    for kind, number in events:
        party = model.parties[int(number) % len(model.parties)]
        match kind:
            case "time":
                model.pass_time(number)
            case "ask":
                model.ask(str(int(number)))
            case "bring":
                model.bring(party)
            case "silent":
                party.silent = True
            case "back":
                # A pod that comes back mounts the newest Secret.
                party.silent = False
                model.bring(party)
    settle(model)
    settle(model)
    assert model.phase is Phase.SETTLED
    assert model.authority.previous is None
    for secret in ROLES:
        assert trusted_by(model.secrets[secret]) == 1


def test_the_phases_of_a_renewal() -> None:
    model = Model()
    model.ask("now")
    seen: list[Phase] = []
    for _ in range(100):
        if not seen or seen[-1] is not model.phase:
            seen.append(model.phase)
        if not model.act():
            model.tick()
            model.check()
    assert seen == [
        Phase.SETTLED,
        Phase.TRUSTING,
        Phase.SPREADING,
        Phase.ISSUING,
        Phase.OVERLAP,
        Phase.SETTLED,
    ]
    assert model.renewals == 1


def test_a_replica_that_is_not_seen_holds_the_change_up_and_is_named() -> None:
    model = Model()
    model.parties[1].silent = True
    model.ask("now")
    model.pass_time(10)
    outlook = trust.look(model.secrets, model.question())
    assert (outlook.phase, outlook.unseen) == (Phase.SPREADING, ("cart-1",))
    # The certificates of the former authority are renewed meanwhile.
    model.pass_time(300)
    held = trust.read(model.secrets[REPLICA])
    assert held.certificate is not None
    assert held.certificate.not_valid_after_utc > model.now + LIFETIMES.renew_before
    assert model.phase is Phase.SPREADING
    settle(model)
    assert model.phase is Phase.SETTLED


def test_the_old_authority_stays_until_its_certificates_cannot_be_in_use() -> None:
    model = Model()
    model.ask("now")
    model.pass_time(10)
    assert model.phase is Phase.OVERLAP
    model.pass_time(28)
    assert model.phase is Phase.OVERLAP
    for secret in ROLES:
        assert trusted_by(model.secrets[secret]) == 2
    model.pass_time(10)
    assert model.phase is Phase.SETTLED


def test_a_replica_with_an_old_certificate_keeps_the_old_authority_trusted() -> None:
    model = Model()
    model.ask("now")
    model.pass_time(3)
    assert model.phase is Phase.OVERLAP
    model.parties[0].silent = True
    model.pass_time(100)
    assert model.phase is Phase.OVERLAP
    settle(model)
    assert model.phase is Phase.SETTLED


@pytest.mark.parametrize("previous", [True, False])
def test_a_secret_that_is_lost_during_a_change_comes_back_as_everybody_accepts_it(
    previous: bool,
) -> None:
    model = Model()
    model.ask("now")
    model.pass_time(1)
    assert model.phase in (Phase.TRUSTING, Phase.SPREADING)
    model.secrets[CLIENT] = None
    question = model.question()
    if not previous:
        question = Question(
            trust.Authority(model.authority.current), model.now, LIFETIMES, question.replicas
        )
    step = trust.look(model.secrets, question).steps[CLIENT]
    assert step is (TrustStep.EXTEND if previous else TrustStep.ISSUE)
    body = trust.renewed(CART, CLIENT, "client", None, question, step)
    assert trusted_by(body) == 1 + previous


def test_an_earlier_replica_is_followed_by_time_alone() -> None:
    """It reports nothing, so it is not among the reports."""
    model = Model()
    model.ask("now")
    model.rotate()
    now, authority = model.now, model.authority
    for _ in range(4):
        question = Question(authority, now, LIFETIMES)
        for name, step in trust.look(model.secrets, question).steps.items():
            if step in (TrustStep.TRUST, TrustStep.ISSUE):
                live = model.secrets[name]
                body = trust.renewed(CART, name, ROLES[name], live, question, step)
                model.secrets[name] = body
        now += LIFETIMES.spread + dt.timedelta(seconds=1)
    assert trust.look(model.secrets, Question(authority, now, LIFETIMES)).phase is Phase.OVERLAP
    now += LIFETIMES.overlap + HOUR
    steps = trust.look(model.secrets, Question(authority, now, LIFETIMES)).steps
    assert set(steps.values()) == {TrustStep.TRUST}
