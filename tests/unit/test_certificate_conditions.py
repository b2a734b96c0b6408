"""What the status says of certificates: nothing is Ready that TLS keeps apart."""

import datetime as dt
from dataclasses import replace
from typing import Any

import pytest
from partition_operator.api.events import Event
from partition_operator.api.partition import Partition
from partition_operator.reconcile.observed import last_write
from partition_operator.reconcile.observed.partition import (
    Certificates,
    ObservedPartition,
    ObservedPod,
)
from partition_operator.reconcile.partition import news, writes
from partition_operator.reconcile.partition.actions import (
    Delete,
    IssueCertificate,
    TrustAuthority,
    WriteClients,
)
from partition_operator.reconcile.partition.plan import Plan, plan
from partition_operator.reconcile.partition.refusals import Refusals
from partition_operator.resources.common import metadata
from partition_operator.resources.trust import Phase

from tests.support.partition_views import OTHER, replica

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
CLUSTER = "6f1c2b3a-0000-4000-8000-000000000000"
SECRETS = ("part-replica-tls", "part-client-tls")


def see(certificates: Certificates, old: dict[str, Any] | None = None) -> ObservedPartition:
    """A group of three that exists, and none of whose replicas answers."""
    metadata = {"name": "part", "namespace": "shop", "uid": "uid", "generation": 1}
    status = {"clusterID": CLUSTER, "bootstrapped": True} | (old or {})
    spec = {"replicas": 3, "storage": {"size": "1Gi"}}
    body = {"metadata": metadata, "spec": spec, "status": status}
    pods = tuple(ObservedPod(n, f"10.0.0.{n}", ready=True, deleting=False) for n in range(3))
    return ObservedPartition(
        Partition("shop", "part", "uid", 1, deleting=False, body=body),
        NOW,
        {},
        pods,
        (),
        (),
        dict.fromkeys(SECRETS, True),
        certificates=certificates,
    )


def condition(step: Plan, kind: str) -> tuple[str, str, str]:
    found = next(c for c in step.status["conditions"] if c["type"] == kind)
    return found["status"], found["reason"], found["message"]


def test_replicas_that_refuse_the_operator_are_not_called_leaderless() -> None:
    why = "OWN_CERTIFICATE_REFUSED: 10.0.0.1 rejects our certificate"
    step = plan(see(Certificates(refused={1: why, 2: why})), "image:1")
    status, reason, message = condition(step, "CertificatesReady")
    assert (status, reason) == ("False", "Refused")
    assert message == f"part-1: {why}; part-2: {why}"
    for kind in ("QuorumAvailable", "Ready"):
        assert condition(step, kind) == ("Unknown", "NotSeen", message)
    assert step.status["state"] == "NotSeen"
    assert Event("Warning", "CertificatesRefused", message) in step.events
    # Without such a reason it is what it was.
    step = plan(see(Certificates()), "image:1")
    assert condition(step, "QuorumAvailable")[:2] == ("False", "NoLeader")


def test_an_authority_that_changes_is_said_until_the_change_is_complete() -> None:
    changing = plan(see(Certificates(changing=True)), "image:1")
    assert condition(changing, "CertificatesReady")[:2] == ("False", "AuthorityChanging")
    after = plan(see(Certificates(), changing.status), "image:1")
    assert condition(after, "CertificatesReady")[:2] == ("True", "Issued")
    assert [e.reason for e in after.events] == ["CertificatesIssued"]


def test_an_authority_that_cannot_be_used_is_said() -> None:
    problem = "Secret system/ca: tls.key is missing or empty"
    step = plan(see(Certificates(problem=problem, changing=True)), "image:1")
    assert condition(step, "CertificatesReady") == ("False", "AuthorityInvalid", problem)


def test_an_authority_near_its_end_is_said() -> None:
    step = plan(see(Certificates(authority_ends=NOW)), "image:1")
    status, reason, message = condition(step, "CertificatesReady")
    assert (status, reason) == ("True", "AuthorityEnding")
    assert "2026-01-01T00:00:00Z" in message


