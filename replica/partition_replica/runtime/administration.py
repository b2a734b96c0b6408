"""The operator's commands: bootstrap or join a group, change its members, transfer leadership,
enable replication. Every command is idempotent."""

import asyncio
import logging
from contextlib import suppress
from functools import partial
from typing import Protocol

from partition_proto.v1 import types_pb2 as types

from partition_replica.config import ReplicaConfig
from partition_replica.core.addresses import is_address
from partition_replica.core.model import Configuration, Fence
from partition_replica.core.ports import FIRST, NOTHING, LogFormation
from partition_replica.engine.port import ChangeKind
from partition_replica.errors import (
    Deposed,
    InvalidArgument,
    MembershipRefused,
    NoLeader,
    NotFound,
    WrongCluster,
    not_leading,
)
from partition_replica.ids import ClusterID
from partition_replica.runtime.consensus.changes import Change
from partition_replica.runtime.current_member import CurrentMember
from partition_replica.runtime.member import Member
from partition_replica.storage.failpoints import reach
from partition_replica.storage.fence import put_fence
from partition_replica.storage.generations import StateGenerations
from partition_replica.threads import run_to_end

logger = logging.getLogger(__name__)

MEMBERSHIP_TIMEOUT_S = 15.0
TRANSFER_TIMEOUT_S = 10.0


class Lifecycle(Protocol):
    """The part of the replica that Administration uses."""

    def start(self) -> None: ...
    def fenced(self) -> None: ...
    def enable_replication(self) -> bool: ...


