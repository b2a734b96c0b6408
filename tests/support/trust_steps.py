"""The Secrets of one Partition, renewed step by step, and real handshakes between them."""

import base64
import datetime as dt
import ssl
from typing import Any

from partition_operator.api.partition import Partition
from partition_operator.resources import trust
from partition_operator.resources.certificates import (
    Lifetimes,
)
from partition_operator.resources.trust import Authority, Question, TrustStep
from partition_proto.connection import pem

NOW = dt.datetime.now(dt.UTC).replace(microsecond=0)
LIFETIMES = Lifetimes(overlap=dt.timedelta())
"""A former authority is removed as soon as everybody may have the last Secrets."""
WRITES = {TrustStep.ISSUE, TrustStep.EXTEND, TrustStep.TRUST}
PARTITION = Partition("shop", "cart", "uid", 1, deleting=False, body={})
ROLES = {"cart-replica-tls": "replica", "cart-client-tls": "client"}

Secrets = dict[str, dict[str, Any] | None]


def act(secrets: Secrets, authority: Authority, now: dt.datetime) -> list[TrustStep]:
    """Takes one step, in place, as the operator does; returns what all Secrets needed."""
    question = Question(authority, now, LIFETIMES)
    found = trust.look(secrets, question).steps
    for name, step in found.items():
        if step in WRITES:
            secrets[name] = trust.renewed(
                PARTITION, name, ROLES[name], secrets[name], question, step
            )
            break
    return list(found.values())


def settle(secrets: Secrets, authority: Authority, now: dt.datetime) -> list[TrustStep]:
    """Steps until there is nothing to do at this time."""
    for _ in range(10):
        steps = act(secrets, authority, now)
        if not WRITES & set(steps):
            return steps
    raise AssertionError("it goes on for ever")


def content(secret: dict[str, Any] | None) -> pem.Pem:
    assert secret is not None
    data = {key: base64.b64decode(value) for key, value in secret["data"].items()}
    return pem.Pem(data["tls.crt"], data["tls.key"], data["ca.crt"])


def talk(server: pem.Pem, client: pem.Pem, host: str = "localhost") -> bool:
    """Whether a mutual handshake succeeds. At the real time, so for certificates of today."""
    near = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    far = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    far.verify_mode = ssl.CERT_REQUIRED
    for context, own in ((near, client), (far, server)):
        context.load_verify_locations(cadata=own.authority.decode())
        pem.load_chain(context, own)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        near.wrap_bio(to_client, to_server, server_hostname=host),
        far.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(6):
        for side in sides:
            try:
                side.do_handshake()
                side.read()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError:
                return False
    return True
