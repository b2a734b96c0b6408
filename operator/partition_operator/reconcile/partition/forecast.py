"""The steps that the operator would take next, as far as they follow from what was observed. Pure.

The operator takes one step, and observes again. A write to an object has no effect that is not
known beforehand, so the forecast assumes it done and plans on. The effect of every other step, such
as an eviction, depends on Kubernetes or on the replicas. The forecast ends with it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from partition_operator.reconcile.observed.partition import ObservedPartition
from partition_operator.reconcile.partition import actions
from partition_operator.reconcile.partition.action_words import describe
from partition_operator.reconcile.partition.actions import Action
from partition_operator.reconcile.partition.plan import Plan

STEPS_MAX = 50
NOTHING = "Then there is nothing to do until something changes."
WAITS = "Then it waits, and looks again."
OBSERVES = "Then it observes again, because the next step depends on the effect of this one."


@dataclass(frozen=True, slots=True)
class ForecastStep:
    """action: the name of its class."""

    action: str
    text: str


@dataclass(frozen=True, slots=True)
class Forecast:
    """first: the plan of the next turn. steps: from the first one on. then: what follows."""

    first: Plan
    steps: tuple[ForecastStep, ...]
    then: str


def forecast(observed: ObservedPartition, decide: Callable[[ObservedPartition], Plan]) -> Forecast:
    """decide: the plan of one turn."""
    first = step = decide(observed)
    steps: list[ForecastStep] = []
    done: list[Action] = []
    while step.action is not None:
        steps.append(ForecastStep(type(step.action).__name__, describe(step.action, observed)))
        done.append(step.action)
        after = _after(observed, step.action)
        if after is None or len(steps) >= STEPS_MAX:
            return Forecast(first, tuple(steps), OBSERVES)
        observed, step = after, decide(after)
        if step.action in done:
            return Forecast(first, tuple(steps), OBSERVES)
    return Forecast(first, tuple(steps), NOTHING if step.settled else WAITS)


def _after(  # noqa: PLR0911  # a flat match over actions
    observed: ObservedPartition, action: Action
) -> ObservedPartition | None:
    """Returns what would be observed after the action; None if that is not known."""
    certificates = observed.certificates
    match action:
        case actions.Apply(body) if body["kind"] != "StatefulSet":
            key = (body["kind"], body["metadata"]["name"])
            stored = _stored(observed.objects.get(key), body)
            return replace(observed, objects=observed.objects | {key: stored})
        case actions.IssueCertificate(secret, _):
            good = observed.certificates_good | {secret: True}
            left = replace(certificates, untrusting=certificates.untrusting - {secret})
            return replace(observed, certificates_good=good, certificates=left)
        case actions.TrustAuthority(secret, _):
            left = replace(certificates, untrusting=certificates.untrusting - {secret})
            return replace(observed, certificates=left)
        case actions.AnnotateClaim(ordinal, cluster_id):
            return _with_claim(observed, ordinal, cluster_id=cluster_id)
        case actions.GrowClaim(ordinal, _, size):
            return _with_claim(observed, ordinal, size=size)
        case actions.ModifyClaim(ordinal, _, wanted):
            return _with_claim(observed, ordinal, attributes=wanted)
    return None


def _stored(live: object, body: object) -> dict[str, object]:
    """Returns the live object with every field of `body`, as the API server would store it."""
    assert isinstance(body, dict)
    found = dict(live) if isinstance(live, dict) else {}
    for key, value in body.items():
        before = found.get(key)
        nested = isinstance(value, dict) and isinstance(before, dict) and value
        found[key] = _stored(before, value) if nested else value
    return found


def _with_claim(observed: ObservedPartition, ordinal: int, **fields: str) -> ObservedPartition:
    changed = tuple(
        replace(claim, **fields) if claim.ordinal == ordinal else claim  # type: ignore[arg-type]
        for claim in observed.claims
    )
    return replace(observed, claims=changed)
