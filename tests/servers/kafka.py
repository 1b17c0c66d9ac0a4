"""How does a test get a real Apache Kafka broker, on 127.0.0.1 only, that it may kill and restart?

Key: a directory, which holds the configuration, the data and the log. State: the data directory
and two ports, the same after every restart. Outputs: a bootstrap address. One node in KRaft mode
(broker and controller in one process), from Maven Central's jars, with nothing installed but a Java
runtime and Maven. It does not know replication, TLS or SASL.

Measured on two cores: ready 2.5 s after the start, 1.3 s with a class-data archive, which the first
orderly stop writes (3 s more, once for each Java). The jars take 13 s and 43 MB, once.
"""

import base64
import os
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from tests.servers.java import BrokerClasses, broker_classes
from tests.servers.process import ServerFailed, ServerProcess, accepts_connections, free_ports

_START_TIMEOUT_S = 90.0
# A JVM's exit code after an orderly shutdown on SIGTERM.
_ENDED_BY_SIGTERM = 143
_LOGGING = Path(__file__).parent / "jars" / "log4j2.properties"

# A small broker: few threads, one partition for each internal topic, no rebalance delay.
_PROPERTIES: Mapping[str, str] = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "num.network.threads": "1",
    "num.io.threads": "2",
    "background.threads": "2",
    "num.replica.fetchers": "1",
    "num.recovery.threads.per.data.dir": "1",
    "num.partitions": "4",
    "auto.create.topics.enable": "false",
    "offsets.topic.num.partitions": "1",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.num.partitions": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    # A killed broker is still registered when it comes back, and is let in again only when that
    # session has run out: 12 s with the default of 9 s, 5 s with this one.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "log.cleaner.threads": "1",
    # The default of 128 MB does not fit into the heap below.
    "log.cleaner.dedupe.buffer.size": "8388608",
    # A batch must fit into one segment: this is the ceiling of a topic's max.message.bytes.
    "log.segment.bytes": "67108864",
    "log.index.size.max.bytes": "1048576",
    "log.retention.ms": "-1",
    "metadata.max.idle.interval.ms": "0",
}

_JVM = (
    "-Xms96m",
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:ActiveProcessorCount=2",
    "-Xshare:auto",
    "-Djava.awt.headless=true",
    f"-Dlog4j2.configurationFile={_LOGGING}",
)


@dataclass(frozen=True)
class RunningKafka:
    """A Kafka that answers; `broker` is None when it was given by KAFKA_BOOTSTRAP_SERVERS."""

    bootstrap: str
    broker: "KafkaBroker | None"


class KafkaBroker:
    """One broker; stop or kill it and start it again with the same ports and the same data.

    `properties` are added to the broker's configuration, or replace what it has.
    """

    def __init__(self, directory: Path, *, properties: Mapping[str, str] | None = None) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.port, self._controller_port = free_ports(2)
        self._properties = dict(properties or {})
        self._config = directory / "server.properties"
        self._process = ServerProcess("Kafka", log=directory / "kafka.log")
        self._new_archive: Path | None = None

    @property
    def bootstrap(self) -> str:
        """Where clients connect, as host:port."""
        return f"127.0.0.1:{self.port}"

    @property
    def running(self) -> bool:
        """Whether the process is alive."""
        return self._process.running

    def start(self) -> None:
        """Start the broker and wait until it serves; ServerFailed or ServerUnavailable."""
        classes = broker_classes()
        if not self._config.exists():
            self._format(classes)
        archive: tuple[str, ...] = (f"-XX:SharedArchiveFile={classes.archive}",)
        if not classes.archive.exists():
            # Written aside and moved when complete: another test run may be starting as well.
            self._new_archive = classes.archive.with_suffix(f".{uuid.uuid4().hex}.partial")
            archive = (f"-XX:ArchiveClassesAtExit={self._new_archive}",)
        self._process.start(_java(classes, *archive, main="kafka.Kafka", words=[str(self._config)]))
        self._process.await_ready(
            lambda: accepts_connections(self.port) and answers(self.bootstrap),
            timeout_s=_START_TIMEOUT_S,
        )

    def stop(self) -> None:
        """Shut the broker down in an orderly way."""
        code = self._process.stop()
        written, self._new_archive = self._new_archive, None
        if written is not None and written.exists():
            # Complete only if the JVM ended by itself on SIGTERM, not if it had to be killed.
            if code == _ENDED_BY_SIGTERM:
                written.replace(broker_classes().archive)
            else:
                written.unlink()

    def kill(self) -> None:
        """End the broker as a crash would; what it had acknowledged is in the page cache."""
        self._process.kill()
        self._new_archive = None

    def _format(self, classes: BrokerClasses) -> None:
        listeners = {"PLAINTEXT": self.port, "CONTROLLER": self._controller_port}
        own = {
            "controller.quorum.voters": f"1@127.0.0.1:{self._controller_port}",
            "listeners": ",".join(f"{n}://127.0.0.1:{p}" for n, p in listeners.items()),
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{self.port}",
            "log.dirs": str(self.directory / "data"),
        }
        settings = {**_PROPERTIES, **own, **self._properties}
        unformatted = self._config.with_suffix(".new")
        unformatted.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        archive = f"-XX:SharedArchiveFile={classes.archive}"
        # One word, with "=": a cluster id may begin with "-".
        words = ["format", f"--cluster-id={cluster}", "-c", str(unformatted)]
        done = subprocess.run(
            _java(classes, archive, main="kafka.tools.StorageTool", words=words),
            capture_output=True,
            text=True,
            timeout=_START_TIMEOUT_S,
            check=False,
        )
        if done.returncode != 0:
            raise ServerFailed(f"Kafka could not format its storage\n{done.stdout}{done.stderr}")
        unformatted.rename(self._config)


def _java(classes: BrokerClasses, *options: str, main: str, words: Sequence[str]) -> list[str]:
    return [classes.java, *_JVM, *options, "-cp", classes.classpath, main, *words]


def answers(bootstrap: str) -> bool:
    """Whether a Kafka at `bootstrap` answers an admin call with at least one broker in service.

    Not a TCP connect: a broker listens about a second before it serves.
    """
    try:
        admin = KafkaAdminClient(bootstrap_servers=bootstrap, bootstrap_timeout_ms=1000)
    except KafkaError:
        return False
    try:
        return bool(admin.describe_cluster()["brokers"])
    except KafkaError:
        return False
    finally:
        admin.close()


def external_kafka() -> RunningKafka | None:
    """The Kafka named by KAFKA_BOOTSTRAP_SERVERS; None when unset, ServerFailed when silent."""
    bootstrap = os.environ.get("KAFKA_BOOTSTRAP_SERVERS", "")
    if not bootstrap:
        return None
    if not answers(bootstrap):
        raise ServerFailed(f"KAFKA_BOOTSTRAP_SERVERS is {bootstrap}, but no Kafka answers there")
    return RunningKafka(bootstrap=bootstrap, broker=None)
