"""Which authority the operator's own certificate for a Partition comes from, and whom it trusts.
Pure."""

import datetime as dt

from partition_operator.resources.certificates import KeyPair, Lifetimes
from partition_operator.resources.trust import (
    Authority,
    SecretContents,
    bundle,
    certificate_in,
    ends,
)


def signer(held: SecretContents | None, authority: Authority, now: dt.datetime) -> KeyPair:
    """Returns the authority whose certificates a Partition's replicas accept. held: of its clients'
    Secret, whose certificate the operator issues. It is the previous authority until the Secret has
    a certificate of the current one, if its key is known and it has not expired."""
    if authority.previous is None or held is None:
        return authority.current
    previous = certificate_in(authority.previous)
    usable = held.signed_by(previous) and previous.not_valid_after_utc > now
    return authority.previous if usable else authority.current


def trusted(held: SecretContents | None, authority: Authority) -> bytes:
    """Returns the authorities from which the operator accepts a Partition's replicas, in PEM: its
    own and those in their Secret (held), because a replica may not have received the last change
    yet."""
    current = certificate_in(authority.current)
    found = held.trusted if held is not None else ()
    others = tuple(other for other in found if other != current)
    return bundle((current,), others)


def ending(authority: Authority, now: dt.datetime, lifetimes: Lifetimes) -> dt.datetime | None:
    """Returns when the authority expires, if a certificate issued now would be renewed later than
    that; otherwise None."""
    end = ends(authority.current)
    return end if end < now + lifetimes.certificate - lifetimes.renew_before else None
