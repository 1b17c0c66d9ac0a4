"""Does a Redis that cannot be used say so at start, quickly and without giving away a password?"""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from flows.errors import ConnectorError
from flows.redis.connection import check_redis, connect, redis_address
from tests.servers.process import free_ports
from tests.servers.redis import RedisServer, RunningRedis


@pytest.fixture
def own(redis_server: RunningRedis, tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of this test alone, whose users it may change."""
    del redis_server  # asked for its skip where there is no Redis at all
    server = RedisServer(tmp_path / "redis")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def locked_url(own: RedisServer) -> str:
    """The URL of a user that may log in with the password `right` and may only read."""
    with redis.Redis.from_url(own.url) as admin:
        admin.execute_command(
            "ACL", "SETUSER", "reader", "reset", "on", ">right", "~*", "+get", "+hget"
        )
    return own.url.replace("://", "://reader:right@", 1)


def test_a_usable_redis_passes(redis_server: RunningRedis) -> None:
    check_redis(redis_server.url)


def test_an_unreachable_redis_is_named_without_its_password() -> None:
    (port,) = free_ports(1)
    with pytest.raises(ConnectorError) as caught:
        check_redis(f"redis://flow:hunter2@127.0.0.1:{port}/0")
    assert f"127.0.0.1:{port}" in str(caught.value)
    assert "cannot be reached" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert caught.value.exit_code != 0


def test_a_server_that_accepts_and_never_answers_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        with pytest.raises(ConnectorError, match=address):
            check_redis(f"redis://{address}/0")


def test_a_wrong_password_is_called_one(locked_url: str) -> None:
    with pytest.raises(ConnectorError, match="refused the login") as caught:
        check_redis(locked_url.replace(":right@", ":wrong-one@"))
    assert "wrong-one" not in str(caught.value)


def test_a_user_that_may_not_write_is_found_out_at_start(locked_url: str) -> None:
    with pytest.raises(ConnectorError, match="rights"):
        check_redis(locked_url)


def test_a_redis_that_wants_a_password_says_where_to_put_it(own: RedisServer) -> None:
    with redis.Redis.from_url(own.url) as admin:
        admin.config_set("requirepass", "sesame")
        with pytest.raises(ConnectorError, match="wants a password"):
            check_redis(own.url)
        # Or the fixture could not shut it down.
        admin.config_set("requirepass", "")


@pytest.mark.parametrize("url", ["localhost:6379", "http://localhost", "redis://h:port/0"])
def test_what_is_not_a_redis_url_is_refused(url: str) -> None:
    with pytest.raises(ConnectorError, match="not a Redis address"):
        connect(url)


@pytest.mark.parametrize(
    "url, shown",
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("redis://:secret@h/2", "redis://***@h/2"),
        ("rediss://u:secret@h:1/0?password=secret", "rediss://***@h:1/0"),
        ("redis://[::1]:6379/0", "redis://[::1]:6379/0"),
        ("unix://u:secret@/run/redis.sock", "unix://***@/run/redis.sock"),
        ("redis://h:secret/0", "(unreadable address)"),
    ],
)
def test_an_address_is_shown_without_its_secrets(url: str, shown: str) -> None:
    assert redis_address(url) == shown
