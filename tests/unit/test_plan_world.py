"""The plan against a model of the world: from any state, with faults between and in its steps, no
action loses data or the quorum. Once the faults end, the Partition comes to what its spec asks for,
says so, and rests.

PLAN_EXAMPLES is how many scenarios are drawn at random. A failure prints the smallest scenario that
hypothesis found, and how to run it again.
"""

import os
from typing import get_args

from hypothesis import HealthCheck, Phase, given, seed, settings
from partition_operator.reconcile.partition.actions import Action

from tests.support.partition_world.scenarios import Scenario, scenarios

EXAMPLES = int(os.environ.get("PLAN_EXAMPLES", "0"))
EXAMPLES_KNOWN = 150
"""Without PLAN_EXAMPLES: always the same ones, so that a run does not fail by what it happened to
find. The hunt is for `make test-long`."""
CHECKS = [HealthCheck.too_slow, HealthCheck.data_too_large]
NOT_MODELLED = {
    *("SetFinalizer", "CreateSnapshot"),  # the policy SnapshotThenDelete
    *("RecordRecovery", "RecoverQuorum"),  # a lost quorum that a user gives up
    "WriteClients",  # spec.clients
}
"""What the model does not know yet. Other tests show these."""
PHASES = [Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink]
"""To explain a failure takes longer than to find it."""


@settings(
    max_examples=EXAMPLES or EXAMPLES_KNOWN,
    derandomize=not EXAMPLES,
    deadline=None,
    print_blob=True,
    phases=PHASES,
    suppress_health_check=CHECKS,
)
@given(scenarios())
def test_a_partition_is_safe_and_comes_to_rest(scenario: Scenario) -> None:
    scenario.play()


def test_every_action_is_taken() -> None:
    """The search reaches all of them, with a seed that stays."""
    wanted = {action.__name__ for action in get_args(Action)} - NOT_MODELLED
    taken: set[str] = set()

    @seed(2)
    @settings(
        max_examples=500,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=CHECKS,
    )
    @given(scenarios())
    def search(scenario: Scenario) -> None:
        if not wanted <= taken:
            taken.update(scenario.play().operator.done)

    search()
    assert wanted <= taken, f"never taken: {sorted(wanted - taken)}"
