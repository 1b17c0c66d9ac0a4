"""How does a person run the servers that the tests use?

`up` runs Kafka and Redis in the foreground and prints the variables to export, until Ctrl-C;
`fetch` only gets what they need, so that no test waits for a download. A server that is already
named by KAFKA_BOOTSTRAP_SERVERS or REDIS_URL is neither started nor fetched.
"""

import argparse
import os
import shlex
import signal
import sys
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path

from tests.servers.java import broker_classes
from tests.servers.kafka import KafkaBroker, external_kafka
from tests.servers.process import ServerFailed, ServerUnavailable
from tests.servers.redis import RedisServer, external_redis, find_redis_server


def main() -> int:
    """Run one command; the exit code is 1 when a server cannot be had."""
    parser = argparse.ArgumentParser(prog="python -m tests.servers", description=__doc__)
    parser.add_argument("command", choices=["up", "fetch"])
    command = parser.parse_args().command
    try:
        return _up() if command == "up" else _fetch()
    except (ServerUnavailable, ServerFailed) as error:
        print(f"tests.servers: {error}", file=sys.stderr)
        return 1


def _up() -> int:
    stop = threading.Event()
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, lambda *_: stop.set())
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nextbest-")))
        kafka, redis = external_kafka(), external_redis()
        if redis is None:
            server = RedisServer(directory / "redis")
            stack.callback(server.stop)
            server.start()
        if kafka is None:
            broker = KafkaBroker(directory / "kafka")
            stack.callback(broker.stop)
            broker.start()
        bootstrap = kafka.bootstrap if kafka else broker.bootstrap
        url = redis.url if redis else server.url
        print(f"export KAFKA_BOOTSTRAP_SERVERS={shlex.quote(bootstrap)}")
        print(f"export REDIS_URL={shlex.quote(url)}", flush=True)
        print("Both serve until Ctrl-C; their data goes with them.", file=sys.stderr)
        stop.wait()
    return 0


def _fetch() -> int:
    missing: list[str] = []
    if not os.environ.get("KAFKA_BOOTSTRAP_SERVERS"):
        try:
            _fetch_kafka()
        except ServerUnavailable as error:
            missing.append(f"Kafka: {error}")
    if not os.environ.get("REDIS_URL"):
        try:
            find_redis_server()
        except ServerUnavailable as error:
            missing.append(f"Redis: {error}")
    for reason in missing:
        print(f"tests.servers: cannot run {reason}", file=sys.stderr)
    # Without a server its tests are skipped, loudly; only where they are required is that an error.
    return 1 if missing and os.environ.get("NEXTBEST_REQUIRE_SERVERS") == "1" else 0


def _fetch_kafka() -> None:
    if not broker_classes().archive.exists():
        # The first orderly stop writes the archive of classes that halves every later start.
        with tempfile.TemporaryDirectory(prefix="nextbest-") as directory:
            broker = KafkaBroker(Path(directory))
            broker.start()
            broker.stop()


if __name__ == "__main__":
    sys.exit(main())
