"""Who a client is: tokens are compared by digest, in a time that tells nothing about them."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping

from diptych_client.errors import Forbidden


def caller_of(tokens: Mapping[str, bytes], token: str | None) -> str:
    """The name of a client's token among those configured; "" where none are.

    Errors: Forbidden.
    """
    if not tokens:
        return ""
    said = hashlib.sha256((token or "").encode()).digest()
    found = None
    for name, digest in tokens.items():  # all of them, always
        if hmac.compare_digest(said, digest):
            found = name
    if found is None or token is None:
        raise Forbidden("the token is missing" if token is None else "the token is not known")
    return found
