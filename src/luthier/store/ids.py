"""Names the server gives to things: a prefix that tells the kind, and 120 random bits."""

from __future__ import annotations

import secrets

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZabcdefghjkmnpqrstvwxyz"
LENGTH = 21


def new(prefix: str) -> str:
    """An id nobody can guess, e.g. ``new("file-")``. Letters and digits only, without those that are easily confused."""
    return prefix + "".join(secrets.choice(ALPHABET) for _ in range(LENGTH))
