"""A channel that stays usable when its certificate is renewed.

gRPC reads a certificate only once, when a channel is made. A channel that is older than its
certificate's validity can't connect any more. `RenewedChannel` checks before each call that its
credentials are current. If they are not, the call uses a new channel. Calls in progress end on the
old channel, which is closed after the last of them. Stubs and their callers see no difference.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import grpc

from partition_proto.connection import pem
from partition_proto.connection.renewed import Heard, RenewedPem

Options = Sequence[tuple[str, int | str]]


class CredentialSource(Protocol):
    """The source of a channel's credentials. All channels to one group share it."""

    def current(self) -> tuple[int, grpc.ChannelCredentials | None]:
        """Returns (version, credentials). The version changes with the credentials, which are None
        without TLS. Raises BadPem if no valid credentials were ever read."""


class Insecure:
    """No TLS."""

    def current(self) -> tuple[int, grpc.ChannelCredentials | None]:
        return 0, None


class FromFiles:
    """Credentials from PEM files, read again when they change. See RenewedPem for `heard`."""

    def __init__(
        self,
        files: pem.PemFiles,
        heard: Heard = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._files = RenewedPem(files, heard, clock)
        self._version = 0
        self._credentials: grpc.ChannelCredentials | None = None

    def current(self) -> tuple[int, grpc.ChannelCredentials | None]:
        version, found = self._files.current()
        if version != self._version:
            self._version, self._credentials = version, credentials_of(found)
        return version, self._credentials

    def versioned_pem(self) -> tuple[int, pem.Pem]:
        """Returns (version, PEM content). Raises BadPem as `current` does."""
        return self._files.current()

    def pem(self) -> pem.Pem:
        """Returns the current PEM content. Raises BadPem as `current` does."""
        return self._files.current()[1]


def credentials_of(found: pem.Pem) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(
        root_certificates=found.authority,
        private_key=found.key,
        certificate_chain=found.certificate,
    )


class _Generation:
    """A channel with one version of the credentials, and the number of its calls in progress."""

    def __init__(self, version: int, channel: grpc.aio.Channel) -> None:
        self.version = version
        self.channel = channel
        self.calls = 0
        self.callables: dict[object, Any] = {}


class RenewedChannel(grpc.aio.Channel):
    """A gRPC channel that renews its credentials; see above. For one event loop."""

    def __init__(self, address: str, credentials: CredentialSource, options: Options) -> None:
        """Raises BadPem if no valid credentials were ever read."""
        self._address = address
        self._credentials = credentials
        self._options = options
        self._closed = False
        self._old: set[_Generation] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._newest = self._open()

    def _open(self) -> _Generation:
        version, credentials = self._credentials.current()
        if credentials is None:
            channel = grpc.aio.insecure_channel(self._address, options=self._options)
        else:
            channel = grpc.aio.secure_channel(self._address, credentials, options=self._options)
        return _Generation(version, channel)

    def _current(self) -> _Generation:
        if not self._closed and self._credentials.current()[0] != self._newest.version:
            old, self._newest = self._newest, self._open()
            self._old.add(old)
            self._close_unused(old)
        return self._newest

    def _close_unused(self, generation: _Generation) -> None:
        if generation.calls or generation not in self._old:
            return
        self._old.discard(generation)
        task = asyncio.get_running_loop().create_task(generation.channel.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _call(self, kind: str, parts: tuple[Any, ...], arguments: Any, options: Any) -> Any:
        generation = self._current()
        key = (kind, *parts)
        make = generation.callables.get(key)
        if make is None:
            make = generation.callables[key] = getattr(generation.channel, kind)(*parts)
        call = make(*arguments, **options)
        generation.calls += 1

        def ended(_: object) -> None:
            generation.calls -= 1
            self._close_unused(generation)

        call.add_done_callback(ended)
        return call

    def _callable(self, kind: str, parts: tuple[Any, ...]) -> Any:
        return lambda *arguments, **options: self._call(kind, parts, arguments, options)

    def unary_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> Any:
        return self._callable("unary_unary", (method, request_serializer, response_deserializer))

    def unary_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> Any:
        return self._callable("unary_stream", (method, request_serializer, response_deserializer))

    def stream_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> Any:
        return self._callable("stream_unary", (method, request_serializer, response_deserializer))

    def stream_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> Any:
        return self._callable("stream_stream", (method, request_serializer, response_deserializer))

    async def close(self, grace: float | None = None) -> None:
        self._closed = True
        channels = [g.channel for g in (self._newest, *self._old)]
        self._old.clear()
        await asyncio.gather(*(channel.close(grace) for channel in channels), *self._closing)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._current().channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._newest.channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._current().channel.channel_ready()

    async def __aenter__(self) -> "RenewedChannel":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
