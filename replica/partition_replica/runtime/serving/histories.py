"""Compares the history of this replica's state with the history that a caller names."""

from partition_replica.core.ports import LogView
from partition_replica.errors import no_state_yet, wrong_history
from partition_replica.runtime.current_member import CurrentMember
from partition_replica.storage.generations import StateGenerations


class Histories:
    """The history of the state that is current. On the event loop."""

    def __init__(self, log: LogView, states: StateGenerations, current: CurrentMember) -> None:
        self._log = log
        self._states = states
        self._current = current

    def known(self) -> str:
        """The group's history ID; "" while this replica has no state of its group."""
        log, state = self._log, self._states.current
        if not log.identity.standalone and not log.configuration[1].members:
            return ""
        if state.applied.index < log.boundary.index:
            return ""  # the log has installed a received state, which is not open yet
        return self._states.history_of(state)

    def check_state(self) -> str:
        """The group's history ID. Raises NoLeader while this replica has no state of its group."""
        own = self.known()
        if not own:
            raise no_state_yet()
        return own

    def check(self, history: str, *, leading: bool = False) -> None:
        """Raises WrongHistory if `history` is not this state's, and NoLeader if that is not known
        yet. "" is accepted. leading: also raises NotLeader or NoLeader unless this is a serving
        leader, so that an outdated replica cannot report its old history to a client."""
        if leading:
            self._current.leading().check_serving()
        if not history:
            return
        own = self.check_state()
        if history != own:
            raise wrong_history(history, own)