class Administration:
    """Implements core.services.AdministrationService."""

    def __init__(
        self,
        config: ReplicaConfig,
        log: LogFormation,
        states: StateGenerations,
        current: CurrentMember,
        replica: Lifecycle,
    ) -> None:
        self._config = config
        self._log = log
        self._states = states
        self._current = current
        self._replica = replica
        self._starting = asyncio.Lock()
        self._lease = asyncio.Lock()

    async def check_fencing_token(self, transitions: int, holder: str) -> None:
        """Raises Deposed if a newer operator leads. Saves a newer fencing token durably before it
        returns."""
        log = self._log
        async with self._lease:  # one at a time: none is checked against an outdated token
            self._check_lease(transitions, holder)
            if transitions > log.fencing_token:
                # To its end, even if the caller is cancelled: the next check must see the token.
                await run_to_end(partial(log.save_fencing_token, transitions, holder))
            self._check_lease(transitions, holder)

    def _check_lease(self, transitions: int, holder: str) -> None:
        seen = self._log.fencing_token
        if transitions < seen:
            raise Deposed(
                f"fencing token {transitions} of {holder} is below {seen}: another operator is the "
                "leader now",
                seen,
            )

    async def bootstrap(self, cluster: str, *, standalone: bool) -> int:
        # To its end, even if the caller is cancelled: half of it leaves a volume that never starts.
        return await asyncio.shield(asyncio.ensure_future(self._bootstrap(cluster, standalone)))

    async def fence(self, transitions: int, holder: str) -> None:
        identity = self._log.identity
        fence = Fence(transitions, holder, str(identity.cluster_id), int(identity.member_id))
        await run_to_end(partial(put_fence, self._config.data, fence))
        logger.warning("fenced by %s: the volume is closed, and no call is answered", holder)
        self._replica.fenced()

    async def enable_replication(self) -> bool:
        return self._replica.enable_replication()

    async def _bootstrap(self, cluster: str, standalone: bool) -> int:
        async with self._starting:
            identity = self._log.identity
            if identity.cluster_id:
                self._current.check_cluster(cluster)
                self._replica.start()
                log = self._log
                if identity.standalone and not standalone:
                    raise MembershipRefused(
                        "this volume is bootstrapped as standalone already, which a bootstrap does "
                        "not change: enable replication (EnableReplication)"
                    )
                if not log.boundary.index and not identity.standalone:
                    raise WrongCluster(
                        "this volume joined the cluster as a new member: bootstrap another volume, "
                        "or none if the group exists"
                    )
                return identity.member_id
            configuration = Configuration(voters=(identity.member_id,))
            members = {int(identity.member_id): self._config.advertise}
            if self._states.current.applied.index:
                self._states.reset()
            log, state = self._log, self._states.current
            start = NOTHING if standalone else FIRST
            await asyncio.to_thread(state.start, start, members)
            reach("bootstrap.state_started")
            if standalone:
                await asyncio.to_thread(log.bootstrap_standalone, ClusterID(cluster))
            else:
                await asyncio.to_thread(log.bootstrap, ClusterID(cluster), configuration)
            logger.info("bootstrapped cluster %s as member %x", cluster, identity.member_id)
            self._replica.start()
        return identity.member_id

    async def join(self, cluster: str) -> int:
        return await asyncio.shield(asyncio.ensure_future(self._join(cluster)))

    async def _join(self, cluster: str) -> int:
        async with self._starting:
            identity = self._log.identity
            if identity.cluster_id:
                self._current.check_cluster(cluster)
                self._replica.start()
                return identity.member_id
            if self._states.current.applied.index:
                self._states.reset()
            await asyncio.to_thread(self._log.join, ClusterID(cluster))
            logger.info("joined cluster %s as member %x", cluster, identity.member_id)
            self._replica.start()
        return identity.member_id

    async def add_learner(self, member_id: int, address: str) -> int:
        member = self._current.leading()
        _check_member(member_id)
        if not is_address(address):
            raise InvalidArgument(
                f"address {address!r} is invalid: allowed is host:port, with a port of 1 to 65535 "
                "and an IPv6 address in brackets"
            )
        if member_id in member.configuration.members:
            return 0
        return await self._change(member, ChangeKind.ADD_LEARNER, member_id, address)

    async def promote_learner(self, member_id: int) -> int:
        member = self._current.leading()
        _check_member(member_id)
        if member_id in member.configuration.voters:
            return 0
        if member_id not in member.configuration.learners:
            raise NotFound(
                f"member {member_id:x} is not a learner of this group: add it first (AddLearner)"
            )
        active_s = 2 * self._config.tick_s * self._config.election_ticks
        if not member.loop.heard_from(member_id, active_s):
            raise MembershipRefused(
                f"learner {member_id:x} sent nothing for {active_s:.1f} s: as a voter it could "
                "cost the group its quorum. Wait, or remove it"
            )
        status = member.loop.status()
        progress = next((p for p in status.progress if p.id == member_id), None)
        matched = progress.matched if progress is not None else 0
        lag = status.last_index - matched
        # As the engine decides it: if the next entry is compacted, a state transfer comes first.
        boundary = self._log.boundary.index
        if progress is None or progress.state == "snapshot" or progress.next_index <= boundary:
            raise MembershipRefused(
                f"learner {member_id:x} needs a state transfer first: until then it could not "
                "acknowledge entries as a voter. Wait"
            )
        if lag > self._config.limits.learner_lag_max:
            raise MembershipRefused(
                f"learner {member_id:x} is {lag} entries behind; at most "
                f"{self._config.limits.learner_lag_max} are allowed. Wait"
            )
        return await self._change(member, ChangeKind.ADD_VOTER, member_id, "")

    async def remove_member(self, member_id: int) -> int:
        member = self._current.leading()
        _check_member(member_id)
        if member_id not in member.configuration.members:
            return 0
        if member_id == self._log.identity.member_id:
            raise MembershipRefused("the leader does not remove itself: transfer leadership first")
        self._check_rest(member, member_id)
        return await self._change(member, ChangeKind.REMOVE, member_id, "")

    def _check_rest(self, member: Member, leaving: int) -> None:
        """Raises MembershipRefused if the other voters would have no quorum without `leaving`."""
        active_s = 2 * self._config.tick_s * self._config.election_ticks
        own = self._log.identity.member_id
        voters = member.configuration.voters
        rest = [voter for voter in voters if voter != leaving]
        active = [v for v in rest if v == own or member.loop.heard_from(v, active_s)]
        if leaving in voters and not 2 * len(active) > len(rest):
            raise MembershipRefused(
                f"without member {leaving:x}, only {len(active)} of {len(rest)} voters are active, "
                "which is not a quorum: restart the inactive voters first"
            )

    async def transfer_leadership(self, member_id: int) -> tuple[int, str]:
        return await self.transfer(self._current.running(), member_id, TRANSFER_TIMEOUT_S)

    async def _change(self, member: Member, kind: ChangeKind, member_id: int, address: str) -> int:
        context = types.MemberChange(member_id=member_id, address=address).SerializeToString()
        change = Change([(kind, member_id)], context)
        member.loop.change(change)
        try:
            async with asyncio.timeout(MEMBERSHIP_TIMEOUT_S):
                index, term = await change.future
                await member.waits.reach(index)
        except TimeoutError as error:
            raise NoLeader(
                f"the change of member {member_id:x} was not applied within "
                f"{MEMBERSHIP_TIMEOUT_S} s, but may be later: read the members (GetStatus)"
            ) from error
        if self._log.term(index) != term:
            raise not_leading("leadership was lost, and the change with it", member.leader)
        return index

    async def transfer(self, member: Member, member_id: int, timeout_s: float) -> tuple[int, str]:
        if member.loop.role != "leader":
            raise self._current.not_leader(member)
        own = self._log.identity.member_id
        if not member_id:
            found = member.transferee()
            if found is None:
                raise MembershipRefused("there is no other voter that could lead")
            member_id = found
        if member_id == own:
            return member.leader
        if member_id not in member.configuration.voters:
            raise MembershipRefused(
                f"member {member_id:x} is not a voter of this group: name a voter, or 0 for any"
            )
        again_s = self._config.tick_s * self._config.election_ticks
        try:
            async with asyncio.timeout(timeout_s):
                while member.loop.leader in (0, own):
                    # The other voter refuses while it still has a configuration change to apply.
                    # The engine then abandons the transfer after an election time-out: ask again.
                    if member.loop.role == "leader" and not member.loop.status().lead_transferee:
                        member.loop.transfer_leader(member_id)
                    with suppress(TimeoutError):
                        await asyncio.wait_for(member.leader_changed(), again_s)
        except TimeoutError as error:
            raise NoLeader(
                f"member {member_id:x} did not become the leader within {timeout_s} s: retry"
            ) from error
        return member.leader


def _check_member(member_id: int) -> None:
    if member_id < 1:
        raise InvalidArgument(f"member_id is {member_id}: set it to the ID of a member, 1 or above")
