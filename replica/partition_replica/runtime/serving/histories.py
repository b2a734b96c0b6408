"""Which history of the group this replica's state belongs to, and which one a caller knows."""

from partition_replica.core.ports import LogView
from partition_replica.errors import no_state_yet, wrong_history
from partition_replica.runtime.current_member import CurrentMember
from partition_replica.storage.generations import StateGenerations


class Histories:
    """On the event loop."""

    def __init__(self, log: LogView, states: StateGenerations, current: CurrentMember) -> None:
        self._log = log
        self._states = states
        self._current = current

    def known(self) -> str:
        """The ID of the group's history; "" while this replica has none of its state."""
        log, state = self._log, self._states.current
        if not log.identity.standalone and not log.configuration[1].members:
            return ""
        if state.applied.index < log.boundary.index:
            return ""  # the log has adopted a snapshot whose state is about to be opened
        return self._states.history_of(state)

    def check_state(self) -> str:
        """The history's ID. Raises NoLeader while this replica has none of its group's state."""
        own = self.known()
        if not own:
            raise no_state_yet()
        return own

    def check(self, history: str, *, leading: bool = False) -> None:
        """Raises WrongHistory, and NoLeader if the history is not known yet. leading: raises
        NotLeader or NoLeader unless this is a leader that serves, so that a replica that was left
        behind cannot tell a client of its old history."""
        if leading:
            self._current.leading().check_serving()
        if not history:
            return
        own = self.check_state()
        if history != own:
            raise wrong_history(history, own)
