"""A Partition's Secrets with certificates: what they are, what they need, and their next content.

Reads the Secrets by name: the operator may not list them. Keys stay in this module for the time of
a turn; an observation has none.
"""

import asyncio
import datetime as dt
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from partition_operator.api import names
from partition_operator.api.partition import Partition
from partition_operator.clients.authority import AuthorityKeeper
from partition_operator.clients.kube import Body, Kube
from partition_operator.errors import Conflict
from partition_operator.reconcile.observed.partition import Certificates
from partition_operator.resources import brought, clients, trust
from partition_operator.resources.certificates import LIFETIMES, Lifetimes, lacks_names
from partition_operator.resources.common import is_foreign
from partition_operator.resources.trust import Phase, Reported, Source, TrustStep

logger = logging.getLogger(__name__)

REPLICA, CLIENT = "replica", "client"


@dataclass(frozen=True, slots=True)
class SecretsRead:
    """live: by name, None for a Secret that does not exist. roles: of the Secrets that the
    operator issues, in the order in which it does. sources, problem: where the replicas'
    certificate comes from, and why that can't be used."""

    live: dict[str, Body | None]
    roles: dict[str, str]
    clients: dict[str, str]
    """By name of a client, its Secret."""
    sources: dict[str, Source]
    problem: str


