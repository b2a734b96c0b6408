"""What the status says of certificates: nothing is Ready that TLS keeps apart."""

import datetime as dt
from dataclasses import replace
from typing import Any

from partition_operator.api.partition import Partition
from partition_operator.reconcile import conditions
from partition_operator.reconcile.actions import IssueCertificate, TrustAuthority
from partition_operator.reconcile.conditions import Event
from partition_operator.reconcile.observed import Certificates, Observed, Pod
from partition_operator.reconcile.plan import Plan, plan

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
CLUSTER = "6f1c2b3a-0000-4000-8000-000000000000"
SECRETS = ("part-replica-tls", "part-client-tls")


def see(certificates: Certificates, old: dict[str, Any] | None = None) -> Observed:
    """A group of three that exists, and none of whose replicas answers."""
    metadata = {"name": "part", "namespace": "shop", "uid": "uid", "generation": 1}
    status = {"clusterID": CLUSTER, "bootstrapped": True} | (old or {})
    spec = {"replicas": 3, "storage": {"size": "1Gi"}}
    body = {"metadata": metadata, "spec": spec, "status": status}
    pods = tuple(Pod(n, f"10.0.0.{n}", ready=True, deleting=False) for n in range(3))
    return Observed(
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
    why = "OWN_CERTIFICATE_REFUSED: 10.0.0.1 does not accept our certificate"
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
    assert conditions.events({}, step.status) == step.events
    assert not [e for e in step.events if e.reason.startswith("Certificates")]
