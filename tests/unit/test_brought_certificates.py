"""A certificate for the replicas that somebody else issues: refused with a reason if it would not
work, and otherwise brought to everybody before it is used."""

import datetime as dt
from typing import Any

import pytest
from partition_operator.api.partition import Partition
from partition_operator.api.tls import Issuer
from partition_operator.resources import brought, trust
from partition_operator.resources.certificates import Lifetimes, make_authority
from partition_operator.resources.trust import Authority, Phase, Question, Source, TrustStep
from partition_proto.connection import pem

from tests.support.brought_certificates import DAY, Corp, secret
from tests.support.trust_steps import ROLES, Secrets, content, talk

NOW = dt.datetime.now(dt.UTC).replace(microsecond=0)
LIFETIMES = Lifetimes()
SPEC = {"replicas": 3, "storage": {"size": "1Gi"}}
CART = Partition("shop", "cart", "uid", 1, deleting=False, body={"metadata": {}, "spec": SPEC})
REPLICA, CLIENT = ROLES
CORP = Corp(NOW)


def cut(found: dict[str, Any], key: str) -> dict[str, Any]:
    return found | {"data": {k: v for k, v in found["data"].items() if k != key}}


OTHER = Corp(NOW)
CASES: list[tuple[dict[str, Any] | None, str]] = [
    (None, "does not exist"),
    (cut(CORP.secret(CORP.pair()), "ca.crt"), "ca.crt missing or empty"),
    (CORP.secret(CORP.pair(later=-200 * DAY)), "the certificate expired at"),
    (CORP.secret(CORP.pair(later=200 * DAY)), "not valid before"),
    (CORP.secret(CORP.pair(name="other", names=["*.cart-replicas.shop.svc"])), "has no URI"),
    (CORP.secret(CORP.pair(role="client")), "no URI logstore://shop/cart/replica"),
    (CORP.secret(CORP.pair(names=["cart.shop.svc"])), "cart-0.cart-replicas.shop.svc would fail"),
    (CORP.secret(CORP.pair(names=["*.cart-replicas.shop.svc"])), "cart.shop.svc would fail"),
    (secret("corp", CORP.pair(), OTHER.authority), "would fail: unable to get local issuer"),
    (secret("corp", make_authority(NOW), CORP.authority), "has no URI"),
]


@pytest.mark.parametrize(("found", "words"), CASES, ids=[words for _, words in CASES])
def test_a_certificate_that_would_not_work_is_refused(
    found: dict[str, Any] | None, words: str
) -> None:
    with pytest.raises(brought.SourceInvalid, match=r"Secret shop/corp") as caught:
        brought.source_of(CART, "corp", found, NOW)
    assert words in str(caught.value)


def test_one_that_works_is_taken() -> None:
    pair = CORP.pair()
    found = brought.source_of(CART, "corp", CORP.secret(pair), NOW)
    assert found.pair == pair
    assert len(found.authorities) == 1


def test_cert_manager_is_asked_for_what_replicas_need() -> None:
    body = brought.build_certificate(CART, Issuer("corp", "ClusterIssuer", "g"), LIFETIMES)
    spec = body["spec"]
    assert spec["uris"] == ["logstore://shop/cart/replica"]
    assert set(spec["dnsNames"]) >= {"*.cart-replicas.shop.svc", "cart.shop.svc"}
    assert (spec["duration"], spec["renewBefore"]) == ("2160h0m0s", "720h0m0s")
    assert {"server auth", "client auth"} <= set(spec["usages"])
    assert spec["issuerRef"] == {"name": "corp", "kind": "ClusterIssuer", "group": "g"}


# --- how it comes into use --------------------------------------------------------------------


def settle(secrets: Secrets, question: Question) -> Phase:
    for _ in range(10):
        outlook = trust.look(secrets, question)
        due = [s for s, step in outlook.steps.items() if step not in QUIET]
        if not due:
            return outlook.phase
        step = outlook.steps[due[0]]
        live = secrets[due[0]]
        secrets[due[0]] = trust.renewed(CART, due[0], ROLES[due[0]], live, question, step)
    raise AssertionError("it goes on for ever")


