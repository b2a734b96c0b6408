"""PEM files that are read again when they change."""

import threading
import time
from collections.abc import Callable

from partition_proto.connection import pem

LOOK_S = 0.5
"""The least time between two checks whether the files changed."""

Heard = Callable[[pem.BadPem | None], None]
"""Called with the reason if changed files are invalid, once per reason, and with None when they are
valid again."""


class RenewedPem:
    """The last valid content of the files. Safe for threads: gRPC's call it in handshakes."""

    def __init__(
        self,
        files: pem.PemFiles,
        heard: Heard = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._files = files
        self._heard = heard
        self._clock = clock
        self._lock = threading.Lock()
        self._looked = float("-inf")
        self._stamp: tuple[int, ...] | None = None
        self._bad = ""
        self._version = 0
        self._pem: pem.Pem | None = None

    def current(self) -> tuple[int, pem.Pem]:
        """Returns (version, content). The version changes with the content. Raises BadPem if the
        files were never valid."""
        with self._lock:
            found = self._look()
            return self._version, found

    def _look(self) -> pem.Pem:
        now = self._clock()
        if self._pem is not None and now - self._looked < LOOK_S:
            return self._pem
        self._looked = now
        try:
            stamp: tuple[int, ...] | None = self._files.stamp()
        except OSError:
            stamp = None  # the read below reports the error
        if self._pem is not None and stamp is not None and stamp == self._stamp and not self._bad:
            return self._pem
        try:
            found, self._stamp = pem.read(self._files)
        except pem.BadPem as error:
            if self._pem is None:
                raise
            if str(error) != self._bad:
                self._bad = str(error)
                self._heard(error)
            return self._pem
        if self._bad:
            self._bad = ""
            self._heard(None)
        if found != self._pem:
            self._pem = found
            self._version += 1
        return found
