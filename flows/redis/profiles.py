"""What does Redis hold of one person, and how is what the flow did not know of taken away?"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, Final, NamedTuple, cast

import orjson
import redis

from flows.errors import ConnectorError
from flows.redis.connection import connect, redis_address
from flows.redis.writes import profile_key

_MAGIC: Final = re.compile(rb"([*?\[\]\\^-])")
_AT_ONCE: Final = 1_000


class Served(NamedTuple):
    """The value of one key, and its version."""

    version: int
    value: Any


def read_served(
    url: str, profile_id: str, placements: list[str], *, prefix: str = "nextbest"
) -> dict[str, Served]:
    """The profile and its newest decisions by key (without the prefix); absent where there is none.

    Beside `placements` those are looked up that the profile itself names. Raises ConnectorError.
    """
    with _client(url) as client:
        own = profile_key(profile_id, prefix="")
        found = {own: _read(client, prefix + own)}
        served = found[own]
        named = [] if served is None else list((served.value or {}).get("last_decisions", {}))
        for placement in dict.fromkeys((*placements, *named)):
            key = f":decision:{placement}:{profile_id}"
            found[key] = _read(client, prefix + key)
    return {key.removeprefix(":"): served for key, served in found.items() if served is not None}


def remove_served(url: str, profile_id: str, *, prefix: str = "nextbest") -> int:
    """Delete every key of ours that is named after a profile; how many there were.

    It goes through all keys, so that it finds what no policy of today knows, such as a decision for
    a placement that was withdrawn. Raises ConnectorError.
    """
    wanted = re.compile(
        re.escape(prefix.encode()) + rb":(profile|decision:[^:]+):" + re.escape(profile_id.encode())
    )
    # `-` and `^` mean something in a class only, and may be escaped outside of one.
    pattern = b"%s:*:%s" % tuple(
        _MAGIC.sub(rb"\\\1", text.encode()) for text in (prefix, profile_id)
    )
    removed = 0
    with _client(url) as client:
        for key in client.scan_iter(match=pattern, count=_AT_ONCE):
            if wanted.fullmatch(key):
                removed += client.delete(key)
    return removed


def _read(client: redis.Redis, key: str) -> Served | None:
    version, value = cast(list[bytes | None], client.hmget(key, ["v", "d"]))
    if version is None or value is None:
        return None
    return Served(int(version), orjson.loads(value))


@contextmanager
def _client(url: str) -> Iterator[redis.Redis]:
    with closing(connect(url, timeout_s=10.0)) as client:
        try:
            yield client
        except redis.RedisError as error:
            # The error may quote the command, and with it the key: its class alone is said.
            raise ConnectorError(
                f"Redis at {redis_address(url)} cannot be asked ({type(error).__name__}): is the "
                "address right, and may the user of this command read, scan and delete its keys?"
            ) from None