QUIET = {TrustStep.NOTHING, TrustStep.WAIT}


def test_a_change_of_the_source_parts_nobody_and_back() -> None:
    """From the operator's authority to a user's, to another one of the user's, and back."""
    authority = Authority(make_authority(NOW))
    secrets: Secrets = dict.fromkeys(ROLES)
    now = NOW
    assert settle(secrets, Question(authority, now, LIFETIMES)) is Phase.SETTLED
    sources: list[dict[str, Source]] = [
        {REPLICA: brought.source_of(CART, "corp", corp.secret(corp.pair()), NOW)}
        for corp in (CORP, OTHER)
    ]
    held = {name: content(found) for name, found in secrets.items()}
    for source in [*sources, {}]:
        seen: list[Phase] = []
        for _ in range(3):
            seen.append(settle(secrets, Question(authority, now, LIFETIMES, {}, source)))
            fresh = {name: content(found) for name, found in secrets.items()}
            for one in (held, fresh):
                for other in (held, fresh):
                    assert talk_as(one[REPLICA], other[REPLICA])
                    assert talk_as(one[REPLICA], other[CLIENT])
            held = fresh
            now += LIFETIMES.spread
        # The operator's own authority stays trusted beside a user's: there is nothing to spread on
        # the way back, and nothing to remove on the way to the first one.
        assert seen[0] is (Phase.SPREADING if source else Phase.OVERLAP)
        assert seen[-1] is (Phase.SETTLED if source is sources[0] else Phase.OVERLAP)
        leaf = source[REPLICA].leaf if source else None
        assert leaf is None or trust.read(secrets[REPLICA]).certificate == leaf
    now += LIFETIMES.overlap
    assert settle(secrets, Question(authority, now, LIFETIMES)) is Phase.SETTLED
    assert len(trust.read(secrets[CLIENT]).trusted) == 1


def talk_as(server: pem.Pem, client: pem.Pem) -> bool:
    return talk(server, client, "cart-0.cart-replicas.shop.svc")


def test_a_renewal_of_the_same_authority_is_copied_at_once() -> None:
    authority = Authority(make_authority(NOW))
    secrets: Secrets = dict.fromkeys(ROLES)
    for _ in range(2):
        source = brought.source_of(CART, "corp", CORP.secret(CORP.pair()), NOW)
        question = Question(authority, NOW, LIFETIMES, {"cart-0": trust.SILENT}, {REPLICA: source})
        assert settle(secrets, question) is Phase.SETTLED
        assert trust.read(secrets[REPLICA]).certificate == source.leaf


def test_what_is_in_use_stays_while_the_source_cannot_be_used() -> None:
    authority = Authority(make_authority(NOW))
    secrets: Secrets = dict.fromkeys(ROLES)
    source = brought.source_of(CART, "corp", CORP.secret(CORP.pair()), NOW)
    settle(secrets, Question(authority, NOW, LIFETIMES, {}, {REPLICA: source}))
    before = dict(secrets)
    later = NOW + 20 * DAY
    broken = {REPLICA: Source(None)}
    settle(secrets, Question(authority, later, LIFETIMES, {}, broken))
    assert secrets == before
    # A new Partition waits: the operator's certificate is not what the spec asks for.
    fresh: Secrets = dict.fromkeys(ROLES)
    settle(fresh, Question(authority, NOW, LIFETIMES, {}, broken))
    assert fresh[REPLICA] is None
    # One of the operator is renewed as if there were no source.
    mine: Secrets = dict.fromkeys(ROLES)
    settle(mine, Question(authority, NOW, LIFETIMES))
    due = NOW + LIFETIMES.certificate - LIFETIMES.renew_before
    steps = trust.look(mine, Question(authority, due, LIFETIMES, {}, broken)).steps
    assert steps[REPLICA] is TrustStep.ISSUE