def test_secrets_are_issued_and_trusted_before_anything_is_applied() -> None:
    observed = see(Certificates(untrusting=frozenset(SECRETS)))
    assert plan(observed, "image:1").action == TrustAuthority(SECRETS[0], "replica")
    observed = replace(observed, certificates_good={SECRETS[0]: True, SECRETS[1]: False})
    observed = replace(observed, certificates=Certificates())
    assert plan(observed, "image:1").action == IssueCertificate(SECRETS[1], "client")


def test_a_new_partition_tells_no_event_of_its_certificates() -> None:
    step = plan(see(Certificates()), "image:1")
    assert news.events({}, step.status) == step.events
    assert not [e for e in step.events if e.reason.startswith("Certificates")]


# --- while a spec is refused ------------------------------------------------------------------


def refused(observed: ObservedPartition, how: str) -> ObservedPartition:
    """The same with an edit that is refused, or a volume of another cluster."""
    body = observed.partition.body
    if how == "VolumesFound":
        return replace(observed, replicas=(replica(2, "follower", cluster_id=OTHER),))
    spec = body["spec"] | {"replicas": 4}
    return replace(observed, partition=replace(observed.partition, body=body | {"spec": spec}))


@pytest.mark.parametrize("how", ["InvalidSpec", "VolumesFound"])
def test_certificates_are_renewed_while_the_spec_is_refused(how: str) -> None:
    good = refused(see(Certificates()), how)
    step = plan(good, "image:1")
    assert (step.action, step.settled, step.retry_s) == (None, True, None)
    assert condition(step, "CertificatesReady")[:2] == ("True", "Issued")
    ending = replace(good, certificates_good={SECRETS[0]: True, SECRETS[1]: False})
    step = plan(ending, "image:1")
    assert step.action == IssueCertificate(SECRETS[1], "client")
    assert not step.settled
    assert step.status["state"] == condition(step, "Ready")[1] == how
    other = replace(good, certificates=Certificates(untrusting=frozenset(SECRETS), changing=True))
    step = plan(other, "image:1")
    assert step.action == TrustAuthority(SECRETS[0], "replica")
    assert condition(step, "CertificatesReady")[1] == "AuthorityChanging"


def test_a_group_that_does_not_exist_yet_has_nothing_to_renew() -> None:
    fresh = refused(see(Certificates(), {"bootstrapped": False}), "InvalidSpec")
    assert plan(replace(fresh, certificates_good={}), "image:1").action is None


def test_a_renewal_that_is_refused_is_said_and_tried_again() -> None:
    observed = refused(see(Certificates()), "InvalidSpec")
    observed = replace(observed, certificates_good={SECRETS[0]: True, SECRETS[1]: False})
    record = last_write.refused(None, writes.CERTIFICATE, "exceeded quota: q", NOW)
    held = replace(observed, writes={("Secret", SECRETS[1]): record})
    step = plan(held, "image:1")
    assert (step.action, step.settled, step.retry_s) == (None, False, 2.0)
    assert condition(step, "ObjectsApplied")[1] == "ObjectRefused"
    assert "exceeded quota: q" in condition(step, "ObjectsApplied")[2]
    assert "ObjectRefused" in [e.reason for e in step.events]
    assert condition(step, "Ready")[1] == "InvalidSpec"
    later = replace(held, now=NOW + dt.timedelta(seconds=2))
    assert plan(later, "image:1").action == IssueCertificate(SECRETS[1], "client")


@pytest.mark.parametrize("whose", ["leaving", "foreign"])
def test_a_secret_that_goes_or_is_somebody_elses_is_not_renewed(whose: str) -> None:
    observed = refused(see(Certificates()), "InvalidSpec")
    meta = metadata(observed.partition, SECRETS[1], "client")
    more = (
        {"deletionTimestamp": "x"} if whose == "leaving" else {"ownerReferences": [], "labels": {}}
    )
    live = {"kind": "Secret", "metadata": meta | more}
    seen = replace(
        observed, objects={("Secret", SECRETS[1]): live}, certificates_good={SECRETS[0]: True}
    )
    assert plan(seen, "image:1").action is None