class PartitionSecrets:
    """Reads Secrets, and makes their next content. It writes nothing."""

    def __init__(
        self, kube: Kube, authority: AuthorityKeeper, lifetimes: Lifetimes = LIFETIMES
    ) -> None:
        self._kube = kube
        self._authority = authority
        self._lifetimes = lifetimes
        self._problems: dict[tuple[str, str], str] = {}
        self.refused = 0
        """Problems of sources, each counted once per text and Partition."""

    async def read(self, partition: Partition, now: dt.datetime) -> SecretsRead:
        """Raises ApiError."""
        name, namespace = partition.name, partition.namespace
        replica, client = names.tls_secret(name), names.client_secret(name)
        live = await self._all(namespace, (replica, client))
        listing = clients.read(_own(live[replica], partition))
        asked = clients.asked(partition, listing)
        wanted = dict.fromkeys([c.name for c in asked] + [e.name for e in listing.entries])
        secrets = {c: names.named_client_secret(name, c) for c in wanted}
        live |= await self._all(namespace, secrets.values())
        roles = {replica: REPLICA, client: CLIENT}
        for entry in listing.entries:
            if entry.rights != clients.REVOKED:
                roles[secrets[entry.name]] = entry.role
        sources, problem = await self._sources(partition, now, _own(live[replica], partition))
        return SecretsRead(live, roles, secrets, sources, problem)

    async def _all(self, namespace: str, wanted: Iterable[str]) -> dict[str, Body | None]:
        """Reads Secrets at once. Raises ApiError."""
        found = list(wanted)
        bodies = await asyncio.gather(*(self._kube.get("Secret", namespace, s) for s in found))
        return dict(zip(found, bodies, strict=True))

    async def _sources(
        self, partition: Partition, now: dt.datetime, held: Body | None
    ) -> tuple[dict[str, Source], str]:
        """Returns (by Secret, why it can't be used). held: the replicas' Secret."""
        target = names.tls_secret(partition.name)
        if partition.asked is None:
            # The spec may ask for a source, so what the replicas have stays.
            return ({target: Source(None)} if trust.read(held).brought else {}), ""
        tls = partition.asked.tls
        if not (tls.secret or tls.issuer):
            self._tell(partition, "")
            return {}, ""
        name = tls.secret or names.issued_secret(partition.name)
        secret = await self._kube.get("Secret", partition.namespace, name)
        try:
            found = {target: brought.source_of(partition, name, secret, now)}
        except brought.SourceInvalid as error:
            self._tell(partition, str(error))
            return {target: Source(None)}, str(error)
        self._tell(partition, "")
        return found, ""

    def _tell(self, partition: Partition, problem: str) -> None:
        """Writes a problem of the source to the log, once per text."""
        if problem and self._problems.get(partition.key) != problem:
            self.refused += 1
            logger.warning("%s/%s: refused: %s", *partition.key, problem)
        if problem:
            self._problems[partition.key] = problem
        else:
            self._problems.pop(partition.key, None)

    def judge(
        self,
        partition: Partition,
        read: SecretsRead,
        reports: Mapping[str, Reported | None],
        now: dt.datetime,
        *,
        timed: bool,
    ) -> tuple[dict[str, bool], Certificates]:
        """Returns (by Secret, whether its certificate need not be issued; what is known of all).
        reports, timed: see clients.look."""
        own = {s: _own(read.live[s], partition) for s in read.roles}
        free = {s for s in read.roles if not _foreign(read.live[s], partition)}
        replica = names.tls_secret(partition.name)
        listing = clients.read(own[replica])
        existing = frozenset(c for c, s in read.clients.items() if _own(read.live[s], partition))
        spread = self._lifetimes.spread
        late = listing.changed is not None and now >= listing.changed + spread
        asked = clients.asked(partition, listing)
        people = clients.look(asked, listing, existing, reports, timed=timed, late=late)
        known = people.known and not people.differs
        # A client gets its certificate when every replica would let it in.
        early = {s for s in read.roles if s in read.clients.values() and not known}
        question = trust.Question(
            self._authority.value,
            now,
            self._lifetimes,
            reports,
            read.sources,
            stale=frozenset(s for s in free - early if not self._is_of(partition, read, own, s)),
            renamed=self._renamed(partition, read, own),
        )
        asks = {s: secret for s, secret in own.items() if s in free and (secret or s not in early)}
        outlook = trust.look(asks, question)
        issued = (TrustStep.ISSUE, TrustStep.EXTEND)
        good = {s: outlook.steps.get(s) not in issued for s in read.roles}
        return good, self._certificates(partition, read, people, outlook, asks)

    def _renamed(
        self, partition: Partition, read: SecretsRead, own: Mapping[str, Body | None]
    ) -> frozenset[str]:
        """Returns the replicas' Secret if its certificate lacks a name that the spec asks for."""
        replica = names.tls_secret(partition.name)
        held = trust.read(own[replica]).certificate
        if held is None or replica in read.sources or not lacks_names(held, partition):
            return frozenset()
        return frozenset({replica})

    def _is_of(
        self,
        partition: Partition,
        read: SecretsRead,
        own: Mapping[str, Body | None],
        secret: str,
    ) -> bool:
        """Whether a client's certificate has the ID of the list."""
        role = read.roles[secret]
        if secret not in read.clients.values():
            return True
        return clients.has_role(partition, own[secret], role)

    def _certificates(
        self,
        partition: Partition,
        read: SecretsRead,
        people: clients.ClientsOutlook,
        outlook: trust.Outlook,
        asks: Mapping[str, Body | None],
    ) -> Certificates:
        authority = self._authority.value
        by_step = {
            step: frozenset(s for s, found in outlook.steps.items() if found is step)
            for step in TrustStep
        }
        ends = {
            s: held.certificate.not_valid_after_utc
            for s, secret in asks.items()
            if (held := trust.read(secret)).certificate is not None
        }
        gone = [e.name for e in people.listing.entries if e.rights == clients.REVOKED]
        return Certificates(
            lifetimes=self._lifetimes,
            untrusting=by_step[TrustStep.TRUST],
            changing=outlook.phase not in (Phase.SETTLED, Phase.OVERLAP),
            problem=self._authority.problem,
            roles={s: read.roles[s] for s in asks},
            extending=by_step[TrustStep.EXTEND],
            phase=outlook.phase,
            unseen=outlook.unseen,
            until=outlook.until,
            authority=trust.fingerprint(authority.current),
            ends=ends,
            source_problem=read.problem,
            list_differs=people.differs,
            clients=people.states,
            revoked={
                read.clients[c]: _uid(read.live[read.clients[c]])
                for c in gone
                if _own(read.live[read.clients[c]], partition)
            },
        )

    # --- for the executor ---------------------------------------------------------------------

    async def renewed(
        self, partition: Partition, secret: str, role: str, step: TrustStep
    ) -> tuple[Body, Body | None]:
        """Returns (the Secret after `step`, the live one, just read). Raises ApiError, Conflict,
        AuthorityInvalid."""
        now = self._authority.now()
        live = await self._kube.get("Secret", partition.namespace, secret)
        replica = names.tls_secret(partition.name)
        held = live if secret == replica else None
        sources, problem = await self._sources(partition, now, held)
        if problem and secret in sources and step is not TrustStep.TRUST:
            raise Conflict(problem)
        question = trust.Question(self._authority.value, now, self._lifetimes, sources=sources)
        if not trust.still_fits(live, question, step):
            raise Conflict(f"Secret {secret} does not trust the newest authority yet")
        return trust.renewed(partition, secret, role, live, question, step), live

    def listed(self, partition: Partition, live: Body, existing: frozenset[str]) -> Body:
        """Returns the merge patch of the replicas' Secret with the next list of clients. existing:
        clients whose Secret exists; a revoked one of these stays in the list."""
        listing = clients.read(live)
        asked = clients.asked(partition, listing)
        entries = clients.wanted(asked, listing, existing, known=True)
        return clients.patch(entries, self._authority.now())


def _own(live: Body | None, partition: Partition) -> Body | None:
    """Returns the Secret unless it belongs to another owner."""
    return None if _foreign(live, partition) else live


def _foreign(live: Body | None, partition: Partition) -> bool:
    return live is not None and is_foreign(live, partition)


def _uid(live: Body | None) -> str:
    return str((live or {"metadata": {"uid": ""}})["metadata"]["uid"])
