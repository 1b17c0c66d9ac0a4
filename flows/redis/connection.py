"""How to reach Redis: a client that fails fast, and a check at start that says what is wrong.

The client never retries by itself. Its default would hold a caller for seconds (ten tries, measured
4 to 5 s), and a pipeline that is re-sent whole is right only where every command is idempotent; the
threads that use this client have a back-off of their own and can be told to stop.
"""

from __future__ import annotations

import threading
from typing import Final
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from flows.errors import ConnectorError
from schemas.metrics import RedisError

CHECK_WITHIN_S: Final = 12.0
"""Below the 15 s that a user is promised; a name look-up knows no timeout of its own."""


def redis_address(url: str) -> str:
    """The address of a Redis URL, fit for a log: without user, password and query.

    >>> redis_address("rediss://flow:secret@cache:6380/1?ssl_cert_reqs=required")
    'rediss://***@cache:6380/1'
    """
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "(unreadable address)"
    login = "***@" if parts.username or parts.password else ""
    # An IPv6 host keeps its brackets, or it would run into the port.
    host = f"[{parts.hostname}]" if parts.hostname and ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{login}{host or ''}{port}{parts.path}"


def connect(url: str, *, timeout_s: float = 2.0) -> redis.Redis:
    """A client for one thread; nothing is sent yet.

    Raises ConnectorError where the URL itself is not one.
    """
    try:
        return redis.Redis.from_url(
            url,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
            # RESP2 and RESP3 cost the same (measured); 2 is understood by every proxy in use.
            protocol=2,
        )
    except (ValueError, TypeError) as error:
        # The library's own message may quote the URL with its password: it is not passed on.
        raise ConnectorError(
            f"not a Redis address: {redis_address(url)}; expected redis://host:port/0, "
            "rediss://host:port/0 or unix:///path"
        ) from error


def check_redis(url: str, *, prefix: str = "nextbest") -> None:
    """Make sure that Redis answers, lets us in and lets us run the scripts that write.

    Raises ConnectorError, naming the address without its password, within 15 s.
    """
    failure: list[Exception] = []
    checked = threading.Event()

    def check() -> None:
        try:
            client = connect(url, timeout_s=5.0)
            try:
                client.eval(
                    "return redis.call('SET', KEYS[1], '1', 'PX', 1000)", 1, f"{prefix}:check"
                )
            finally:
                client.close()
        except Exception as error:  # every failure is reported below, by the thread that asked
            failure.append(error)
        checked.set()

    threading.Thread(target=check, name="redis-check", daemon=True).start()
    address = redis_address(url)
    if not checked.wait(CHECK_WITHIN_S):
        raise ConnectorError(f"Redis at {address} did not answer within {CHECK_WITHIN_S:.0f} s")
    if failure:
        raise _explained(failure[0], address) from failure[0]


def error_reason(error: redis.RedisError) -> RedisError:
    """What to count a failed operation as."""
    if isinstance(error, redis.AuthenticationError | redis.exceptions.NoPermissionError):
        return "auth"
    if isinstance(error, redis.ConnectionError | redis.TimeoutError):
        return "connection"
    return "response"


def _explained(error: Exception, address: str) -> ConnectorError:
    if isinstance(error, ConnectorError):
        return error
    if isinstance(error, redis.AuthenticationError) and "required" in str(error):
        what = "wants a password: put it into the address, as in redis://:PASSWORD@host:port/0"
    elif isinstance(error, redis.RedisError) and error_reason(error) == "auth":
        what = f"refused the login or its rights ({error}): check the user, password and ACL"
    elif isinstance(error, redis.ReadOnlyError):
        what = "is a read-only replica: give the address of the primary"
    elif isinstance(error, redis.ConnectionError | redis.TimeoutError | OSError):
        what = f"cannot be reached: {error}"
    else:
        what = f"refused a test write: {error}"
    return ConnectorError(f"Redis at {address} {what}")
