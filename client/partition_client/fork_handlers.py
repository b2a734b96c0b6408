"""Imports gRPC with its fork handlers off, which it decides when it is first imported.

The handlers start gRPC's threads again in a child. With channels of asyncio open in the parent, as
a client's are, that ends about every third child by a signal, one that doesn't use gRPC, too. The
variable GRPC_ENABLE_FORK_SUPPORT, if the user sets it, stays as it is; so does the choice of a
program that imported gRPC before.
"""

import os
import sys

SETTING = "GRPC_ENABLE_FORK_SUPPORT"
OFF = ("0", "false", "no", "n", "f")


def _import_grpc() -> bool:
    """Returns whether the handlers are off, as far as can be known."""
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