@pytest.mark.parametrize("how", ["issue", "trust"])
def test_an_object_that_never_goes_does_not_stop_renewals(how: str) -> None:
    """Its finalizer's program may be gone for good. The certificates would end meanwhile."""
    seen = see(Certificates(untrusting=frozenset(SECRETS[1:]) if how == "trust" else frozenset()))
    service = ("Service", seen.partition.name)
    meta = metadata(seen.partition, seen.partition.name, "x") | {"deletionTimestamp": "x"}
    good = {SECRETS[0]: True, SECRETS[1]: how == "trust"}
    stuck = replace(seen, objects={service: {"metadata": meta}}, certificates_good=good)
    step = plan(stuck, "image:1")
    kind = TrustAuthority if how == "trust" else IssueCertificate
    assert step.action == kind(SECRETS[1], "client")
    assert condition(step, "Progressing")[1] == "ObjectsLeaving"
    step = plan(
        replace(stuck, certificates=Certificates(), certificates_good=dict.fromkeys(SECRETS, True)),
        "image:1",
    )
    assert (step.action, step.settled, step.waiting) == (None, False, True)


# --- clients and sources ----------------------------------------------------------------------


def test_many_refused_callers_are_worth_an_event() -> None:
    refusals, now = Refusals(), NOW

    def look(calls: int) -> list[str]:
        seen = see(Certificates(refused_calls=calls, refused_last="client app was revoked"))
        event = refusals.look(replace(seen, now=now))
        return [] if event is None else [event.message]

    assert look(500) == []  # before this operator looked
    assert look(505) == []
    told = "replicas refused 10 calls because of the caller's certificate: client app was revoked"
    assert look(510) == [told]
    assert look(900) == []  # not again so soon
    now += dt.timedelta(minutes=10)
    assert look(905) == []
    assert look(0) == []  # a replica restarted
    assert len(look(10)) == 1


def test_a_certificate_that_is_refused_is_said_anew_for_each_reason() -> None:
    first = plan(see(Certificates(source_problem="Secret corp: it expired")), "image:1")
    told = ("False", "SourceInvalid", "Secret corp: it expired")
    assert condition(first, "CertificatesReady") == told
    again = plan(see(Certificates(source_problem="Secret corp: it expired"), first.status), "i")
    assert [e.reason for e in again.events if e.reason.startswith("Cert")] == []
    other = plan(see(Certificates(source_problem="Secret corp: no key"), first.status), "image:1")
    assert Event("Warning", "CertificatesSourceInvalid", "Secret corp: no key") in other.events


def test_a_change_says_whom_it_waits_for_and_how_long_both_are_trusted() -> None:
    waiting = Certificates(changing=True, phase=Phase.SPREADING, unseen=("part-1",))
    message = condition(plan(see(waiting), "image:1"), "CertificatesReady")[2]
    assert message.endswith("not seen to trust the new one yet: part-1")
    until = NOW + dt.timedelta(days=9)
    overlap = plan(see(Certificates(phase=Phase.OVERLAP, until=until)), "image:1")
    status, reason, message = condition(overlap, "CertificatesReady")
    assert (status, reason) == ("True", "AuthorityOverlap")
    assert "until 2026-01-10T00:00:00Z" in message


def test_the_list_of_clients_is_written_and_revoked_ones_lose_their_secret() -> None:
    replica_secret, gone = SECRETS[0], "part-client-gone"
    roles = {replica_secret: "replica", SECRETS[1]: "client"}
    certificates = Certificates(roles=roles, list_differs=True, revoked={gone: "uid-1"})
    observed = see(certificates)
    live = {"kind": "Secret", "metadata": metadata(observed.partition, replica_secret)}
    live["metadata"]["uid"] = "s"
    observed = replace(observed, objects={("Secret", replica_secret): live})
    assert plan(observed, "i").action == WriteClients(replica_secret, frozenset({gone}))
    written = replace(observed, certificates=replace(certificates, list_differs=False))
    assert plan(written, "i").action == Delete("Secret", gone, "uid-1")


def test_clients_are_told_when_they_can_connect_and_when_nobody_lets_them_in() -> None:
    def status(**states: str) -> Any:
        items = [{"name": n, "rights": "Read", "state": s} for n, s in states.items()]
        return {"conditions": [], "clients": items}

    found = news.events(status(a="Pending", b="Revoking", c="Ready"), status(a="Ready", c="Ready"))
    assert [(e.reason, e.message.rpartition(" client ")[2]) for e in found] == [
        ("ClientReady", "client a can connect with the files of its Secret"),
        ("ClientRevoked", "b"),
    ]
