"""The token by which a user accepts what a recovery of a lost quorum may lose."""

import hashlib

CHARACTERS = 16


def loss_token(cluster: str, member: int, term: int, last_term: int, last_lsn: int) -> str:
    """Returns the token of one survivor: 16 hexadecimal digits.

    `last_term` and `last_lsn` are of its log's last entry. In one group two logs that end with the
    same index and term are equal (Raft's log matching), so the token names the survivor's whole
    log. `term` is the survivor's own: after an election that it took part in, another token is
    needed.
    """
    parts = ("quorum-loss", cluster, f"{member:x}", term, last_term, last_lsn)
    return hashlib.sha256("/".join(map(str, parts)).encode()).hexdigest()[:CHARACTERS]
