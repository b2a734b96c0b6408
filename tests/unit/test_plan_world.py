"""The plan against a model of the world: from any state, with faults between and in its steps, no
action loses data or the quorum. Once the faults end, the Partition comes to what its spec asks for,
says so, and rests.

PLAN_EXAMPLES (default 150) is how many scenarios are tried. A failure prints the smallest scenario
that hypothesis found, and how to run it again.
"""

import os
from typing import get_args

from hypothesis import HealthCheck, Phase, given, seed, settings
from partition_operator.reconcile.partition.actions import Action

from tests.support.partition_world.scenarios import SEARCHES, Scenario, scenarios

EXAMPLES = int(os.environ.get("PLAN_EXAMPLES", "150"))
NOT_MODELLED = {
    *("RecordRecovery", "RecoverQuorum"),  # a lost quorum that a user gives up
    "WriteClients",  # spec.clients
}
"""What the model does not know. Other tests show these."""
PART_EXAMPLES = 12
CHECKS = [HealthCheck.too_slow, HealthCheck.data_too_large]
PHASES = [Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink]
"""To explain a failure takes longer than to find it."""


@settings(
    max_examples=EXAMPLES,
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
    for part in SEARCHES:

        @seed(1)
        @settings(
            max_examples=PART_EXAMPLES,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=CHECKS,
        )
        @given(scenarios(**part))
        def search(scenario: Scenario) -> None:
            taken.update(scenario.play().operator.done)

        search()
    assert wanted <= taken, f"never taken: {sorted(wanted - taken)}"
