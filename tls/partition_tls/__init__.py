"""Connections of blocking threads that move the content of files, with TLS or without.

The bytes go from file to socket and back in Rust, while Python's lock is free: with Python's `ssl`
a thread would ask for the lock again for each record of 16 KiB, and the event loop holds it. Policy
stays in Python: who may connect, what is moved, where it goes.

Each call blocks for at most the connection's time-out per read or write of the socket. The calls of
a connection exclude each other; only `shutdown` and `set_timeout` may come from another thread
meanwhile. After a ConnectionFailed nothing more is moved.

    BadConfig           certificates or a key that can't be used: correct them
    ConnectionFailed    the other side is gone, silent, or refused TLS: open a new connection
    OSError             the file: a full disk, a failed device. The connection still works, but the
                        rest of the content is on it
"""

from partition_tls._tls import (
    BadConfig,
    ClientConfig,
    Connection,
    ConnectionFailed,
    ServerConfig,
    Sha256,
)

__all__ = [
    "BadConfig",
    "ClientConfig",
    "Connection",
    "ConnectionFailed",
    "ServerConfig",
    "Sha256",
]
