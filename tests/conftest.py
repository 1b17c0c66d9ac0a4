"""What do all tests share? Real servers, started only when a test asks, and unique names.

`kafka` and `redis_server` are real: started once a session on 127.0.0.1, or those named by
KAFKA_BOOTSTRAP_SERVERS and REDIS_URL. Where one cannot be had its tests are skipped and the end of
the run says so loudly; with NEXTBEST_REQUIRE_SERVERS=1 they fail instead.
"""

import hashlib
import os
import re
import uuid
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from hypothesis import settings

from tests.servers.kafka import KafkaBroker, RunningKafka, external_kafka
from tests.servers.process import ServerUnavailable
from tests.servers.redis import RedisServer, RunningRedis, external_redis

# No deadline anywhere: on a shared machine it would be a timed assertion.
settings.register_profile("dev", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")

_MARKED_BY_FIXTURE = {"kafka": "kafka", "redis_server": "redis"}
_unavailable: dict[str, str] = {}
_prefixes_given: Counter[str] = Counter()
_RUN = uuid.uuid4().hex[:8]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test by the servers it asks for, so that `-m "not kafka"` can never miss one."""
    for item in items:
        for fixture, marker in _MARKED_BY_FIXTURE.items():
            if fixture in getattr(item, "fixturenames", ()):
                item.add_marker(marker)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say loudly which servers were not there: a skip is easily taken for a pass."""
    for server, reason in _unavailable.items():
        terminalreporter.section(f"NOT TESTED ON A REAL {server.upper()}", sep="!", red=True)
        terminalreporter.line(reason, red=True)


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningKafka]:
    """A real Kafka with the broker that serves it; the broker is None when it is not ours."""
    running = external_kafka()
    if running is not None:
        yield running
        return
    broker = KafkaBroker(tmp_path_factory.mktemp("kafka"))
    _start(broker.start, server="Kafka", variable="KAFKA_BOOTSTRAP_SERVERS")
    try:
        yield RunningKafka(bootstrap=broker.bootstrap, broker=broker)
    finally:
        broker.stop()


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRedis]:
    """A real Redis with the process that serves it; the process is None when it is not ours."""
    running = external_redis()
    if running is not None:
        yield running
        return
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    _start(server.start, server="Redis", variable="REDIS_URL")
    try:
        yield RunningRedis(url=server.url, server=server)
    finally:
        server.stop()


@pytest.fixture
def topic_prefix(request: pytest.FixtureRequest) -> str:
    """A name for this test's topics and keys: the same in every run, shared with no other test.

    Against a server that outlives the run, the run is named too, so that no test finds old data.
    """
    node = request.node.nodeid
    _prefixes_given[node] += 1
    readable = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")[:60]
    digest = hashlib.blake2b(node.encode(), digest_size=4).hexdigest()
    prefix = f"{readable}-{digest}-{_prefixes_given[node]}"
    external = os.environ.get("KAFKA_BOOTSTRAP_SERVERS") or os.environ.get("REDIS_URL")
    return f"{prefix}-{_RUN}" if external else prefix


def _start(start: Callable[[], None], *, server: str, variable: str) -> None:
    try:
        start()
    except ServerUnavailable as error:
        message = f"no real {server}: {error}. Or name a running one in {variable}."
    else:
        return
    # Outside the except block, so that the report is this message and not a chain of tracebacks.
    if os.environ.get("NEXTBEST_REQUIRE_SERVERS") == "1":
        pytest.fail(f"{message} (NEXTBEST_REQUIRE_SERVERS=1)", pytrace=False)
    _unavailable[server] = message
    pytest.skip(message)
