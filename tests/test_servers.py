"""Do the servers that the tests rely on behave: serve, keep data over a crash, come back in place?

Each test that stops a server runs its own: the session's servers are shared by all tests.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from redis import Redis

from tests.servers.kafka import KafkaBroker, RunningKafka, answers
from tests.servers.process import ServerFailed, ServerProcess, free_ports
from tests.servers.redis import RedisServer, RunningRedis

MIB = 1024 * 1024


@pytest.fixture
def own_broker(kafka: RunningKafka, tmp_path: Path) -> Iterator[KafkaBroker]:
    """A broker that a test may kill. It asks for `kafka` so that both are skipped alike."""
    if kafka.broker is None:
        pytest.skip("KAFKA_BOOTSTRAP_SERVERS names a broker that is not ours to kill")
    broker = KafkaBroker(tmp_path / "kafka")
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture
def own_redis(redis_server: RunningRedis, tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that a test may kill."""
    if redis_server.server is None:
        pytest.skip("REDIS_URL names a server that is not ours to kill")
    server = RedisServer(tmp_path / "redis")
    server.start()
    yield server
    server.stop()


def create_topic(bootstrap: str, *, topic: str, configs: dict[str, str] | None = None) -> None:
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        admin.create_topics(
            {topic: {"num_partitions": 1, "replication_factor": 1, "configs": configs or {}}}
        )
    finally:
        admin.close()


def produce(bootstrap: str, *, topic: str, values: list[bytes]) -> None:
    producer = KafkaProducer(bootstrap_servers=bootstrap, max_request_size=32 * MIB)
    try:
        sent = [producer.send(topic, value=value, partition=0) for value in values]
        producer.flush(timeout=30)
        for future in sent:
            future.get(timeout=1)
    finally:
        producer.close(timeout=10)


def consume(bootstrap: str, *, topic: str, count: int) -> list[bytes]:
    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap, group_id=None, auto_offset_reset="none", fetch_max_wait_ms=50
    )
    partition = TopicPartition(topic, 0)
    values: list[bytes] = []
    try:
        consumer.assign([partition])
        consumer.seek(partition, 0)
        deadline = time.monotonic() + 30
        while len(values) < count and time.monotonic() < deadline:
            for records in consumer.poll(timeout_ms=200).values():
                values.extend(record.value for record in records)
    finally:
        consumer.close()
    return values


def eventually(condition: Callable[[], bool], *, what: str, timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.05)


def test_kafka_returns_what_was_produced(kafka: RunningKafka, topic_prefix: str) -> None:
    topic = f"{topic_prefix}-events"
    values = [f"value {n}".encode() for n in range(100)]
    create_topic(kafka.bootstrap, topic=topic)
    produce(kafka.bootstrap, topic=topic, values=values)
    assert consume(kafka.bootstrap, topic=topic, count=100) == values


def test_a_topic_can_allow_large_messages(kafka: RunningKafka, topic_prefix: str) -> None:
    topic = f"{topic_prefix}-large"
    large = os.urandom(16 * MIB)
    create_topic(kafka.bootstrap, topic=topic, configs={"max.message.bytes": str(32 * MIB)})
    produce(kafka.bootstrap, topic=topic, values=[large])
    assert consume(kafka.bootstrap, topic=topic, count=1) == [large]


def test_a_killed_broker_comes_back_with_its_data(own_broker: KafkaBroker) -> None:
    address = own_broker.bootstrap
    create_topic(address, topic="events")
    produce(address, topic="events", values=[b"before the crash"])
    own_broker.kill()
    assert not own_broker.running
    assert not answers(address)

    own_broker.start()

    assert own_broker.bootstrap == address
    produce(address, topic="events", values=[b"after the crash"])
    expected = [b"before the crash", b"after the crash"]
    assert consume(address, topic="events", count=2) == expected


def test_a_stopped_broker_comes_back_with_its_data(own_broker: KafkaBroker) -> None:
    create_topic(own_broker.bootstrap, topic="events")
    produce(own_broker.bootstrap, topic="events", values=[b"kept"])
    own_broker.stop()
    own_broker.start()
    assert consume(own_broker.bootstrap, topic="events", count=1) == [b"kept"]


def test_redis_returns_what_was_set(redis_server: RunningRedis, topic_prefix: str) -> None:
    with Redis.from_url(redis_server.url) as client:
        client.set(f"{topic_prefix}:key", b"value", ex=60)
        assert client.get(f"{topic_prefix}:key") == b"value"


def test_a_killed_redis_comes_back_empty_on_the_same_port(own_redis: RedisServer) -> None:
    url = own_redis.url
    with Redis.from_url(url) as client:
        client.set("key", b"value")
    own_redis.kill()
    assert not own_redis.running

    own_redis.start()

    assert own_redis.url == url
    with Redis.from_url(url) as client:
        assert client.get("key") is None
        client.set("key", b"new")
        assert client.get("key") == b"new"


def test_a_server_that_dies_at_start_is_reported_with_its_log(tmp_path: Path) -> None:
    server = ServerProcess("Broken", log=tmp_path / "log")
    server.start(["sh", "-c", "echo the disk is on fire; exit 3"])
    with pytest.raises(ServerFailed, match="the disk is on fire"):
        server.await_ready(lambda: False, timeout_s=30)


def test_a_server_does_not_outlive_a_killed_test_run(tmp_path: Path) -> None:
    owner_code = (
        "import sys, time, pathlib\n"
        "from tests.servers.process import ServerProcess\n"
        "server = ServerProcess('Sleeper', log=pathlib.Path(sys.argv[1]))\n"
        "code = 'import os, time; print(os.getpid(), flush=True); time.sleep(600)'\n"
        "server.start([sys.executable, '-c', code])\n"
        "time.sleep(600)\n"
    )
    log = tmp_path / "log"
    root = Path(__file__).parents[1]
    owner = subprocess.Popen([sys.executable, "-c", owner_code, str(log)], cwd=root)
    try:
        eventually(lambda: log.exists() and log.read_text().endswith("\n"), what="server started")
        server_pid = int(log.read_text())
    finally:
        owner.send_signal(signal.SIGKILL)
        owner.wait()
    eventually(lambda: not is_running(server_pid), what="orphaned server ended")


def is_running(pid: int) -> bool:
    """Whether a process runs; a zombie nobody reaped yet does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] not in "ZX"


def test_free_ports_are_distinct_and_outside_the_ephemeral_range() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20
    assert all(20_000 <= port < 32_000 for port in ports)
