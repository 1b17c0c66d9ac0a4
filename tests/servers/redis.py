"""How does a test get a real Redis server, alone on a port of 127.0.0.1, that it may kill?

Key: a directory. State: none on disk (no persistence), so a restarted server is empty. Outputs: a
URL. It knows nothing of a system service on port 6379, which a Debian install may have started.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from tests.servers.packages import install_packages
from tests.servers.process import ServerFailed, ServerProcess, ServerUnavailable, free_ports

_START_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class RunningRedis:
    """A Redis that answers; `server` is None when it was given by REDIS_URL."""

    url: str
    server: "RedisServer | None"


class RedisServer:
    """One redis-server process; stop or kill it and start it again on the same port, empty."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        (self.port,) = free_ports(1)
        self._process = ServerProcess("Redis", log=directory / "redis.log")

    @property
    def url(self) -> str:
        """Where clients connect, database 0."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def running(self) -> bool:
        """Whether the process is alive."""
        return self._process.running

    def start(self) -> None:
        """Start the server and wait until it answers PING; ServerFailed or ServerUnavailable."""
        arguments = {
            "--port": str(self.port),
            "--bind": "127.0.0.1",
            "--dir": str(self.directory),
            "--save": "",
            "--appendonly": "no",
            "--daemonize": "no",
        }
        words = [word for pair in arguments.items() for word in pair]
        self._process.start([find_redis_server(), *words])
        self._process.await_ready(lambda: answers(self.url), timeout_s=_START_TIMEOUT_S)

    def stop(self) -> None:
        """Shut the server down in an orderly way."""
        self._process.stop()

    def kill(self) -> None:
        """End the server as a crash would."""
        self._process.kill()


def find_redis_server() -> str:
    """Return the path of redis-server, installing Debian's package when it is missing."""
    found = shutil.which("redis-server")
    if found is None:
        install_packages(["redis-server"], why="redis-server is not on PATH")
        found = shutil.which("redis-server")
    if found is None:
        raise ServerUnavailable("redis-server was installed but is not on PATH")
    return found


def answers(url: str) -> bool:
    """Whether a Redis at `url` answers PING now."""
    with Redis.from_url(
        url, socket_timeout=2, socket_connect_timeout=2, retry=Retry(NoBackoff(), 0)
    ) as client:
        try:
            return bool(client.ping())
        except RedisError:
            return False


def external_redis() -> RunningRedis | None:
    """The Redis named by REDIS_URL; None when that is unset, ServerFailed when it is silent."""
    url = os.environ.get("REDIS_URL", "")
    if not url:
        return None
    if not answers(url):
        # The URL may carry a password: the message does not repeat it.
        raise ServerFailed("REDIS_URL is set, but no Redis answers PING there")
    return RunningRedis(url=url, server=None)
