"""The operator's certificate authority in its Secret. The first start creates it; the running
operator follows changes of the Secret, and renews the authority (resources/rotation.py)."""

import asyncio
import datetime as dt
import logging
import time
from collections.abc import Callable

from partition_operator import failpoints
from partition_operator.api import names
from partition_operator.api.partition import parse
from partition_operator.clients.kube import ApiError, Body, Kube
from partition_operator.config import OperatorConfig
from partition_operator.errors import AuthorityInvalid, Conflict, text_of
from partition_operator.resources import rotation
from partition_operator.resources.certificates import (
    KeyPair,
    authority_secret,
    make_authority,
)
from partition_operator.resources.trust import Authority, ends, fingerprint

logger = logging.getLogger(__name__)


class AuthorityKeeper:
    """value: the authority to issue with. problem: why the Secret can't be used; "" if it can."""

    def __init__(
        self, kube: Kube, config: OperatorConfig, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._kube = kube
        self._config = config
        self._lifetimes = config.lifetimes
        self._clock = clock
        self._looked = float("-inf")
        self._looking = asyncio.Lock()
        self._value: Authority | None = None
        self.problem = ""

    @staticmethod
    def now() -> dt.datetime:
        """The time to issue at, and to write into a Secret. A turn may have begun long before, and
        the others wait for a while from the write on."""
        return dt.datetime.now(dt.UTC)

    @property
    def value(self) -> Authority:
        assert self._value is not None, "open() is first"
        return self._value

    @property
    def ends(self) -> dt.datetime:
        """When the current authority expires."""
        return ends(self.value.current)

    async def open(self) -> None:
        """Reads the Secret, or creates it. Raises AuthorityInvalid, ApiError."""
        found = await self._read()
        if found is None:
            found = await self._create(Authority(make_authority(self.now(), self._lifetimes)))
            failpoints.reach("authority.created")
        self._value = rotation.record_of(found, self.now()).authority
        self._looked = self._clock()

    async def refresh(self) -> None:
        """Follows the Secret, at most once per `authority_look_s`, and renews the authority.

        A deleted Secret is written again. If it contains another authority, the operator changes to
        that. If it can't be used, the operator keeps its authority and sets `problem`.
        """
        async with self._looking:
            if self._clock() - self._looked < self._config.authority_look_s:
                return
            self._looked = self._clock()
            try:
                found = await self._read()
                if found is None:
                    found = await self._create(self.value)
                    logger.warning("the authority's Secret was deleted; wrote it again")
                await self._follow(found)
            except Conflict as error:
                logger.info("the authority's Secret has changed meanwhile: %s", text_of(error))
            except ApiError as error:
                # The authority in memory is good, so nothing waits for the Secret.
                self._say_problem(f"the authority's Secret can't be read or written: {error}")

    def _say_problem(self, problem: str) -> None:
        if self.problem != problem:
            logger.error("the previously read authority stays in use: %s", problem)
        self.problem = problem

    async def _follow(self, secret: Body) -> None:
        """Raises ApiError, Conflict."""
        try:
            record = rotation.record_of(secret, self.now())
        except AuthorityInvalid as error:
            self._say_problem(text_of(error))
            return
        found, old = record.authority, self.value
        if found.current != old.current:
            self._value = Authority(found.current, previous=old.current)
            logger.warning(
                "the authority was replaced: %s by %s; both are trusted during the change",
                fingerprint(old.current),
                fingerprint(found.current),
            )
        elif found.previous is not None:
            self._value = found
        if self.value.previous not in (None, found.previous):
            # A user has replaced it, so only this process knows the previous one.
            await self._kube.merge("Secret", secret, rotation.remembering(self.value.previous))
        else:
            await self._rotate(secret, record)
        self.problem = ""

    async def _rotate(self, secret: Body, record: rotation.AuthorityRecord) -> None:
        """Takes the next step of a renewal. Raises ApiError, Conflict."""
        found, now = record.authority, self.now()
        moved = found.previous is not None and await self._have_moved(found.current)
        step = rotation.next_step(record, now, self._lifetimes, moved=moved)
        if step is rotation.RotationStep.RENEW:
            made = make_authority(now, self._lifetimes)
            await self._kube.merge("Secret", secret, rotation.renewal(record, made))
            failpoints.reach("authority.renewed")
            self._value = Authority(made, previous=found.current)
            logger.warning(
                "the authority is renewed: %s by %s; both are trusted during the change",
                fingerprint(found.current),
                fingerprint(made),
            )
        elif step is rotation.RotationStep.FORGET and found.previous is not None:
            await self._kube.merge("Secret", secret, rotation.remembering(None))
            failpoints.reach("authority.forgotten")
            self._value = Authority(found.current)
            logger.info("no certificate of authority %s is left", fingerprint(found.previous))

    async def _have_moved(self, authority: KeyPair) -> bool:
        """Raises ApiError."""
        config = self._config
        bodies = [
            body
            for namespace in config.watch or ("",)
            for body in await self._kube.list_everything(names.PLURAL, namespace)
        ]
        partitions = [parse(body) for body in bodies]
        return rotation.have_moved(partitions, config.namespace, authority)

    async def _read(self) -> Body | None:
        return await self._kube.get("Secret", self._config.namespace, self._config.authority_secret)

    async def _create(self, authority: Authority) -> Body:
        """Creates the Secret. Returns it, or the one that another operator has created meanwhile.
        Raises ApiError."""
        config = self._config
        try:
            made = await self._kube.create(
                authority_secret(config.namespace, config.authority_secret, authority.current)
            )
        except ApiError as error:
            if not error.exists:
                raise
            found = await self._read()
            if found is None:
                where = f"{config.namespace}/{config.authority_secret}"
                text = f"Secret {where} existed and was deleted meanwhile; the operator retries"
                raise ApiError(404, text) from error
            return found
        logger.info("wrote the authority's Secret %s", config.authority_secret)
        return made
