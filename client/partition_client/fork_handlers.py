"""Imports gRPC with its fork handlers off. gRPC reads that setting at its first import only.

The handlers restart gRPC's threads in a child process. If the parent has asyncio channels open, as
clients do, that ends about every third child by a signal, even if the child does not use gRPC. This
module does not change GRPC_ENABLE_FORK_SUPPORT if the user sets it, and has no effect if the
program imported gRPC before.
"""

import os
import sys

SETTING = "GRPC_ENABLE_FORK_SUPPORT"
OFF = ("0", "false", "no", "n", "f")


def _import_grpc() -> bool:
    """Returns whether the handlers are off; False if the program imported gRPC before."""
    if SETTING in os.environ:
        return os.environ[SETTING].lower() in OFF
    if "grpc" in sys.modules:
        return False
    os.environ[SETTING] = "0"
    try:
        import grpc  # noqa: F401, PLC0415
    finally:
        del os.environ[SETTING]
    return True


ARE_OFF = _import_grpc()
