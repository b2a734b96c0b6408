"""The operator's certificate authority in its Secret. The first start creates it; the running
operator follows changes of the Secret."""

import asyncio
import datetime as dt
import logging
import time
from collections.abc import Callable

from partition_operator import failpoints
from partition_operator.clients.kube import ApiError, Body, Kube
from partition_operator.config import OperatorConfig
from partition_operator.errors import AuthorityInvalid, text_of
from partition_operator.resources.certificates import (
    KeyPair,
    authority_of,
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
            found = await self._create(make_authority(self.now(), self._config.lifetimes))
            failpoints.reach("authority.created")
        self._value = Authority(authority_of(found, self.now()))
        self._looked = self._clock()

    async def refresh(self) -> None:
        """Follows the Secret, at most once per `authority_look_s`.

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
                    found = await self._create(self.value.current)
                    logger.warning("the authority's Secret was deleted; wrote it again")
            except ApiError as error:
                # The authority in memory is good, so nothing waits for the Secret.
                self._say_problem(f"the authority's Secret can't be read or written: {error}")
                return
            self._follow(found)

    def _say_problem(self, problem: str) -> None:
        if self.problem != problem:
            logger.error("the previously read authority stays in use: %s", problem)
        self.problem = problem

    def _follow(self, secret: Body) -> None:
        try:
            current = authority_of(secret, self.now())
        except AuthorityInvalid as error:
            self._say_problem(text_of(error))
            return
        self.problem = ""
        if current != self.value.current:
            old = self.value.current
            self._value = Authority(current, previous=old)
            logger.warning(
                "the authority was replaced: %s by %s; both are trusted during the change",
                fingerprint(old),
                fingerprint(current),
            )

    async def _read(self) -> Body | None:
        return await self._kube.get("Secret", self._config.namespace, self._config.authority_secret)

    async def _create(self, authority: KeyPair) -> Body:
        """Creates the Secret. Returns it, or the one that another operator has created meanwhile.
        Raises ApiError."""
        config = self._config
        try:
            made = await self._kube.create(
                authority_secret(config.namespace, config.authority_secret, authority)
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
